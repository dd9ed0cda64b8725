"""Random cameras (DreamFusion appendix A.2) and the rays of their pixels.

World: right-handed, +Y up, the object's front faces +Z. Azimuth 0 puts the camera on +Z looking at -Z, azimuth 90
degrees on +X. Camera-to-world matrices use OpenGL/Blender camera axes: x right, y up, looking down -z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..config.schema import CameraConfig


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras.

    c2w: (B, 3, 4) float32, camera to world.  focal: (B,) focal length in image widths (the paper's lambda_f). azimuth,
    elevation: (B,) radians, of the position before jitter; they determine the view words of the prompt.
    """

    c2w: torch.Tensor
    focal: torch.Tensor
    azimuth: torch.Tensor
    elevation: torch.Tensor

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, part: slice | np.ndarray) -> Cameras:
        """A subset: part is a slice, or an array of indices or bools."""
        return Cameras(self.c2w[part], self.focal[part], self.azimuth[part], self.elevation[part])

    @property
    def position(self) -> torch.Tensor:
        """(B, 3) camera centres in world units."""
        return self.c2w[:, :, 3]

    def to(self, device) -> Cameras:
        """The same cameras on a device. To a CUDA device without waiting for it."""
        queued = torch.device(device).type == "cuda"
        return Cameras(
            *(getattr(self, name).to(device, non_blocking=queued) for name in ("c2w", "focal", "azimuth", "elevation"))
        )


def spherical(radius, azimuth, elevation) -> torch.Tensor:
    """(B, 3) positions from radius (world units), azimuth and elevation (radians)."""
    return torch.stack(
        [
            radius * torch.cos(elevation) * torch.sin(azimuth),
            radius * torch.sin(elevation),
            radius * torch.cos(elevation) * torch.cos(azimuth),
        ],
        -1,
    )


def look_at(position: torch.Tensor, target: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """(B, 3, 4) camera-to-world matrices. `up` need not be orthogonal to the line of sight, only not parallel to it."""
    backward = torch.nn.functional.normalize(position - target, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=-1)
    true_up = torch.linalg.cross(backward, right)
    return torch.stack([right, true_up, backward, position], -1)


def orbit(azimuth_deg, elevation_deg, distance, focal) -> Cameras:
    """Cameras on a circle or sphere around the origin, without jitter.

    azimuth_deg: sequence of B degrees. The others are numbers or sequences of B: elevation_deg; distance in world
    units; focal in image widths.
    """
    arrays = np.broadcast_arrays(
        np.deg2rad(np.asarray(azimuth_deg, dtype=np.float64)),
        np.deg2rad(np.asarray(elevation_deg, dtype=np.float64)),
        distance,
        focal,
    )
    azimuth, elevation, distance, focal = (torch.tensor(np.array(a), dtype=torch.float32) for a in arrays)
    position = spherical(distance, azimuth, elevation)
    c2w = look_at(position, torch.zeros_like(position), pole_safe_up(azimuth, elevation))
    return Cameras(c2w, focal, azimuth, elevation)


def pole_safe_up(azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    """(B, 3): d position / d elevation. After orthogonalisation this is world up, but it is also defined straight
    overhead."""
    return torch.stack(
        [-torch.sin(elevation) * torch.sin(azimuth), torch.cos(elevation), -torch.sin(elevation) * torch.cos(azimuth)],
        -1,
    )


def sample_elevation(config: CameraConfig, n: int, random: np.random.Generator) -> np.ndarray:
    """(n,) radians: with the configured probability uniform in angle over the whole range (which favours the pole),
    else uniform in area over the part of the range on the upper half-sphere (DreamFusion A.2), over all of a range that
    has no such part. `low_elevation` b: Beta(1, b) over the range, most likely at its lower end (CLIP-Mesh)."""
    low, high = (math.radians(d) for d in config.elevation)
    if config.low_elevation:
        return low + (high - low) * (1 - (1 - random.random(n)) ** (1 / config.low_elevation))
    in_angle = low + (high - low) * random.random(n)
    s0, s1 = math.sin(max(low, 0.0) if high > 0 else low), math.sin(high)
    in_area = np.arcsin(s0 + (s1 - s0) * random.random(n))
    return np.where(random.random(n) < config.uniform_angle_probability, in_angle, in_area)


def sample_azimuth(config: CameraConfig, n: int, random: np.random.Generator) -> np.ndarray:
    """(n,) radians in [0, 2 pi). Stratified: one random offset for the batch, the views evenly spaced."""
    if config.stratified_azimuth:
        return (random.random() + np.arange(n) / n) % 1.0 * 2 * math.pi
    return random.random(n) * 2 * math.pi


def sample_cameras(config: CameraConfig, n: int, random: np.random.Generator) -> Cameras:
    """n cameras of DreamFusion A.2: position on a spherical shell plus uniform jitter, look-at point and up vector with
    Gaussian jitter, random focal length. All draws come from `random`, in a fixed order. With `config.ring` each group
    of that many is one camera, rotated around the vertical axis (`around`)."""
    if config.ring is not None and config.ring > 1:
        first = sample_cameras(replace(config, ring=None), -(-n // config.ring), random)
        steps = torch.arange(config.ring) * 2 * math.pi / config.ring
        azimuth = ((first.azimuth[:, None] + steps) % (2 * math.pi)).flatten()
        elevation, focal = (values.repeat_interleave(config.ring) for values in (first.elevation, first.focal))
        return Cameras(around(first.c2w, config.ring), focal, azimuth, elevation)[:n]
    azimuth, elevation = sample_azimuth(config, n, random), sample_elevation(config, n, random)
    focal = _uniform(random, config.focal, n)
    radius = _uniform(random, config.distance, n) * (focal if config.distance_per_focal else 1.0)
    jitter = random.uniform(-config.position_jitter, config.position_jitter, (n, 3))
    target = random.normal(0.0, 1.0, (n, 3)) * config.look_at_std
    up_noise = random.normal(0.0, 1.0, (n, 3)) * config.up_std
    azimuth, elevation, focal, radius, jitter, target, up_noise = (
        torch.tensor(a, dtype=torch.float32) for a in (azimuth, elevation, focal, radius, jitter, target, up_noise)
    )
    position = spherical(radius, azimuth, elevation) + jitter
    c2w = look_at(position, target, pole_safe_up(azimuth, elevation) + up_noise)
    return Cameras(c2w, focal, azimuth, elevation)


def around(vectors: torch.Tensor, views: int) -> torch.Tensor:
    """(n views, 3, ...): each of the vectors (n, 3, ...), in world units, rotated around the vertical axis by `views`
    even steps of the azimuth, from 0."""
    angle = torch.arange(views, dtype=vectors.dtype, device=vectors.device) * 2 * math.pi / views
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [[angle.cos(), zero, angle.sin()], [zero, one, zero], [-angle.sin(), zero, angle.cos()]]
    turn = torch.stack([torch.stack(row, -1) for row in rows], 1)
    return torch.einsum("vij,nj...->nvi...", turn, vectors).flatten(0, 1)


def _uniform(random: np.random.Generator, interval: tuple[float, float], n: int) -> np.ndarray:
    return interval[0] + (interval[1] - interval[0]) * random.random(n)


def camera_rays(cameras: Cameras, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays through the pixel centres of square images.

    Returns: origins and unit directions, each (B * resolution * resolution, 3) float32, ray-major: ray id =
    (view * H + row) * W + column, row 0 at the top of the image.
    """
    device = cameras.c2w.device
    centre = (torch.arange(resolution, device=device, dtype=torch.float32) + 0.5) / resolution - 0.5
    y, x = torch.meshgrid(-centre, centre, indexing="ij")
    local = torch.stack([x, y], -1)[None] / cameras.focal[:, None, None, None]
    local = torch.cat([local, -torch.ones_like(local[..., :1])], -1)
    rotation = cameras.c2w[:, None, None, :, :3]
    direction = (rotation * local[..., None, :]).sum(-1)  # no matrix product, which on a GPU may use TF32
    direction = torch.nn.functional.normalize(direction, dim=-1)
    origin = cameras.position[:, None, None, :].expand_as(direction)
    return origin.reshape(-1, 3).contiguous(), direction.reshape(-1, 3).contiguous()


def clip_matrices(cameras: Cameras, near: float, far: float) -> torch.Tensor:
    """(B, 4, 4) float32, world to the clip space of square images, as `ops.rasterise` takes it: x to the right, y up, z
    = -w at distance `near` along the optical axis and w at `far` (world units)."""
    rotation = cameras.c2w[:, :, :3].transpose(1, 2)
    shift = -(rotation * cameras.position[:, None]).sum(-1)
    x, y, z = torch.cat([rotation, shift[..., None]], -1).unbind(1)  # rows of world to camera, which looks down -z
    focal = 2 * cameras.focal[:, None]
    along = (far + near) / (near - far) * z
    one = torch.tensor([0.0, 0.0, 0.0, 2 * far * near / (near - far)], device=z.device)
    return torch.stack([focal * x, focal * y, along + one, -z], 1)
