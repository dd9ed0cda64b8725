"""What the latent UNet starts from: the pixel prior's, whose 32 x 32 packed pixels are nearly the latents' colours.

What enters is mapped by least squares from latents to packed pixels, and what is told of the time from one noise
schedule to the other. The pixel prior predicts the clean picture x. Noise is (z - alpha x) / sigma, and the last block
is set to say that: x is read from what enters it, z comes along its shortcut, and the scales by which the time enters a
block make the two factors. The rest is learnt: that the padding of a text is shown, and where a position is.
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
LEAST_SIGMA = 0.4  # the factors grow no more where there is less noise
ROUNDS = 1  # of the pictures, each with noise of its own


@torch.no_grad()
def start_from_pixels(latent: LatentPrior, pixel: Prior, z: Tensor, pictures: Tensor, ids: Tensor) -> None:
    """Give the latent UNet and its text encoder what the pixel prior knows. z: (n, 4, 32, 32) latents of pictures
    (n, 3, 256, 256) in [-1, 1], of which `ids` (n, MAX_TOKENS) say something or nothing. All on the CPU."""
    known = pixel.unet.state_dict()
    inner = {name: value for name, value in known.items() if not name.startswith(("conv_in", "conv_out"))}
    latent.unet.load_state_dict(inner, strict=False)
    latent.text_encoder.load_state_dict(pixel.text_encoder.state_dict())
    packed = pack(resize(pictures, 64), pixel.unet.conv_out.out_channels)
    to_pixels = least_squares(rows_of(z), rows_of(packed))
    old, new = pixel.unet.conv_in, latent.unet.conv_in
    new.weight.copy_(torch.einsum("opyx,cp->ocyx", old.weight[:, : packed.shape[1]], to_pixels))
    new.bias.copy_(old.bias)
    tell_time(latent, pixel)
    predict_noise(latent, z, ids)


def rows_of(maps: Tensor) -> Tensor:
    """(n, C, h, w) -> (n h w, C)."""
    return maps.movedim(1, -1).flatten(0, 2)


def least_squares(a: Tensor, b: Tensor) -> Tensor:
    """The matrix (k, m) that takes rows of a (n, k) closest to those of b (n, m), with a little ridge."""
    a, b = a.double(), b.double()
    return solve(a.T @ a, a.T @ b)


def solve(square: Tensor, product: Tensor, share: float = RIDGE) -> Tensor:
    ridge = share * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square + ridge, product).to(torch.float32)


def with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def tell_time(latent: LatentPrior, pixel: Prior) -> None:
    """Let the latent UNet be told, at every timestep, what the pixel one was told where it saw as much noise."""
    abar, known = (prior.scheduler.alphas_cumprod.double() for prior in (latent, pixel))
    after = torch.searchsorted(-known, -abar).clamp(1, len(known) - 1)  # both tables fall
    share = ((known[after - 1] - abar) / (known[after - 1] - known[after])).clamp(0, 1)
    goal = pixel.unet.time_embedding(pixel.unet.time_proj((after - 1 + share).float()))
    embedding = latent.unet.time_embedding
    hidden = embedding.act(embedding.linear_1(latent.unet.time_proj(torch.arange(len(abar)).float())))
    set_linear(embedding.linear_2, slice(None), fitted(hidden, goal))


def fitted(a: Tensor, b: Tensor) -> Tensor:
    """(k + 1, m): weights and, last, bias of a layer that gives b (n, m) from a (n, k), without ridge."""
    rows = with_ones(a).double()
    return torch.linalg.lstsq(rows, b.double(), rcond=1e-7, driver="gelsd").solution.float()


def set_linear(layer: Affine, rows, found: Tensor) -> None:
    layer.weight[rows], layer.bias[rows] = found[:-1].T, found[-1]


def predict_noise(latent: LatentPrior, z: Tensor, ids: Tensor) -> None:
    """Set the last block and the last convolution so that they say (z - alpha x) / sigma."""
    unet, block = latent.unet, latent.unet.up_blocks[-1].resnets[-1]
    width = block.conv2.out_channels
    noisy = torch.randn(8, LATENTS, 32, 32)
    inverse = fitted(rows_of(unet.conv_in(noisy)), rows_of(noisy))  # (width + 1, LATENTS)
    found = read(latent, block, z, ids)
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
            block.conv1.weight[row] = sign * found[:-1, which].unflatten(0, block.conv1.weight.shape[1:])
            block.conv1.bias[row] = sign * found[-1, which]
        set_constant(block.conv1, 3 * which + 2)
    tell_factors(latent, block, ids)
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()
    for c in range(LATENTS):
        unet.conv_out.weight[c, 3 * c, 1, 1], unet.conv_out.weight[c, 3 * c + 1, 1, 1] = 1.0, -1.0
    for norm, groups in ((block.norm2, 2 * LATENTS), (unet.conv_norm_out, LATENTS)):
        with scaled(norm, groups):
            for _ in asked(latent, z, ids):
                pass


def set_constant(conv: Affine, row: int, value: float = CONSTANT) -> None:
    conv.weight[row], conv.bias[row] = 0, value


def read(latent: LatentPrior, block: Any, z: Tensor, ids: Tensor) -> Tensor:
    """(9 C + 1, 8): from what the first convolution of `block` sees, the clean latents and the noisy ones."""
    kept: list[Tensor] = []
    hook = block.conv1.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    square = product = torch.zeros(())
    for clean, noisy in asked(latent, z, ids):
        seen = nn.functional.unfold(kept.pop(), 3, padding=1).transpose(1, 2).flatten(0, 1)
        a, goal = with_ones(seen), torch.cat([rows_of(clean), rows_of(noisy)], 1)
        square, product = square + (a.T @ a).double(), product + (a.T @ goal).double()
    hook.remove()
    return solve(square, product)


def asked(latent: LatentPrior, z: Tensor, ids: Tensor, batch: int = 20) -> Iterator[tuple[Tensor, Tensor]]:
    """Ask the UNet about all of z with noise of all levels: yields what is behind each batch, and what was shown."""
    abar = latent.scheduler.alphas_cumprod
    for _ in range(ROUNDS):
        for part, words in zip(z.split(batch), ids.split(batch), strict=True):
            steps = ((torch.arange(len(part)) + torch.rand(len(part))) / len(part) * len(abar)).long()
            a = abar[steps.clamp(max=len(abar) - 1)].view(-1, 1, 1, 1)
            noisy = a.sqrt() * part + (1 - a).sqrt() * torch.randn_like(part)
            latent.unet(noisy, steps.clamp(max=len(abar) - 1), embed_words(latent.text_encoder, words))
            yield part, noisy


def tell_factors(latent: LatentPrior, block: Any, ids: Tensor) -> None:
    """Let the time scale x by alpha / sigma, and z by what 1 / sigma is above 1, which the shortcut has, whatever the
    texts `ids` say, which enter the blocks together with the time."""
    unet, abar, projection = latent.unet, latent.scheduler.alphas_cumprod, block.time_emb_proj
    sigma = (1 - abar).sqrt().clamp(min=LEAST_SIGMA)
    factors = torch.stack([abar.sqrt() / sigma - 1, 1 / sigma - 2], 1)  # the block adds 1
    time = unet.time_embedding(unet.time_proj(torch.arange(len(abar)).float()))
    square = product = torch.zeros(())
    for said in unet.add_embedding(embed_words(latent.text_encoder, ids)):
        told = with_ones(block.nonlinearity(time + said)).double()
        weighed = told * abar.rsqrt()[:, None]  # by what an error means for the clean latents
        square, product = square + weighed.T @ weighed, product + weighed.T @ (factors * abar.rsqrt()[:, None]).double()
    found = solve(square, product, 1e-9)
    for which in range(2 * LATENTS):
        rows = slice(3 * which, 3 * which + 2)
        set_linear(projection, rows, found[:, which // LATENTS, None])
        rows = slice(block.conv2.in_channels + 3 * which, block.conv2.in_channels + 3 * which + 2)
        projection.weight[rows], projection.bias[rows] = 0, 0


@contextmanager
def scaled(norm: nn.GroupNorm, groups: int) -> Iterator[None]:
    """Within it the first groups of three of a normalisation are measured; at the end its weights and biases give them
    back as they came."""
    spreads: list[Tensor] = []

    def measure(module, inputs):
        spreads.append(inputs[0][:, : 3 * groups].unflatten(1, (groups, 3)).flatten(2).std(2, correction=0))

    hook = norm.register_forward_pre_hook(measure)
    yield
    hook.remove()
    spread = torch.cat(spreads).mean(0)
    norm.weight[: 3 * groups] = spread.repeat_interleave(3)
    norm.bias[: 3 * groups] = CONSTANT / 3
