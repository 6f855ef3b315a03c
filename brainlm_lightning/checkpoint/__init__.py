"""Checkpoints that describe themselves, and one way to build whatever a file holds."""
