"""Which floating-point type and which memory format networks use on a device."""

from __future__ import annotations

import torch

# Of an autoencoder, whose few channels have many pixels, on the CPU too: three quarters of the time of plain order,
# which suits a UNet there (docs/decisions/0211-the-encoder-in-bfloat16.md).
ENCODER_LAYOUT = torch.channels_last
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of the whole network; None for "auto": `autocast`. float16 is for GPUs: on the CPU, which is slow at
    it, it means "auto"."""
    if precision == "float32":
        return torch.float32
    return None if precision == "auto" or (precision == "float16" and device.type == "cpu") else HALVES[precision]


def bfloat16_is_quick(device: torch.device) -> bool:
    """Whether matrix products on `device` are faster in bfloat16 than in float32: on GPUs from sm_80 on (older ones
    have no bfloat16 convolutions), on CPUs with AMX, or with AVX-512 BF16 unless it is Intel's, which has half the
    speed of float32 (docs/decisions/0026-bfloat16-on-a-cpu.md)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch >= 2.10
    slow = {"avx512_bf16"} if str(capabilities.get("cpu_name", "")).startswith("Intel") else set()
    return any(name.endswith("bf16") and present is True for name, present in capabilities.items() if name not in slow)


def autocast(device: torch.device) -> torch.autocast:
    """A context in which matrix products are bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_is_quick(device))
