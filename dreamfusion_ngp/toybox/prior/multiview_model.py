"""The multi-view prior, toybox-mv: the pixel prior whose UNet sees four views of one toy at once.

Besides the pixel prior's weights it has a projection of the camera, and attention in the last block but one.
It is a complete UNet, not an adapter, and loads like MVDream.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...config.prompts import MODE_WORDS, degree_view, view_prompt
from ...guidance.multiview import CAMERA, VIEWS, attend_jointly, camera_numbers
from ...guidance.packing import POSITIONS
from ...scene.cameras import orbit
from ..world.captions import subject
from ..world.shapes import CLASSES, COLORS
from .model import GUIDANCE_SCALE as GUIDANCE_SCALE
from .model import IF_OMITS, PARTS, SHAPE, Prior, load_prior, save_parts

MULTIVIEW_PRIOR = Path(__file__).parents[1] / "priors" / "toybox-mv"
# Attention on 16 x 16 positions of the way up, where features still have each view's background and colours: 8 x 8
# positions, of the middle block, have only shapes (docs/decisions/0205-where-views-meet.md).
ATTENTION: dict[str, Any] = dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
SHARPNESS = 3.0  # of the camera's random features
RIDGE = 1e-4  # of the mean square of the features


@dataclass
class MultiviewPrior(Prior):
    """The four parts of a text-to-image diffusion folder, the UNet one of VIEWS views."""

    def save(self, folder: Path) -> None:
        """Write a diffusers folder as `Prior.save` does; its settings name the views."""
        save_parts(folder, "MVDreamPipeline", {name: getattr(self, name) for name in PARTS}, IF_OMITS)
        settings = {"guidance_scale": GUIDANCE_SCALE, "views": VIEWS, "toys": True}
        (Path(folder) / "dreamfusion_ngp.json").write_text(json.dumps(settings) + "\n")


def load_multiview_prior(folder: Path = MULTIVIEW_PRIOR) -> MultiviewPrior:
    """The prior saved in `folder`, weights in float32. Raises OSError where a part or a weight is missing."""
    return together(load_prior(folder))


def together(prior: Prior) -> MultiviewPrior:
    """A prior whose UNet takes cameras, with attention across the views."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    attend_jointly(prior.unet, AttnProcessor2_0())
    return MultiviewPrior(**vars(prior))


@torch.no_grad()
def start_multiview_prior(pixel: Prior, seed: int = 0) -> MultiviewPrior:
    """The pixel prior extended to several views: its weights, new attention with a zero last layer, and a camera
    projection fitted to the pixel prior's view words."""
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        in_channels=12 + POSITIONS,
        out_channels=12,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA,
        **SHAPE | ATTENTION,
    )
    unet.load_state_dict(pixel.unet.state_dict(), strict=False)
    for name, module in unet.named_modules():
        if name.endswith("proj_out") and not name.startswith("mid_block"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    fit_camera(unet, pixel)
    return together(Prior(unet, pixel.text_encoder, pixel.tokenizer, pixel.scheduler))


def fit_camera(unet: Any, pixel: Prior) -> None:
    """Fit the camera projection of a UNet2DConditionModel to what the view words in degrees add to the time embedding,
    averaged over toys: random features of the camera, then a second layer by least squares with a small ridge."""
    from .latent_start import set_linear, solve, with_ones

    angles = [(azimuth, elevation) for azimuth in range(0, 360, 15) for elevation in range(0, 91, 15)]
    azimuths, elevations = zip(*angles, strict=True)
    cameras = camera_numbers(orbit(azimuths, elevations, 1.3, 1.0))
    added = torch.stack([view_embedding(pixel, *angle) for angle in angles])
    layer = unet.class_embedding
    layer.linear_1.weight.mul_(SHARPNESS)
    hidden = with_ones(layer.act(layer.linear_1(cameras))).double()
    set_linear(layer.linear_2, slice(None), solve(hidden.T @ hidden, hidden.T @ added.double(), RIDGE))


def view_embedding(pixel: Prior, azimuth: float, elevation: float) -> torch.Tensor:
    """What view words add to the pixel prior's embedding of texts, degrees."""
    view = degree_view(*torch.deg2rad(torch.tensor([azimuth, elevation])).tolist())
    texts = [(subject(c, list(COLORS)[i % len(COLORS)]), MODE_WORDS[i % 3]) for i, c in enumerate(CLASSES)]
    with_view, without = (text_embedding(pixel, [view_prompt(toy, v, mode) for toy, mode in texts]) for v in (view, ""))
    return (with_view - without).mean(0)


def text_embedding(pixel: Prior, texts: list[str]) -> torch.Tensor:
    """(n, d): the UNet's added embedding of texts."""
    from .loss import caption_ids
    from .model import embed_words

    ids = torch.tensor(caption_ids(pixel.tokenizer, texts))
    return pixel.unet.add_embedding(embed_words(pixel.text_encoder, ids))
