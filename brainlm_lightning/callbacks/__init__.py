"""What happens around training: run folders, checkpoints, signals, figures and throughput."""
