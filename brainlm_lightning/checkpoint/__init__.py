"""Self-describing checkpoints: reading, writing, and rebuilding the model that a file holds."""
