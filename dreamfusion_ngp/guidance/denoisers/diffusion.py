"""Score distillation from a frozen text-conditioned UNet in a local diffusers folder: what its families share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...base.cuda_graphs import CudaCapture, Replayed
from ...base.errors import PriorError
from ...base.precision import bfloat16_is_quick, choose_dtype
from ...base.slots import sent
from ...config.prompts import view_prompt
from ...config.checks import clean_texts
from ...config.schema import RunConfig
from ...scene.views import Views
from .. import text_encoders as text
from ..cut import note_syntax
from ..distill import sds
from ..micro_batches import in_parts
from ..pipeline_folder import check_parts, fitting, load_model, load_schedule, read_index
from ..protocol import GuidanceOutput
from ..settings import read_settings
from ..texts import Branches, branches

SMALL = 100_000_000  # parameters
SMALL_SIDE = 16  # pixels of a UNet, for the first trial of it


class UnetGuidance:
    """A family of models is a subclass with these members; see `Guidance` for the call. `unet` is the family's network
    also where it is a transformer (NETWORK, NETWORK_CLASS, and `call` to call it).

    DEFAULT_SCALE: guidance scale of models whose folder names none.  ENCODER: how texts are embedded
    (text.TextEncoder).  PARTS: the parts of its folders besides those of the encoder.  MASKED: whether the padding of
    texts is hidden from the UNet.  FLOW: whether it is a rectified flow.  accepts(index): whether a model_index.json is
    of this family.  prepare(folder, index): load what the family has besides the UNet, check that it fits, and return
    the shape (C, h, w) of what the UNet sees of one view.  encode(image): render (b, 3, H, H) in [0, 1] -> (b, C, h, w)
    in the model's range, differentiable.  inputs(z) and outputs(y): to and from the UNet's own channels.
    conditions(pick): more keywords of the UNet's forward; pick(key) gives a key of the embeddings for every row of the
    batch.

    The guidance scale is that of the config, else `guidance_scale` in the folder's dreamfusion_ngp.json, else the
    family's.
    """

    DEFAULT_SCALE = 101.0
    ENCODER = text.TextEncoder
    NETWORK, NETWORK_CLASS = "unet", "UNet2DConditionModel"
    PARTS = ("unet", "scheduler")
    MASKED, FLOW = False, False

    def __init__(self, config: RunConfig, folder: Path, device: torch.device):
        index, settings = self.check(folder), read_settings(folder)
        self.run = clean_texts(config)
        self.config, self.device = self.run.guidance, device
        self.abar, self.prediction, self.times = load_schedule(
            folder, index, settings.get("prediction_type"), self.config.t_shifted
        )
        if (self.prediction == "flow") != self.FLOW:  # what such a network's output means is nowhere written
            raise PriorError(f"{folder}: a {self.NETWORK} with a {index['scheduler'][1]} is not understood")
        self._embed(folder, index, settings.get("clip_skip", 0))
        self.dtype = choose_dtype(self.config.precision, device)
        self.unet = load_model(folder, index, self.NETWORK, self.dtype)
        self.shape = self.prepare(folder, index)
        self.autocast = self.dtype is None and bfloat16_is_quick(device)
        self.layout = place(self.unet, device, self.autocast)
        self.forward = self._forward()
        self.embeddings = {key: value.to(device) for key, value in self.embeddings.items()}
        if not settings.get("encoder_attention_mask", self.MASKED):
            self.embeddings["mask"] = torch.ones_like(self.embeddings["mask"])
        self.masked = bool((self.embeddings["mask"] == 0).any())
        scale = settings.get("guidance_scale", self.DEFAULT_SCALE) if self.config.scale is None else self.config.scale
        self.scale = float(scale)
        self._try(f"{folder}/{self.NETWORK}")
        self._put_back()

    def _try(self, place: str) -> None:
        """Ask the network once, about a small picture. Raises PriorError where it does not take what it will be given,
        or gives what it cannot."""
        side = self.shape[-1]
        while side > SMALL_SIDE and side % SMALL_SIDE == 0:
            side //= 2
        z = torch.zeros(1, self.shape[0], side, side, device=self.device)
        dtype, autocast = self.unet.dtype, torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

        def pick(key: str) -> Tensor:
            first = self.embeddings[key][:1]
            return first if key == "mask" else first.to(dtype)

        with fitting(f"{place} does not take what this folder's parts give it"), torch.no_grad(), autocast:
            batch = self.inputs(z).to(dtype, memory_format=self.layout)
            answer = self.outputs(self.call(self.unet, batch, sent(self.times[:1], self.device), pick))
        if answer.shape != z.shape:
            raise PriorError(f"{place} answers {tuple(answer.shape)} to {tuple(z.shape)}")
        if not answer.isfinite().all():
            raise PriorError(
                f"{place} gives numbers that are not finite: its weights are damaged, or "
                "guidance.precision is too small for it"
            )

    def _forward(self):
        """What is called in the place of the UNet: itself, compiled, or in CUDA graphs. These are for small ones, whose
        time is that of launches; a large one would keep its activations in the graphs' memory. An offloaded one, whose
        weights move, cannot be in them."""
        if self.config.compile != "none":
            return torch.compile(self.unet, mode=self.config.compile)
        graphs = self.run.cuda_graphs and self.device.type == "cuda" and not self.config.offload
        if graphs and sum(p.numel() for p in self.unet.parameters()) <= SMALL:
            return Replayed(self.unet, CudaCapture())
        return self.unet

    @classmethod
    def check(cls, folder: Path) -> dict:
        """model_index.json of a folder that looks whole, without loading it. Raises PriorError."""
        index = read_index(folder)
        read_settings(folder)
        check_parts(folder, index, (*cls.PARTS, *cls.ENCODER.parts(index)))
        if (found := index[cls.NETWORK][1]) != cls.NETWORK_CLASS:
            raise PriorError(f"{folder}: its {cls.NETWORK} is a {found}, not a {cls.NETWORK_CLASS}")
        return index

    def _embed(self, folder: Path, index: dict, clip_skip: int) -> None:
        """The embeddings of all texts that a view can ask for, and the rows of the texts in them."""
        encoder = self.ENCODER(folder, index, clip_skip)
        note_syntax(self.run.prompt, "prompt")
        note_syntax(self.config.negative, "negative prompt")
        views, modes = text.vocabulary(self.config)
        self.prompt = encoder.fit(encoder.normal(self.run.prompt), views, modes)
        conditional = [view_prompt(self.prompt, view, mode) for view in views for mode in modes]
        kept = views if self.config.keep_view else [""]
        if negative := encoder.normal(self.config.negative):
            negative = encoder.fit(negative, kept, [""], "negative prompt")
            self.config = replace(self.config, negative=negative)
        texts = list(dict.fromkeys(conditional))
        negatives = list(dict.fromkeys(view_prompt(negative, view) for view in kept))
        self.embeddings = text.embed(encoder, texts, negatives)
        self.negative_rows = {t: len(texts) + i for i, t in enumerate(negatives)}
        self.rows = self.negative_rows | {t: i for i, t in enumerate(texts)}

    def texts(self, views: Views) -> Branches:
        """What the UNet is told about each view."""
        return branches(self.config, self.prompt, views)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput:
        if image.ndim != 4 or image.shape[3] != 3 or image.shape[1] != image.shape[2] or len(image) != len(views):
            raise ValueError(f"image: must be ({len(views)}, H, H, 3), got {tuple(image.shape)}")
        if image.device.type != self.device.type:
            raise ValueError(f"image: must be on {self.device}, got {image.device}")
        n, said = len(image), self.texts(views)
        t, noise = sds.draw(
            self.config, (n, *self.shape), seed=self.run.seed, step=part, progress=progress, length=len(self.abar)
        )
        self._fetch()
        some = self.config.slice or n
        cuts = [slice(i, i + some) for i in range(0, n, some)]
        together = self.config.rescale > 0 and self.config.rescale_of == "clean" and len(cuts) > 1
        hats = self._denoise_together(image, t, noise, said, cuts) if together else [None] * len(cuts)
        parts = [
            self._judge(image[p].detach(), t[p], noise[p], said.part(p), n, hat)
            for p, hat in zip(cuts, hats, strict=True)
        ]
        self._put_back()
        pulled, gradient, residual = (torch.cat(part) for part in zip(*parts, strict=True))
        pulled = sds.clip_pixels(pulled, self.config.clip_gradient)
        return GuidanceOutput(pulled, sds.value_of(gradient), sds.describe(t, len(self.abar), gradient, residual))

    def _judge(self, image: Tensor, t: np.ndarray, noise: np.ndarray, said: Branches, views: int, hat: Tensor | None):
        """Gradients on `image` (b, H, H, 3) and on what the UNet sees of it, and the residual eps_hat - eps. hat: the
        guided eps_hat where it is known."""
        with torch.enable_grad():
            x = self.encode(image.requires_grad_().permute(0, 3, 1, 2))
        gradient, residual = sds.score(
            x.detach(),
            t,
            sent(noise, x.device, x.dtype),
            lambda *noisy: self._denoise(*noisy, said) if hat is None else hat,
            self.abar,
            self.config.weighting,
        )
        return sds.pull_back(x, image, gradient, views), gradient, residual

    @torch.no_grad()
    def _denoise_together(self, image: Tensor, t: np.ndarray, noise: np.ndarray, said: Branches, cuts: list[slice]):
        """Guided eps_hat of every part of the views, where each depends on all of them. The encoder works twice, since
        to keep what the gradient needs would cost the memory that parts save."""
        answers = []
        for p in cuts:
            x = self.encode(image[p].permute(0, 3, 1, 2))
            alpha, sigma = sds.signal_and_noise(self.abar, t[p], x)
            z = sds.add_noise(x, sent(noise[p], x.device, x.dtype), alpha, sigma)
            answers.append((*self._guide(z, t[p], alpha, sigma, said.part(p)), z, alpha, sigma))
        whole = self._finish(*(torch.cat(part) for part in zip(*answers, strict=True)))
        return [whole[p] for p in cuts]

    def _denoise(self, z: Tensor, t: np.ndarray, alpha: Tensor, sigma: Tensor, said: Branches) -> Tensor:
        """Guided eps_hat of noisy (b, C, h, w)."""
        return self._finish(*self._guide(z, t, alpha, sigma, said), z, alpha, sigma)

    def _finish(self, guided: Tensor, conditional: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Guided eps_hat (B, C, h, w) after what is done to the clean images that it implies."""
        if self.config.rescale_of == "clean":
            guided = sds.rescale_clean(guided, conditional, z, alpha, sigma, self.config.rescale)
        return sds.clip_clean(guided, z, alpha, sigma) if self.config.clip_clean else guided

    def _guide(self, z: Tensor, t: np.ndarray, alpha: Tensor, sigma: Tensor, said: Branches) -> list[Tensor]:
        """Guided and conditional eps_hat of noisy (b, C, h, w)."""
        flow = self.prediction == "flow"
        unconditional, conditional, *negatives = self._predict(z / (alpha + sigma) if flow else z, t, said)
        if negatives:
            weights = sent(said.weights, z.device, z.dtype)
            guided = sds.perp_neg_guidance(unconditional, conditional, negatives, weights, self.scale)
        else:
            guided = sds.classifier_free_guidance(unconditional, conditional, self.scale)
        if self.config.rescale_of == "prediction":
            guided = sds.rescale_guidance(guided, conditional, self.config.rescale)
        return [sds.predicted_noise(y, z, alpha, sigma, self.prediction) for y in (guided, conditional)]

    def _predict(self, z: Tensor, t: np.ndarray, said: Branches) -> tuple[Tensor, ...]:
        """What the UNet predicts in every branch, each (b, C, h, w) float32."""
        k, dtype = len(said.texts), self.unet.dtype
        batch = self.inputs(z).repeat(k, 1, 1, 1).to(dtype, memory_format=self.layout)
        steps = sent(np.tile(self.times[t], k), self.device)
        row_of = [self.negative_rows, *[self.rows] * (k - 1)]  # of each branch; the first one is unconditional
        start_rows, end_rows = (
            sent(
                [rows[s] for rows, branch in zip(row_of, said.texts[..., i], strict=True) for s in branch], self.device
            )
            for i in (0, 1)
        )
        share, blended = sent(said.share.reshape(-1), self.device), bool((said.share < 1).any())

        def pick(key: str, part: slice) -> Tensor:
            start = self.embeddings[key][start_rows[part]]
            if key == "mask":
                return torch.maximum(start, self.embeddings[key][end_rows[part]])
            if blended:
                of_start = share[part].reshape(-1, *[1] * (start.ndim - 1)).to(start)
                start = of_start * start + (1 - of_start) * self.embeddings[key][end_rows[part]]
            return start.to(dtype)

        def predict(part: slice) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                return self.call(self.forward, batch[part], steps[part], lambda key: pick(key, part))

        if self.config.compile != "none":
            torch.compiler.cudagraph_mark_step_begin()
            output = predict(slice(None))
        else:
            output = in_parts(predict, len(batch), self.device)
        return self.outputs(output).float().clone().chunk(k)

    def call(self, network, batch: Tensor, steps: Tensor, pick) -> Tensor:
        """The network's prediction for the rows of a batch."""
        hidden, mask = pick("hidden"), pick("mask") if self.masked else None
        return network(batch, steps, hidden, encoder_attention_mask=mask, **self.conditions(pick)).sample

    def inputs(self, z: Tensor) -> Tensor:
        return z

    def outputs(self, y: Tensor) -> Tensor:
        return y

    def conditions(self, pick) -> dict:
        return {}

    def _fetch(self) -> None:
        if self.config.offload:
            self.unet.to(self.device)

    def _put_back(self) -> None:
        if self.config.offload:
            self.unet.to("cpu")


def place(unet, device: torch.device, autocast: bool) -> torch.memory_format:
    """Move the frozen UNet to `device` and return the layout that its input should have.

    With autocast, the weights of convolutions and products are rounded to bfloat16 once, which autocast would do anew
    at every call. On the CPU, group normalisation of bfloat16 is ten times slower in channels-last than in plain order.
    """
    if autocast:
        for module in unet.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.to(torch.bfloat16)
    layout = layout_on(device)
    unet.to(device, memory_format=layout)
    return layout


def layout_on(device: torch.device) -> torch.memory_format:
    """The order of an image's numbers in memory that convolutions on `device` want."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
