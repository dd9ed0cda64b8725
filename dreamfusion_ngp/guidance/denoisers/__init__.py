"""Diffusion models as guidance sees them: one file a family."""
