"""A simulated cohort, and the best possible prediction of it, which is known exactly."""
