"""What the masked autoencoder is compared with."""
