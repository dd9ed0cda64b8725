"""Other implementations of the same ops on the same samples and the same table.

torch always takes part, the others where they are installed; none is required.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..cases import Peer

CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Entry:
    """How a peer is made. module, maker: in this folder; options: arguments of the maker besides the problem or the
    scene. precision: of the table that it reads."""

    op: str
    who: str
    package: str
    module: str
    maker: str
    devices: tuple[str, ...] = (CPU, CUDA)
    precision: torch.dtype = torch.float32
    options: tuple[tuple[str, object], ...] = ()


JIT = (("jit", True),)
ENTRIES = (
    Entry("encode forward", "torch", "torch", "composed", "torch_encode"),
    Entry("encode forward", "drjit", "drjit", "jit", "drjit_encode", (CPU,)),
    Entry("encode forward", "jax", "jax", "jit", "jax_encode", (CPU,)),
    Entry("encode forward", "taichi", "taichi", "taichi_kernels", "encode", (CPU,)),
    Entry("encode forward", "tinycudann", "tinycudann", "cuda", "tcnn_encode", (CUDA,)),
    Entry("encode forward", "tinycudann, jit", "tinycudann", "cuda", "tcnn_encode", (CUDA,), options=JIT),
    Entry("encode backward", "torch", "torch", "composed", "torch_encode_backward"),
    Entry("encode backward", "drjit", "drjit", "jit", "drjit_encode_backward", (CPU,)),
    Entry("encode backward", "jax", "jax", "jit", "jax_encode_backward", (CPU,)),
    Entry("encode backward", "taichi", "taichi", "taichi_kernels", "encode_backward", (CPU,)),
    Entry("encode backward", "tinycudann", "tinycudann", "cuda", "tcnn_encode_backward", (CUDA,)),
    Entry("encode backward", "tinycudann, jit", "tinycudann", "cuda", "tcnn_encode_backward", (CUDA,), options=JIT),
    Entry("field step", "torch, composed", "torch", "composed", "composed_step"),
    Entry("field step", "tinycudann + torch", "tinycudann", "cuda", "tcnn_step", (CUDA,)),
    Entry("field step", "tinycudann + torch, jit", "tinycudann", "cuda", "tcnn_step", (CUDA,), options=JIT),
    Entry(
        "field step",
        "tinycudann + torch, 6 taps",
        "tinycudann",
        "cuda",
        "tcnn_step",
        (CUDA,),
        options=(("taps", True),),
    ),
    Entry(
        "field step",
        "tinycudann + torch",
        "tinycudann",
        "cuda",
        "tcnn_step",
        (CUDA,),
        torch.float16,
        (("dtype", torch.float16),),
    ),
    Entry("raster forward + backward", "deodr", "deodr", "rasterisers", "deodr_raster", (CPU,)),
    Entry("raster forward + backward", "mitsuba", "mitsuba", "rasterisers", "mitsuba_raster", (CPU,)),
    Entry("raster forward + backward", "nvdiffrast", "nvdiffrast", "cuda_rasterisers", "nvdiffrast_raster", (CUDA,)),
    Entry("raster forward + backward", "drtk", "drtk", "cuda_rasterisers", "drtk_raster", (CUDA,)),
    Entry("march", "nerfacc", "nerfacc", "cuda", "nerfacc_march", (CUDA,)),
    Entry("composite forward + backward", "nerfacc", "nerfacc", "cuda", "nerfacc_composite", (CUDA,)),
)


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def peers_of(op: str, subject, device: torch.device, precision: torch.dtype) -> dict[str, Callable[[], Peer]]:
    """name -> function that prepares the peer, which may raise LeftOut. subject: the Problem, Scene or Ball of the
    op."""

    def prepare(entry: Entry) -> Peer:
        module = importlib.import_module(f".{entry.module}", __name__)
        return getattr(module, entry.maker)(subject, **dict(entry.options))

    return {
        e.who: partial(prepare, e)
        for e in ENTRIES
        if e.op == op and e.precision == precision and device.type in e.devices and installed(e.package)
    }
