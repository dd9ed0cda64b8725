"""Guidance by latent diffusion models: Stable Diffusion 1.x and 2.x (epsilon and v), and SDXL."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...base.errors import PriorError
from ...base.slots import sent
from ..checks import check_side, foreign_conditions, present, square_side, text_widths, vae_factor, width_problem
from ..pipeline_folder import fitting, load_model, load_vae
from ..resize import resize
from ..text_encoders import TextEncoder, TwoTextEncoders
from .diffusion import UnetGuidance, layout_on

USUAL_LATENTS = 64  # a side, where neither UNet nor VAE has a size: Stable Diffusion's


class LatentGuidance(UnetGuidance):
    """Score distillation in the latent space of a frozen Stable Diffusion folder; see `Guidance` for the call.

    The render is resized to the model's resolution, encoded to the mean of the VAE's posterior (a sample would add
    noise that is no function of the seed) and scaled; the gradient goes back through the encoder. The decoder is not
    even kept. Scale 101 is the omega of 100 of DreamFusion and of threestudio's Stable Diffusion configurations.
    """

    PARTS = ("unet", "scheduler", "vae")
    ENCODER: type[TextEncoder] = TextEncoder

    @classmethod
    def accepts(cls, index: dict) -> bool:
        return all(present(index, name) for name in ("vae", "unet", "text_encoder")) and not present(
            index, "text_encoder_2"
        )

    def prepare(self, folder: Path, index: dict) -> tuple[int, int, int]:
        width = self.embeddings["hidden"].shape[-1]
        if problem := self.misfit(width):
            raise PriorError(f"{folder}: the {self.NETWORK} does not fit, {problem}")
        where = self.config.vae or f"{folder}/vae"
        self.vae = load_vae(self.config.vae) if self.config.vae else load_model(folder, index, "vae", torch.float32)
        channels, factor = self.unet.config.in_channels, vae_factor(self.vae, where)
        if self.vae.config.latent_channels != channels:
            raise PriorError(
                f"{where}: its latents have {self.vae.config.latent_channels} channels, which is not what "
                f"the {self.NETWORK} takes ({channels} channels)"
            )
        self.vae.decoder = None
        if self.config.checkpoint:
            self.vae.enable_gradient_checkpointing()
        torch.nn.Module.to(self.vae, self.device, self.vae_dtype())  # diffusers' own warns of layers that are not there
        self.vae.to(memory_format=layout_on(self.device))
        self.own = self.own_resolution(folder, factor)
        self.resolution = self.config.resolution or self.own
        if self.resolution % (8 * factor) and self.config.resolution:
            raise PriorError(
                f"guidance.resolution must be a multiple of {8 * factor} for this model, got {self.resolution}"
            )
        self.try_vae(where, channels, factor)
        return channels, self.resolution // factor, self.resolution // factor

    def own_resolution(self, folder: Path, factor: int) -> int:
        """Pixels a side that the model sees by its configs: by the UNet's, else the VAE's, else 64 latents. 0 where
        they are not square and the run's config says another number."""
        place, size = f"{folder}/{self.NETWORK}", self.unet.config.sample_size
        if self.config.resolution and isinstance(size, (list, tuple)) and len(set(size)) > 1:
            size = max(size)
        side = square_side(size, place)
        if side is None:
            pixels = square_side(self.vae.config.get("sample_size"), f"{folder}/vae")
            side = pixels // factor if pixels else USUAL_LATENTS
        check_side(self.config.resolution or side * factor, place)
        return side * factor

    def try_vae(self, where: str, channels: int, factor: int) -> None:
        """Raise PriorError unless the VAE makes the latents that its config promises of a small picture."""
        with fitting(f"{where} does not take a picture"), torch.no_grad():
            z = self.latents(torch.zeros(1, 3, 8 * factor, 8 * factor, device=self.device))
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

    def misfit(self, width: int) -> str:
        """What the UNet is not that it should be, or "". width: of the text embeddings."""
        c = self.unet.config
        if c.in_channels != c.out_channels:
            task = {9: "inpainting, ", 5: "depth to image, ", 8: "changes of a picture, ", 7: "super-resolution, "}
            return (
                f"it maps {c.in_channels} channels to {c.out_channels}: {task.get(c.in_channels, '')}not text to image"
            )
        return width_problem(text_widths(c), width) or self.other_conditions()

    def other_conditions(self) -> str:
        """What the UNet wants to be told that the family does not, or ""."""
        return foreign_conditions(self.unet.config, (None, "text"))

    def vae_dtype(self) -> torch.dtype:
        """The UNet's where that was chosen, else float32."""
        return self.dtype or torch.float32

    def encode(self, image: Tensor) -> Tensor:
        return self.latents(resize(image, self.resolution) * 2 - 1)

    def latents(self, x: Tensor) -> Tensor:
        """Pictures (b, 3, H, H) in [-1, 1] -> scaled latents (b, C, h, w) float32."""
        code = self.vae.encode(x.to(self.vae.dtype, memory_format=layout_on(x.device)))
        z = code.latents if hasattr(code, "latents") else code.latent_dist.mean
        return (z.float() - (self.vae.config.get("shift_factor") or 0.0)) * self.vae.config.scaling_factor


class XLGuidance(LatentGuidance):
    """SDXL (Podell et al. 2023): two text encoders, a pooled text vector, and the sizes that the picture is said to
    have had (original, cropping, target). They are always the model's own resolution, uncropped, also where the render
    is encoded at another: a small original size would ask for a blurred picture.
    """

    ENCODER = TwoTextEncoders

    @classmethod
    def accepts(cls, index: dict) -> bool:
        return all(present(index, name) for name in ("vae", "unet", "text_encoder", "text_encoder_2"))

    def other_conditions(self) -> str:
        c = self.unet.config
        if c.addition_embed_type != "text_time":
            return f"its addition_embed_type is {c.addition_embed_type!r}, SDXL's is 'text_time'"
        if problem := foreign_conditions(c, ("text_time",)):
            return problem
        width = 6 * c.addition_time_embed_dim + self.embeddings["pooled"].shape[-1]
        taken = self.unet.add_embedding.linear_1.in_features
        return "" if taken == width else f"it takes {taken} added numbers, SDXL's base model {width} (a refiner?)"

    def vae_dtype(self) -> torch.dtype:
        """float32 where the VAE's config says that float16 overflows."""
        half = self.dtype == torch.float16 and self.vae.config.get("force_upcast", False)
        return torch.float32 if half else super().vae_dtype()

    def conditions(self, pick) -> dict:
        pooled = pick("pooled")
        sizes = sent([self.own, self.own, 0, 0, self.own, self.own], pooled.device, pooled.dtype)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), 6)}}
