"""Guidance by CLIP: renderings are pulled towards the text in the joint embedding space of a dual encoder, as in Dream
Fields (Jain et al., CVPR 2022) and CLIP-Mesh (Mohammad Khalid et al., SIGGRAPH Asia 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..base.precision import choose_dtype
from ..base.rng import Stream, generator
from ..config.checks import clean_texts
from ..config.prompts import VIEW_WORDS, view_prompt
from ..config.schema import RunConfig
from ..scene.views import Views
from .clip_pictures import backgrounds, before, draw_windows, windows
from .cut import note_syntax
from .dual_encoder import DualEncoder, check_encoder, encoder_folder, load_dual_encoder
from .protocol import GuidanceOutput
from .text_encoders import vocabulary

BOOST = 1024.0  # loss scale for a half-precision backward, whose gradients would underflow


class Encoder(Protocol):
    """Embeds pictures and texts in one space; see `dual_encoder.DualEncoder`."""

    size: int

    def encode_images(self, pictures: Tensor) -> Tensor: ...

    def encode_texts(self, captions: Sequence[str]) -> Tensor: ...


class ClipGuidance:
    """See `protocol.Guidance` for the call. The loss of a view is the mean, over its crops on random backgrounds, of
    minus the cosine with its text, plus `clip.negative` times the cosine with the negative text.

    Text: the prompt with the words of its view (`guidance.view_words`; both papers have none).
    """

    def __init__(self, config: RunConfig, encoder: Encoder):
        self.config, self.clip, self.encoder = config, config.clip, encoder
        self.words = VIEW_WORDS[config.guidance.view_words]
        self.negative = config.guidance.negative if config.clip.negative else ""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput:
        n = len(views)
        if image.ndim != 4 or image.shape[3] != 4 or image.shape[1] != image.shape[2] or len(image) != n:
            raise ValueError(f"image: must be ({n}, H, H, 4), colours over black and opacity, got {tuple(image.shape)}")
        random, count = generator(self.config.seed, part, Stream.GUIDANCE), self.clip.windows
        place = draw_windows(n * count, self.clip.share, random)
        behind = backgrounds(self.clip, n * count, self.encoder.size, random, image.device)
        positive, negative = self.texts(views), self.encoder.encode_texts([self.negative]) if self.negative else None
        size, gradients, cosines = self.config.guidance.slice or n, [], []
        for i in range(0, n, size):
            rows = slice(i * count, (i + size) * count)
            leaf = image[i : i + size].detach().requires_grad_()
            with torch.enable_grad():
                embeddings = self.encoder.encode_images(
                    before(windows(leaf, place[rows], self.encoder.size), behind[rows])
                )
                cosine = (embeddings * positive[i : i + size].repeat_interleave(count, 0)).sum(1)
                loss = -cosine if negative is None else self.clip.negative * (embeddings @ negative[0]) - cosine
                total = loss.sum() * (BOOST / (n * count))
            gradients.append(torch.autograd.grad(total, leaf)[0] / BOOST)
            cosines.append(torch.stack([loss.detach(), cosine.detach()]))
        value, cosine = torch.cat(cosines, 1).mean(1)
        return GuidanceOutput(torch.cat(gradients), value, {"cosine": cosine})

    def texts(self, views: Views) -> Tensor:
        """(B, D): the embedding of each view's text."""
        angles = (a.cpu().double().numpy() for a in (views.cameras.azimuth, views.cameras.elevation))
        texts = [view_prompt(self.config.prompt, self.words(a, e)) for a, e in zip(*angles, strict=True)]
        different = sorted(set(texts))
        embeddings = torch.cat([self.encoder.encode_texts([text]) for text in different])
        return embeddings[np.searchsorted(different, texts)]


def load_clip_guidance(config: RunConfig, device: torch.device) -> ClipGuidance:
    """The guidance of a run by `config.guidance.model`, on `device`. Raises PriorError."""
    dtype = choose_dtype(config.guidance.precision, device) or torch.float32
    encoder = load_dual_encoder(config.guidance.model, device, dtype)
    return ClipGuidance(with_texts(config, encoder), encoder)


def with_texts(config: RunConfig, encoder: DualEncoder) -> RunConfig:
    """The config with its texts in normal form, and cut to fit the encoder, which has embedded all that a run can need.
    Raises PriorError if it cannot read one."""
    config = clean_texts(config)
    views, _ = vocabulary(config.guidance)
    note_syntax(config.prompt, "prompt")
    prompt, negative = encoder.fit(config.prompt, views, "prompt"), config.guidance.negative
    if negative and config.clip.negative:
        note_syntax(negative, "negative prompt")
        negative = encoder.fit(negative, [""], "negative prompt")
        encoder.encode_texts([negative])
    for view in views:
        encoder.encode_texts([view_prompt(prompt, view)])
    return replace(config, prompt=prompt, guidance=replace(config.guidance, negative=negative))


def check_clip(config: RunConfig) -> None:
    """Raise PriorError for errors in the model's folder that can be detected without loading the weights."""
    check_encoder(encoder_folder(config.guidance.model), config.guidance.model)
