"""Fields with known shapes for the tests of export and evaluation."""

import torch

from dreamfusion_ngp.scene.isolevel import LEVEL
from dreamfusion_ngp.toybox.world.shapes import COLORS, PARAMETERS, distance, distance_and_slot
from dreamfusion_ngp.toybox.world.tracer import part_colors

CANONICAL = torch.zeros(1, PARAMETERS)


def columns(x):
    return tuple(x[None, :, i] for i in range(3))


def solid(signed_distance, sharpness=150.0, most=200.0):
    """Density of a solid whose surface lies at the first iso-level. signed_distance: (N, 3) -> (N,)."""
    return lambda x: (LEVEL * torch.exp((-sharpness * signed_distance(x)).clamp(-30, 30))).clamp(max=most)


def toy_distance(name):
    return lambda x: distance(name, columns(x), CANONICAL)[0]


def toy(name, **options):
    return solid(toy_distance(name), **options)


def toy_albedo(name, color):
    palette = part_colors(torch.tensor([COLORS[color]]))[0]
    return lambda x: palette[distance_and_slot(name, columns(x), CANONICAL)[1][0].long()]


def ball(centre, radius):
    return lambda x: (x - torch.tensor(centre)).norm(dim=-1) - radius


def union(*distances):
    return lambda x: torch.stack([d(x) for d in distances]).amin(0)


def position_albedo(x):
    """Colours that tell the place, whatever the bound."""
    return (0.5 + 0.8 * x).clamp(0, 1)
