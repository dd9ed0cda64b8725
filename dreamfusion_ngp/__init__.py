"""dreamfusion_ngp: text to a textured 3D mesh, CUDA-accelerated DreamFusion on an instant-NGP field.

    from dataclasses import replace
    from dreamfusion_ngp import generate, preset

    result = generate(replace(preset("fast"), prompt="a red mug"))
    print(result.folder, result.meshes["glb"])

Public names are loaded at first use: `import dreamfusion_ngp` is quick and needs neither torch nor the native module.
What goes wrong is a DreamfusionError; what there is to say goes to the logger "dreamfusion_ngp".

The import sets the environment variable OMP_WAIT_POLICY to PASSIVE, unless it is set: torch's idle OpenMP threads spin
by default and take cores from the package's own (20 to 40 times slower on two cores). torch reads it when it is loaded,
so import this package first.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .base.errors import DreamfusionError

if TYPE_CHECKING:
    from .config.presets import preset as preset
    from .config.schema import RunConfig as RunConfig
    from .evaluation.evaluate import evaluate as evaluate
    from .guidance.load import load_guidance as load_guidance
    from .ops.adam import adam_step as adam_step
    from .ops.antialias import antialias as antialias
    from .ops.composite import composite as composite
    from .ops.field import field as field
    from .ops.field import field_density as field_density
    from .ops.hashgrid import GridLayout as GridLayout
    from .ops.hashgrid import hashgrid_encode as hashgrid_encode
    from .ops.interpolate import interpolate as interpolate
    from .ops.march import march as march
    from .ops.occupancy import occupancy_update as occupancy_update
    from .ops.rasterise import Fragments as Fragments
    from .ops.rasterise import rasterise as rasterise
    from .ops.shade import shade as shade
    from .runs.generate import RunResult as RunResult
    from .runs.generate import generate as generate
    from .runs.generate import resume as resume
    from .runs.outputs import export as export
    from .runs.outputs import render as render
    from .runs.refine import refine as refine
    from .runs.sample import sample as sample

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "generate": "runs.generate",
    "resume": "runs.generate",
    "RunResult": "runs.generate",
    "refine": "runs.refine",
    "sample": "runs.sample",
    "render": "runs.outputs",
    "export": "runs.outputs",
    "evaluate": "evaluation.evaluate",
    "RunConfig": "config.schema",
    "preset": "config.presets",
    "load_guidance": "guidance.load",
    "GridLayout": "ops.hashgrid",
    "hashgrid_encode": "ops.hashgrid",
    "field": "ops.field",
    "field_density": "ops.field",
    "march": "ops.march",
    "occupancy_update": "ops.occupancy",
    "shade": "ops.shade",
    "composite": "ops.composite",
    "adam_step": "ops.adam",
    "Fragments": "ops.rasterise",
    "rasterise": "ops.rasterise",
    "interpolate": "ops.interpolate",
    "antialias": "ops.antialias",
}
__all__ = ["DreamfusionError", "__version__", *_HOME]


class _Verb(ModuleType):
    """A folder with the name of a verb, `render` or `export`, which can be called as the verb."""

    def __call__(self, *args, **kwargs):
        return _load(self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Package(ModuleType):
    """This package: what the import system binds to the name of a verb stays callable."""

    def __setattr__(self, name: str, value) -> None:
        if name in _HOME and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _load(name: str):
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("render", "export"):
        return import_module(f".{name}", __name__)  # the folder, whichever of the two is asked for first
    value = _load(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
