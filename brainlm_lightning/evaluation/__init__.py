"""Scores with intervals: sums over hidden values, resampling of subjects, paired tests."""
