"""Differentiable rendering of a scene, and losses on renderings."""
