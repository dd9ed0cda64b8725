"""CLIP (Radford et al. 2021) as the retrieval model, through transformers."""

from __future__ import annotations

import logging

import numpy as np
import torch

from ..base.errors import PriorError
from ..hub.fetch import model_path, read_json
from ..hub.weights import loadable, part_weights

# The paper's three. What the hub holds of the first two in safetensors format may be a community's copy.
CLIP_NAMES = {
    "clip-b32": "openai/clip-vit-base-patch32",
    "clip-b16": "openai/clip-vit-base-patch16",
    "clip-l14": "openai/clip-vit-large-patch14",
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
BATCH = 16

log = logging.getLogger(__name__)


class ClipRetrieval:
    """model: a key of CLIP_NAMES, a hub id (fetched once), or a folder in transformers format. Raises PriorError with
    what to do where it cannot be had."""

    def __init__(self, model: str, device="cpu"):
        from transformers import CLIPModel, CLIPTokenizer

        source = CLIP_NAMES.get(model, model)
        folder = model_path(source)
        if read_json(folder / "config.json").get("model_type") != "clip":
            raise PriorError(
                f"{model} is no CLIP model: its config.json does not say so (a hub id, or a folder that "
                "CLIPModel.save_pretrained wrote)"
            )
        try:
            with loadable(folder, part_weights(folder), "model") as (place, variant):
                self.model = CLIPModel.from_pretrained(
                    place, local_files_only=True, use_safetensors=True, variant=variant, dtype=torch.float32
                )
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (PriorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise PriorError(f"{model} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
        self.model.eval().requires_grad_(False).to(device)
        self.name, self.device, self.known = model, device, {}
        self.limit = self.model.config.text_config.max_position_embeddings
        prepare = read_json(folder / "preprocessor_config.json")
        self.mean, self.std = prepare.get("image_mean", MEAN), prepare.get("image_std", STD)

    def prepare(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S): square pictures (N, H, H, 3) in [0, 1] resized with Pillow's bicubic filter, as CLIP's own
        preprocessing does, and normalised."""
        from PIL import Image

        size = self.model.config.vision_config.image_size
        bytes_ = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        resized = np.stack(
            [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in bytes_]
        )
        scaled = (resized.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(scaled).permute(0, 3, 1, 2)

    @torch.no_grad()
    def images(self, pictures: torch.Tensor) -> torch.Tensor:
        parts = [
            self.model.visual_projection(self.model.vision_model(pixel_values=p.to(self.device)).pooler_output)
            for p in self.prepare(pictures).split(BATCH)
        ]
        return torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()

    def texts(self, captions: list[str]) -> torch.Tensor:
        """The same captions are asked for with every run: computed once."""
        key = tuple(captions)
        if key not in self.known:
            lengths = map(len, self.tokenizer(captions, verbose=False).input_ids)
            if cut := [caption for caption, length in zip(captions, lengths, strict=True) if length > self.limit]:
                log.warning(
                    "%s reads %d tokens of a caption; the end is ignored of %d, the first of which is: %s",
                    self.name,
                    self.limit,
                    len(cut),
                    cut[0],
                )
            self.known[key] = torch.cat([self.encode(captions[i : i + BATCH]) for i in range(0, len(captions), BATCH)])
        return self.known[key]

    @torch.no_grad()
    def encode(self, captions: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt", max_length=self.limit
        ).to(self.device)
        hidden = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return torch.nn.functional.normalize(self.model.text_projection(hidden.pooler_output).float(), dim=-1).cpu()
