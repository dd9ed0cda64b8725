"""The embedded diffusion models of the toys, and their training."""
