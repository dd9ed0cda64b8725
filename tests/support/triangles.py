"""Triangles on a screen, and what is seen of them, for the tests of the raster ops."""

import math

import torch


def on_screen(xy: torch.Tensor, size: tuple[int, int], z=0.0, w=1.0) -> torch.Tensor:
    """Pixel coordinates (..., 2), centres at whole numbers and y down, -> clip space (..., 4) at depth z and with w."""
    height, width = size
    x, y = (xy[..., 0] + 0.5) * (2 / width) - 1, 1 - (xy[..., 1] + 0.5) * (2 / height)
    ones = torch.ones_like(x)
    return torch.stack([x, y, z * ones, ones], -1) * (w * ones)[..., None]


def soup(seed: int, views: int = 2, triangles: int = 24, dtype=torch.float64):
    """position (B, 3 F, 4), faces (F, 3): triangles before the eye, with several w, that cross and hide each other."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(views, 3 * triangles, 3, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    w = torch.rand(views, 3 * triangles, 1, generator=generator, dtype=torch.float64) * 2 + 0.5
    faces = torch.arange(3 * triangles, dtype=torch.int32).reshape(triangles, 3)
    return (torch.cat([xyz, torch.ones_like(w)], -1) * w).to(dtype), faces


def around_the_eye(seed: int, views: int = 2, triangles: int = 24, near: float = 0.5, far: float = 6.0):
    """As `soup`, seen by a pinhole camera in their midst: some are behind it, some across the near plane."""
    generator = torch.Generator().manual_seed(seed)
    xyz = 2 * torch.randn(views, 3 * triangles, 3, generator=generator, dtype=torch.float64)
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2] - 1
    depth = (z * (far + near) + 2 * far * near) / (near - far)
    faces = torch.arange(3 * triangles, dtype=torch.int32).reshape(triangles, 3)
    return torch.stack([1.2 * x, 1.2 * y, depth, -z], -1), faces


def sheet(columns: int, rows: int, low: float, high: float, seed: int | None = None):
    """xy (V, 2) pixel coordinates over [low, high]^2, faces (F, 3): a grid of triangles, moved about with a seed, with
    diagonals of both kinds."""
    x, y = torch.meshgrid(
        torch.linspace(low, high, columns, dtype=torch.float64),
        torch.linspace(low, high, rows, dtype=torch.float64),
        indexing="ij",
    )
    xy = torch.stack([x, y], -1)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        cell = (high - low) / max(columns - 1, rows - 1)
        inner = (torch.rand(xy.shape, generator=generator, dtype=torch.float64) - 0.5) * 0.6 * cell
        xy[1:-1, 1:-1] += inner[1:-1, 1:-1]
    faces = []
    for i in range(columns - 1):
        for k in range(rows - 1):
            a, b, c, d = i * rows + k, (i + 1) * rows + k, (i + 1) * rows + k + 1, i * rows + k + 1
            faces += [[a, b, c], [a, c, d]] if (i + k) % 2 else [[a, b, d], [b, c, d]]
    return xy.reshape(-1, 2), torch.tensor(faces, dtype=torch.int32)


def polygon(n: int, cx, cy, r):
    """xy (n + 1, 2) pixel coordinates of the centre and corners of a regular polygon, differentiable; faces (n, 3)."""
    angle = torch.arange(n, dtype=torch.float64) / n * 2 * math.pi
    x, y = (torch.cat([c[None], c + r * f(angle)]) for c, f in ((cx, torch.cos), (cy, torch.sin)))
    faces = [[0, 1 + i, 1 + (i + 1) % n] for i in range(n)]
    return torch.stack([x, y], -1), torch.tensor(faces, dtype=torch.int32)


def quad(xy, size: tuple[int, int], z=0.0):
    """Clip-space corners (4, 4) of a quadrilateral in pixel coordinates, at one depth or at four; faces are [0, 1, 2]
    and [0, 2, 3]."""
    z = torch.as_tensor(z, dtype=torch.float64).expand(4)
    flat = on_screen(torch.as_tensor(xy, dtype=torch.float64), size)
    return torch.cat([flat[:, :2], z[:, None], flat[:, 3:]], -1)


QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)


def weights(size: tuple[int, int]):
    """(H, W) smooth weights of a loss, and the same as a function of pixel coordinates."""
    height, width = size

    def at(x, y):
        return 1 + 0.5 * torch.sin(3 * x / width) + 0.7 * (y / height) ** 2

    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return at(x, y), at
