"""The pictures for CLIP: crops of a rendering ("windows"), each over a random background, the augmentations of Dream
Fields (Jain et al., CVPR 2022, section 3.3; google-research/dreamfields, augment.py at 1d49f2c).

Every random number is drawn on the host; the pictures are computed on the device. Resizing and blurring are matrix
products, whose backward is deterministic on every device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..base.slots import sent
from ..config.schema import ClipConfig

USUAL = 224  # pixels a side of CLIP's input, the unit of blurs
DEVIATION, DECAY = 0.2, 1.5  # of the Fourier texture's spectrum, and the exponent of its decay with frequency
# Square root of the covariance of ImageNet's colours, divided by its largest column (lucid, param/color.py).
COLORS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]]) / 0.4619524


def resampling(start: Tensor, length: Tensor, n: int, size: int) -> Tensor:
    """(B, size, n) float32: matrices that resize a window of n pixels, from `start` (B,) and `length` (B,) pixels long,
    to `size` pixels, with a triangle filter two pixels wide, of the coarser side. Rows sum to 1."""
    at = torch.arange(size, device=start.device) + 0.5
    centre = start[:, None] + at * (length / size)[:, None]
    reach = (length / size).clamp(min=1.0)[:, None, None]
    pixel = torch.arange(n, device=start.device) + 0.5
    weight = (1 - (pixel - centre[..., None]).abs() / reach).clamp(min=0)
    return weight / weight.sum(-1, keepdim=True)


def draw_windows(n: int, share: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """(n, 3): top, left and side of square windows at random places, as shares of a picture's side; the side is uniform
    in `share`."""
    side = share[0] + (share[1] - share[0]) * random.random(n)
    return np.stack([*(random.random((2, n)) * (1 - side)), side], 1)


def windows(image: Tensor, place: np.ndarray, size: int) -> Tensor:
    """(n, C, size, size): windows of images (B, H, H, C) at `place` (n, 3) (see `draw_windows`), n / B consecutive ones
    of each image. Differentiable."""
    count, height = len(place) // len(image), image.shape[1]
    top, left, length = sent(place * height, image.device, torch.float32).unbind(1)
    down, across = resampling(top, length, height, size), resampling(left, length, height, size)
    repeated = image.permute(0, 3, 1, 2).repeat_interleave(count, 0).float()
    return down[:, None] @ repeated @ across[:, None].transpose(-1, -2)


def backgrounds(
    config: ClipConfig, n: int, size: int, random: np.random.Generator, device: str | torch.device = "cpu"
) -> Tensor:
    """(n, 3, size, size) in [0, 1]: each of a kind drawn from `config.backgrounds`; all except flat ones are blurred.

    noise: uniform, pixel by pixel. checker: of two colours, with whole numbers of cells. fourier: a texture whose
    spectrum falls like natural pictures'. flat: one colour.
    """
    kinds, makers = config.backgrounds, {"noise": noise, "checker": checker, "fourier": fourier, "flat": flat}
    choice, pictures = random.integers(len(kinds), size=n), torch.empty(n, 3, size, size, device=device)
    for index, kind in enumerate(kinds):
        rows = np.flatnonzero(choice == index)
        if len(rows):
            pictures[sent(rows, device)] = makers[kind](len(rows), size, random, device, config.cells)
    low, high = config.blur
    sigma = (low + (high - low) * random.random(n)) * size / USUAL
    sigma[np.array([kind == "flat" for kind in kinds])[choice]] = 0.0
    return blurred(pictures, sent(sigma, device, torch.float32), round(config.kernel // 2 * size / USUAL))


def noise(n: int, size: int, random: np.random.Generator, device, cells) -> Tensor:
    return sent(random.random((n, 3, size, size), dtype=np.float32), device)


def flat(n: int, size: int, random: np.random.Generator, device, cells) -> Tensor:
    return sent(random.random((n, 3, 1, 1)), device, torch.float32).expand(-1, -1, size, size)


def checker(n: int, size: int, random: np.random.Generator, device, cells: tuple[int, int]) -> Tensor:
    count = sent(random.integers(cells[0], cells[1] + 1, size=n), device)[:, None]
    a, b = sent(random.random((2, n, 3, 1, 1)), device, torch.float32)
    cell = torch.arange(size, device=device) * count // size
    return torch.where(((cell[:, :, None] + cell[:, None, :]) % 2 == 0)[:, None], a, b)


def fourier(n: int, size: int, random: np.random.Generator, device, cells) -> Tensor:
    spectrum = sent(random.standard_normal((n, 3, size, size // 2 + 1, 2), dtype=np.float32) * DEVIATION, device)
    y, x = torch.fft.fftfreq(size, device=device), torch.fft.rfftfreq(size, device=device)
    frequency = (y[:, None] ** 2 + x**2).sqrt().clamp(min=1 / size)
    texture = torch.fft.irfft2(torch.view_as_complex(spectrum) * size / frequency**DECAY, s=(size, size)) / 4
    return torch.sigmoid(torch.einsum("ij,njyx->niyx", COLORS.to(device), texture))


def blurred(image: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Images (B, C, H, H) blurred by Gaussians of deviation `sigma` (B,) pixels, truncated at `reach` pixels and at the
    border."""
    away = torch.arange(image.shape[-1], device=image.device)
    away = (away[:, None] - away).abs()
    weight = torch.exp(-0.5 * (away / sigma.clamp(min=1e-3)[:, None, None]).square()) * (away <= reach)
    matrix = (weight / weight.sum(-1, keepdim=True))[:, None]
    return matrix @ image @ matrix.transpose(-1, -2)


def before(layers: Tensor, background: Tensor) -> Tensor:
    """(B, 3, H, H) in [0, 1]: layers (B, 4, H, H), colours over black and opacity, composited over a background (B, 3,
    H, H)."""
    return (layers[:, :3] + (1 - layers[:, 3:]) * background).clamp(0, 1)
