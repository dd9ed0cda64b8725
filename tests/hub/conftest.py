"""Fixtures of these tests: a hub on this machine, and a model that it serves."""

from support.fake_hub import hub, machine, model
from support.tiny_latent import latent_folders

__all__ = ["hub", "latent_folders", "machine", "model"]
