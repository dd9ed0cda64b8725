"""docs/evaluation.md: the arithmetic of its tables, and that it is made of the committed results."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.experiment_records import group_with, run_of
from support.plots import pinned_matplotlib

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.evaluation.judge import SIZE
from dreamfusion_ngp.experiments import report
from dreamfusion_ngp.experiments.groups import GROUPS
from dreamfusion_ngp.experiments.metrics import METRICS
from dreamfusion_ngp.experiments.tables import arms_table, error_of
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS

BENCHES = Path(__file__).resolve().parents[2] / "benches"


def report_of(place: Path, groups: dict) -> str:
    (place / "ablation.json").write_text(json.dumps({"groups": groups}))
    report.main(["--results", str(place / "ablation.json"), "-o", str(place)])
    return (place / "evaluation.md").read_text()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_arms_are_compared_on_the_same_prompts_and_seeds(tmp_path):
    base = [
        run_of("a red mug", 0, 0.5, picture="data:image/jpeg;base64,x"),
        run_of("a red mug", 1, 0.7),
        run_of("a blue boat", 0, 0.1, picture=""),
    ]
    more = [run_of("a red mug", 1, 0.9), run_of("a red mug", 0, 0.6)]
    text = report_of(tmp_path, {"paper": group_with({"base": base, "+ random views": more})})
    assert 'Only in the columns "IoU, change", and as bars of the plots, it is the standard error' in one_line(text)
    rows = [line for line in text.splitlines() if line.startswith(("| base", "| + random"))]
    assert rows[0].split(" | ")[5] == f"0.60 ± {statistics.stdev([0.5, 0.7]):.2f}", "the boat has no partner"
    assert rows[1].split(" | ")[7] == f"+0.150 ± {statistics.stdev([0.1, 0.2]) / 2**0.5:.3f}"
    assert "R-Precision was not measured" in one_line(text) and rows[0].split(" | ")[2] == ""
    picture = ElementTree.parse(tmp_path / "evaluation" / "ablation.svg")
    words = [element.text for element in picture.iter() if element.tag.endswith("text")]
    sheet = (tmp_path / "evaluation" / "paper.svg").read_text()
    assert sheet.count("<image ") == 1 and ">a blue boat<" in sheet and ElementTree.fromstring(sheet) is not None
    assert "volumetric IoU" in words and "+ random views" in words and "R-Precision Geo" not in words


def test_a_standard_error_takes_each_prompt_for_one_sample():
    changes = {"a red mug": [0.1, 0.12, 0.14], "a blue boat": [0.3, 0.31, 0.32], "a gray car": [None, 0.2, 0.22]}
    runs = [{"prompt": prompt, "iou": value} for prompt, some in changes.items() for value in some]
    assert error_of(runs, "iou") == pytest.approx(statistics.stdev([0.12, 0.31, 0.21]) / 3**0.5)
    assert error_of(runs[:3], "iou") == pytest.approx(0.02 / 3**0.5), "one prompt: its seeds"
    assert error_of(runs[:1], "iou") is None


def test_an_arm_without_runs_empties_no_other(tmp_path):
    arms = {"base": [run_of("a red mug", 0, 0.5)], "+ random views": [], "+ view words": [run_of("a red mug", 0, 0.8)]}
    text = report_of(tmp_path, {"paper": group_with(arms)})
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| base", "| +"))]
    assert [row[5] for row in rows] == ["0.50", "", "0.80"] and rows[1][-2] == "0"


def test_the_bars_are_judged_by_hand(tmp_path):
    good = dict(r_precision_color=1.0, r_precision_geo=0.875, r_precision_albedo=1.0)
    runs = [run_of("a red mug", 0, 0.9, extra_faces=1, **good), run_of("a blue boat", 0, 0.41, extra_faces=0, **good)]
    judge = {"name": "toybox judge", "digest": "0" * 12, "images": 1000, "held_out": {"color": 0.99, "geo": 0.97}}
    truth = {"r_precision_color": 1.0, "r_precision_geo": 0.95, "r_precision_albedo": 1.0}
    group = group_with({"preset": runs}, judge=judge, truth=truth)

    def verdicts(**more):
        text = report_of(tmp_path, {"bars": {**group, **more}})
        return {
            m[1]: (float(m[2]), m[3])
            for m in re.finditer(
                r"^\| ([^|]+) \| at (?:most|least) [\d.]+ \| ([\d.]+) \| (.+?) \|$", text, re.MULTILINE
            )
        }

    found = verdicts()
    assert found["mean volumetric IoU"] == (0.655, "met") and found["lowest volumetric IoU"] == (0.41, "met")
    assert found["extra faces, of classes with a front"] == (1, "**missed**") and found["R-Precision Geo"][1] == "met"
    assert found["longest wall time, seconds"] == (100, "met") and len(found) == 8
    assert {v for _, v in verdicts(shortened={"steps": 600}).values()} == {"not judged: shortened"}
    assert {v for _, v in verdicts(planned=24).values()} == {"not judged: 2 of 24 runs"}
    assert "two cores" in verdicts(threads=3)["longest wall time, seconds"][1]
    assert verdicts(threads=1, processes=2)["longest wall time, seconds"] == (100, "met")


def test_a_group_of_earlier_weights_is_marked(tmp_path):
    runs = {"preset": [run_of("a red mug", 0, 0.9)]}
    groups = {"bars": group_with(runs), "scale": group_with(runs), "views": group_with(runs, prior="b" * 12)}
    text = report_of(tmp_path, groups)
    assert text.count("prior aaaaaaaaaaaa. ") == 2
    assert text.count("prior bbbbbbbbbbbb, **not the weights of the twenty-four toys**. ") == 1


def test_without_figures_the_report_says_so(tmp_path):
    text = report_of(tmp_path, {})
    assert text.count("Not measured yet.") == len(GROUPS) and "R-Precision" in text
    assert not (tmp_path / "evaluation").exists()


def test_committed_report_is_that_of_the_committed_json(tmp_path):
    docs = BENCHES.parent / "docs"
    if not (docs / "evaluation.md").is_file():
        pytest.skip("docs/ is not here")
    subprocess.run([sys.executable, str(BENCHES / "evaluation_report.py"), "-o", str(tmp_path)], check=True)
    assert (tmp_path / "evaluation.md").read_text() == (docs / "evaluation.md").read_text()
    pictures = sorted((tmp_path / "evaluation").glob("*.svg"))
    assert [p.name for p in pictures] == sorted(p.name for p in (docs / "evaluation").glob("*.svg"))
    for picture in pictures:
        committed = docs / "evaluation" / picture.name
        assert committed.stat().st_size <= 300_000
        if picture.name != "ablation.svg" or pinned_matplotlib():
            assert picture.read_text() == committed.read_text()


def test_without_matplotlib_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    runs = {"base": [run_of("a red mug", 0, 0.5)]}
    with pytest.raises(UsageError, match="pip install"):
        report_of(tmp_path, {"paper": group_with(runs)})


def test_the_text_on_the_metrics_has_their_numbers():
    from dreamfusion_ngp.evaluation import pictures
    from dreamfusion_ngp.evaluation.metrics import closed_mesh, faces, silhouettes, surface, topology, volume

    text = {name: definition for name, definition, _, _ in METRICS}
    assert "by {} to {}".format(*volume.SCALES) in text["Volumetric IoU"]
    low, middle, high = (f"{e:.0f}" for e in silhouettes.ELEVATIONS)
    assert f"{low}, {middle} and {high} degrees" in text["Silhouette IoU"]
    assert f"of {closed_mesh.POINTS:,} points" in text["Mesh Chamfer and normals"]
    assert f"the fewest of {topology.BUDGETS[0]:,} triangles" in text["Pieces, genus, faces needed"]
    assert f"of {surface.POINTS} points" in text["Chamfer distance"] and f"{faces.DOUBT:.0%}" == "4%"
    sizes = f"on pictures of {pictures.RESOLUTION} pixels, which the judge sees reduced to its {SIZE}"
    assert sizes in next(limits for name, _, _, limits in METRICS if name == "R-Precision")
    assert f"at {pictures.ELEVATION:.0f} degrees" in text["R-Precision"] and len(pictures.AZIMUTHS) == 8
    assert f"among {len(CLASSES) * len(COLORS)} ({len(CLASSES)} toys in {len(COLORS)} colours)" in text["R-Precision"]


def test_the_processors_time_is_shown_where_all_runs_have_it():
    runs = [run_of("a red mug", 0, 0.5, seconds=80.0, cpu_seconds=40.0), run_of("a red mug", 1, 0.5, seconds=100.0)]
    assert "processor s a run" not in arms_table("paper", group_with({"a": runs}))[0]
    runs[1]["cpu_seconds"] = 50.0
    truth = {"r_precision_color": 1.0, "r_precision_geo": 0.95, "r_precision_albedo": 1.0}
    head, _, row, true = arms_table("paper", group_with({"a": runs}, truth=truth))
    assert head.endswith("| runs | s a run | processor s a run |") and row.endswith("| 2 | 90 | 45 |")
    assert true.count("|") == head.count("|")


def test_threads_are_those_of_the_runs():
    """A run may have been made for another group; one of an older file has what its group says."""
    runs = [run_of("a red mug", 0, 0.5, threads=1, processes=4), run_of("a red mug", 1, 0.5)]
    text = report.origin(group_with({"a": runs}), None)[0]
    assert "threads of a run: 1 or 2, runs at a time: 1 or 4;" in text


def test_handles_and_pieces_are_shown_where_they_were_counted():
    """Older runs have pieces alone: their tables stay as they were."""
    old = group_with({"a": [run_of("a red mug", 0, 0.5, pieces=1)]})
    new = group_with({"a": [run_of("a red mug", 0, 0.5, pieces=1, genus_error=2, faces_needed=4000)]})
    assert "pieces" not in arms_table("mesh", old)[0]
    head, row = arms_table("mesh", new)[0], arms_table("mesh", new)[-1]
    assert "genus off by" in head and "faces needed" in head and "| 2.0 | 4000 |" in row
