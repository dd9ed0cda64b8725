"""The embedded world: toys with known shapes, and small text-to-image diffusion models trained on pictures of them.

`world/` makes the pictures and captions, `prior/` trains the models, `priors/` holds their weights. Nothing in
`generate` renders toys: a run sees the diffusion model only.
"""
