"""Regularisers as functions of a rendering: DreamFusion's (appendix A.2), and those of other methods. All are means
over rays, on the scale of an SDS loss that is a mean over pixels and channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config.schema import LossConfig


def orientation_loss(orientation: Tensor) -> Tensor:
    """Mean over rays of sum_i stopgrad(w_i) max(0, n_i . v)^2: normals that face away from the camera (Ref-NeRF, Verbin
    et al. 2022)."""
    return orientation.mean()


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean over rays of sqrt((sum_i w_i)^2 + 0.01): fewer opaque pixels, no fog."""
    return (opacity * opacity + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy of the rays' opacity, in nats: every pixel fully object or fully background."""
    p = opacity.clamp(1e-4, 1 - 1e-4)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


def smoothness_loss(normal: Tensor, opacity: Tensor) -> Tensor:
    """Mean over pixels of the squared difference between the normals of a pixel and of its neighbours to the right and
    below, where both are opaque: flat where nothing asks for detail. normal: (B, H, W, 3); opacity: (B, H, W), the
    weights, without gradient. After the 2D normal smoothness of stable-dreamfusion and threestudio, which has no
    weights."""
    weight = opacity.detach()
    right = (normal[:, :, 1:] - normal[:, :, :-1]).square().sum(-1) * weight[:, :, 1:] * weight[:, :, :-1]
    below = (normal[:, 1:] - normal[:, :-1]).square().sum(-1) * weight[:, 1:] * weight[:, :-1]
    return (right.sum() + below.sum()) / opacity.numel()


def eikonal_loss(gradient: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean of (|ds/dx| - 1)^2 over the gradients (N, 3) of a signed distance in world units (IGR, Gropp et al. 2020).
    count: (1,) int64 tensor, the number of leading rows in use; None: all."""
    miss = ((gradient.square().sum(-1) + 1e-12).sqrt() - 1).square()
    if count is None:
        return miss.mean()
    used = torch.arange(len(miss), device=miss.device) < count
    total = (miss * used).sum(dtype=torch.float64)  # a float32 sum would depend on the length of the buffer
    return (total / count.clamp(min=1)[0]).to(miss.dtype)


def transmittance_loss(opacity: Tensor, target: Tensor) -> Tensor:
    """Minus the mean over views of min(1 - target, mean transmittance): views more opaque than the target become
    clearer (Jain et al., "Zero-Shot Text-Guided Object Generation with Dream Fields", CVPR 2022, equation 6). opacity:
    (B, H, W). target: (), mean opacity of a view."""
    return -torch.minimum(1 - opacity.mean((1, 2)), 1 - target).mean()


def opacity_target(config: LossConfig, progress: float) -> float:
    """The target of `transmittance_loss`: its logarithm falls linearly over the first `opacity_ramp` of the run."""
    start, end = (math.log(v) for v in config.opacity_target)
    return math.exp(start + (end - start) * min(1.0, progress / max(config.opacity_ramp, 1e-9)))


def orientation_weight(config: LossConfig, progress: float) -> float:
    """Linear ramp of the orientation weight over the first `orientation_ramp` of the run."""
    start, end = config.orientation
    return start + (end - start) * min(1.0, progress / max(config.orientation_ramp, 1e-9))


def entropy_weight(config: LossConfig, progress: float) -> float:
    """Linear ramp of the entropy weight from 0 at `entropy_from` to its full value at the end of the run: earlier,
    half-transparent parts are still undecided."""
    return config.entropy * max(0.0, progress - config.entropy_from) / max(1.0 - config.entropy_from, 1e-9)
