"""`dreamfusion-ngp fetch`."""

from __future__ import annotations

import argparse

from ..base.errors import UsageError
from ..hub.names import ALIASES, hub_id, on_the_hub, page_of


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("fetch", help="download a model once, to run offline afterwards")
    parser.add_argument("model", help=f"{', '.join(ALIASES)}, or a hub id (owner/name or owner/name@revision)")


def run(args: argparse.Namespace) -> None:
    from ..hub.fetch import fetch

    model = args.model
    if not on_the_hub(model):
        page = f", or for that of the hub {page_of(model)}" if hub_id(model) else ""
        raise UsageError(
            f"{model!r} is no model of the hub{' but a path here' if page else ''}; give one of "
            f"{', '.join(ALIASES)}, or owner/name{page}"
        )
    snapshot = fetch(model, print)
    size = sum(entry["size"] for entry in snapshot.files.values())
    licence = f"licence: {ALIASES[model].licence}; " if model in ALIASES else ""
    print(
        f"{snapshot.name}\n{len(snapshot.files)} files, {size / 1e6:.1f} MB, {snapshot.checks()}, "
        f"in {snapshot.folder}\n{licence}"
        f'now: dreamfusion-ngp generate "a DSLR photo of a peacock on a surfboard" --guidance {model}'
    )
