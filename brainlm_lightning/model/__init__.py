"""Masked models in plain PyTorch: tensors in, tensors out; no files, no Lightning."""
