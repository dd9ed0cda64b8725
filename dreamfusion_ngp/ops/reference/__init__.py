"""The slow, obvious torch twin of every op: its specification, and the tests' reference.

Same arguments and results as the public functions, any float dtype, any device; gradients by autograd. No checks.
"""

from .adam import adam_step
from .composite import composite
from .field import blob_density, field, field_density
from .hashgrid import corners_of, hashgrid_encode
from .march import clip_rays, march, unpack_bits
from .occupancy import cell_points, occupancy_update, pack_bits
from .random import kernel_uniform, philox
from .raster import antialias, interpolate, rasterise
from .shade import shade

__all__ = [
    "adam_step",
    "antialias",
    "blob_density",
    "cell_points",
    "clip_rays",
    "composite",
    "corners_of",
    "field",
    "field_density",
    "hashgrid_encode",
    "interpolate",
    "kernel_uniform",
    "march",
    "occupancy_update",
    "pack_bits",
    "philox",
    "rasterise",
    "shade",
    "unpack_bits",
]
