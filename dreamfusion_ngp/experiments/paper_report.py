"""The paper's table as JSON, Markdown, one HTML file and one picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..base import markdown, template
from ..base.errors import UsageError, writing
from ..base.files import write_atomically
from ..evaluation.clip_scores import PAIRS
from ..evaluation.figures import DEFINITIONS
from .paper_rows import PAPER, PAPER_HEAD, PAPER_NOTE, ROWS, TRUTH, Plan, Request
from .paper_sheet import sheet
from .tables import values, with_spread
from .task import Task, captions_digest, finished

JUDGE = "judge"
# Figure, heading, digits, factor.
SHAPE = (("volumetric_iou", "IoU", 2, 1), ("mesh_chamfer", "Chamfer", 4, 1))
COST = (("seconds", "seconds", 0, 1), ("cpu_seconds", "processor s", 0, 1), ("peak_memory", "memory, GB", 2, 1e-9))
BY_CLIP = (
    ("clip_score", "CLIP score", 1, 1),
    ("iqa_quality", "IQA quality", 2, 1),
    ("iqa_sharpness", "IQA sharp", 2, 1),
    ("iqa_real", "IQA real", 2, 1),
)
AMONG_TOYS = "among all toys in all colours, 220 captions (Colour), and among all toys, 20 (Geo)"
NOTE = (
    "R-Precision in percent: how often the eight views at 30 degrees of elevation retrieve their caption {among}. "
    "Colour by lit, Geo by textureless renderings; in brackets where what scores has guided. IoU, and Chamfer distance "
    "in world units (a toy is .5 to 1 long), to the true toy. diverged: runs without a result, or with an empty or a "
    "full scene. Seconds (by the clock, which other work on the machine changes, and of the processor) and memory: of "
    "the process that optimises. All are means ± standard deviations over the runs; a run without a result counts as "
    "zero in R-Precision and IoU, and is left out of the other figures of results."
)
CLIP_NOTE = (
    "CLIP score: 100 times the cosine of a lit view with its prompt. IQA (CLIP-IQA): the share, 0 to 1, of the first "
    "text of " + ", ".join(f"{good} / {bad}" for good, bad in PAIRS.values()) + " in a softmax of both, on lit views. "
    "Both see pictures of 128 pixels, enlarged to the CLIP's input."
)


def run_entry(task: Task, record: dict) -> dict:
    """The entry of a run in table.json."""
    figures, machine = record["figures"], record["machine"]
    retrieval = {name: dict(scores) for name, scores in record.get("clips", {}).items()}
    if record["judge"]:
        precision = {key: figures[key] for key in figures if key.startswith("r_precision")}
        retrieval = {JUDGE: {"digest": record["judge"]["digest"], "truth": record["truth"], **precision}, **retrieval}
    keys = ("seconds", "cpu_seconds", "peak_memory", "failed", "diverged", "picture")
    return {
        "prompt": task.prompt,
        "seed": task.seed,
        "key": task.key,
        "definitions": DEFINITIONS,
        "captions": captions_digest(task.captions),
        "machine": f"{machine['gpu'] or machine['machine']}, torch {machine['versions']['torch']}",
        "commit": machine["commit"] or "unknown",
        **{key: record[key] for key in keys if key in record},
        **{key: figures[key] for key, *_ in SHAPE if key in figures},
        "retrieval": retrieval,
    }


def read_table(out: Path) -> dict:
    """The content of table.json in a folder, without rows where there is none. Raises UsageError for another file."""
    path = out / "table.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
        if not all(isinstance(run["retrieval"], dict) for run in runs_of(table)):
            raise TypeError
    except (FileNotFoundError, NotADirectoryError):
        return {"rows": []}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path} is damaged or no table; move it away, or choose another folder") from None
    return table


def runs_of(table: dict) -> list[dict]:
    """All runs that table.json has, those that the last call did not ask for too."""
    return [run for row in table["rows"] for run in row["runs"]] + table.get("others", [])


class Entries:
    """The entries of finished runs: of those in `request.runs`, and of those in table.json that were made elsewhere."""

    def __init__(self, request: Request, judge: str | None):
        self.runs, self.judge, self.before = request.runs, judge, read_table(request.out)
        self.made = {run.get("key"): run for run in runs_of(self.before)}

    def of(self, task: Task) -> dict | None:
        """The entry of a run that is finished and that every model of `task` has scored; else None."""
        if record := finished(task, self.runs, self.judge):
            return run_entry(task, record)
        run = self.made.get(task.key, {})
        wanted = dict(task.clips) | ({JUDGE: self.judge} if self.judge else {})
        scored = {name: scores.get("digest") for name, scores in run.get("retrieval", {}).items()}
        alike = run.get("definitions") == DEFINITIONS and run.get("captions", "") == captions_digest(task.captions)
        return run if run and alike and wanted.items() <= scored.items() else None


def table_data(plans: Sequence[Plan], request: Request, judge: str | None) -> dict:
    """The content of table.json. Rows without a plan stay as they are there, unless they were measured in another way.
    others: runs that no row shows, for a call that asks for them again: a trial loses nothing."""
    entries = Entries(request, judge)
    settings = {"captions": request.captions.name if request.captions else "", "shorten": request.shorten}
    same = settings.items() <= entries.before.items()
    pools = {captions_digest(task.captions) for plan in plans for task in plan.tasks}
    kept = entries.before["rows"] if same else []
    rows = {row["name"]: row for row in kept if not pools or {run.get("captions", "") for run in row["runs"]} <= pools}
    rows |= {plan.row.name: row_data(plan, entries) for plan in plans}
    order, shown = [row.name for row in ROWS], {run.get("key") for row in rows.values() for run in row["runs"]}
    return {
        "date": date.today().isoformat(),
        **settings,
        "threads": request.threads,
        "processes": request.processes,
        "rows": sorted(rows.values(), key=lambda row: order.index(row["name"]) if row["name"] in order else len(order)),
        "others": [run for key, run in entries.made.items() if key not in shown],
    }


def row_data(plan: Plan, entries: Entries) -> dict:
    return {
        "name": plan.row.name,
        "why": plan.row.why,
        "preset": plan.row.preset,
        "planned": len(plan.tasks),
        "absent": plan.absent,
        "guides": list(plan.guides),
        "runs": [entry for task in plan.tasks if (entry := entries.of(task))],
    }


def retrieval_names(table: dict) -> list[str]:
    """The models that score, the judge first."""
    return list(dict.fromkeys(name for row in table["rows"] for run in row["runs"] for name in run["retrieval"]))


def truth_cells(table: dict, names: Sequence[str]) -> list[str]:
    """R-Precision of the true toys of the prompts: the row of ground truth."""
    cells = []
    for name in names:
        by_prompt = {
            run["prompt"]: run["retrieval"][name].get("truth")
            for row in table["rows"]
            for run in row["runs"]
            if name in run["retrieval"]
        }
        truths = [truth for truth in by_prompt.values() if truth]
        for kind in ("color", "geo"):
            mean = statistics.fmean(truth[f"r_precision_{kind}"] for truth in truths) if truths else None
            cells.append("" if mean is None else f"{100 * mean:.1f}")
    return cells


def cell(runs: list[dict], key: str, digits: int, factor: float) -> str:
    return with_spread([factor * value for value in values(runs, key)], digits)


def table_of(table: dict) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of text)."""
    names = retrieval_names(table)
    by_clip = [name for name in names if name != JUDGE]
    head = ["method", "runs", *(f"{short(name)} {kind}" for name in names for kind in ("Colour", "Geo"))]
    head += [title for _, title, *_ in SHAPE]
    head += [f"{title}, {short(name)}" for name in by_clip for _, title, *_ in BY_CLIP]
    head += ["diverged", *(title for _, title, *_ in COST)]
    blank = len(head) - 2 - 2 * len(names)
    body = [[TRUTH, "", *truth_cells(table, names), *[""] * blank]]
    for row in table["rows"]:
        if not row["runs"]:
            body.append([row["name"], f"0 of {row['planned']}", *[""] * (len(head) - 2)])
            continue
        scored = {name: [run["retrieval"][name] for run in row["runs"] if name in run["retrieval"]] for name in names}
        cells = [
            bracketed(cell(scored[name], f"r_precision_{kind}", 1, 100), name in row["guides"])
            for name in names
            for kind in ("color", "geo")
        ]
        cells += [cell(row["runs"], key, digits, factor) for key, _, digits, factor in SHAPE]
        cells += [cell(scored[name], key, d, f) for name in by_clip for key, _, d, f in BY_CLIP]
        astray = sum(bool(run.get("diverged")) for run in row["runs"]) / len(row["runs"])
        cells += [f"{100 * astray:.0f} %", *(cell(row["runs"], key, d, f) for key, _, d, f in COST)]
        body.append([row["name"], f"{len(row['runs'])} of {row['planned']}", *cells])
    return head, body


def bracketed(text: str, guided: bool) -> str:
    return f"({text})" if guided and text else text


def short(name: str) -> str:
    """The last part of a path or of a hub id, without its revision."""
    return Path(name).name.split("@")[0]


def notes(table: dict) -> str:
    """What the columns mean."""
    among = f"among the captions of {table['captions']}" if table["captions"] else AMONG_TOYS
    by_clip = any(name != JUDGE for name in retrieval_names(table))
    return NOTE.format(among=among) + (f" {CLIP_NOTE}" if by_clip else "")


def remarks(table: dict) -> list[str]:
    """Notes to the table, those between ** in bold: how it was shortened, what is missing and why."""
    lines = [f"**Shortened: steps times {table['shorten']:g}.**"] if table["shorten"] < 1 else []
    if any(row["runs"] for row in table["rows"]) and not any(truth_cells(table, retrieval_names(table))):
        lines.append(f"{TRUTH}: none, as the prompts are no toys whose true pictures are known")
    lines += [f"{row['name']}: not measured: {row['absent']}" for row in table["rows"] if row["absent"]]
    for row in table["rows"]:
        failed = sorted({run["failed"] for run in row["runs"] if run.get("failed")})
        lines += [f"{row['name']}: {len(failed)} kinds of failure, the first: {failed[0]}"] if failed else []
    lines += differences(table)
    machines = sorted({run["machine"] for row in table["rows"] for run in row["runs"]})
    lines += [f"Machine: {machine}." for machine in machines]
    return [*lines, f"Threads of a run: {table['threads']}; runs at a time, in the last call: {table['processes']}."]


def differences(table: dict) -> list[str]:
    """What keeps the rows of a table from being compared: other prompts or seeds, and models with other weights."""
    made = {row["name"]: row["runs"] for row in table["rows"] if row["runs"]}
    lines = []
    if len({frozenset((run["prompt"], run["seed"]) for run in runs) for runs in made.values()}) > 1:
        lines.append("**The rows are means over different prompts or seeds.**")
    for name in retrieval_names(table):
        scores = [run["retrieval"][name] for runs in made.values() for run in runs if name in run["retrieval"]]
        if len({score.get("digest") for score in scores}) > 1:
            lines.append(f"**{short(name)} had other weights for some of the rows.**")
    if len({run.get("definitions") for runs in made.values() for run in runs}) > 1:
        lines.append("**IoU and Chamfer distance were measured in another way for some of the rows.**")
    return lines


def markdown_page(table: dict) -> str:
    head, body = table_of(table)
    lines = ["# The paper's table", "", notes(table), "", *markdown.table(head, body, "l" + "r" * (len(head) - 1)), ""]
    lines += [f"- {remark}" for remark in remarks(table)]
    paper = markdown.table(PAPER_HEAD, [list(row) for row in PAPER], "lrrrrrr")
    return "\n".join([*lines, "", PAPER_NOTE, "", *paper])


def html_page(table: dict) -> str:
    head, body = table_of(table)
    prompts = list(dict.fromkeys(run["prompt"] for row in table["rows"] for run in row["runs"]))
    first = [
        (row["name"], {run["prompt"]: run for run in reversed(row["runs"])}) for row in table["rows"] if row["runs"]
    ]
    galleries = [(name, [runs.get(prompt, {}).get("picture", "") for prompt in prompts]) for name, runs in first]
    return template.render(
        __package__,
        "paper.html.j2",
        note=notes(table),
        head=head,
        body=body,
        remarks=[(line.strip("*"), line.startswith("**")) for line in remarks(table)],
        prompts=prompts,
        galleries=galleries,
        paper_note=PAPER_NOTE,
        paper_head=PAPER_HEAD,
        paper=PAPER,
    )


def write_table(plans: Sequence[Plan], request: Request, judge: str | None) -> dict:
    """Write table.json, table.md and index.html, and table.jpg once there are pictures. Returns the content of the
    first. Raises OutputError."""
    table = table_data(plans, request, judge)
    texts = {
        "table.json": json.dumps(table, indent=1),
        "table.md": markdown_page(table),
        "index.html": html_page(table),
    }
    files = {name: (text.rstrip() + "\n").encode() for name, text in texts.items()}
    if picture := sheet(table):
        files["table.jpg"] = picture
    with writing(request.out):
        request.out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(request.out / name, data)
    return table
