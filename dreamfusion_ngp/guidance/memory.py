"""The memory that guidance will take, measured by running its networks on meta tensors."""

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

from ..config.guidance import GuidanceConfig
from ..scene.cameras import orbit
from .denoisers.diffusion import DiffusionDenoiser, Rows

LORA = ".vsd."  # in the names of parameters that `student.Student` adds to a network


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are created under it and alive at the same time; `most` is the peak. Scratch
    memory of ops and fragmentation of the allocator are not counted."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.live: set[int] = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        inputs = {_storage(a)._cdata for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
        result = op(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.count(_storage(tensor), inputs)
        return result

    def count(self, storage, inputs: set[int]) -> None:
        key = storage._cdata
        if key in inputs or key in self.live:  # a view of an argument, or counted already
            return
        self.live.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size


def _storage(tensor: Tensor):
    return tensor.untyped_storage()


class Attention(torch.autograd.Function):
    """The memory of fused attention: it saves its inputs and its output, not the matrix of weights."""

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
    """`Attention` instead of torch's, which on meta tensors would create the whole matrix. A torch function mode would
    be neater, but it is off where checkpointing recomputes."""
    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: Attention.apply(query, key, value)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def peak(work: Callable[[], object]) -> int:
    """Peak bytes of the tensors that `work`, which runs on meta tensors, creates."""
    counter = Peak()
    with fused_attention(), counter:
        work()
    return counter.most


def empty(module: torch.nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers as meta tensors."""
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

    def cast(self, batch: Tensor, *args, **named):
        return self.network(batch.to(self.denoiser[0].dtype), *args, **named)


def encoder_work(denoiser: DiffusionDenoiser, views: int, resolution: int) -> int:
    """Bytes of the encoder's activations for `views` renders of `resolution` pixels a side, with the gradient."""
    module = Encoding(denoiser)
    state = empty(module)

    def work():
        image = torch.empty(views, resolution, resolution, 3, device="meta", requires_grad=True)
        torch.func.functional_call(module, state, (image,))

    with torch.enable_grad():
        return peak(work)


def network_work(denoiser: DiffusionDenoiser, views: int, branches: int, learns: str = "") -> int:
    """Bytes of the network's activations for `views` views with `branches` texts each; including those for the gradient
    of parameters whose names contain `learns`."""
    module, n, texts = Predicting(denoiser), views * branches, denoiser.texts
    state = empty(module)
    learnt = [value.requires_grad_() for name, value in state.items() if learns and learns in name]

    def pick(key: str) -> Tensor | None:
        shape, dtype = texts.embeddings[key].shape[1:], torch.int64 if key == "mask" else denoiser.dtype
        return None if key == "mask" and not texts.masked else torch.empty(n, *shape, device="meta", dtype=dtype)

    def work():
        z, steps = torch.empty(n, *denoiser.shape, device="meta"), torch.zeros(n, device="meta")
        cameras, view = orbit([0.0] * views, 0.0, 1.0, 1.0), np.tile(np.arange(views), branches)
        answer = torch.func.functional_call(module, state, (Rows(z, steps, pick, cameras, view),))
        if learnt:
            torch.autograd.grad(answer, learnt, torch.empty_like(answer))

    with torch.set_grad_enabled(bool(learnt)):
        return peak(work)


def lora_work(denoiser: DiffusionDenoiser, views: int) -> dict[str, int]:
    """Bytes of the LoRA that rule vsd adds to the network, with gradients and moments, and of the activations of its
    training."""
    network = denoiser.network
    learnt = sum(p.numel() for name, p in network.named_parameters() if LORA in name)
    network.enable_adapters()
    try:
        return {"LoRA": 16 * learnt, "LoRA at work": network_work(denoiser, views, 1, LORA)}
    finally:
        network.disable_adapters()


def most_texts(config: GuidanceConfig) -> int:
    """Texts of a view that the network gets in one batch, at most, under the rule of a config."""
    if config.view_blend == "perp-neg":
        return 4
    if config.rule == "linear":
        text, empty, negative, _ = config.weights
        return max(1, sum(map(bool, (text, empty, negative) if config.negative else (text, empty + negative))))
    return 3 if config.rule in ("csd", "nfsd") and config.negative else 2


def plan(denoiser: DiffusionDenoiser, views: int, resolution: int) -> dict[str, int]:
    """Bytes by use, for `views` renders of `resolution` pixels a side at a time; in the worst case all are needed at
    once."""
    config, vae = denoiser.config, denoiser.ends.vae
    size, together, branches = min(config.slice or views, views), denoiser.ends.views, most_texts(config)
    batch = views if denoiser.views_together else size
    if together > 1 and config.slice:  # slices are whole objects, and one text at a time
        batch, branches = min(max(1, config.slice // together) * together, views), 1
    sizes = {"UNet": weights(denoiser.network), "UNet at work": network_work(denoiser, batch, branches)}
    views = size
    if config.rule == "vsd":
        sizes |= lora_work(denoiser, views)
    if vae is not None:
        sizes |= {"encoder": weights(vae), "encoder at work": encoder_work(denoiser, views, resolution)}
    return sizes


def plan_text(sizes: dict[str, int], free: int | None) -> str:
    """The plan as one line, in GB; a second line with advice if `free` bytes are known and too few."""
    total = sum(sizes.values())
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in sizes.items())
    line = f"memory plan {total / 1e9:.2f} GB: {listed}"
    if free is None:
        return line
    short = "\nnote        that may not fit; try --low-memory, or another model" if total > free else ""
    return f"{line}; free {free / 1e9:.2f}{short}"
