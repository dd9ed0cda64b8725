"""Random numbers of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def philox(key: int, low: Tensor, high: int) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011): four tensors of 32-bit words for the counters (low, high), in int64."""
    mask = 0xFFFFFFFF

    def multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        """High and low words of a 32 x 32-bit product; int64 cannot hold it, so b goes in halves."""
        bottom, top = a * (b & 0xFFFF), a * (b >> 16)
        return (top + (bottom >> 16)) >> 16, (bottom + ((top & 0xFFFF) << 16)) & mask

    c = [low & mask, low >> 32 & mask, torch.full_like(low, high & mask), torch.full_like(low, high >> 32 & mask)]
    k0, k1 = key & mask, key >> 32 & mask
    for _ in range(10):
        (h0, l0), (h1, l1) = multiply(0xD2511F53, c[0]), multiply(0xCD9E8D57, c[2])
        c = [h1 ^ c[1] ^ k0, l1, h0 ^ c[3] ^ k1, l0]
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return c


def kernel_uniform(n: int, seed: int, stream: int, dtype: torch.dtype, words: int = 1) -> Tensor:
    """(n, words) numbers in [0, 1), of 24 bits each; 0.5 for a negative seed."""
    if seed < 0:
        return torch.full((n, words), 0.5, dtype=dtype)
    bits = torch.stack(philox(seed, torch.arange(n), stream)[:words], 1)
    return (bits >> 8).to(dtype) * 2.0**-24
