"""The embedded diffusion model of the toys, and its training."""
