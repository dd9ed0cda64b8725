"""The embedded world: toys with known shapes, and the small text-to-image diffusion model that is trained on pictures
of them.

`sdf`, `shapes`, `world` and `captions` make the pictures; `model` and `training` the prior; `priors/` holds its
weights. Nothing in `generate` imports the first four: a run sees the diffusion model only.
"""
