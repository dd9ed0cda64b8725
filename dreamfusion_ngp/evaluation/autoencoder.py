"""How well an autoencoder of toys reconstructs pictures, and how evenly gradients pull back through its encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..toybox.prior.autoencoder import FACTOR
from ..toybox.prior.reconstruction import cell_energy, pictures_of_all, pull_back

SEED = 999  # of the pictures; no training has it by default
BATCH = 4


def judge_autoencoder(prior, *, per_class: int = 1, gradients: int = 64) -> dict:
    """On 20 `per_class` held-out pictures: mean PSNR in dB of whole pictures and of the toys' pixels; "noisy", that of
    whole pictures from latents with a tenth of their spread as noise. Of `gradients` gradients through the encoder:
    "grid", the ratio of the largest to the smallest energy of a pixel in its cell, and "border", the largest and
    smallest energy of the rows and columns of the outermost cell, relative to that inside. "spread" of each latent
    channel."""
    vae = prior.vae
    device = next(vae.parameters()).device
    image, covered = (values.to(device) for values in pictures_of_all(per_class, SEED))
    rng = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=rng):
        torch.manual_seed(SEED)
        figures = reconstruction(vae, image, covered)
        rounds = math.ceil(gradients / len(image))
        return {name: round(value, 3) for name, value in figures.items()} | gradient_evenness(vae, image, rounds)


@torch.no_grad()
def reconstruction(vae, image: Tensor, covered: Tensor) -> dict[str, float]:
    whole, toy, noisy, codes = [], [], [], []
    for part, cover in zip(image.split(BATCH), covered.split(BATCH), strict=True):
        z = vae.encode(part).latent_dist.mean
        error = (vae.decode(z).sample.clamp(-1, 1) - part).square() / 4
        again = vae.decode(z + 0.1 * z.std((0, 2, 3), keepdim=True) * torch.randn_like(z)).sample.clamp(-1, 1)
        whole.append(decibels(error.mean((1, 2, 3))))
        toy.append(decibels((error * cover).sum((1, 2, 3)) / (3 * cover.sum((1, 2, 3)))))
        noisy.append(decibels((again - part).square().mean((1, 2, 3)) / 4))
        codes.append(z)
    figures = {"psnr": whole, "psnr_toy": toy, "noisy": noisy}
    spread = torch.cat(codes).std((0, 2, 3)).tolist()
    return {name: float(torch.cat(values).mean()) for name, values in figures.items()} | {
        f"spread_{i}": value for i, value in enumerate(spread)
    }


def decibels(square: Tensor) -> Tensor:
    return -10 * square.log10()


def gradient_evenness(vae, image: Tensor, rounds: int) -> dict[str, float]:
    """ "grid" and "border" of `judge_autoencoder`, over `rounds` gradients of every picture."""
    batches = [part for _ in range(rounds) for part in image.split(BATCH)]
    energy = torch.stack([cell_energy(vae, part) for part in batches]).mean(0)
    squares = torch.stack([pull_back(vae, part).square().mean((0, 1)) for part in batches]).mean(0)
    inside = squares[FACTOR:-FACTOR, FACTOR:-FACTOR].mean()
    rows, columns = squares[:, FACTOR:-FACTOR].mean(1), squares[FACTOR:-FACTOR].mean(0)
    border = torch.cat([line[part] for line in (rows, columns) for part in (slice(FACTOR), slice(-FACTOR, None))])
    border = border / inside
    figures = {"grid": energy.max() / energy.min(), "border_least": border.min(), "border_most": border.max()}
    return {name: round(float(value), 3) for name, value in figures.items()}
