"""The masked autoencoder in plain PyTorch: it knows tensors, neither files nor Lightning."""
