"""Distillation rules, one a file: flat functions that give the gradient on what a denoiser sees."""
