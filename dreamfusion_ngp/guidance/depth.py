"""Depth as a picture for depth-conditioned models: near is white, and the background is black.

Both kinds of models, ControlNets and Stable Diffusion 2's UNet with a fifth channel, were trained on the output of
depth estimators: inverse depth, up to a factor and a shift per picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

FARTHEST = 0.2  # value at the far side of the object; the background is 0, clearly apart


def depth_picture(depth: Tensor, covered: Tensor) -> Tensor:
    """(B, H, W) float32 in [0, 1]: the inverse depth of every picture, scaled on the object from FARTHEST (its farthest
    point) to 1 (its nearest); 1 if all of it is equally far; 0 off the object.

    depth: (B, H, W) along the optical axis, positive where covered (B, H, W) bool. Several views in one picture share
    one scale.
    """
    near = torch.where(covered, depth, 1.0).float().reciprocal()
    high = near.masked_fill(~covered, -torch.inf).flatten(1).amax(1)[:, None, None]
    low = near.masked_fill(~covered, torch.inf).flatten(1).amin(1)[:, None, None]
    flat = high - low <= 1e-6 * high  # a min-max would divide by nothing
    share = torch.where(flat, 1.0, (near - low) / torch.where(flat, 1.0, high - low))
    return torch.where(covered, FARTHEST + (1 - FARTHEST) * share, 0.0)


def tiled(views: Tensor, columns: int = 2) -> Tensor:
    """(n, 2 H, columns W, ...): views (2 columns n, H, W, ...) tiled into pictures of two rows."""
    cells = views.unflatten(0, (-1, 2, columns)).movedim(2, 3)  # (n, row, H, column, W, ...)
    return cells.flatten(1, 2).flatten(2, 3)


def untiled(pictures: Tensor, columns: int = 2) -> Tensor:
    """Inverse of `tiled`: the views of tiled pictures."""
    cells = pictures.unflatten(2, (columns, -1)).unflatten(1, (2, -1))  # (n, row, H, column, W, ...)
    return cells.movedim(3, 2).flatten(0, 2)
