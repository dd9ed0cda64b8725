"""Initial weights of the latent UNet from the pixel prior's, whose 32 x 32 packed pixels are nearly the latents'
colours.

The input is mapped by least squares from latents to packed pixels, and the timesteps from one noise schedule to the
other. The pixel prior predicts the clean picture x. Noise is (z - alpha x) / sigma, and the last block is set to
compute that: x is a linear function of its input, z comes along its shortcut, and the block's time scales are the two
factors. The rest must be learnt: the padding of texts, which is not masked here, and the position, which has no maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...guidance.packing import pack
from ...guidance.resize import resize
from .autoencoder import LATENTS, Affine
from .latent_model import LatentPrior
from .model import Prior, embed_words

RIDGE = 1e-5  # of the mean square of the features
CONSTANT = 8.0  # beside a value and its negative in a group, whose spread it makes nearly the same for all pictures
LEAST_SIGMA = 0.4  # the factors stay the same where there is less noise
ROUNDS = 1  # passes over the pictures, each with new noise


@torch.no_grad()
def start_from_pixels(latent: LatentPrior, pixel: Prior, z: Tensor, pictures: Tensor, ids: Tensor) -> None:
    """Transfer the pixel prior's weights to the latent UNet and its text encoder. z: (n, 4, 32, 32) latents of pictures
    (n, 3, 256, 256) in [-1, 1]; ids: (n, MAX_TOKENS) texts, which need not fit the pictures. All on the CPU."""
    weights = pixel.unet.state_dict()
    inner = {name: value for name, value in weights.items() if not name.startswith(("conv_in", "conv_out"))}
    latent.unet.load_state_dict(inner, strict=False)
    latent.text_encoder.load_state_dict(pixel.text_encoder.state_dict())
    packed = pack(resize(pictures, 64), pixel.unet.conv_out.out_channels)
    to_pixels = least_squares(rows_of(z), rows_of(packed))
    old, new = pixel.unet.conv_in, latent.unet.conv_in
    new.weight.copy_(torch.einsum("opyx,cp->ocyx", old.weight[:, : packed.shape[1]], to_pixels))
    new.bias.copy_(old.bias)
    match_timesteps(latent, pixel)
    predict_noise(latent, z, ids)


def rows_of(maps: Tensor) -> Tensor:
    """(n, C, h, w) -> (n h w, C)."""
    return maps.movedim(1, -1).flatten(0, 2)


def least_squares(a: Tensor, b: Tensor) -> Tensor:
    """The matrix (k, m) that maps a (n, k) to b (n, m) by least squares with a small ridge."""
    a, b = a.double(), b.double()
    return solve(a.T @ a, a.T @ b)


def solve(square: Tensor, product: Tensor, share: float = RIDGE) -> Tensor:
    ridge = share * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square + ridge, product).to(torch.float32)


def with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def match_timesteps(latent: LatentPrior, pixel: Prior) -> None:
    """Give the latent UNet, at every timestep, the time embedding that the pixel UNet has at the same noise level."""
    abar, pixel_abar = (prior.scheduler.alphas_cumprod.double() for prior in (latent, pixel))
    after = torch.searchsorted(-pixel_abar, -abar).clamp(1, len(pixel_abar) - 1)  # both tables fall
    share = ((pixel_abar[after - 1] - abar) / (pixel_abar[after - 1] - pixel_abar[after])).clamp(0, 1)
    goal = pixel.unet.time_embedding(pixel.unet.time_proj((after - 1 + share).float()))
    embedding = latent.unet.time_embedding
    hidden = embedding.act(embedding.linear_1(latent.unet.time_proj(torch.arange(len(abar)).float())))
    set_linear(embedding.linear_2, slice(None), fit_linear(hidden, goal))


def fit_linear(a: Tensor, b: Tensor) -> Tensor:
    """(k + 1, m): weights and, in the last row, bias of a layer that maps a (n, k) to b (n, m), without ridge."""
    rows = with_ones(a).double()
    return torch.linalg.lstsq(rows, b.double(), rcond=1e-7, driver="gelsd").solution.float()


def set_linear(layer: Affine, rows, solution: Tensor) -> None:
    layer.weight[rows], layer.bias[rows] = solution[:-1].T, solution[-1]


def predict_noise(latent: LatentPrior, z: Tensor, ids: Tensor) -> None:
    """Set the last block and the last convolution to compute (z - alpha x) / sigma."""
    unet, block = latent.unet, latent.unet.up_blocks[-1].resnets[-1]
    width = block.conv2.out_channels
    noisy = torch.randn(8, LATENTS, 32, 32)
    inverse = fit_linear(rows_of(unet.conv_in(noisy)), rows_of(noisy))  # (width + 1, LATENTS)
    readout = read(latent, block, z, ids)
    for c in range(LATENTS):  # groups of three: a value, its negative, a constant
        for row, sign in ((3 * c, 1.0), (3 * c + 1, -1.0)):
            block.conv_shortcut.weight[row] = 0
            block.conv_shortcut.weight[row, -width:, 0, 0] = sign * inverse[:-1, c]
            block.conv_shortcut.bias[row] = sign * inverse[-1, c]
            block.conv2.weight[row], block.conv2.bias[row] = 0, 0
            for which, factor in ((c, -1.0), (LATENTS + c, 1.0)):
                block.conv2.weight[row, 3 * which, 1, 1] = sign * factor
                block.conv2.weight[row, 3 * which + 1, 1, 1] = -sign * factor
        set_constant(block.conv_shortcut, 3 * c + 2)
        set_constant(block.conv2, 3 * c + 2, 0.0)
    for which in range(2 * LATENTS):  # x, then z
        for row, sign in ((3 * which, 1.0), (3 * which + 1, -1.0)):
            block.conv1.weight[row] = sign * readout[:-1, which].unflatten(0, block.conv1.weight.shape[1:])
            block.conv1.bias[row] = sign * readout[-1, which]
        set_constant(block.conv1, 3 * which + 2)
    fit_factors(latent, block, ids)
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()
    for c in range(LATENTS):
        unet.conv_out.weight[c, 3 * c, 1, 1], unet.conv_out.weight[c, 3 * c + 1, 1, 1] = 1.0, -1.0
    for norm, groups in ((block.norm2, 2 * LATENTS), (unet.conv_norm_out, LATENTS)):
        with calibrate(norm, groups):
            for _ in feed_unet(latent, z, ids):
                pass


def set_constant(conv: Affine, row: int, value: float = CONSTANT) -> None:
    conv.weight[row], conv.bias[row] = 0, value


def read(latent: LatentPrior, block: Any, z: Tensor, ids: Tensor) -> Tensor:
    """(9 C + 1, 8): linear map from the 3 x 3 patches that the first convolution of `block` reads to clean and noisy
    latents."""
    kept: list[Tensor] = []
    hook = block.conv1.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    square = product = torch.zeros(())
    for clean, noisy in feed_unet(latent, z, ids):
        patches = nn.functional.unfold(kept.pop(), 3, padding=1).transpose(1, 2).flatten(0, 1)
        a, goal = with_ones(patches), torch.cat([rows_of(clean), rows_of(noisy)], 1)
        square, product = square + (a.T @ a).double(), product + (a.T @ goal).double()
    hook.remove()
    return solve(square, product)


def feed_unet(latent: LatentPrior, z: Tensor, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Evaluate the UNet on all of z with noise of all levels. Yields the clean and the noisy latents of each batch."""
    abar = latent.scheduler.alphas_cumprod
    for _ in range(ROUNDS):
        for part, words in zip(z.split(20), ids.split(20), strict=True):
            steps = ((torch.arange(len(part)) + torch.rand(len(part))) / len(part) * len(abar)).long()
            a = abar[steps.clamp(max=len(abar) - 1)].view(-1, 1, 1, 1)
            noisy = a.sqrt() * part + (1 - a).sqrt() * torch.randn_like(part)
            latent.unet(noisy, steps.clamp(max=len(abar) - 1), embed_words(latent.text_encoder, words))
            yield part, noisy


def fit_factors(latent: LatentPrior, block: Any, ids: Tensor) -> None:
    """Fit the time projection to scale x by alpha / sigma, and z by 1 / sigma - 1 (the shortcut adds the 1), for all of
    the texts `ids`, whose embedding is added to that of the time."""
    unet, abar, projection = latent.unet, latent.scheduler.alphas_cumprod, block.time_emb_proj
    sigma = (1 - abar).sqrt().clamp(min=LEAST_SIGMA)
    factors = torch.stack([abar.sqrt() / sigma - 1, 1 / sigma - 2], 1)  # the block adds 1
    time = unet.time_embedding(unet.time_proj(torch.arange(len(abar)).float()))
    square = product = torch.zeros(())
    for text in unet.add_embedding(embed_words(latent.text_encoder, ids)):
        features = with_ones(block.nonlinearity(time + text)).double()
        weighted = features * abar.rsqrt()[:, None]  # by what an error means for the clean latents
        square = square + weighted.T @ weighted
        product = product + weighted.T @ (factors * abar.rsqrt()[:, None]).double()
    solution = solve(square, product, 1e-9)
    for which in range(2 * LATENTS):
        rows = slice(3 * which, 3 * which + 2)
        set_linear(projection, rows, solution[:, which // LATENTS, None])
        rows = slice(block.conv2.in_channels + 3 * which, block.conv2.in_channels + 3 * which + 2)
        projection.weight[rows], projection.bias[rows] = 0, 0


@contextmanager
def calibrate(norm: nn.GroupNorm, groups: int) -> Iterator[None]:
    """Measure the first groups of three channels of a normalisation within the block; then set its weights and biases
    so that it passes them unchanged."""
    spreads: list[Tensor] = []

    def measure(module, inputs):
        spreads.append(inputs[0][:, : 3 * groups].unflatten(1, (groups, 3)).flatten(2).std(2, correction=0))

    hook = norm.register_forward_pre_hook(measure)
    yield
    hook.remove()
    spread = torch.cat(spreads).mean(0)
    norm.weight[: 3 * groups] = spread.repeat_interleave(3)
    norm.bias[: 3 * groups] = CONSTANT / 3
