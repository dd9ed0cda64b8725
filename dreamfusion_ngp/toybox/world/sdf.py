"""Signed-distance primitives on point components (formulas: Inigo Quilez, "Distance functions").

A point is a tuple (x, y, z) of tensors of any broadcastable shape; lengths may be floats or tensors that broadcast with
them. Distances are negative inside. Every primitive is centred at `c` and stays within a factor of the true distance,
so sphere tracing with a small safety factor is valid.
"""

from __future__ import annotations

import torch


def length(*components):
    """Euclidean norm, with a finite gradient at 0."""
    first, *others = (c * c for c in components)
    return torch.sqrt(sum(others, first) + 1e-12)


def dot(a, b):
    """Inner product of two points."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def shift(p, c):
    return tuple(a - b for a, b in zip(p, c, strict=True))


def mirror(p, *axes: int):
    """Fold the point so that a shape at positive coordinates appears on both sides of each axis."""
    return tuple(a.abs() if i in axes else a for i, a in enumerate(p))


def sphere(p, c, r):
    return length(*shift(p, c)) - r


def ellipsoid(p, c, r):
    q = shift(p, c)
    k0 = length(*(a / b for a, b in zip(q, r, strict=True)))
    k1 = length(*(a / (b * b) for a, b in zip(q, r, strict=True)))
    return k0 * (k0 - 1.0) / k1


def box(p, c, half, rounding=0.01):
    q = tuple(a.abs() - (b - rounding) for a, b in zip(shift(p, c), half, strict=True))
    outside = length(*(a.clamp(min=0.0) for a in q))
    return outside + torch.maximum(q[0], torch.maximum(q[1], q[2])).clamp(max=0.0) - rounding


def _along(p, c, axis: int):
    """(distance from the axis, coordinate along it)."""
    q = shift(p, c)
    return length(*(a for i, a in enumerate(q) if i != axis)), q[axis]


def cylinder(p, c, r, half, axis: int = 1):
    radial, along = _along(p, c, axis)
    dr, dh = radial - r, along.abs() - half
    return torch.maximum(dr, dh).clamp(max=0.0) + length(dr.clamp(min=0.0), dh.clamp(min=0.0))


def torus(p, c, major, minor, axis: int = 1):
    radial, along = _along(p, c, axis)
    return length(radial - major, along) - minor


def capsule(p, a, b, r):
    ab = shift(b, a)
    ap = shift(p, a)
    h = (dot(ap, ab) / dot(ab, ab)).clamp(0.0, 1.0)
    return length(*(u - w * h for u, w in zip(ap, ab, strict=True))) - r


def cone(p, c, half, r_low, r_high, axis: int = 1):
    """Capped cone of height 2 half, radius r_low at the negative end and r_high at the positive end of the axis."""
    radial, along = _along(p, c, axis)
    r_end = torch.where(along < 0, torch.zeros_like(along) + r_low, torch.zeros_like(along) + r_high)
    cap_r, cap_h = radial - torch.minimum(radial, r_end), along.abs() - half
    k_r, k_h = r_high - r_low, 2 * half
    t = (((r_high - radial) * k_r + (half - along) * k_h) / (k_r * k_r + k_h * k_h)).clamp(0.0, 1.0)
    side_r, side_h = radial - r_high + k_r * t, along - half + k_h * t
    sign = torch.where((side_r < 0) & (cap_h < 0), -1.0, 1.0)
    squared = torch.minimum(cap_r * cap_r + cap_h * cap_h, side_r * side_r + side_h * side_h)
    return sign * torch.sqrt(squared + 1e-12)


def pyramid(p, c, half_height, half_base):
    """Square pyramid with a vertical axis, apex at c.y + half_height."""
    x, y, z = shift(p, c)
    norm = (4 * half_height * half_height + half_base * half_base) ** 0.5
    sides = (torch.maximum(x.abs(), z.abs()) * 2 * half_height + (y - half_height) * half_base) / norm
    return torch.maximum(sides, -(y + half_height))


def roof(p, c, half_ridge, half_depth, height):
    """Gabled roof: ridge along x, eaves at c.y, slopes towards +z and -z."""
    x, y, z = shift(p, c)
    norm = (height * height + half_depth * half_depth) ** 0.5
    slope = (z.abs() * height + (y - height) * half_depth) / norm
    return torch.maximum(torch.maximum(slope, -y), x.abs() - half_ridge)


def union(*distances):
    result = distances[0]
    for d in distances[1:]:
        result = torch.minimum(result, d)
    return result


def intersect(a, b):
    return torch.maximum(a, b)


def subtract(a, b):
    return torch.maximum(a, -b)
