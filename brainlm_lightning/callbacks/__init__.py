"""Lightning callbacks: run folders, checkpoints, signals, figures and throughput."""
