"""Tasks of the training loop."""
