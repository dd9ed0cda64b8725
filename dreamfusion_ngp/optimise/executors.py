"""The step in CUDA graphs: one launch each for rays, rendering, and backward with update, instead of some hundred.

The first call of each kind runs eagerly, which loads its kernels; the second is captured. Kinds differ in resolution,
background and tier, the number of rows in the sample buffers, a power of two. The rays of a step are cast while the
guidance of the step before it works, and their number of samples reaches the host meanwhile, so a tier always holds all
samples that the budget admits, and no result depends on it. After an update of the occupancy grid the rays are cast at
once, and the tier is the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..base.cuda_graphs import Capture, CudaCapture
from ..render.volume import Rays
from .step import Draw, Look, State, cast_rays, draw, fill_eye, learn, look, refresh_is_due

SMALLEST_TIER = 1 << 15  # rows: below, kernels do not get faster


class Eager:
    """The functions of a step, called directly."""

    def draw(self, state: State, number: int) -> Draw:
        return draw(state.config, number)

    def look(self, state: State, drawn: Draw) -> Look:
        fill_eye(state, drawn)
        rays = cast_rays(state, drawn.size)
        return look(state, rays.cut(rays.rows()), drawn.network)

    def learn(self, state: State, rendering: Look, d_rgb: Tensor, last: bool) -> None:
        learn(state, rendering, d_rgb, last)


class Notice:
    """Device numbers copied to the host: `send` does not wait, `read` waits until they have arrived."""

    def __init__(self, like: Tensor):
        self.host = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
        self.sent = torch.cuda.Event() if like.is_cuda else None

    def send(self, numbers: Tensor) -> None:
        self.host.copy_(numbers, non_blocking=True)
        if self.sent:
            self.sent.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> list[int]:
        if self.sent:
            self.sent.synchronize()
        return self.host.tolist()


class Graphed:
    """`Eager` for one state, in graphs. The pictures that `look` returns are valid until the next `look`."""

    def __init__(self, state: State, rays: Capture, step: Capture, smallest: int = SMALLEST_TIER):
        """rays captures ray casting, step captures rendering and backward. Each has memory of its own, as the rays of
        the next step are cast between the rendering of a step and its backward."""
        self.captures, self.smallest = {"cast": rays, "look": step, "learn": step}, smallest
        self.graphs, self.warm, self.gradients = {}, set(), {}
        self.kind: tuple = ()
        self.rendering: Look | None = None
        self.ahead: tuple[Draw, Rays] | None = None
        self.notice = Notice(state.occupancy.bits.new_empty(2, dtype=torch.int64))

    def call(self, name: str, kind: tuple, function: Callable[[], Any]) -> Any:
        if kind not in self.warm:
            return self.captures[name].warm(function)
        if (name, kind) not in self.graphs:
            self.graphs[name, kind] = self.captures[name](function)
        replay, returned = self.graphs[name, kind]
        replay()
        return returned

    def cast(self, state: State, drawn: Draw) -> Rays:
        fill_eye(state, drawn)
        rays = self.call("cast", (drawn.size,), lambda: cast_rays(state, drawn.size))
        self.warm.add((drawn.size,))
        return rays

    def draw(self, state: State, number: int) -> Draw:
        if self.ahead and self.ahead[0].number != number:
            self.ahead = None
        return self.ahead[0] if self.ahead else draw(state.config, number)

    def look(self, state: State, drawn: Draw) -> Look:
        if self.ahead:
            rays, rows = self.ahead[1], tier(self.notice.read()[0], state.config.render.budget, self.smallest)
        else:
            rays, rows = self.cast(state, drawn), state.config.render.budget
        self.kind = drawn.size, drawn.network, rows
        self.rendering = None  # its autograd graph would hold on to nodes of the parameters
        rendering = self.rendering = self.call(
            "look", self.kind, lambda: look(state, rays.cut(rows).clone(), drawn.network)
        )
        self.ahead = self.look_ahead(state, drawn.number + 1)
        return replace(
            rendering,
            terms={name: term.detach().clone() for name, term in rendering.terms.items()},
            opacity=rendering.opacity.clone(),
            info=rendering.info.clone(),
        )

    def look_ahead(self, state: State, number: int) -> tuple[Draw, Rays] | None:
        """The rays of the next step, unless they are to be cast through another grid."""
        if number >= state.config.steps or refresh_is_due(state.config, number):
            return None
        drawn = draw(state.config, number)
        rays = self.cast(state, drawn)
        self.notice.send(rays.samples.info)
        return drawn, rays

    def learn(self, state: State, rendering: Look, d_rgb: Tensor, last: bool) -> None:
        size, captured = self.kind[0], self.rendering  # `rendering` holds copies; a graph needs its own tensors
        assert captured is not None
        if size not in self.gradients:
            self.gradients[size] = torch.empty_like(d_rgb)
        gradient = self.gradients[size].copy_(d_rgb)
        self.call("learn", self.kind, lambda: learn(state, captured, gradient, last))
        self.warm.add(self.kind)


def tier(samples: int, budget: int, smallest: int = SMALLEST_TIER) -> int:
    """Rows of buffers for `samples`: the next power of two, at least `smallest`, at most `budget`."""
    return min(budget, max(smallest, 1 << max(0, samples - 1).bit_length()))


def executor(state: State) -> Eager | Graphed:
    """What runs the steps of `state`: CUDA graphs where device and config allow it, except with parts of a step
    (`accumulate`), which would add to each other's gradients, or a field that cannot be captured. Graphs change no
    result."""
    device = state.occupancy.bits.device
    if (
        device.type != "cuda"
        or not state.config.cuda_graphs
        or state.config.accumulate > 1
        or not state.field.capturable
    ):
        return Eager()
    with torch.cuda.device(device):
        return Graphed(state, CudaCapture(), CudaCapture())
