"""How much memory guidance will take, found by running its networks on tensors without contents."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..scene.cameras import orbit
from .denoisers.diffusion import DiffusionDenoiser, Rows

LORA = ".vsd."  # in the names of what `student.Student` adds to a network


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are made under it and live at the same time; `most` is their largest sum.
    What an op needs while it runs, and the gaps of an allocator, are not seen."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        known = {_storage(a)._cdata for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
        result = op(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.count(_storage(tensor), known)
        return result

    def count(self, storage, known: set[int]) -> None:
        key = storage._cdata
        if key in known or key in self.seen:  # a view of an argument, or counted already
            return
        self.seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def _storage(tensor: Tensor):
    return tensor.untyped_storage()


class Attention(torch.autograd.Function):
    """The memory of fused attention: it keeps its inputs and its output, not the matrix of weights."""

    @staticmethod
    def forward(ctx, query, key, value):
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


@contextmanager
def fused_attention():
    """`Attention` instead of torch's, which on meta tensors would make the whole matrix. A mode of torch would do
    it more neatly, but it is off where checkpointing computes anew."""
    functional = torch.nn.functional
    own = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: Attention.apply(query, key, value)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


def peak(run: Callable[[], object]) -> int:
    """Bytes of tensors that `run`, which works on meta tensors, has alive at most, on top of what was there before."""
    counter = Peak()
    with fused_attention(), counter:
        run()
    return counter.most


def empty(module: torch.nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers without contents."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: torch.empty_like(value, device="meta") for name, value in named}


def weights(*modules: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for m in modules for t in (*m.parameters(), *m.buffers()))


class Encoding(torch.nn.Module):
    """A denoiser's encoder and its backward as a module, so that its VAE's weights can be replaced for both."""

    def __init__(self, denoiser: DiffusionDenoiser):
        super().__init__()
        self.vae: Any = denoiser.ends.vae
        self.encode = denoiser.encode

    def forward(self, image: Tensor) -> None:
        x = self.encode(image)
        torch.autograd.backward(x, torch.empty_like(x), inputs=[image])


class Predicting(torch.nn.Module):
    """A denoiser's network, called as the denoiser calls it."""

    def __init__(self, denoiser: DiffusionDenoiser):
        super().__init__()
        self.network: Any = denoiser.network
        self.denoiser = [denoiser]  # in a list: it is no module of this one

    def forward(self, rows: Rows) -> Tensor:
        return self.denoiser[0].ends.call(self.cast, rows)

    def cast(self, batch: Tensor, *given, **named):
        return self.network(batch.to(self.denoiser[0].dtype), *given, **named)


def encoder_work(denoiser: DiffusionDenoiser, views: int, resolution: int) -> int:
    """Bytes of the encoder's activations for `views` renders of `resolution` pixels a side, with the gradient."""
    module = Encoding(denoiser)
    state = empty(module)

    def run():
        image = torch.empty(views, resolution, resolution, 3, device="meta", requires_grad=True)
        torch.func.functional_call(module, state, (image,))

    with torch.enable_grad():
        return peak(run)


def network_work(denoiser: DiffusionDenoiser, views: int, branches: int, learns: str = "") -> int:
    """Bytes of the network's activations for `views` views with `branches` texts each; with those that the gradient of
    parameters needs, where their names hold `learns`."""
    module, n, texts = Predicting(denoiser), views * branches, denoiser.texts
    state = empty(module)
    learnt = [value.requires_grad_() for name, value in state.items() if learns and learns in name]

    def pick(key: str) -> Tensor | None:
        shape, dtype = texts.embeddings[key].shape[1:], torch.int64 if key == "mask" else denoiser.dtype
        return None if key == "mask" and not texts.masked else torch.empty(n, *shape, device="meta", dtype=dtype)

    def run():
        z, steps = torch.empty(n, *denoiser.shape, device="meta"), torch.zeros(n, device="meta")
        cameras, view = orbit([0.0] * views, 0.0, 1.0, 1.0), np.tile(np.arange(views), branches)
        answer = torch.func.functional_call(module, state, (Rows(z, steps, pick, cameras, view),))
        if learnt:
            torch.autograd.grad(answer, learnt, torch.empty_like(answer))

    with torch.set_grad_enabled(bool(learnt)):
        return peak(run)


def lora_work(denoiser: DiffusionDenoiser, views: int) -> dict[str, int]:
    """Bytes of the LoRA that rule vsd has put into the network, with its gradients and moments, and of a lesson."""
    network = denoiser.network
    learnt = sum(p.numel() for name, p in network.named_parameters() if LORA in name)
    network.enable_adapters()
    try:
        return {"LoRA": 16 * learnt, "LoRA at work": network_work(denoiser, views, 1, LORA)}
    finally:
        network.disable_adapters()


def plan(denoiser: DiffusionDenoiser, views: int, resolution: int) -> dict[str, int]:
    """Bytes by what they are for, with `views` renders of `resolution` pixels a side at a time; in the worst moment all
    live at once."""
    config, vae = denoiser.config, denoiser.ends.vae
    size, together, branches = min(config.slice or views, views), denoiser.ends.views, 2
    if config.view_blend == "perp-neg":
        branches = 4
    seen = views if denoiser.views_together else size
    if together > 1 and config.slice:  # so many objects at a time, of one text
        seen, branches = min(max(1, config.slice // together) * together, views), 1
    parts = {"UNet": weights(denoiser.network), "UNet at work": network_work(denoiser, seen, branches)}
    views = size
    if config.rule == "vsd":
        parts |= lora_work(denoiser, views)
    if vae is not None:
        parts |= {"encoder": weights(vae), "encoder at work": encoder_work(denoiser, views, resolution)}
    return parts


def plan_text(parts: dict[str, int], free: int | None) -> str:
    """One line with a plan in GB; with `free` bytes known and too few of them, a second line with what to do."""
    total = sum(parts.values())
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    line = f"memory plan {total / 1e9:.2f} GB: {listed}"
    if free is None:
        return line
    short = "\nnote        that may not fit; try --low-memory, or another model" if total > free else ""
    return f"{line}; free {free / 1e9:.2f}{short}"
