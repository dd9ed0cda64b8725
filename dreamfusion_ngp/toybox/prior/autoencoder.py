"""The autoencoder of the latent prior: an AutoencoderKL, 256 x 256 pixels to 32 x 32 latents of 4 channels, and the
weights that it starts from.

From random weights group normalisation loses the brightness of a picture, and for hours little else is learnt. So it
starts as the simplest autoencoder, which shrinks a picture to a thumbnail and enlarges it: a few channels carry the
colours through every layer, whatever the others do (docs/decisions/0201-latent-prior.md).

The encoder's downsamplers are fixed 2 x 2 averages. Guidance pulls gradients back through them: learnt strided kernels
treat the pixels of a cell unequally, and their padding, only at the right and bottom, leaves stripes there. An average
needs no padding.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

SIDE = 256  # pixels of what it sees
FACTOR = 8  # pixels a side for one latent
LATENTS = 4  # channels
CHANNELS = (16, 32, 64, 64)
GROUPS = 2  # of the normalisations: the channels that carry colours fill one of them
LOGVAR = -6.0  # of the posterior, at the start

COLORS = 3
OWN = 8  # channels that carry: red, green, blue, their negatives, and two constants
CONSTANT = 6.0  # so large that the spread of the group, by which it is divided, hardly depends on the picture
BLURS = (1, 1, 2)  # binomial filters before each downsampler: gradients are pulled back smoothly
SHARPEN = 0.3  # of the decoder's entry, against them
SOFTEN = 0.1  # of every enlargement by 2; .25 would be linear
SCALE = 1.5  # latents for a colour from -1 to 1
SPARE = (
    10.0  # times the usual weights for the latents that carry no colour: smaller ones drown in the posterior's noise
)


class Affine(Protocol):
    """A convolution or a linear layer that has a bias."""

    weight: Tensor
    bias: Tensor


def build_autoencoder(seed: int = 0) -> Any:
    """The AutoencoderKL with random weights, its downsamplers averages: 0.9 million parameters."""
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

    torch.manual_seed(seed)
    n = len(CHANNELS)
    config: dict[str, Any] = dict(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=GROUPS,
        sample_size=SIDE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    vae = AutoencoderKL(**config)
    with torch.no_grad():
        for conv in downsamplers(vae):
            conv.weight.zero_()
            conv.bias.zero_()
            for i in range(len(conv.weight)):
                conv.weight[i, i, :2, :2] = 0.25
    return vae


def downsamplers(vae: Any) -> list[Any]:
    """The strided convolutions of the encoder, each a Conv2d."""
    return [block.downsamplers[0].conv for block in vae.encoder.down_blocks if block.downsamplers]


def trained_modules(vae: Any, encoder: bool) -> list[nn.Module]:
    """The modules that a training changes, with or without the encoder; all other parameters are frozen."""
    modules = [vae.post_quant_conv, vae.decoder]
    modules = [vae.encoder, vae.quant_conv, *modules] if encoder else modules
    vae.requires_grad_(False)
    for part in modules:
        part.requires_grad_(True)
    for conv in downsamplers(vae):
        conv.requires_grad_(False)
    return modules


@torch.no_grad()
def start_as_thumbnail(vae: Any, pictures: Tensor) -> None:
    """Set weights with which the latents are the colours of a blurred thumbnail and the decoder enlarges it. pictures:
    (n, 3, H, H) in [-1, 1], by which the normalisations are calibrated.

    Residual blocks add nothing, except for the blurs. silu(x) - silu(-x) = x carries colours through them.
    """
    for name, layer in vae.named_modules():
        if name.endswith(("conv2", "conv_shortcut")):
            layer.weight.zero_()
            layer.bias.zero_()
        if name.endswith("conv_shortcut"):
            for i in range(min(layer.weight.shape[:2])):
                layer.weight[i, i] = 1.0
        if name.endswith("upsamplers.0.conv"):
            _clear(layer)
            for i in range(2 * COLORS):
                layer.weight[i, i] = _filter(SOFTEN)
            _add_constants(layer)
    scaled = [vae.encoder.conv_norm_out, vae.decoder.conv_norm_out]
    for block, times in zip(vae.encoder.down_blocks, BLURS, strict=False):
        scaled += _blur(block.resnets[0], times)
    _enter(vae.encoder.conv_in, torch.tensor([[1.0]]))
    _leave(vae.encoder.conv_out, SCALE)
    _enter(vae.decoder.conv_in, _filter(-SHARPEN) / SCALE)
    _leave(vae.decoder.conv_out, 1.0)
    vae.decoder.conv_out.weight[:, OWN:] = 0
    vae.encoder.conv_out.weight[COLORS:LATENTS] *= SPARE
    vae.encoder.conv_out.weight[LATENTS:] = 0
    vae.encoder.conv_out.bias[LATENTS:] = LOGVAR
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[..., None, None])
        conv.bias.zero_()
    _scale_as_met(vae, scaled, pictures)


def _filter(share: float) -> Tensor:
    """(3, 3) separable kernel: `share` for neighbours, the rest for the middle; negative shares sharpen."""
    row = torch.tensor([share, 1 - 2 * share, share])
    return row[:, None] * row


def _clear(conv: Affine) -> None:
    """Zero the outputs in the group of the colour channels."""
    group = max(OWN, len(conv.weight) // GROUPS) if len(conv.weight) > OWN else len(conv.weight)
    conv.weight[:group], conv.bias[:group] = 0, 0


def _add_constants(conv: Affine) -> None:
    conv.bias[OWN - 2], conv.bias[OWN - 1] = CONSTANT, -CONSTANT


def _enter(conv: Affine, taps: Tensor) -> None:
    """Set the first convolution of the encoder or decoder: colours, their negatives and the constants."""
    _clear(conv)
    for i in range(COLORS):
        _put(conv, i, i, taps)
        _put(conv, i + COLORS, i, -taps)
    _add_constants(conv)


def _leave(conv: Affine, factor: float) -> None:
    """Set the last convolution of the encoder or decoder: colours from their activated positives and negatives."""
    conv.weight[:COLORS], conv.bias[:COLORS] = 0, 0
    for i in range(COLORS):
        _put_pair(conv, i, i, torch.tensor([[factor]]))


def _blur(block: Any, times: int) -> list[nn.GroupNorm]:
    """Let a ResnetBlock2D add the difference between its input blurred `times` (1 or 2) and its input; returns the
    normalisations that must be scaled."""
    binomial, middle = _filter(0.25), torch.zeros(3, 3)
    middle[1, 1] = 1.0
    _clear(block.conv1)
    for i in range(COLORS):
        for row, sign in ((i, 1.0), (i + COLORS, -1.0)):
            if times == 2:  # (b - 1)(b + 1) = b^2 - 1
                _put_pair(block.conv1, row, i, sign * (binomial + middle))
            else:
                _put_pair(block.conv1, row, i, sign * middle)
            _put_pair(block.conv2, row, i, sign * (binomial - middle))
    _add_constants(block.conv1)
    return [block.norm1, block.norm2]


def _put(conv: Affine, row: int, column: int, taps: Tensor) -> None:
    margin = (3 - len(taps)) // 2
    conv.weight[row, column, margin : 3 - margin, margin : 3 - margin] = taps


def _put_pair(conv: Affine, row: int, color: int, taps: Tensor) -> None:
    _put(conv, row, color, taps)
    _put(conv, row, color + COLORS, -taps)


def _scale_as_met(vae: Any, norms: list[nn.GroupNorm], pictures: Tensor) -> None:
    """Set the weights of the colour channels of normalisations to the spread of their group, each before it first runs,
    so that the division by it is undone."""

    def scale(norm: Any, inputs: tuple[Tensor]) -> None:
        group = inputs[0].shape[1] // norm.num_groups
        norm.weight[:OWN] = inputs[0][:, :group].flatten(1).std(1, correction=0).mean()

    hooks = [norm.register_forward_pre_hook(scale) for norm in norms]
    vae.decode(vae.encode(pictures).latent_dist.mean)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def unit_latents(vae: Any, pictures: Tensor) -> None:
    """Fold the mean and the spread of every latent channel, over `pictures` (n, 3, H, H), into the 1 x 1 convolutions
    around the latents: the same pictures from latents of mean 0 and spread 1."""
    z = vae.encode(pictures).latent_dist.mean
    mean, spread = z.mean((0, 2, 3)), z.std((0, 2, 3)).clamp(min=1e-3)
    to, back, n = vae.quant_conv, vae.post_quant_conv, LATENTS
    to.weight[:n] /= spread[:, None, None, None]
    to.bias[:n] = (to.bias[:n] - mean) / spread
    to.bias[n:] -= 2 * spread.log()
    back.bias += back.weight[..., 0, 0] @ mean
    back.weight *= spread[:, None, None]
