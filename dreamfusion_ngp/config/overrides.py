"""Single settings changed by text, as `generate --set` takes them."""

from __future__ import annotations

import json

from ..base.errors import UsageError
from .io import from_dict, to_dict


def override(config, text: str):
    """The config with one setting changed by "group.key=JSON". Raises UsageError that lists the keys."""
    path, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set wants KEY=VALUE, got {text!r}")
    if path.strip() == "preset":
        raise UsageError("--set preset would only rename the settings; choose them with --preset")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    data = to_dict(config)
    *groups, key = path.strip().split(".")
    group = data
    for name in groups:
        group = group.get(name) if isinstance(group, dict) else None
    if not isinstance(group, dict) or key not in group or isinstance(group[key], dict):
        here = group if isinstance(group, dict) else data
        raise UsageError(f"--set {path}: no such setting; here are: {', '.join(here)}")
    group[key] = parsed
    return from_dict(type(config), data)
