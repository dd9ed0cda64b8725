"""The multi-face (Janus) problem, counted: which of a toy and its symmetrised variants do a field's views show?

Views at known azimuths are compared, by silhouette, colour and relief, with renderings of the true toy and of the same
toy with its face repeated: mirrored onto two opposite sides, or on two, three or four sides of one body. The variant
that explains all views together best, up to a common turn, gives the number of faces; in doubt it is the true toy, as
for a round thing without features. Every view is also classified by the true toy alone: the azimuth from which the toy
looks most like it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...toybox.world.shapes import DIRECTIONAL, TOYS
from ..pictures import AZIMUTHS, Pictures, judging_cameras, toy_pictures

TURNS = 24  # azimuths of the templates, evenly spaced
SIZE = 32  # pixels a side of the compared pictures
ASTRAY = 60.0  # degrees; a view that looks like one further off than this is astray
DOUBT = 0.04  # another variant must explain the views better than the true toy by this fraction
RELIEF = 0.5  # weight of the untextured pictures' difference beside silhouette and colour

# The axis along which a toy's front and back differ, and the half (+ or -) without a face: mirrored, it makes a toy
# without faces. Where both halves have features of their own, either half twice is two faces.
AXES = {name: 0 if name in ("mug", "teapot") else 2 for name in DIRECTIONAL}
FACELESS = {"mug": -1, "table": -1, "house": -1, "snowman": -1, "rocket": -1, "duck": -1, "chair": 1, "boat": 1}


@dataclass(frozen=True)
class Faces:
    """variant: the key of `variants` that fits best. count: faces it has. margin: by how much the true toy's
    difference exceeds that of the best variant with another number of faces, as a part of the larger: above 0 for one
    face. astray: views, of eight, that look more than ASTRAY degrees off."""

    variant: str
    count: int
    margin: float
    astray: int

    @property
    def extra(self) -> int:
        return max(0, self.count - 1)


def rotated(name: str, turns: int):
    """A toy function: `turns` copies of a class in one body, evenly turned about +Y."""

    def toy(p, v):
        x, y, z = p
        angles = torch.arange(turns, dtype=torch.float32) * (2 * torch.pi / turns)
        copies = [
            TOYS[name]((c * x - s * z, y, s * x + c * z), v) for c, s in zip(angles.cos(), angles.sin(), strict=True)
        ]
        return [part for copy in copies for part in copy]

    return toy


def mirrored(name: str, half: int):
    """A toy function: the half of a class on the positive (half = 1) or negative (-1) side of its axis, on both
    sides."""

    def toy(p, v):
        return TOYS[name](tuple(half * a.abs() if i == AXES[name] else a for i, a in enumerate(p)), v)

    return toy


def variants(name: str) -> dict:
    """{variant: (toy function, number of faces)} of a directional class."""
    halves = {half: (mirrored(name, half), 0 if FACELESS.get(name) == half else 2) for half in (1, -1)}
    return {
        "true": (TOYS[name], 1),
        "positive half twice": halves[1],
        "negative half twice": halves[-1],
        **{f"{n} in one": (rotated(name, n), n) for n in (2, 3, 4)},
    }


def features(pictures: Pictures) -> torch.Tensor:
    """(B, D): small pictures of the opacity, the colours and the relief, scaled so that the squared distance of two
    rows is a mean over pixels. Colour and relief only count where there is opacity."""
    alpha = pictures.opacity[..., None]
    relief = pictures.clay.mean(-1, keepdim=True) * alpha
    maps = torch.cat([alpha, pictures.albedo * alpha, RELIEF**0.5 * relief], -1).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(maps, size=(SIZE, SIZE), mode="area")
    return small.flatten(1) / SIZE


def templates(name: str, color, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """{variant: (TURNS, D) features} of a directional class from all azimuths. color: (3,) of the main parts. scale: of
    the toy."""
    cameras = judging_cameras([360 * k / TURNS for k in range(TURNS)], scale)
    return {
        variant: features(toy_pictures(toy, color, cameras=cameras, resolution=64))
        for variant, (toy, _) in variants(name).items()
    }


def turned_sums(difference: torch.Tensor) -> torch.Tensor:
    """(TURNS,) sum over the views of their differences to the template at their azimuth plus a common turn."""
    index = torch.tensor([round(a * TURNS / 360) for a in AZIMUTHS])
    return torch.stack([difference[torch.arange(len(index)), (index + turn) % TURNS].sum() for turn in range(TURNS)])


def count_faces(name: str, pictures: Pictures, bank: dict[str, torch.Tensor]) -> Faces:
    """The faces of a result for the directional class `name`, from its pictures at the eight AZIMUTHS. bank: the
    `templates` of the class in the result's colour and size."""
    vectors, faces = features(pictures), {variant: count for variant, (_, count) in variants(name).items()}
    differences = {variant: torch.cdist(vectors, rows).square() for variant, rows in bank.items()}
    sums = {variant: float(turned_sums(d).min()) for variant, d in differences.items()}
    best = min(sums, key=lambda variant: sums[variant] * (1 - (faces[variant] == 1) * DOUBT))
    other = min(value for variant, value in sums.items() if faces[variant] != 1)
    margin = (other - sums["true"]) / max(other, sums["true"])
    turn = int(turned_sums(differences["true"]).argmin())
    off = ((differences["true"].argmin(1) - turn) * 360 / TURNS - torch.tensor(AZIMUTHS) + 180) % 360 - 180
    return Faces(best, faces[best], margin, int((off.abs() > ASTRAY).sum()))
