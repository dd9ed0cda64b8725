"""Diffusion models as denoisers: one file per family."""
