"""The architectures of the published BrainLM checkpoints, built from this package's own blocks."""
