"""Input pictures of a UNet: f x f pixels packed into channels, and maps of the position.

A UNet with 3 f^2 input channels takes packed pictures; one with 3 f^2 + 6 takes six fixed maps of the position as well.
A convolution can infer its position only from the zero padding; with the maps it knows it directly (Liu et al. 2018,
"An intriguing failing of convolutional neural networks and the CoordConv solution"), which it needs to place an object
from text alone, in pure noise.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

POSITIONS = 6


def packing_factor(in_channels: int) -> int:
    """f of a UNet with 3 f^2 or 3 f^2 + POSITIONS input channels."""
    return math.isqrt(max(in_channels, 3) // 3)


def pack(image: Tensor, in_channels: int) -> Tensor:
    """(B, 3, H, H) -> (B, in_channels, H / f, H / f): packed pixels, then the position maps if the UNet takes them."""
    packed = torch.nn.functional.pixel_unshuffle(image, packing_factor(in_channels))
    if packed.shape[1] == in_channels:
        return packed
    maps = position_maps(packed.shape[-1], packed.device).to(packed.dtype)
    return torch.cat([packed, maps.expand(len(packed), -1, -1, -1)], 1)


def unpack(packed: Tensor) -> Tensor:
    """(B, 3 f^2, h, h) -> (B, 3, h f, h f)."""
    return torch.nn.functional.pixel_shuffle(packed, math.isqrt(packed.shape[1] // 3))


@lru_cache
def position_maps(size: int, device: str | torch.device = "cpu") -> Tensor:
    """(1, 6, size, size) float32 on a device, cached: x, y, cos pi x, cos pi y, sin pi x, sin pi y with x, y in (-1, 1)
    at the pixels' centres, each scaled to unit variance like the noise."""
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    linear, waves = math.sqrt(3.0), math.sqrt(2.0)
    maps = [linear * x, linear * y]
    maps += [waves * wave(math.pi * a) for wave in (torch.cos, torch.sin) for a in (x, y)]
    return torch.stack(maps)[None].to(device)
