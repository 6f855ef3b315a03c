"""Scores from exact sums, intervals by resampling subjects, paired tests, and names of metrics."""
