"""The evaluation of several runs as one self-contained HTML file: table, pictures, what the figures mean."""

from __future__ import annotations

import base64
import io

import numpy as np

from ..base import template
from .figures import FIGURES
from .pictures import Pictures
from .scoring import rows

THUMBNAIL = 64  # pixels a side of one view


def thumbnails(pictures: Pictures) -> str:
    """Lit views above, textureless ones below, as the data URI of a JPEG."""
    from PIL import Image

    strips = [np.concatenate(list(kind.numpy()), 1) for kind in (pictures.lit, pictures.clay)]
    image = Image.fromarray((np.concatenate(strips) * 255).round().astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((THUMBNAIL * len(pictures), 2 * THUMBNAIL), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def html_sheet(result: dict, pictures: list[str]) -> str:
    """The page. result: as `evaluate` returns it. pictures: data URIs of the runs' `thumbnails`, in the order of
    result["runs"]; "" for a run without a result."""
    records = result["runs"]
    head, body = rows(records, result["figures"])
    return template.render(
        __package__,
        "sheet.html.j2",
        judge=judge_text(result["judge"]),
        head=head,
        body=body,
        entries=[(record, retrieved_text(record), picture) for record, picture in zip(records, pictures, strict=True)],
        figures=FIGURES,
    )


def retrieved_text(record: dict) -> str:
    """The captions that a run retrieves: lit, then textureless. "" without a retrieval model."""
    captions = [record[key] for key in ("retrieved_color", "retrieved_geo") if record.get(key)]
    return f"; seen as: {', '.join(captions)}" if captions else ""


def judge_text(judge: dict | None) -> str:
    """How good the retrieval model is on true renderings, which puts its scores of results into perspective."""
    if judge is None:
        return "No retrieval model: R-Precision was not measured."
    true = judge["truth"]
    finding = (
        f" finds, of the true toys of {true['prompts']} prompts, {true['r_precision_color']:.1%} by lit and "
        f"{true['r_precision_geo']:.1%} by textureless views"
        if true
        else " was given no true renderings"
    )
    return f"The retrieval model, {judge['name']},{finding}."
