"""Guidance by latent diffusion models: Stable Diffusion 1.x and 2.x (epsilon and v), and SDXL."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import PriorError
from ..inputs import sent
from .parts import load_model, load_vae, present
from .resize import resize
from .text import TextEncoder, TwoTextEncoders
from .unet import UnetGuidance, layout_on


class LatentGuidance(UnetGuidance):
    """Score distillation in the latent space of a frozen Stable Diffusion folder; see `Guidance` for the call.

    The render is resized to the model's resolution, encoded to the mean of the VAE's posterior (a sample would add
    noise that is no function of the seed) and scaled; the gradient goes back through the encoder. The decoder is not
    even kept. Scale 100 is DreamFusion's (as 101 here; the open Stable Diffusion ports write 100).
    """

    PARTS = ("unet", "scheduler", "vae")
    ENCODER: type[TextEncoder] = TextEncoder

    @classmethod
    def accepts(cls, index: dict) -> bool:
        return present(index, "vae") and present(index, "unet") and not present(index, "text_encoder_2")

    def prepare(self, folder: Path, index: dict) -> tuple[int, int, int]:
        width = self.embeddings["hidden"].shape[-1]
        if problem := self.misfit(width):
            raise PriorError(f"{folder}: the unet does not fit, {problem}")
        self.vae = load_vae(self.config.vae) if self.config.vae else load_model(folder, index, "vae", torch.float32)
        where = self.config.vae or f"{folder}/vae"
        if type(self.vae).__name__ not in ("AutoencoderKL", "AutoencoderTiny"):
            raise PriorError(f"{where} is a {type(self.vae).__name__}, not an AutoencoderKL or AutoencoderTiny")
        c, channels = self.vae.config, self.unet.config.in_channels
        if c.latent_channels != channels or c.get("latents_mean") is not None:
            raise PriorError(f"{where}: its latents ({c.latent_channels} channels) are not what the unet takes "
                             f"({channels} channels)")
        self.vae.decoder = None
        if self.config.checkpoint:
            self.vae.enable_gradient_checkpointing()
        torch.nn.Module.to(self.vae, self.device, self.vae_dtype())  # diffusers' own warns of layers that are not there
        self.vae.to(memory_format=layout_on(self.device))
        blocks = c.block_out_channels if type(self.vae).__name__ == "AutoencoderKL" else c.encoder_block_out_channels
        factor = 2 ** (len(blocks) - 1)
        self.resolution = self.config.resolution or self.unet.config.sample_size * factor
        if self.resolution % (8 * factor) and self.config.resolution:
            raise PriorError(f"guidance.resolution must be a multiple of {8 * factor} for this model, "
                             f"got {self.resolution}")
        return channels, self.resolution // factor, self.resolution // factor

    def misfit(self, width: int) -> str:
        """What the UNet is not that it should be, or "". width: of the text embeddings."""
        c = self.unet.config
        if c.in_channels != c.out_channels:
            return f"it maps {c.in_channels} channels to {c.out_channels}: inpainting or depth, not text to image"
        if not isinstance(c.sample_size, int):
            return f"its sample_size is {c.sample_size}, not one number"
        if c.cross_attention_dim != width:
            return f"it wants text embeddings of width {c.cross_attention_dim}, the text encoder gives {width}"
        if c.time_cond_proj_dim:
            return "it is distilled with a guidance scale built in; such a model is no teacher here"
        return self.other_conditions()

    def other_conditions(self) -> str:
        c = self.unet.config
        wrong = c.class_embed_type or c.num_class_embeds or c.addition_embed_type
        return "it wants conditions other than text" if wrong else ""

    def vae_dtype(self) -> torch.dtype:
        """The UNet's where that was chosen, else float32."""
        return self.dtype or torch.float32

    def encode(self, image: Tensor) -> Tensor:
        x = (resize(image, self.resolution) * 2 - 1).to(self.vae.dtype, memory_format=layout_on(image.device))
        code = self.vae.encode(x)
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
        width = 6 * c.addition_time_embed_dim + self.embeddings["pooled"].shape[-1]
        taken = self.unet.add_embedding.linear_1.in_features
        return "" if taken == width else f"it takes {taken} added numbers, SDXL's base model {width} (a refiner?)"

    def vae_dtype(self) -> torch.dtype:
        """float32 where the VAE's config says that float16 overflows."""
        half = self.dtype == torch.float16 and self.vae.config.get("force_upcast", False)
        return torch.float32 if half else super().vae_dtype()

    def conditions(self, pick) -> dict:
        pooled = pick("pooled")
        side = self.unet.config.sample_size * (self.resolution // self.shape[-1])
        sizes = sent([side, side, 0, 0, side, side], pooled.device, pooled.dtype)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), 6)}}
