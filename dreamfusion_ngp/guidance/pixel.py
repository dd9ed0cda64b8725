"""Guidance by a diffusion model that works on pixels: DeepFloyd IF, the embedded prior, or any UNet2DConditionModel
with a text encoder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import PriorError
from ..packing import POSITIONS, pack, packing_factor, unpack
from ..prompts import MODE_WORDS, VIEW_WORDS, view_prompt
from ..views import Views
from . import text
from .parts import load_model, load_schedule, load_tokenizer, read_index, read_settings, weight_files
from .sds import SdsOutput, classifier_free_guidance, clip_clean, distill, predicted_noise

DEFAULT_SCALE = 20.0  # of models whose folder names none: what open reimplementations use with DeepFloyd IF


class PixelGuidance:
    """Score distillation from a frozen pixel-space model in a local diffusers folder; see `Guidance` for the call.

    The render is resized to the model's resolution and mapped to [-1, 1], so by the chain rule the gradient on rgb is
    twice the one of `sds_loss` (and goes back through the resize). A UNet with 3 f^2 input channels sees f x f pixels
    packed into one, with six more their positions besides (`packing`); with 6 f^2 output channels it also predicts
    variances, which are dropped. The guidance scale is that of the config, else `guidance_scale` in the folder's
    dreamfusion_ngp.json, else 20.
    """

    def __init__(self, config: RunConfig, folder: Path, device: torch.device):
        index, settings = check_folder(folder), read_settings(folder)
        self.run, self.config, self.device = config, config.guidance, device
        self.abar, self.prediction = load_schedule(folder, index)
        self.rows, self.hidden, self.mask = self._embed(folder, index)
        self.unet = load_model(folder, index, "unet")
        self.factor, self.resolution = _geometry(folder, self.unet, self.hidden.shape[-1])
        self.autocast = multiplies_bfloat16(device)
        self.layout = _prepare(self.unet, device, self.autocast)
        self.hidden, self.mask = self.hidden.to(device), self.mask.to(device)
        # IF's own pipeline shows the padding of a text to the UNet: that is how it was trained.
        learned_variance = self.unet.config.out_channels == 6 * self.factor**2
        if not settings.get("encoder_attention_mask", not learned_variance):
            self.mask = torch.ones_like(self.mask)
        scale = settings.get("guidance_scale", DEFAULT_SCALE) if self.config.scale is None else self.config.scale
        self.scale = float(scale)

    def _embed(self, folder: Path, index: dict) -> tuple[dict[str, int], Tensor, Tensor]:
        """Row of every text that a view can ask for, and the rows' embeddings and masks."""
        tokenizer = load_tokenizer(folder, index)
        views, modes = text.vocabulary(self.config)
        self.prompt = text.fit_prompt(tokenizer, self.run.prompt, views, modes)
        conditional = [view_prompt(self.prompt, view, mode) for view in views for mode in modes]
        unconditional = views if self.config.keep_view else [""]
        texts = list(dict.fromkeys(conditional + unconditional))
        return {t: i for i, t in enumerate(texts)}, *text.embed(folder, index, tokenizer, texts)

    def texts(self, views: Views) -> tuple[list[str], list[str]]:
        """The text of each view and of its unconditional branch ("", or the view words alone with `keep_view`)."""
        words = VIEW_WORDS[self.config.view_words]
        seen = [words(a, e) for a, e in zip(views.cameras.azimuth.tolist(), views.cameras.elevation.tolist())]
        modes = [MODE_WORDS[m] if self.config.mode_words else "" for m in views.modes]
        conditional = [view_prompt(self.prompt, view, mode) for view, mode in zip(seen, modes)]
        return conditional, seen if self.config.keep_view else [""] * len(seen)

    def __call__(self, rgb: Tensor, views: Views, step: int) -> SdsOutput:
        if rgb.ndim != 4 or rgb.shape[3] != 3 or rgb.shape[1] != rgb.shape[2] or len(rgb) != len(views):
            raise ValueError(f"rgb: must be ({len(views)}, H, H, 3), got {tuple(rgb.shape)}")
        if rgb.device.type != self.device.type:
            raise ValueError(f"rgb: must be on {self.device}, got {rgb.device}")
        x = resize(rgb.permute(0, 3, 1, 2), self.resolution) * 2 - 1
        conditional, unconditional = self.texts(views)
        rows = torch.tensor([self.rows[t] for t in unconditional + conditional], device=self.device)
        options = {"seed": self.run.seed, "step": step, "progress": step / self.run.steps}
        return distill(x, lambda *noisy: self._denoise(*noisy, rows), self.abar, self.config, **options)

    def _denoise(self, z: Tensor, t: np.ndarray, alpha: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """Guided eps_hat of noisy images z (B, 3, H, W); rows (2 B): embeddings of the unconditional, then of the
        conditional texts."""
        packed = pack(z, self.unet.config.in_channels)
        double = torch.cat([packed, packed]).to(self.unet.dtype, memory_format=self.layout)
        steps = torch.tensor(np.concatenate([t, t]), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.hidden[rows].to(self.unet.dtype)
            output = self.unet(double, steps, hidden, encoder_attention_mask=self.mask[rows]).sample
        output = unpack(output[:, : 3 * self.factor**2].float())  # without learned variances
        guided = classifier_free_guidance(*output.chunk(2), self.scale)
        noise = predicted_noise(guided, z, alpha, sigma, self.prediction)
        return clip_clean(noise, z, alpha, sigma) if self.config.clip_clean else noise


def check_folder(folder: Path) -> dict:
    """model_index.json of a folder that looks whole and of the right kind, without loading it. Raises PriorError."""
    index = read_index(folder)
    if isinstance(index.get("vae"), list) and index["vae"][0]:
        raise PriorError(f"{folder} is a latent model (it has a VAE); only pixel-space models are understood here")
    read_settings(folder)
    for name in ("unet", "text_encoder"):
        weight_files(folder, name)
    for name in ("tokenizer", "scheduler"):
        if not (folder / name).is_dir():
            raise PriorError(f"{folder} is incomplete: {name}/ is missing")
    return index


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the UNet runs in bfloat16 on `device`: on CPUs only where the hardware multiplies it (AVX-512 BF16, AMX),
    since others are slower with it than in float32."""
    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch >= 2.10
    return any(name.endswith("bf16") and present is True for name, present in capabilities.items())


def _prepare(unet, device: torch.device, autocast: bool) -> torch.memory_format:
    """Move the frozen UNet to `device` and return the layout that its input should have.

    With autocast, the weights of convolutions and products are rounded to bfloat16 once, which autocast would do anew
    at every call. On the CPU, group normalisation of bfloat16 is ten times slower in channels-last than in plain order.
    """
    if autocast:
        for module in unet.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.to(torch.bfloat16)
    layout = torch.contiguous_format if device.type == "cpu" else torch.channels_last
    unet.to(device, memory_format=layout)
    return layout


def _geometry(folder: Path, unet, width: int) -> tuple[int, int]:
    """Pixels a side that the UNet packs into channels, and the side of its images in pixels."""
    if type(unet).__name__ != "UNet2DConditionModel":
        raise PriorError(f"{folder}: its unet is a {type(unet).__name__}, not a UNet2DConditionModel")
    c = unet.config
    factor = packing_factor(c.in_channels)
    packed = 3 * factor * factor
    cross = c.encoder_hid_dim or c.cross_attention_dim
    expected = {cross} if isinstance(cross, int) else set(cross)
    if c.in_channels not in (packed, packed + POSITIONS) or c.out_channels not in (packed, 2 * packed):
        problem = (f"it maps {c.in_channels} channels to {c.out_channels}; wanted are 3 f^2 (and {POSITIONS} for "
                   "positions) to 3 f^2 or 6 f^2")
    elif not isinstance(c.sample_size, int):
        problem = f"its sample_size is {c.sample_size}, not one number"
    elif c.class_embed_type or c.num_class_embeds or c.addition_embed_type not in (None, "text"):
        problem = "it wants conditions other than text"
    elif expected != {width}:
        problem = f"it wants text embeddings of width {cross}, the text encoder gives {width}"
    else:
        return factor, c.sample_size * factor
    raise PriorError(f"{folder}: the unet does not fit, {problem}")


def resize(x: Tensor, size: int) -> Tensor:
    """(B, C, H, H) -> (B, C, size, size): bilinear (pixel centres, edges held) when enlarging, area average when
    shrinking. Two matrix products, so that the backward is deterministic on every device."""
    if x.shape[-1] == size:
        return x
    matrix = torch.from_numpy(resize_matrix(x.shape[-1], size)).to(x)
    return matrix @ x @ matrix.T


@lru_cache
def resize_matrix(n: int, m: int) -> np.ndarray:
    """(m, n) float64 weights of one axis; rows sum to 1."""
    matrix = np.zeros((m, n))
    if m > n:
        centre = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        low = np.minimum(centre.astype(int), max(n - 2, 0))
        matrix[np.arange(m), low] += 1 - (centre - low)
        matrix[np.arange(m), np.minimum(low + 1, n - 1)] += centre - low
        return matrix
    edge = np.arange(m + 1)[:, None] * n / m
    covered = np.clip(np.minimum(edge[1:], np.arange(n) + 1) - np.maximum(edge[:-1], np.arange(n)), 0, 1)
    return covered * m / n
