"""A cohort with a known answer, and the best that any method can do on it."""
