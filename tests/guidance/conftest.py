"""Fixtures of these tests: random models at toy size."""

from support.fake_hub import machine
from support.tiny_clip import clip_folder, siglip_folder
from support.tiny_depth import depth_folders
from support.tiny_latent import latent_folders
from support.tiny_models import cache, copy, folders

__all__ = ["cache", "clip_folder", "copy", "depth_folders", "folders", "latent_folders", "machine", "siglip_folder"]
