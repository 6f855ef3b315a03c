"""Embeddings of windows, recordings and subjects: one definition each, for every masked model."""
