"""CLIP (Radford et al. 2021) as the retrieval model, through transformers."""

from __future__ import annotations

import numpy as np
import torch

from ..guidance.dual_encoder import BATCH, DualEncoder, load_dual_encoder
from ..toybox.prior.clip_model import ClipPrior
from .judge_training import held_out


class ClipRetrieval:
    """model: a dual encoder, or its name: a short one ("clip-b32", "clip-b16", "clip-l14": the paper's three), a hub id
    (fetched once), or a folder in transformers format, of CLIP or SigLIP. Raises PriorError, which says what to do,
    where it is not available."""

    def __init__(self, model: str | DualEncoder, device: str | torch.device = "cpu"):
        self.encoder = model if isinstance(model, DualEncoder) else load_dual_encoder(model, device)
        self.name = self.encoder.name

    def prepare(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) in [0, 1]: square pictures (N, H, H, 3) in [0, 1] resized with Pillow's bicubic filter, as
        CLIP's own preprocessing does."""
        from PIL import Image

        size = self.encoder.size
        bytes_ = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        resized = np.stack(
            [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in bytes_]
        )
        return torch.from_numpy(resized.astype(np.float32) / 255).permute(0, 3, 1, 2)

    @torch.no_grad()
    def images(self, pictures: torch.Tensor) -> torch.Tensor:
        batches = self.prepare(pictures).split(BATCH)
        return torch.cat([self.encoder.encode_images(p.to(self.encoder.device)) for p in batches]).cpu()

    def texts(self, captions: list[str]) -> torch.Tensor:
        """(M, D) of length 1, on the CPU; the same captions are encoded only once."""
        return self.encoder.encode_texts(captions).cpu()


def judge_clip(prior: ClipPrior) -> dict:
    """The accuracy of the embedded CLIP on true toys that its training has not seen, as in the judge's log."""
    accuracy = held_out(ClipRetrieval(prior.encoder()), views=False)
    worst = accuracy.pop("worst")
    return {name: round(value, 4) for name, value in accuracy.items()} | {"worst": worst["class"]}
