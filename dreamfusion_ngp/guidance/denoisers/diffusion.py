"""A frozen text-conditioned network from a local diffusers folder as a denoiser: the code shared by all families of
pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.cuda_graphs import CudaCapture, Replayed
from ...base.errors import PriorError
from ...base.precision import bfloat16_is_quick, choose_dtype
from ...base.slots import sent
from ...config.checks import clean_texts
from ...config.schema import RunConfig
from ...scene.cameras import Cameras, orbit
from ...scene.views import Views
from ..inversions import Inversions
from ..micro_batches import in_micro_batches
from ..pipeline_folder import check_parts, fitting, load_model, load_schedule, read_index
from ..protocol import Predictions
from ..settings import read_settings
from ..styles import Styles
from ..text_encoders import TextEncoder
from ..texts import Branches, Pick, Texts

SMALL = 100_000_000  # parameters
SMALL_SIDE = 16  # pixels a side of the network's input in its trial


@dataclass(frozen=True)
class Pipeline:
    """What is loaded of a folder when its family adds the rest (`Family.surround`). config: with clean texts. network:
    a model of diffusers on the CPU. embeddings: of all texts, (S, ...) by key. dtype: of the network, None for that of
    the files."""

    folder: Path
    index: dict
    config: RunConfig
    network: Any
    embeddings: dict[str, Tensor]
    dtype: torch.dtype | None
    device: torch.device

    @property
    def autocast(self) -> bool:
        """Whether products are bfloat16."""
        return self.dtype is None and bfloat16_is_quick(self.device)


@dataclass(frozen=True)
class Rows:
    """The inputs of one call of the network. z: (n, C, h, w) float32. steps: (n,) the model's time input.
    pick("hidden") gives the rows (n, ...) of a key of the embeddings, pick("mask") None if no padding is masked.
    cameras: of the views; view: (n,) each row's index in these."""

    z: Tensor
    steps: Tensor
    pick: Pick
    cameras: Cameras
    view: np.ndarray


def call_unet(network, rows: Rows, **conditions) -> Tensor:
    """The prediction of a UNet2DConditionModel."""
    hidden, mask = rows.pick("hidden"), rows.pick("mask")
    return network(rows.z, rows.steps, hidden, encoder_attention_mask=mask, **conditions).sample


@dataclass(frozen=True)
class Ends:
    """A family's additions around its network.

    shape: (C, h, w) of its input for a view. encode: see `Denoiser`.  call: (network, rows) -> prediction (n, C, h, w).
    masked: whether the padding of texts is masked in the network. vae: the encoder's, a model of diffusers, for the
    memory plan. views: of an object that the network takes at once; they are consecutive rows.
    """

    shape: tuple[int, int, int]
    encode: Callable[[Tensor], Tensor]
    call: Callable[[Callable, Rows], Tensor] = call_unet
    masked: bool = False
    vae: Any = None
    views: int = 1


@dataclass(frozen=True)
class Family:
    """A kind of pipeline. accepts(index): whether a model_index.json is of this kind. surround(pipeline): checks it and
    loads what the network needs around it. scale: guidance scale if neither config nor folder has one. encoder: how
    texts are embedded. network, network_class: the network's component name, and its class in diffusers. parts: further
    components that a folder must have, beyond those of the encoder. flow: whether it is a rectified flow.
    views_together: see `Denoiser`. normal: (folder, index) -> the index as diffusers would write it. load: loads the
    network. loader: class of diffusers.loaders that reads LoRAs for it, "" if there is none."""

    accepts: Callable[[dict], bool]
    surround: Callable[[Pipeline], Ends]
    scale: float
    encoder: type[TextEncoder] = TextEncoder
    network: str = "unet"
    network_class: str = "UNet2DConditionModel"
    parts: tuple[str, ...] = ()
    flow: bool = False
    views_together: bool = False
    loader: str = ""
    normal: Callable[[Path, dict], dict] = lambda folder, index: index
    load: Callable[..., Any] = load_model

    def check(self, folder: Path) -> dict:
        """model_index.json of a folder that looks complete, without loading weights. Raises PriorError."""
        index = self.normal(folder, read_index(folder))
        read_settings(folder)
        check_parts(folder, index, (self.network, "scheduler", *self.parts, *self.encoder.parts(index)))
        if (actual := index[self.network][1]) != self.network_class:
            raise PriorError(f"{folder}: its {self.network} is a {actual}, not a {self.network_class}")
        return index


class DiffusionDenoiser:
    """See `protocol.Denoiser`. The guidance scale is that of the folder's dreamfusion_ngp.json, else the family's.

    network: the UNet or transformer, a frozen model of diffusers.  dtype: of its weights.
    """

    def __init__(self, family: Family, config: RunConfig, folder: Path, device: torch.device):
        index, settings = family.check(folder), read_settings(folder)
        config = clean_texts(config)
        self.family, self.config, self.device = family, config.guidance, device
        self.views_together = family.views_together
        self.schedule = load_schedule(folder, index, settings.get("prediction_type"), self.config.t_shifted)
        if (self.schedule.prediction == "flow") != family.flow:  # what such an output means is nowhere written
            raise PriorError(f"{folder}: a {family.network} with a {index['scheduler'][1]} is not understood")
        styles = Styles(self.config.loras, family.loader, self.config.model)
        encoder = family.encoder(folder, index, settings.get("clip_skip", 0))
        encoder.styles = styles
        encoder.learn_words(
            Inversions(self.config.embeddings, family.loader, self.config.model),
            (config.prompt, config.guidance.negative),
        )
        self.texts = Texts(config, encoder)
        dtype = choose_dtype(self.config.precision, device)
        self.network = family.load(folder, index, family.network, dtype)
        styles.into_network(self.network, family.network, encoder.models)
        pipeline = Pipeline(folder, index, config, self.network, self.texts.embeddings, dtype, device)
        self.ends, self.autocast = family.surround(pipeline), pipeline.autocast
        self.shape, self.encode = self.ends.shape, self.ends.encode
        self.layout = place(self.network, device, self.autocast)
        self.dtype: torch.dtype = self.network.dtype
        self.forward = self._forward(config.cuda_graphs)
        self.texts.to(device, settings.get("encoder_attention_mask", self.ends.masked))
        self.scale = float(settings.get("guidance_scale", family.scale))
        self._try(f"{folder}/{family.network}")
        if self.config.offload:
            self.network.to("cpu")

    def _try(self, place: str) -> None:
        """Call the network once on a small picture. Raises PriorError if it rejects its inputs or returns something
        unusable."""
        side = self.shape[-1]
        while side > SMALL_SIDE and side % SMALL_SIDE == 0:
            side //= 2
        n = self.ends.views
        z = torch.zeros(n, self.shape[0], side, side, device=self.device)

        def pick(key: str) -> Tensor | None:
            first = self.texts.embeddings[key][:1].expand(n, *self.texts.embeddings[key].shape[1:])
            return (first if self.texts.masked else None) if key == "mask" else first.to(self.dtype)

        steps = sent(self.schedule.model_times(np.zeros(n, np.int64)), self.device)
        rows = Rows(z, steps, pick, orbit(np.arange(n) * 360 / n, 0.0, 1.0, 1.0), np.arange(n))
        with fitting(f"{place} does not take what this folder's parts give it"), torch.no_grad():
            answer = self.ask(self.network, rows)
        if answer.shape != z.shape:
            raise PriorError(f"{place} answers {tuple(answer.shape)} to {tuple(z.shape)}")
        if not answer.isfinite().all():
            raise PriorError(
                f"{place} gives numbers that are not finite: its weights are damaged, or "
                "guidance.precision is too small for it"
            )

    def _forward(self, graphs: bool) -> Callable:
        """The callable for the network: itself, compiled, or in CUDA graphs. Graphs are for small networks, dominated
        by launch overhead; a large one would keep its activations in the graphs' memory. An offloaded one, whose
        weights move, cannot be captured."""
        if self.config.compile is not None:
            return torch.compile(self.network, mode=self.config.compile)
        graphs = graphs and self.device.type == "cuda" and not self.config.offload
        if graphs and sum(p.numel() for p in self.network.parameters()) <= SMALL:
            return Replayed(self.network, CudaCapture())
        return self.network

    def ask(self, network: Callable, rows: Rows) -> Tensor:
        """The prediction of `network`, or its stand-in, for the rows of a batch, called in the family's way."""

        def cast(batch: Tensor, *args, **named):
            return network(batch.to(self.dtype, memory_format=self.layout), *args, **named)

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.ends.call(cast, rows)

    @torch.no_grad()
    def predict(self, z: Tensor, t: np.ndarray, views: Views) -> Predictions:
        branches = self.texts.branches(views)
        uncond, cond, *negatives = self._predict(z, t, views, branches)
        weights = sent(branches.weights, z.device, z.dtype) if negatives else None
        return Predictions(uncond, cond, tuple(negatives), weights, self.ends.views if self.ends.views > 1 else None)

    @torch.no_grad()
    def answers(self, z: Tensor, t: np.ndarray, views: Views, texts: Sequence[str]) -> tuple[Tensor, ...]:
        alpha, sigma = self.schedule.coefficients(t, z)
        predictions = self._predict(z, t, views, self.texts.branches_of(views, texts))
        return tuple(self.schedule.noise(answer, z, alpha, sigma) for answer in predictions)

    def rows(self, z: Tensor, t: np.ndarray, views: Views, branches: Branches) -> Callable[[slice], Rows]:
        """The network's inputs for the K b rows of all branches, as a function of a slice of the rows."""
        if self.schedule.prediction == "flow":
            alpha, sigma = self.schedule.coefficients(t, z)
            z = z / (alpha + sigma)
        k = len(branches.texts)
        batch, steps = z.repeat(k, 1, 1, 1), sent(np.tile(self.schedule.model_times(t), k), self.device)
        pick, view = self.texts.picker(branches, self.device, self.dtype), np.tile(np.arange(len(z)), k)

        return lambda part: Rows(batch[part], steps[part], pick(part), views.cameras, view[part])

    def _predict(self, z: Tensor, t: np.ndarray, views: Views, branches: Branches) -> tuple[Tensor, ...]:
        """The network's prediction for every branch, each (b, C, h, w) float32."""
        rows = self.rows(z, t, views, branches)

        def ask(part: slice) -> Tensor:
            return self.ask(self.forward, rows(part))

        if self.config.compile is not None:
            torch.compiler.cudagraph_mark_step_begin()
        return self._in_slices(ask, len(z) * len(branches.texts)).float().clone().chunk(len(branches.texts))

    def _in_slices(self, ask: Callable[[slice], Tensor], rows: int) -> Tensor:
        """`ask` for all rows, in slices that keep the views of an object together: in parallel on the CPU's cores, or
        as many objects at a time as fit `guidance.slice` views."""
        together = self.ends.views if self.ends.views > 1 else rows if self.views_together else 1

        def objects(part: slice) -> Tensor:
            return ask(slice(part.start * together, part.stop * together))

        if self.ends.views > 1 and self.config.slice:
            size, count = max(1, self.config.slice // together), rows // together
            return torch.cat([objects(slice(i, min(i + size, count))) for i in range(0, count, size)])
        if self.config.compile is not None:
            return ask(slice(0, rows))
        return in_micro_batches(objects, rows // together, self.device)

    @contextmanager
    def resident(self) -> Iterator[None]:
        """Within the block the network is on the device; with `guidance.offload` only there."""
        if self.config.offload:
            self.network.to(self.device)
        try:
            yield
        finally:
            if self.config.offload:
                self.network.to("cpu")


def place(network, device: torch.device, autocast: bool) -> torch.memory_format:
    """Move the frozen network to `device` and return the layout that its input should have.

    On the CPU, bfloat16 group normalisation is ten times slower in channels-last than in contiguous order.
    """
    if autocast:
        round_weights(network)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    network.to(device, memory_format=layout)
    return layout


def round_weights(network) -> None:
    """Round the weights of convolutions and linear layers to bfloat16, which autocast would do at every call."""
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.to(torch.bfloat16)
