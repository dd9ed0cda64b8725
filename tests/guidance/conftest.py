"""Fixtures of these tests: random models at toy size."""

from support.tiny_depth import depth_folders
from support.tiny_latent import latent_folders
from support.tiny_models import cache, copy, folders

__all__ = ["cache", "copy", "depth_folders", "folders", "latent_folders"]
