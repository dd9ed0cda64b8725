"""Settings to and from plain data."""

from __future__ import annotations

import dataclasses
import math
import typing
from functools import cache

from ..base.errors import UsageError


def to_dict(config) -> dict:
    """Plain JSON-ready dictionary of a config."""
    return dataclasses.asdict(config)


def from_dict(cls, data: dict):
    """Inverse of `to_dict`: nested dataclasses and tuples are restored. A missing key takes its default, so that older
    files can be read: the default of a new key must be the behaviour from before it existed. Raises UsageError that
    names the key for an unknown one, a value of another type, and a number that is not finite."""
    if not isinstance(data, dict):
        raise UsageError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    kinds = types_of(cls)
    if unknown := [repr(key)[:40] for key in data if key not in kinds]:
        raise UsageError(f"{cls.__name__}: unknown keys {', '.join(sorted(unknown)[:5])}")
    were = {field.name: field.metadata["was"] for field in dataclasses.fields(cls) if "was" in field.metadata}
    data = {name: None if name in were and value == were[name] else value for name, value in data.items()}
    return cls(**{name: _restore(f"{cls.__name__}.{name}", value, kinds[name]) for name, value in data.items()})


@cache
def types_of(cls) -> dict:
    """The annotated types of a dataclass's fields; they take a millisecond to resolve."""
    return typing.get_type_hints(cls)


def _restore(name: str, value, kind):
    """`value` as the annotated type `kind`: lists become tuples and whole numbers floats where the annotation says
    so."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(kind, value)
    options = typing.get_args(kind)
    if options[1:] == (...,) and isinstance(value, (list, tuple)):
        options = (options[0],) * len(value)
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)) and len(value) == len(options):
        return tuple(_restore(f"{name}[{i}]", v, k) for i, (v, k) in enumerate(zip(value, options, strict=True)))
    if type(None) in options:
        return None if value is None else _restore(name, value, next(k for k in options if k is not type(None)))
    if kind is float and type(value) is int and abs(value) < 1 << 63:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        expected = kind if options else getattr(kind, "__name__", kind)
        raise UsageError(f"{name}: expected {expected}, got {repr(value)[:60]}")
    return value
