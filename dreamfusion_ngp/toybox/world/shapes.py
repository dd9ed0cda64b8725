"""The toys: twenty object classes composed of signed-distance primitives, each with a family of proportions.

+Y up, the front faces +Z, everything within about 0.5 world units of the origin (the paper's cameras stand at 1.0 to
1.5). A toy is a function (p, v) -> [(distance, slot), ...]: p = (x, y, z) tensors (B, N); v(i, amount) = 1 + amount *
u_i with u_i in [-1, 1] per instance, (B, 1); slot names the part's colour. With u = 0 a toy has its canonical
proportions: the shape that results are measured against.
"""

from __future__ import annotations

import torch

from .sdf import (
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    intersect,
    mirror,
    pyramid,
    roof,
    sphere,
    subtract,
    torus,
    union,
)

# Part colours. "main" is the colour in the caption and "shade" a darker version of it; the others are the canonical
# colours of parts and may be repainted in training so that no class is tied to one of them.
SLOTS = ("main", "shade", "dark", "wood", "white", "glass", "red", "orange", "yellow")
MAIN, SHADE, DARK, WOOD, WHITE, GLASS, RED, ORANGE, YELLOW = range(len(SLOTS))
SLOT_COLORS = torch.tensor(
    [
        [0, 0, 0],
        [0, 0, 0],
        [0.11, 0.11, 0.13],
        [0.45, 0.27, 0.13],
        [0.92, 0.92, 0.90],
        [0.60, 0.82, 0.95],
        [0.78, 0.13, 0.10],
        [0.98, 0.52, 0.08],
        [0.98, 0.88, 0.25],
    ]
)

COLORS = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.96, 0.50, 0.06),
    "yellow": (0.95, 0.85, 0.12),
    "green": (0.10, 0.62, 0.15),
    "cyan": (0.10, 0.75, 0.80),
    "blue": (0.12, 0.25, 0.85),
    "purple": (0.50, 0.15, 0.70),
    "pink": (0.96, 0.52, 0.72),
    "brown": (0.45, 0.26, 0.12),
    "white": (0.93, 0.93, 0.93),
    "gray": (0.47, 0.47, 0.47),
}

PARAMETERS = 8  # u_0..u_2 stretch x, y, z of the whole toy (see `distance`); u_3..u_7 belong to the class


def _sphere(p, v):
    return [(sphere(p, (0, 0, 0), 0.38), MAIN)]


def _cube(p, v):
    return [(box(p, (0, 0, 0), (0.29, 0.29, 0.29), 0.02), MAIN)]


def _cylinder(p, v):
    return [(cylinder(p, (0, 0, 0), 0.25 * v(3, 0.15), 0.36), MAIN)]


def _cone(p, v):
    return [(cone(p, (0, 0, 0), 0.36, 0.33 * v(3, 0.15), 0.008), MAIN)]


def _torus(p, v):
    return [(torus(p, (0, 0, 0), 0.31 * v(3, 0.08), 0.125 * v(4, 0.18)), MAIN)]


def _pyramid(p, v):
    return [(pyramid(p, (0, -0.03, 0), 0.30 * v(3, 0.12), 0.34), MAIN)]


def _mug(p, v):
    r = 0.235 * v(3, 0.12)
    body = subtract(cylinder(p, (-0.06, 0, 0), r, 0.28), cylinder(p, (-0.06, 0.10, 0), r - 0.045, 0.28))
    ring = torus(p, (-0.07 + r, 0, 0), 0.155 * v(4, 0.12), 0.042 * v(5, 0.15), axis=2)
    handle = subtract(ring, cylinder(p, (-0.06, 0, 0), r - 0.01, 1.0))
    coffee = cylinder(p, (-0.06, -0.06 + 0.07 * (v(6, 1.0) - 1), 0), r - 0.02, 0.20)
    return [(union(body, handle), MAIN), (coffee, WOOD)]


def _chair(p, v):
    back = 0.21 * v(3, 0.18)
    legs = 0.19 * v(4, 0.12)
    seat = box(p, (0, -0.05, 0), (0.23, 0.04, 0.22))
    rest = box(p, (0, -0.05 + back, -0.185), (0.23, back, 0.04))
    feet = box(mirror(p, 0, 2), (0.185, -0.06 - legs, 0.175), (0.042 * v(5, 0.15), legs, 0.042 * v(5, 0.15)))
    return [(union(seat, rest), MAIN), (feet, SHADE)]


def _table(p, v):
    top = box(p, (0, 0.17, 0), (0.40, 0.04, 0.27))
    feet = box(mirror(p, 0, 2), (0.34, -0.07, 0.21), (0.045 * v(3, 0.15), 0.22, 0.045 * v(3, 0.15)))
    drawer = box(p, (0, 0.08, 0.18), (0.19 * v(4, 0.15), 0.06, 0.06))
    return [(top, MAIN), (feet, SHADE), (drawer, WHITE), (sphere(p, (0, 0.08, 0.255), 0.03), DARK)]


def _car(p, v):
    cabin = 0.20 * v(3, 0.2)
    body = union(
        box(p, (0, -0.05, 0), (0.20, 0.095, 0.43), 0.05), box(p, (0, 0.17, -0.05), (0.165, 0.025, cabin - 0.02), 0.02)
    )
    wheels = cylinder(mirror(p, 0, 2), (0.18, -0.13, 0.27), 0.105 * v(4, 0.12), 0.05, axis=0)
    return [
        (body, MAIN),
        (box(p, (0, 0.09, -0.05), (0.175, 0.09, cabin), 0.03), GLASS),
        (wheels, DARK),
        (sphere(mirror(p, 0), (0.12, -0.04, 0.42), 0.045), YELLOW),
        (box(mirror(p, 0), (0.12, -0.03, -0.42), (0.045, 0.03, 0.025)), RED),
    ]


def _airplane(p, v):
    hull = capsule(p, (0, 0, -0.34), (0, 0, 0.34), 0.095 * v(3, 0.12))
    wings = box(p, (0, -0.01, 0.03 + 0.06 * (v(4, 1.0) - 1)), (0.47, 0.03, 0.11 * v(5, 0.15)), 0.02)
    tail = union(box(p, (0, 0.12, -0.36), (0.025, 0.13, 0.07)), box(p, (0, 0.03, -0.36), (0.18, 0.025, 0.065)))
    return [
        (union(hull, wings), MAIN),
        (tail, SHADE),
        (ellipsoid(p, (0, 0.06, 0.26), (0.065, 0.06, 0.10)), GLASS),
        (cylinder(mirror(p, 0), (0.22, -0.06, 0.08), 0.045, 0.08, axis=2), DARK),
    ]


def _house(p, v):
    top = 0.05 * v(3, 0.5)
    walls = box(p, (0, (top - 0.34) / 2, 0), (0.30, (top + 0.34) / 2, 0.26))
    chimney = box(p, (0.17, 0.24, -0.09), (0.05, 0.13, 0.05))
    windows = box(mirror(p, 0), (0.18, -0.10, 0.26), (0.06, 0.06, 0.02))
    door = box(p, (0, -0.22, 0.26), (0.065, 0.12, 0.025))
    return [
        (walls, MAIN),
        (roof(p, (0, top - 0.01, 0), 0.35, 0.35, 0.28 * v(4, 0.15)), RED),
        (door, WOOD),
        (windows, GLASS),
        (chimney, DARK),
    ]


def _snowman(p, v):
    low, mid, head = 0.205, 0.155 * v(3, 0.08), 0.12 * v(4, 0.1)
    y1, y2 = -0.26 + 0.85 * (low + mid) - 0.02, -0.26 + 0.85 * (low + 2 * mid + head) - 0.02
    body = union(sphere(p, (0, -0.26, 0), low), sphere(p, (0, y1, 0), mid), sphere(p, (0, y2, 0), head))
    eyes = sphere(mirror(p, 0), (0.05, y2 + 0.035, head * 0.86), 0.026)
    buttons = union(sphere(p, (0, y1 + 0.06, mid * 0.93), 0.026), sphere(p, (0, y1 - 0.04, mid * 0.98), 0.026))
    hat = union(cylinder(p, (0, y2 + 0.09, 0), 0.145, 0.018), cylinder(p, (0, y2 + 0.16, 0), 0.095, 0.075))
    nose = cone(p, (0, y2, head + 0.05), 0.085, 0.04, 0.006, axis=2)
    return [(body, MAIN), (nose, ORANGE), (union(eyes, buttons, hat), DARK)]


def _duck(p, v):
    body = union(
        ellipsoid(p, (0, -0.12, -0.04), (0.21, 0.18, 0.29 * v(3, 0.08))),
        capsule(p, (0, -0.06, -0.24), (0, 0.06, -0.36), 0.055),
        sphere(p, (0, 0.15, 0.16), 0.145 * v(4, 0.08)),
    )
    return [
        (body, MAIN),
        (ellipsoid(p, (0, 0.12, 0.32), (0.085, 0.035, 0.09)), ORANGE),
        (sphere(mirror(p, 0), (0.075, 0.20, 0.265), 0.03), DARK),
        (ellipsoid(mirror(p, 0), (0.19, -0.10, -0.06), (0.05, 0.10, 0.17)), SHADE),
    ]


def _rocket(p, v):
    r = 0.125 * v(3, 0.12)
    fins = union(
        box(p, (0, -0.30, 0), (0.27 * v(4, 0.1), 0.11, 0.025)), box(p, (0, -0.30, 0), (0.025, 0.11, 0.27 * v(4, 0.1)))
    )
    return [
        (cylinder(p, (0, -0.06, 0), r, 0.27), MAIN),
        (cone(p, (0, 0.34, 0), 0.135, r, 0.01), RED),
        (fins, SHADE),
        (sphere(p, (0, 0.07, r - 0.03), 0.07), GLASS),
        (cone(p, (0, -0.37, 0), 0.05, 0.10, 0.06), DARK),
    ]


def _lamp(p, v):
    return [
        (cylinder(p, (0, -0.42, 0), 0.19 * v(3, 0.12), 0.035), DARK),
        (cylinder(p, (0, -0.15, 0), 0.035, 0.26), DARK),
        (cone(p, (0, 0.22, 0), 0.18 * v(4, 0.12), 0.31, 0.17 * v(5, 0.15)), MAIN),
    ]


def _mushroom(p, v):
    cap = intersect(ellipsoid(p, (0, 0.04, 0), (0.36, 0.30 * v(3, 0.12), 0.36)), -(p[1] - 0.03))
    spots = union(
        sphere(mirror(p, 0, 2), (0.17, 0.21, 0.17), 0.055),
        sphere(p, (0, 0.32, 0), 0.055),
        sphere(mirror(p, 0), (0.31, 0.11, 0), 0.05),
        sphere(mirror(p, 2), (0, 0.11, 0.31), 0.05),
    )
    return [(cap, MAIN), (cone(p, (0, -0.18, 0), 0.23, 0.17 * v(4, 0.15), 0.12), WHITE), (spots, WHITE)]


def _tree(p, v):
    low, mid, top = (
        cone(p, (0, y, 0), h, r * v(3, 0.1), t)
        for y, h, r, t in ((-0.10, 0.15, 0.32, 0.10), (0.10, 0.14, 0.26, 0.07), (0.30, 0.16, 0.19, 0.008))
    )
    return [(cylinder(p, (0, -0.34, 0), 0.075 * v(4, 0.2), 0.14), WOOD), (union(low, mid, top), MAIN)]


def _teapot(p, v):
    body = ellipsoid(p, (0, -0.04, 0), (0.25, 0.21 * v(3, 0.1), 0.25))
    spout = capsule(p, (0.18, -0.08, 0), (0.40, 0.12, 0), 0.05 * v(4, 0.15))
    handle = torus(p, (-0.26, 0, 0), 0.13, 0.038, axis=2)
    lid = union(ellipsoid(p, (0, 0.14, 0), (0.13, 0.05, 0.13)), sphere(p, (0, 0.22, 0), 0.045))
    return [(union(body, spout, handle), MAIN), (lid, SHADE)]


def _boat(p, v):
    hull = intersect(ellipsoid(p, (0, 0.02, 0.02), (0.21, 0.26, 0.46 * v(3, 0.05))), p[1] + 0.04)
    cabin = box(p, (0, 0.05, -0.12), (0.115, 0.10, 0.14 * v(4, 0.2)))
    deck = intersect(ellipsoid(p, (0, 0.03, 0.02), (0.17, 0.2, 0.40)), (p[1] + 0.035).abs() - 0.012)
    return [
        (hull, MAIN),
        (deck, WOOD),
        (cabin, WHITE),
        (cylinder(p, (0, 0.24, -0.12), 0.06, 0.11), RED),
        (box(p, (0, 0.08, 0.025), (0.08, 0.045, 0.02)), GLASS),
    ]


TOYS = {
    name[1:]: function
    for name, function in list(globals().items())
    if name
    in (
        "_sphere",
        "_cube",
        "_cylinder",
        "_cone",
        "_torus",
        "_pyramid",
        "_mug",
        "_chair",
        "_table",
        "_car",
        "_airplane",
        "_house",
        "_snowman",
        "_duck",
        "_rocket",
        "_lamp",
        "_mushroom",
        "_tree",
        "_teapot",
        "_boat",
    )
}
CLASSES = tuple(TOYS)
# Classes whose front, side and back look different: the ones on which a multi-face (Janus) result can be told.
DIRECTIONAL = ("mug", "chair", "table", "car", "airplane", "house", "snowman", "duck", "rocket", "teapot", "boat")
STRETCH = 0.12  # u_0..u_2 = +-1 stretch an axis by this much


def parts(name, p, u: torch.Tensor):
    """Distances (B, N) of every part of `name`, a class or any toy function, with its slot.

    p: (x, y, z), each (B, N). u: (B, PARAMETERS) in [-1, 1].
    """

    def v(i: int, amount: float):
        return 1.0 + amount * u[:, i : i + 1]

    toy = TOYS[name] if isinstance(name, str) else name
    stretch = [v(i, STRETCH) for i in range(3)]
    smallest = torch.minimum(stretch[0], torch.minimum(stretch[1], stretch[2]))  # keeps the distance a lower bound
    return [(d * smallest, slot) for d, slot in toy(tuple(a / s for a, s in zip(p, stretch, strict=True)), v)]


def distance(name, p, u: torch.Tensor) -> torch.Tensor:
    """(B, N) signed distance of the whole toy."""
    return union(*(d for d, _ in parts(name, p, u)))


def distance_and_slot(name, p, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N) signed distance and (B, N) uint8 slot of the nearest part."""
    pairs = parts(name, p, u)
    d, nearest = torch.stack([d.expand_as(p[0]) for d, _ in pairs]).min(0)
    return d, torch.tensor([slot for _, slot in pairs], dtype=torch.uint8, device=d.device)[nearest]
