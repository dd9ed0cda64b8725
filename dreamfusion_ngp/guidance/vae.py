"""The encoder of a latent diffusion model, through which the gradient on its latents goes back to the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..base.errors import PriorError
from .checks import check_side, square_side, vae_factor
from .denoisers.diffusion import Parts, layout_on
from .pipeline_folder import fitting, load_model, load_vae
from .resize import resize

USUAL_LATENTS = 64  # a side, where neither network nor VAE has a size: Stable Diffusion's


class LatentEncoder:
    """An image is resized to the model's resolution, encoded to the mean of the VAE's posterior (a sample would add
    noise that is no function of the seed) and scaled. The decoder is not even kept.

    vae: a frozen AutoencoderKL, or what encodes as one.  factor: pixels a side for one latent.  own: pixels a side that
    the model sees by its configs.  resolution: that it is shown.  shape: (C, h, w) of latents.
    """

    def __init__(self, parts: Parts, network: str, upcast: bool = False, more: int = 0):
        """network: the part's name.  upcast: whether a VAE that says so is in float32 instead of float16.  more:
        channels of the network's that are no latents."""
        config, folder = parts.config.guidance, parts.folder
        where = config.vae or f"{folder}/vae"
        self.vae: Any = load_vae(config.vae) if config.vae else load_model(folder, parts.index, "vae", torch.float32)
        channels, factor = parts.network.config.in_channels - more, vae_factor(self.vae, where)
        if self.vae.config.latent_channels != channels:
            raise PriorError(
                f"{where}: its latents have {self.vae.config.latent_channels} channels, which is not what "
                f"the {network} takes ({channels} channels)"
            )
        self.vae.decoder = None
        if config.checkpoint:
            self.vae.enable_gradient_checkpointing()
        half = parts.dtype == torch.float16 and upcast and self.vae.config.get("force_upcast", False)
        dtype = torch.float32 if half else parts.dtype or torch.float32
        torch.nn.Module.to(self.vae, parts.device, dtype)  # diffusers' own warns of layers that are not there
        self.vae.to(memory_format=layout_on(parts.device))
        self.factor = factor
        self.own = self._own_resolution(parts, network, factor)
        self.resolution = config.resolution or self.own
        if self.resolution % (8 * factor) and config.resolution:
            raise PriorError(
                f"guidance.resolution must be a multiple of {8 * factor} for this model, got {self.resolution}"
            )
        self._try(where, channels, factor, parts.device)
        self.shape = (channels, self.resolution // factor, self.resolution // factor)

    def _own_resolution(self, parts: Parts, network: str, factor: int) -> int:
        """By the network's config, else the VAE's, else 64 latents. 0 where they are not square and the run's config
        says another number."""
        place, size = f"{parts.folder}/{network}", parts.network.config.sample_size
        asked = parts.config.guidance.resolution
        if asked and isinstance(size, (list, tuple)) and len(set(size)) > 1:
            size = max(size)
        side = square_side(size, place)
        if side is None:
            pixels = square_side(self.vae.config.get("sample_size"), f"{parts.folder}/vae")
            side = pixels // factor if pixels else USUAL_LATENTS
        check_side(asked or side * factor, place)
        return side * factor

    def _try(self, where: str, channels: int, factor: int, device: torch.device) -> None:
        """Raise PriorError unless the VAE makes the latents that its config promises of a small picture."""
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
        code = self.vae.encode(x.to(self.vae.dtype, memory_format=layout_on(x.device)))
        z = code.latents if hasattr(code, "latents") else code.latent_dist.mean
        return (z.float() - (self.vae.config.get("shift_factor") or 0.0)) * self.vae.config.scaling_factor
