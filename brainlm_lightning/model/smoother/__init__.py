"""Gaussian processes over parcels and frames: the linear opponents, and the prior of a masked model."""
