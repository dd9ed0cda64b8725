"""The rows of DreamFusion's table and of the methods after it, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .task import Task

TRUTH = "GT images"


@dataclass(frozen=True)
class Row:
    """preset: of the run with the embedded models.  needs: the kind of model that guides it where the prompts are no
    toys: "diffusion", "clip" or "multiview"; "" for a row of toys only.  public: its preset there, "" for `preset`,
    "model" for the model's own.  oracle: see `arms.Arm`; "judge" for the paper's grey row."""

    name: str
    preset: str
    why: str
    needs: str = "diffusion"
    public: str = ""
    oracle: str = ""


@dataclass(frozen=True)
class Request:
    """The options of a table. rows: names, () for all.  prompts, seeds: how many, from the first on; 0: all prompts,
    three seeds.  captions: a file of prompts that are no toys, among which each must be found; then `models` are the
    guides, by Row.needs.  retrieval: CLIPs that score, besides the judge of toys at `judge` (None: the embedded one).
    shorten: factor of all steps.  runs, out: folders."""

    out: Path
    runs: Path
    rows: tuple[str, ...] = ()
    prompts: int = 0
    seeds: int = 0
    captions: Path | None = None
    models: tuple[tuple[str, str], ...] = ()
    retrieval: tuple[str, ...] = ()
    judge: Path | None = None
    shorten: float = 1.0
    device: str = "auto"
    threads: int = 1
    processes: int = 1
    hours: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A row with its runs, or why it has none. guides: names of the models that guide it."""

    row: Row
    tasks: tuple[Task, ...] = ()
    guides: tuple[str, ...] = ()
    absent: str = ""


ROWS = (
    Row("Dream Fields", "dreamfields", "a volume, CLIP (Jain et al. 2022)", "clip"),
    Row(
        "Dream Fields, by the judge",
        "dreamfields",
        "guided by what scores it: the paper's grey figures",
        needs="",
        oracle="judge",
    ),
    Row("CLIP-Mesh", "clipmesh", "a sphere that becomes a mesh, CLIP (Mohammad Khalid et al. 2022)", "clip"),
    Row("DreamFusion", "dreamfusion", "SDS, the paper's numbers (Poole et al. 2023)", public="model"),
    Row("DreamFusion, fast", "fast", "SDS, this package's default", needs=""),
    Row("Magic3D", "magic3d", "a volume, then its mesh (Lin et al. 2023)"),
    Row("TextMesh", "textmesh", "a signed distance, then a texture (Tsalicoglou et al. 2023)"),
    Row("ProlificDreamer", "prolificdreamer", "VSD (Wang et al. 2023)"),
    Row("MVDream", "mvdream", "four views at once (Shi et al. 2024)", "multiview"),
)

PAPER_NOTE = (
    "The paper's own (DreamFusion, table 1), in percent, by CLIP among 153 captions of COCO; in brackets the CLIP that "
    "guided. DreamFusion by several azimuths at 30 degrees of elevation; Dream Fields and CLIP-Mesh, as published, by "
    "one view at 45, CLIP-Mesh's figure by L/14 from a single seed."
)
PAPER_HEAD = ["", "B/32 Colour", "B/32 Geo", "B/16 Colour", "B/16 Geo", "L/14 Colour", "L/14 Geo"]
PAPER = (
    ["GT images", "77.1", "", "79.1", "", "", ""],
    ["Dream Fields", "68.3", "", "74.2", "", "", ""],
    ["Dream Fields (reimplemented)", "78.6", "1.3", "(99.9)", "(0.8)", "82.9", "1.4"],
    ["CLIP-Mesh", "67.8", "", "75.8", "", "74.5", ""],
    ["DreamFusion", "75.1", "42.5", "77.5", "46.6", "79.7", "58.5"],
)
