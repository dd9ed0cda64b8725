"""Guidance by Stable Diffusion 3: a transformer that predicts the velocity of a rectified flow in a latent space."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .latent import LatentGuidance
from .parts import present, read_config
from .text import TextEncoder, tokenize

T5_TOKENS = 256  # that diffusers' pipeline shows the model


class ThreeTextEncoders(TextEncoder):
    """Stable Diffusion 3 (Esser et al. 2024, section 4): the penultimate states of two CLIPs side by side, filled up
    with zeros to the width of the T5's states, which follow them; "pooled" is the CLIPs' projections side by side. A
    folder without the T5, the larger part of the model, has zeros in its place, as in the pipeline."""

    PARTS = ("text_encoder", "text_encoder_2")
    TOKENIZERS = ("tokenizer", "tokenizer_2")
    KEYS = ("hidden", "mask", "pooled")

    @classmethod
    def parts(cls, index: dict) -> tuple[str, ...]:
        large = ("text_encoder_3", "tokenizer_3") if present(index, "text_encoder_3") else ()
        return (*cls.PARTS, *cls.TOKENIZERS, *large)

    def __init__(self, folder: Path, index: dict):
        super().__init__(folder, index)
        self.width = read_config(folder, "transformer").get("joint_attention_dim", 4096)

    @torch.no_grad()
    def encode(self, models: list, text: str) -> dict[str, Tensor]:
        outputs = [model(tokenize(tokenizer, text).input_ids, output_hidden_states=True)
                   for model, tokenizer in zip(models[:2], self.tokenizers)]
        short = torch.cat([output.hidden_states[-2][0] for output in outputs], -1).float()
        short = torch.nn.functional.pad(short, (0, self.width - short.shape[-1]))
        long = torch.zeros(T5_TOKENS, self.width)
        if len(models) > 2:
            tokens = self.tokenizers[2]([text], return_tensors="pt", padding="max_length", truncation=True,
                                        max_length=T5_TOKENS)
            long = models[2](tokens.input_ids)[0][0].float()
        hidden = torch.cat([short, long])
        pooled = torch.cat([output.text_embeds[0] for output in outputs]).float()
        return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64), "pooled": pooled}


class FlowGuidance(LatentGuidance):
    """Stable Diffusion 3 and 3.5; see `sds.flow_abar` for the flow in the place of a noise schedule. Nobody has
    published a scale for score distillation with it; 50 is argued from SDXL's, not measured."""

    DEFAULT_SCALE = 50.0
    ENCODER = ThreeTextEncoders
    NETWORK, NETWORK_CLASS = "transformer", "SD3Transformer2DModel"
    PARTS = ("transformer", "scheduler", "vae")
    FLOW = True

    @classmethod
    def accepts(cls, index: dict) -> bool:
        return index.get("transformer") == ["diffusers", cls.NETWORK_CLASS] and present(index, "text_encoder_2")

    def misfit(self, width: int) -> str:
        c, pooled = self.unet.config, self.embeddings["pooled"].shape[-1]
        if c.out_channels not in (None, c.in_channels):
            return f"it maps {c.in_channels} channels to {c.out_channels}"
        if (c.joint_attention_dim, c.pooled_projection_dim) != (width, pooled):
            return (f"it wants text embeddings of widths {c.joint_attention_dim} and {c.pooled_projection_dim}, "
                    f"the text encoders give {width} and {pooled}")
        return ""

    def call(self, network, batch: Tensor, steps: Tensor, pick) -> Tensor:
        return network(batch, encoder_hidden_states=pick("hidden"), pooled_projections=pick("pooled"),
                       timestep=steps).sample
