"""The encoder of a latent diffusion model, which the gradient on latents passes through to the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..base.errors import PriorError
from ..base.precision import ENCODER_LAYOUT
from .checks import check_side, square_side, vae_factor
from .denoisers.diffusion import Pipeline, round_weights
from .pipeline_folder import fitting, load_model, load_vae
from .resize import resize

USUAL_LATENTS = 64  # a side, if neither network nor VAE has a size: Stable Diffusion's


class LatentEncoder:
    """Resizes an image to the model's resolution, encodes it to the mean of the VAE's posterior (a sample would add
    noise that is no function of the seed) and scales the latents. The decoder is dropped.

    vae: a frozen AutoencoderKL, or one that encodes the same way. factor: pixels per latent along a side.
    native_resolution: the model's input in pixels a side, by its configs. resolution: the one used here. shape: (C, h,
    w) of latents.
    """

    def __init__(self, pipeline: Pipeline, network: str, upcast: bool = False, more: int = 0):
        """network: the component's name. upcast: whether a VAE with `force_upcast` runs in float32 instead of float16.
        more: input channels of the network that are no latents."""
        config, folder = pipeline.config.guidance, pipeline.folder
        where = config.vae or f"{folder}/vae"
        self.vae: Any = load_vae(config.vae) if config.vae else load_model(folder, pipeline.index, "vae", torch.float32)
        channels, factor = pipeline.network.config.in_channels - more, vae_factor(self.vae, where)
        if self.vae.config.latent_channels != channels:
            raise PriorError(
                f"{where}: its latents have {self.vae.config.latent_channels} channels, which is not what "
                f"the {network} takes ({channels} channels)"
            )
        self.vae.decoder = None
        if config.checkpoint:
            self.vae.enable_gradient_checkpointing()
        half = pipeline.dtype == torch.float16 and upcast and self.vae.config.get("force_upcast", False)
        dtype = torch.float32 if half else pipeline.dtype or torch.float32
        self.device, self.autocast = pipeline.device, pipeline.autocast
        torch.nn.Module.to(self.vae, pipeline.device, dtype)  # diffusers' own method warns about missing layers
        self.vae.to(memory_format=ENCODER_LAYOUT)
        if self.autocast:
            round_weights(self.vae)
        self.factor = factor
        self.native_resolution = self._native_resolution(pipeline, network, factor)
        self.resolution = config.resolution or self.native_resolution
        if self.resolution % (8 * factor) and config.resolution:
            raise PriorError(
                f"guidance.resolution must be a multiple of {8 * factor} for this model, got {self.resolution}"
            )
        self._try(where, channels, factor, pipeline.device)
        self.shape = (channels, self.resolution // factor, self.resolution // factor)

    def _native_resolution(self, pipeline: Pipeline, network: str, factor: int) -> int:
        """From the network's config, else the VAE's, else 64 latents. If that is not square, its longer side, provided
        that the run's config overrides it."""
        place, size = f"{pipeline.folder}/{network}", pipeline.network.config.sample_size
        override = pipeline.config.guidance.resolution
        if override and isinstance(size, (list, tuple)) and len(set(size)) > 1:
            size = max(size)
        side = square_side(size, place)
        if side is None:
            pixels = square_side(self.vae.config.get("sample_size"), f"{pipeline.folder}/vae")
            side = pixels // factor if pixels else USUAL_LATENTS
        check_side(override or side * factor, place)
        return side * factor

    def _try(self, where: str, channels: int, factor: int, device: torch.device) -> None:
        """Raise PriorError unless the VAE encodes a small picture to latents of the shape in its config."""
        with fitting(f"{where} does not take a picture"), torch.no_grad():
            z = self.latents(torch.zeros(1, 3, 8 * factor, 8 * factor, device=device))
        if z.shape != (1, channels, 8, 8):
            raise PriorError(
                f"{where} makes latents {tuple(z.shape)} of a picture of {8 * factor} pixels a side, its "
                f"config promises {(1, channels, 8, 8)}"
            )
        if not z.isfinite().all():
            raise PriorError(
                f"{where} gives numbers that are not finite: its weights are damaged, or "
                "guidance.precision is too small for it"
            )

    def __call__(self, image: Tensor) -> Tensor:
        """Images (b, H, H, 3) in [0, 1] -> latents (b, C, h, w) float32."""
        return self.latents(resize(image.permute(0, 3, 1, 2), self.resolution) * 2 - 1)

    def latents(self, x: Tensor) -> Tensor:
        """Pictures (b, 3, H, H) in [-1, 1] -> scaled latents (b, C, h, w) float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            code = self.vae.encode(x.to(self.vae.dtype, memory_format=ENCODER_LAYOUT))
        z = code.latents if hasattr(code, "latents") else code.latent_dist.mean
        return (z.float() - (self.vae.config.get("shift_factor") or 0.0)) * self.vae.config.scaling_factor
