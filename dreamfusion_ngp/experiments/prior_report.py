"""How good the embedded prior is: samples of every class, colour and side, judged by the embedded judge.

    python benches/prior_samples.py                 1760 samples a guidance scale (about 20 minutes each on one core)
    python benches/prior_samples.py --samples 220   every class in every colour, each from one side
    python benches/prior_samples.py --report        only write the report again

Leaves in docs/toybox prior.json, wrong.jpg (samples of the best scale that are judged wrong), and from the first and
the weights' training.json the report prior.md with its plots of the loss and of the judge's score over the training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

from ..base import markdown
from ..base.console import silent
from ..bench.plots import new_plot, svg

SCALES = (1.0, 2.5, 4.0)
WORST = 5  # classes that are named
COLUMNS, CELL = 9, (104, 142)  # of the sheet of wrong samples, pixels
HEAD = """# The embedded prior, judged

Written by `python benches/prior_samples.py`; do not edit. Samples: DDIM, {steps} steps, seed {seed}, every class in
every colour ("flat colors"), from eight azimuths and two elevations. Right is a sample of which the embedded judge,
among 220 captions, retrieves its own, and, where the class has a front, its azimuth to 30 degrees, or one from which it
looks the same (± the standard error). The first row, true pictures drawn like the prior's training pictures, is what
the judge itself gets right: it was trained on other cameras, colours and backgrounds. On canonical toys, lit, it is
right in {color} of the captions and {view} of the azimuths.
"""


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def spread(share: float, n: int) -> str:
    """A share of n samples and its standard error."""
    return f"{100 * share:.1f} ± {100 * (share * (1 - share) / n) ** 0.5:.1f} %"


def best(scales: list[dict]) -> dict:
    """The scale with the most right samples; the first of several."""
    return max(scales, key=lambda scale: scale["right"])


def measure(args, show: Callable[[str], object] = silent) -> dict:
    """Draw samples of the prior in args.prior at every guidance scale and judge them. show: takes one line per
    scale."""
    import torch

    from ..bench.machine import machine_class
    from ..evaluation.judge import EMBEDDED, load_judge
    from ..evaluation.prior import judge_samples, judge_truth, summary
    from ..toybox.prior.loop import read_log
    from ..toybox.prior.model import PRIOR, load_prior

    folder = args.prior or PRIOR
    torch.set_num_threads(args.threads)
    prior, judge, scales, began = load_prior(folder), load_judge(args.judge or EMBEDDED), [], time.monotonic()
    prior.unet.eval()
    truth = judge_truth(judge, samples=args.samples, seed=args.seed)
    show(f"true pictures: {percent(truth['right'])} right")
    for scale in args.scales:
        settings = dict(scale=scale, steps=args.steps, seed=args.seed)
        samples = judge_samples(prior, judge, samples=args.samples, **settings)
        scales.append(summary(samples.records, samples.requests) | settings)
        show(f"scale {scale:g}: {percent(scales[-1]['right'])} right")
        if scales[-1] is best(scales):
            wrong_sheet(samples.wrong(), args.out / "wrong.jpg")
    return {
        "images": read_log(folder)["images"],
        "truth": truth,
        "scales": scales,
        "judge": judge.log["held_out"],
        "seconds": round(time.monotonic() - began),
        "date": date.today().isoformat(),
        "machine": machine_class(),
        "threads": args.threads,
    }


def wrong_sheet(wrong: list, path: Path) -> None:
    """Write the pictures that the judge calls wrong, with their requests and faults."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (COLUMNS * CELL[0], max(1, -(-len(wrong) // COLUMNS)) * CELL[1]), "white")
    pen = ImageDraw.Draw(image)
    for i, (picture, request, record) in enumerate(wrong):
        x, y = i % COLUMNS * CELL[0], i // COLUMNS * CELL[1]
        pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
        image.paste(Image.fromarray(pixels).resize((CELL[0] - 8, CELL[0] - 8)), (x, y))
        faults = " ".join("azimuth" if key == "view" else key for key, right in record.items() if right is False)
        label = f"{request.color} {request.name}\naz{request.azimuth} el{request.elevation}\nnot its {faults}"
        pen.multiline_text((x, y + CELL[0] - 6), label, fill="black", spacing=1)
    image.save(path, optimize=True, quality=85)


def report(measured: dict, log: dict, out: Path) -> None:
    """Write prior.md and its plots."""
    first, judge = measured["scales"][0], measured["judge"]
    lines = [
        HEAD.format(**first | {"color": percent(judge["color"]), "view": percent(judge["view"])}),
        f"{measured['images']:,} training pictures. {measured['machine']}, threads: {measured['threads']}; "
        f"{measured['date']}.",
        "",
    ]
    rows = []
    sources = [("true pictures", measured["truth"]), *((f"scale {f['scale']:g}", f) for f in measured["scales"])]
    for name, scores in sources:
        worst = sorted(scores["classes"].items(), key=lambda item: item[1])[:WORST]
        rows.append(
            [
                name,
                str(scores["samples"]),
                spread(scores["right"], scores["samples"]),
                *(percent(scores[key]) for key in ("class", "color", "view")),
                ", ".join(f"{c} {percent(share)}" for c, share in worst),
            ]
        )
    head = ["", "samples", "right", "class", "colour", "azimuth", "worst classes"]
    lines += markdown.table(head, rows, "lrrrrr")
    plots = {"loss.svg": loss_plot(log), **({"scores.svg": score_plot(log)} if log["scores"] else {})}
    captions = {
        "loss.svg": "Training loss. It changes its meaning where the shares of noise levels or the target "
        "changed (README.md beside this).",
        "scores.svg": "The judge's score of 220 samples (guidance scale 4) over the training.",
    }
    for name, text in plots.items():
        (out / name).write_text(text, encoding="utf-8")
        lines += ["", captions[name], "", f"![{captions[name].split('.')[0]}]({name})"]
    if (out / "wrong.jpg").exists():
        scale = best(measured["scales"])["scale"]
        lines += ["", f"What the judge calls wrong at scale {scale:g}, and what was asked.", "", "![wrong](wrong.jpg)"]
    (out / "prior.md").write_text(markdown.wrapped("\n".join(lines)), encoding="utf-8")


def loss_plot(log: dict) -> str:
    images, losses = zip(*log["loss"], strict=True)
    plot = new_plot("Training loss", "training pictures", "loss")
    plot.loglog(images, losses, color="black")
    return svg(plot)


def score_plot(log: dict) -> str:
    plot = new_plot("Samples that are right", "training pictures", "share")
    images = [score["images"] for score in log["scores"]]
    for key, title in (("right", "right"), ("class", "class"), ("color", "colour"), ("view", "azimuth")):
        plot.semilogx(images, [score[key] for score in log["scores"]], label=title, marker="o")
    plot.set_ylim(0, 1.03)  # a marker at 1 is whole
    return svg(plot)


def main(argv: list[str] | None = None, repository: Path = Path()) -> None:
    """repository: the folder that has docs/, unless argv names another."""
    from ..toybox.prior.loop import read_log
    from ..toybox.prior.model import PRIOR

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, metavar="FOLDER", help="other weights than the embedded ones")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="another judge than the embedded one")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="guidance scales (default: 1 2.5 4)")
    parser.add_argument("--samples", type=int, default=1760)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("-o", "--out", type=Path, default=repository / "docs" / "toybox")
    args = parser.parse_args(argv)
    file = args.out / "prior.json"
    if not args.report:
        args.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measure(args, partial(print, flush=True)), indent=1) + "\n", encoding="utf-8")
    report(json.loads(file.read_text(encoding="utf-8")), read_log(args.prior or PRIOR), args.out)


if __name__ == "__main__":
    main()
