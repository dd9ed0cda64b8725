"""Polygons as triangles: fans where those are right, ears of concave polygons, whose fans would lie outside of them."""

from __future__ import annotations

import numpy as np

from .text import fans

SLACK = 1e-9  # of a polygon's squared area, by which a triangle may run the other way round
MOST_CORNERS = 256  # of a polygon that is cut into ears; a larger one stays a fan
MOST_WORK = 20_000_000  # squares of the numbers of corners, added up; polygons beyond stay fans


def triangulated(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive polygons of `counts` (P,) corners at `points` (C, 3) as triangles: (T, 3) indices of their corners
    and (T,) the polygon of each, in the order of the polygons. A polygon that crosses itself stays a fan."""
    places, polygon = fans(counts)
    if not len(counts) or counts.max() == 3:
        return places, polygon
    with np.errstate(over="ignore", invalid="ignore"):
        whole, wrong = orientation(points, places, polygon, len(counts))
        bad = np.unique(polygon[wrong])
        row, corner = np.searchsorted(polygon, bad), (np.cumsum(counts) - counts)[bad]
        quad = counts[bad] == 4
        places[row[quad]] = corner[quad, None] + [1, 2, 3]  # along the other diagonal
        places[row[quad] + 1] = corner[quad, None] + [1, 3, 0]
        work = 0
        for number, start, first in zip(bad[~quad], row[~quad], corner[~quad], strict=True):
            size = int(counts[number])
            work += size**2
            if size > MOST_CORNERS or work > MOST_WORK:
                continue
            if ears := clipped(flat(points[first : first + size], whole[number])):
                places[start : start + size - 2] = first + np.array(ears)
    return places, polygon


def orientation(points, places, polygon, polygons: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3) twice the area vectors of polygons, and (T,) whether triangles run against their polygon."""
    a, b, c = (points[places[:, k]].astype(np.float64) for k in range(3))
    normal = np.cross(b - a, c - a)
    whole = np.stack([np.bincount(polygon, normal[:, k], minlength=polygons) for k in range(3)], -1)
    along = (normal * whole[polygon]).sum(1)
    return whole, along < -SLACK * (whole**2).sum(1)[polygon]


def flat(points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N, 2) of a polygon (N, 3), along the axis that is nearest to its normal, counter-clockwise."""
    axis = int(np.abs(normal).argmax())
    x = np.delete(points.astype(np.float64), axis, 1)
    return x if (normal[axis] > 0) == (axis != 1) else x[:, ::-1]


def clipped(x: np.ndarray) -> list[tuple[int, int, int]]:
    """The triangles of a counter-clockwise polygon (N, 2), an ear after the other (Meisters 1975); empty for one that
    has no ear left."""
    left, ears = list(range(len(x))), []
    while len(left) > 3:
        for k, middle in enumerate(left):
            ear = left[k - 1], middle, left[(k + 1) % len(left)]
            if is_ear(x[list(ear)], x[left]):
                break
        else:
            return []
        ears.append(ear)
        left.remove(middle)
    return [*ears, (left[0], left[1], left[2])]


def is_ear(triangle: np.ndarray, points: np.ndarray) -> bool:
    """Whether a triangle (3, 2) runs counter-clockwise with none of the points (N, 2) in it but its own corners."""
    side = np.roll(triangle, -1, 0) - triangle
    if side[0, 0] * side[1, 1] - side[0, 1] * side[1, 0] <= 0:
        return False
    away = points[:, None] - triangle
    inside = (side[:, 0] * away[..., 1] - side[:, 1] * away[..., 0] >= 0).all(1)
    return not (inside & ~(away == 0).all(2).any(1)).any()
