"""Distillation rules, one per file: functions that return the gradient on a denoiser's input."""
