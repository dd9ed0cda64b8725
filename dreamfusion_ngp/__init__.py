"""dreamfusion_ngp: text to a textured 3D mesh, CUDA-accelerated DreamFusion on an instant-NGP field.

Public names are loaded at first use: `import dreamfusion_ngp` is quick and needs neither torch nor the native module.
"""

import os
from importlib import import_module

from .base.errors import DreamfusionError

__version__ = "0.1.0"

# torch's idle OpenMP threads spin by default and take cores from ours (20 to 40 times slower on two cores). Works where
# this package is imported before torch, as the command line does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "GridLayout": "ops.hashgrid",
    "hashgrid_encode": "ops.hashgrid",
    "field": "ops.field",
    "field_density": "ops.field",
    "march": "ops.march",
    "occupancy_update": "ops.occupancy",
    "shade": "ops.shade",
    "composite": "ops.composite",
    "adam_step": "ops.adam",
}
__all__ = ["DreamfusionError", "__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
