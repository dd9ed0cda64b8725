"""The latent prior: a small Stable Diffusion folder, which loads like any other.

The UNet is the pixel prior's, on latents instead of packed pixels, without maps of the position, which no Stable
Diffusion pipeline would supply. It predicts the noise of Stable Diffusion's schedule, whose last step still shows a
fifteenth of the picture: with less, a network that predicts noise could not determine the picture in half precision.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .autoencoder import LATENTS, build_autoencoder
from .model import PARTS, SHAPE, build_text_encoder, build_tokenizer, load_parts, save_parts

LATENT_PRIOR = Path(__file__).parents[1] / "priors" / "toybox-256"
GUIDANCE_SCALE = 4.0
SD_OMITS = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass
class LatentPrior:
    """The five parts of a Stable Diffusion folder."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def save(self, folder: Path) -> None:
        """Write a StableDiffusionPipeline's folder: float16 safetensors."""
        parts = {name: getattr(self, name) for name in ("vae", *PARTS)}
        save_parts(folder, "StableDiffusionPipeline", parts, SD_OMITS)
        settings = {"guidance_scale": GUIDANCE_SCALE, "toys": True}
        (Path(folder) / "dreamfusion_ngp.json").write_text(json.dumps(settings) + "\n")


def build_latent_prior(seed: int = 0) -> LatentPrior:
    """The untrained latent prior: 0.9 million parameters of the autoencoder, 4.6 of the UNet."""
    from diffusers import DDPMScheduler, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    vae, tokenizer = build_autoencoder(seed), build_tokenizer()
    unet = UNet2DConditionModel(in_channels=LATENTS, out_channels=LATENTS, **SHAPE)
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        steps_offset=1,
    )
    return LatentPrior(vae, unet, build_text_encoder(len(tokenizer)), tokenizer, scheduler)


def load_latent_prior(folder: Path = LATENT_PRIOR) -> LatentPrior:
    """The latent prior saved in `folder`, weights in float32. Raises OSError where a part or a weight is missing."""
    return LatentPrior(**load_parts(folder, ("vae", *PARTS)))
