"""Text encoding of Stable Diffusion 3, by two CLIPs and a T5."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..base.errors import PriorError
from ..config.prompts import view_prompt
from .checks import present
from .cut import fit_prompt
from .pipeline_folder import read_config
from .reader import Reader
from .text_encoders import TextEncoder, penultimate, same_length

T5_TOKENS = 256  # as in diffusers' pipeline


class ThreeTextEncoders(TextEncoder):
    """Stable Diffusion 3 (Esser et al. 2024, section 4): the penultimate states of two CLIPs, concatenated, zero-padded
    to the width of the T5's states, and followed by these; "pooled" is both CLIPs' projections, concatenated. Without
    the T5, the largest component, zeros take its place, as in the pipeline."""

    PARTS = ("text_encoder", "text_encoder_2")
    TOKENIZERS = ("tokenizer", "tokenizer_2")
    KEYS = ("hidden", "mask", "pooled")

    @classmethod
    def parts(cls, index: dict) -> tuple[str, ...]:
        large = ("text_encoder_3", "tokenizer_3") if present(index, "text_encoder_3") else ()
        return (*cls.PARTS, *cls.TOKENIZERS, *large)

    def __init__(self, folder: Path, index: dict, clip_skip: int = 0):
        super().__init__(folder, index, clip_skip)
        self.width = read_config(folder, "transformer").get("joint_attention_dim", 4096)
        self.short: dict[str, str] = {}

    def readers(self) -> list[Reader]:
        first = Reader(self.folder, self.index, "text_encoder")
        second = Reader(self.folder, self.index, "text_encoder_2", first.model_max_length)
        large = [Reader(self.folder, self.index, name, T5_TOKENS) for name in self.models[2:]]
        return [*same_length([first, second]), *large]

    def fit(self, prompt: str, views: Sequence[str], modes: Sequence[str], name: str = "prompt") -> str:
        """The T5 reads more than the CLIPs; the CLIPs' text, which is cut shorter, ends with the view and mode words,
        too."""
        clips, large = self.tokenizers[:2], self.tokenizers[2:]
        if not large:
            return fit_prompt(clips, prompt, views, modes, name)
        prompt = fit_prompt(large, prompt, views, modes, name)
        start = fit_prompt(clips, prompt, views, modes, name, "the model's T5 reads on, but its CLIPs read")
        self.short |= {view_prompt(prompt, *words): view_prompt(start, *words) for words in product(views, modes)}
        return prompt

    def key(self, text: str) -> str:
        return super().key(f"{self.short.get(text, text)}\n{text}")

    @torch.no_grad()
    def encode(self, models: list, text: str) -> dict[str, Tensor]:
        short, pooled = penultimate(
            models[:2], self.tokenizers[:2], self.short.get(text, text), self.clip_skip, self.folder
        )
        long = torch.zeros(T5_TOKENS, self.width)
        if len(models) > 2:
            long = models[2](self.tokenizers[2].padded(text).input_ids)[0][0].float()
        if long.shape[-1] != self.width or short.shape[-1] > self.width or len(pooled) < 2:
            raise PriorError(
                f"{self.folder}: the transformer wants text embeddings of width {self.width}, the CLIPs "
                f"give {short.shape[-1]} with {len(pooled)} projections, the T5 {long.shape[-1]}"
            )
        short = torch.nn.functional.pad(short, (0, self.width - short.shape[-1]))
        hidden = torch.cat([short, long])
        return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64), "pooled": torch.cat(pooled)}
