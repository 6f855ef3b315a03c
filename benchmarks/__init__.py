"""Benchmarks of speed, memory and learning, as ratios measured side by side on one machine."""
