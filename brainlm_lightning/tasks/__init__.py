"""One LightningModule a file, one question a file."""
