"""Fixtures of these tests: random models at toy size."""

from support.tiny_clip import clip_folder

__all__ = ["clip_folder"]
