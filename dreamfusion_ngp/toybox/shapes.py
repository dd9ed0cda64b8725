"""The toys: twenty object classes composed of signed-distance primitives, each with a family of proportions.

+Y up, the front faces +Z, everything within about 0.5 world units of the origin (the paper's cameras stand at 1.0 to
1.5). A toy is a function (p, v) -> [(distance, slot), ...]: p = (x, y, z) tensors (B, N); v(i, amount) = 1 + amount *
u_i with u_i in [-1, 1] per instance, (B, 1); slot names the part's colour. With u = 0 a toy has its canonical
proportions: the shape that results are measured against.
"""

from __future__ import annotations

import torch

from .sdf import (box, capsule, cone, cylinder, ellipsoid, intersect, mirror, pyramid, roof, sphere, subtract, torus,
                  union)

# Part colours. "main" is the colour in the caption and "shade" a darker version of it; the others are the canonical
# colours of parts and may be repainted in training so that no class is tied to one of them.
SLOTS = ("main", "shade", "dark", "wood", "white", "glass", "red", "orange", "yellow")
MAIN, SHADE, DARK, WOOD, WHITE, GLASS, RED, ORANGE, YELLOW = range(len(SLOTS))
SLOT_COLORS = torch.tensor([[0, 0, 0], [0, 0, 0], [.11, .11, .13], [.45, .27, .13], [.92, .92, .90], [.60, .82, .95],
                            [.78, .13, .10], [.98, .52, .08], [.98, .88, .25]])

COLORS = {"red": (.85, .10, .10), "orange": (.96, .50, .06), "yellow": (.95, .85, .12), "green": (.10, .62, .15),
          "cyan": (.10, .75, .80), "blue": (.12, .25, .85), "purple": (.50, .15, .70), "pink": (.96, .52, .72),
          "brown": (.45, .26, .12), "white": (.93, .93, .93), "gray": (.47, .47, .47)}

PARAMETERS = 8  # u_0..u_2 stretch x, y, z of the whole toy (see `distance`); u_3..u_7 belong to the class


def _sphere(p, v):
    return [(sphere(p, (0, 0, 0), .38), MAIN)]


def _cube(p, v):
    return [(box(p, (0, 0, 0), (.29, .29, .29), .02), MAIN)]


def _cylinder(p, v):
    return [(cylinder(p, (0, 0, 0), .25 * v(3, .15), .36), MAIN)]


def _cone(p, v):
    return [(cone(p, (0, 0, 0), .36, .33 * v(3, .15), .008), MAIN)]


def _torus(p, v):
    return [(torus(p, (0, 0, 0), .31 * v(3, .08), .125 * v(4, .18)), MAIN)]


def _pyramid(p, v):
    return [(pyramid(p, (0, -.03, 0), .30 * v(3, .12), .34), MAIN)]


def _mug(p, v):
    r = .235 * v(3, .12)
    body = subtract(cylinder(p, (-.06, 0, 0), r, .28), cylinder(p, (-.06, .10, 0), r - .045, .28))
    ring = torus(p, (-.07 + r, 0, 0), .155 * v(4, .12), .042 * v(5, .15), axis=2)
    handle = subtract(ring, cylinder(p, (-.06, 0, 0), r - .01, 1.0))
    coffee = cylinder(p, (-.06, -.06 + .07 * (v(6, 1.0) - 1), 0), r - .02, .20)
    return [(union(body, handle), MAIN), (coffee, WOOD)]


def _chair(p, v):
    back = .21 * v(3, .18)
    legs = .19 * v(4, .12)
    seat = box(p, (0, -.05, 0), (.23, .04, .22))
    rest = box(p, (0, -.05 + back, -.185), (.23, back, .04))
    feet = box(mirror(p, 0, 2), (.185, -.06 - legs, .175), (.042 * v(5, .15), legs, .042 * v(5, .15)))
    return [(union(seat, rest), MAIN), (feet, SHADE)]


def _table(p, v):
    top = box(p, (0, .17, 0), (.40, .04, .27))
    feet = box(mirror(p, 0, 2), (.34, -.07, .21), (.045 * v(3, .15), .22, .045 * v(3, .15)))
    drawer = box(p, (0, .08, .18), (.19 * v(4, .15), .06, .06))
    return [(top, MAIN), (feet, SHADE), (drawer, WHITE), (sphere(p, (0, .08, .255), .03), DARK)]


def _car(p, v):
    cabin = .20 * v(3, .2)
    body = union(box(p, (0, -.05, 0), (.20, .095, .43), .05), box(p, (0, .17, -.05), (.165, .025, cabin - .02), .02))
    wheels = cylinder(mirror(p, 0, 2), (.18, -.13, .27), .105 * v(4, .12), .05, axis=0)
    return [(body, MAIN), (box(p, (0, .09, -.05), (.175, .09, cabin), .03), GLASS), (wheels, DARK),
            (sphere(mirror(p, 0), (.12, -.04, .42), .045), YELLOW),
            (box(mirror(p, 0), (.12, -.03, -.42), (.045, .03, .025)), RED)]


def _airplane(p, v):
    hull = capsule(p, (0, 0, -.34), (0, 0, .34), .095 * v(3, .12))
    wings = box(p, (0, -.01, .03 + .06 * (v(4, 1.0) - 1)), (.47, .03, .11 * v(5, .15)), .02)
    tail = union(box(p, (0, .12, -.36), (.025, .13, .07)), box(p, (0, .03, -.36), (.18, .025, .065)))
    return [(union(hull, wings), MAIN), (tail, SHADE), (ellipsoid(p, (0, .06, .26), (.065, .06, .10)), GLASS),
            (cylinder(mirror(p, 0), (.22, -.06, .08), .045, .08, axis=2), DARK)]


def _house(p, v):
    top = .05 * v(3, .5)
    walls = box(p, (0, (top - .34) / 2, 0), (.30, (top + .34) / 2, .26))
    chimney = box(p, (.17, .24, -.09), (.05, .13, .05))
    windows = box(mirror(p, 0), (.18, -.10, .26), (.06, .06, .02))
    door = box(p, (0, -.22, .26), (.065, .12, .025))
    return [(walls, MAIN), (roof(p, (0, top - .01, 0), .35, .35, .28 * v(4, .15)), RED), (door, WOOD), (windows, GLASS),
            (chimney, DARK)]


def _snowman(p, v):
    low, mid, head = .205, .155 * v(3, .08), .12 * v(4, .1)
    y1, y2 = -.26 + .85 * (low + mid) - .02, -.26 + .85 * (low + 2 * mid + head) - .02
    body = union(sphere(p, (0, -.26, 0), low), sphere(p, (0, y1, 0), mid), sphere(p, (0, y2, 0), head))
    eyes = sphere(mirror(p, 0), (.05, y2 + .035, head * .86), .026)
    buttons = union(sphere(p, (0, y1 + .06, mid * .93), .026), sphere(p, (0, y1 - .04, mid * .98), .026))
    hat = union(cylinder(p, (0, y2 + .09, 0), .145, .018), cylinder(p, (0, y2 + .16, 0), .095, .075))
    nose = cone(p, (0, y2, head + .05), .085, .04, .006, axis=2)
    return [(body, MAIN), (nose, ORANGE), (union(eyes, buttons, hat), DARK)]


def _duck(p, v):
    body = union(ellipsoid(p, (0, -.12, -.04), (.21, .18, .29 * v(3, .08))),
                 capsule(p, (0, -.06, -.24), (0, .06, -.36), .055), sphere(p, (0, .15, .16), .145 * v(4, .08)))
    return [(body, MAIN), (ellipsoid(p, (0, .12, .32), (.085, .035, .09)), ORANGE),
            (sphere(mirror(p, 0), (.075, .20, .265), .03), DARK),
            (ellipsoid(mirror(p, 0), (.19, -.10, -.06), (.05, .10, .17)), SHADE)]


def _rocket(p, v):
    r = .125 * v(3, .12)
    fins = union(box(p, (0, -.30, 0), (.27 * v(4, .1), .11, .025)), box(p, (0, -.30, 0), (.025, .11, .27 * v(4, .1))))
    return [(cylinder(p, (0, -.06, 0), r, .27), MAIN), (cone(p, (0, .34, 0), .135, r, .01), RED), (fins, SHADE),
            (sphere(p, (0, .07, r - .03), .07), GLASS), (cone(p, (0, -.37, 0), .05, .10, .06), DARK)]


def _lamp(p, v):
    return [(cylinder(p, (0, -.42, 0), .19 * v(3, .12), .035), DARK), (cylinder(p, (0, -.15, 0), .035, .26), DARK),
            (cone(p, (0, .22, 0), .18 * v(4, .12), .31, .17 * v(5, .15)), MAIN)]


def _mushroom(p, v):
    cap = intersect(ellipsoid(p, (0, .04, 0), (.36, .30 * v(3, .12), .36)), -(p[1] - .03))
    spots = union(sphere(mirror(p, 0, 2), (.17, .21, .17), .055), sphere(p, (0, .32, 0), .055),
                  sphere(mirror(p, 0), (.31, .11, 0), .05), sphere(mirror(p, 2), (0, .11, .31), .05))
    return [(cap, MAIN), (cone(p, (0, -.18, 0), .23, .17 * v(4, .15), .12), WHITE), (spots, WHITE)]


def _tree(p, v):
    low, mid, top = (cone(p, (0, y, 0), h, r * v(3, .1), t) for y, h, r, t in
                     ((-.10, .15, .32, .10), (.10, .14, .26, .07), (.30, .16, .19, .008)))
    return [(cylinder(p, (0, -.34, 0), .075 * v(4, .2), .14), WOOD), (union(low, mid, top), MAIN)]


def _teapot(p, v):
    body = ellipsoid(p, (0, -.04, 0), (.25, .21 * v(3, .1), .25))
    spout = capsule(p, (.18, -.08, 0), (.40, .12, 0), .05 * v(4, .15))
    handle = torus(p, (-.26, 0, 0), .13, .038, axis=2)
    lid = union(ellipsoid(p, (0, .14, 0), (.13, .05, .13)), sphere(p, (0, .22, 0), .045))
    return [(union(body, spout, handle), MAIN), (lid, SHADE)]


def _boat(p, v):
    hull = intersect(ellipsoid(p, (0, .02, .02), (.21, .26, .46 * v(3, .05))), p[1] + .04)
    cabin = box(p, (0, .05, -.12), (.115, .10, .14 * v(4, .2)))
    deck = intersect(ellipsoid(p, (0, .03, .02), (.17, .2, .40)), (p[1] + .035).abs() - .012)
    return [(hull, MAIN), (deck, WOOD), (cabin, WHITE), (cylinder(p, (0, .24, -.12), .06, .11), RED),
            (box(p, (0, .08, .025), (.08, .045, .02)), GLASS)]


TOYS = {name[1:]: function for name, function in list(globals().items())
        if name in ("_sphere", "_cube", "_cylinder", "_cone", "_torus", "_pyramid", "_mug", "_chair", "_table", "_car",
                    "_airplane", "_house", "_snowman", "_duck", "_rocket", "_lamp", "_mushroom", "_tree", "_teapot",
                    "_boat")}
CLASSES = tuple(TOYS)
# Classes whose front, side and back look different: the ones on which a multi-face (Janus) result can be told.
DIRECTIONAL = ("mug", "chair", "table", "car", "airplane", "house", "snowman", "duck", "rocket", "teapot", "boat")
STRETCH = 0.12  # u_0..u_2 = +-1 stretch an axis by this much


def parts(name, p, u: torch.Tensor):
    """Distances (B, N) of every part of `name`, a class or a toy function of one's own, with its slot.

    p: (x, y, z), each (B, N). u: (B, PARAMETERS) in [-1, 1].
    """
    def v(i: int, amount: float):
        return 1.0 + amount * u[:, i:i + 1]

    toy = TOYS[name] if isinstance(name, str) else name
    stretch = [v(i, STRETCH) for i in range(3)]
    smallest = torch.minimum(stretch[0], torch.minimum(stretch[1], stretch[2]))  # keeps the distance a lower bound
    return [(d * smallest, slot) for d, slot in toy(tuple(a / s for a, s in zip(p, stretch)), v)]


def distance(name, p, u: torch.Tensor) -> torch.Tensor:
    """(B, N) signed distance of the whole toy."""
    return union(*(d for d, _ in parts(name, p, u)))


def distance_and_slot(name, p, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N) signed distance and (B, N) uint8 slot of the nearest part."""
    found = parts(name, p, u)
    d, nearest = torch.stack([d.expand_as(p[0]) for d, _ in found]).min(0)
    return d, torch.tensor([slot for _, slot in found], dtype=torch.uint8, device=d.device)[nearest]
