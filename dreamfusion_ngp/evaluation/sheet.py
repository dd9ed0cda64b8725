"""The evaluation of several runs as one HTML file that needs nothing else: table, pictures, what the figures mean."""

from __future__ import annotations

import base64
import html
import io

import numpy as np

from .pictures import Pictures
from .report import FIGURES
from .scoring import rows

THUMBNAIL = 64  # pixels a side of one view
STYLE = """body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: .2em .6em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } tr.sum td { font-weight: 600; background: #f4f4f4 }
figure { margin: 1.2em 0 } figcaption { margin-bottom: .3em } img { display: block; max-width: 100% }
dt { font-weight: 600 }"""


def thumbnails(pictures: Pictures) -> str:
    """Lit views above, textureless ones below, as the address of a JPEG picture in itself."""
    from PIL import Image

    strips = [np.concatenate(list(kind.numpy()), 1) for kind in (pictures.lit, pictures.clay)]
    image = Image.fromarray((np.concatenate(strips) * 255).round().astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((THUMBNAIL * len(pictures), 2 * THUMBNAIL), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def html_sheet(result: dict, pictures: list[str]) -> str:
    """result: what `evaluate.evaluate` writes as JSON. pictures: addresses of the runs' thumbnails,
    empty for a run without a result."""
    records, judge = result["runs"], result["judge"]
    head, body = rows(records, result["figures"])
    lines = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><title>Evaluation</title>',
        f"<style>{STYLE}</style>",
        f"<h1>Evaluation of {len(records)} runs</h1>",
        f"<p>{judge_text(judge)}</p>",
        "<table>",
        row(head, "th"),
    ]
    lines += [row(texts, "td", ' class="sum"' if i >= len(records) else "") for i, texts in enumerate(body)]
    lines += ["</table>"]
    for record, picture in zip(records, pictures, strict=True):
        said = ", ".join(
            f"{html.escape(str(record[key]))}" for key in ("retrieved_color", "retrieved_geo") if record.get(key)
        )
        said = f"; seen as: {said}" if said else ""
        caption = f"{html.escape(record['prompt'])}, seed {record['seed']}{said}"
        image = f'<img src="{picture}" alt="{caption}">' if picture else html.escape(record.get("failed", ""))
        lines.append(f"<figure><figcaption>{caption}</figcaption>{image}</figure>")
    lines += ["<h2>What the figures are</h2><dl>"]
    lines += [
        f"<dt>{key}{f' ({unit})' if unit else ''}</dt><dd>{html.escape(text)}</dd>"
        for key, (unit, text) in FIGURES.items()
    ]
    return "\n".join([*lines, "</dl></html>"]) + "\n"


def row(texts: list[str], tag: str, attributes: str = "") -> str:
    return f"<tr{attributes}>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"


def judge_text(judge: dict | None) -> str:
    """How good the retrieval model is on true renderings, which comes before what it says of results."""
    if judge is None:
        return "No retrieval model: R-Precision was not measured."
    true = judge["truth"]
    found = (
        f" finds, of the true toys of {true['prompts']} prompts, {true['r_precision_color']:.1%} by lit and "
        f"{true['r_precision_geo']:.1%} by textureless views"
        if true
        else " was given no true renderings"
    )
    return html.escape(f"The retrieval model, {judge['name']},{found}.")
