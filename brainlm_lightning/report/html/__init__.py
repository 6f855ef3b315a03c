"""One HTML page of a study, from run folders alone."""
