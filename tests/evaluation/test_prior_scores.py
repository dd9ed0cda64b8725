"""Samples of the prior, judged: what is asked for, what counts as right, and the log of a training run."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from support.members import score_and_abort_at_exit

from dreamfusion_ngp.evaluation.azimuths import alike
from dreamfusion_ngp.evaluation.prior import ALL, judge_pictures, judge_prior, sample_requests, summary
from dreamfusion_ngp.evaluation.retrieval import azimuth_captions, toy_captions
from dreamfusion_ngp.experiments import prior_report
from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.loss import TrainPriorConfig
from dreamfusion_ngp.toybox.prior.pixels import PIXEL
from dreamfusion_ngp.toybox.prior.training import train_prior
from dreamfusion_ngp.toybox.world.captions import WORDS, subject
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS, DIRECTIONAL

CAPTIONS = [*toy_captions()[0], *(caption for name in CLASSES for caption in azimuth_captions(name))]
TINY = TrainPriorConfig(images=16, batch=8, chunk=1, views_per_class=2, warmup_images=8, sheet_steps=0)


class Knows:
    """A judge that reads from a picture's first two pixels which captions it retrieves."""

    def images(self, pictures):
        rows = torch.zeros(len(pictures), len(CAPTIONS))
        for row, picture in zip(rows, pictures, strict=True):
            row[picture[0, :2, 0].long()] = 1.0
        return rows

    def texts(self, captions):
        return torch.eye(len(CAPTIONS))[[CAPTIONS.index(caption) for caption in captions]]


def picture(name, color, azimuth):
    """Retrieves these for a `Knows`."""
    shown = CAPTIONS.index(subject(name, color)), CAPTIONS.index(azimuth_captions(name)[azimuth // 15])
    return torch.tensor(shown, dtype=torch.float32).view(1, 2, 1).expand(4, 2, 3)


def test_every_class_is_asked_in_every_colour_from_every_side():
    asked = sample_requests(ALL)
    assert len({(a.name, a.color) for a in asked}) == ALL == 220
    assert all(len({a.azimuth for a in asked if a.name == name}) == 8 for name in CLASSES)
    assert all(len({a.elevation for a in asked if a.name == name}) == 2 for name in CLASSES)
    assert len({(a.name, a.color, a.azimuth) for a in sample_requests(8 * ALL)}) == 8 * ALL
    assert all(word in WORDS for a in asked for word in a.text.replace(",", "").split())


def test_what_counts_as_right():
    asked = sample_requests(ALL)
    right = torch.stack([picture(a.name, a.color, a.azimuth) for a in asked])
    found = summary(judge_pictures(Knows(), right, asked), asked)
    assert found["samples"] == ALL and set(found["classes"]) == set(CLASSES)
    assert all(found[key] == 1.0 for key in ("right", "class", "color", "view"))

    turned = torch.stack([picture(a.name, a.color, (a.azimuth + 45) % 360) for a in asked])
    found = summary(judge_pictures(Knows(), turned, asked), asked)
    assert found["view"] < 0.3 and found["class"] == found["color"] == 1.0
    assert all(found["classes"][name] == (name not in DIRECTIONAL) for name in ("chair", "duck", "torus", "lamp"))
    near = torch.stack([picture(a.name, a.color, (a.azimuth + 330) % 360) for a in asked])
    assert summary(judge_pictures(Knows(), near, asked), asked)["right"] == 1.0

    names, colors = CLASSES[1:] + CLASSES[:1], list(COLORS)
    other = torch.stack([picture(names[CLASSES.index(a.name)], a.color, a.azimuth) for a in asked])
    found = summary(judge_pictures(Knows(), other, asked), asked)
    assert found["class"] == found["right"] == 0.0 and found["color"] == 1.0
    faded = torch.stack([picture(a.name, colors[colors.index(a.color) - 1], a.azimuth) for a in asked])
    found = summary(judge_pictures(Knows(), faded, asked), asked)
    assert found["color"] == found["right"] == 0.0 and found["class"] == 1.0


def test_sides_that_look_alike():
    for name in ("mug", "chair", "duck", "airplane"):
        assert torch.equal(alike(name).sum(1), torch.full((24,), 5)), "30 degrees to both sides"
        assert not alike(name)[0, 12]
    assert alike("table")[6, 18] and not alike("table")[0, 6]
    assert alike("house")[6, 18] and not alike("house")[0, 12]
    assert alike("snowman").float().mean() > 0.9, "a nose is small"


@pytest.mark.slow
def test_a_training_run_logs_its_scores_and_goes_on_from_them(tmp_path):
    """What the end of its processes does costs no training that is through."""
    out = tmp_path / "prior"
    train_prior(PIXEL, TINY, out, score=lambda prior: pytest.fail("too short to be scored"))
    assert read_log(out)["scores"] == []
    often = replace(TINY, save_every=0.0, score_every=0.0)
    train_prior(PIXEL, often, out, resume=out, score=score_and_abort_at_exit, processes=2)
    scores = read_log(out)["scores"]
    assert [s["images"] for s in scores] == [32, 32] and all(s["right"] == 0.5 for s in scores)
    train_prior(PIXEL, TINY, out, resume=out)
    assert read_log(out)["scores"] == scores and json.loads((out / "training.json").read_text())["images"] == 48


def test_samples_of_an_untrained_prior_are_seldom_right(tmp_path):
    from dreamfusion_ngp.toybox.prior.model import build_prior

    torch.manual_seed(0)
    found = judge_prior(build_prior(0), Knows(), samples=4, steps=1)
    assert found["samples"] == 4 and found["right"] <= 0.25 and (found["scale"], found["steps"]) == (4.0, 1)


def test_the_report_on_the_embedded_prior(tmp_path):
    prior_report.main(["--samples", "20", "--steps", "1", "--scales", "1", "2.5", "-o", str(tmp_path)])
    text = (tmp_path / "prior.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| true pictures | 20", "| scale "))]
    assert len(rows) == 3 and "| scale 2.5 | 20 |" in rows[2]
    measured = json.loads((tmp_path / "prior.json").read_text())
    assert measured["truth"]["right"] > 0.6 and {len(s["classes"]) for s in measured["scales"]} == {20}
    best = max(measured["scales"], key=lambda s: s["right"])
    wrong = round(20 * (1 - best["right"]))
    with Image.open(tmp_path / "wrong.jpg") as sheet:
        assert wrong and sheet.height == -(-wrong // prior_report.COLUMNS) * prior_report.CELL[1]
    assert f"wrong at scale {best['scale']:g}" in text and "(wrong.jpg)" in text
    assert f"{measured['images']:,}" in text and ElementTree.parse(tmp_path / "loss.svg")

    log = {
        "loss": [[100, 0.5], [1000, 0.1]],
        "scores": [{"images": n, "right": 0.1, "class": 0.2, "color": 0.3, "view": 0.4} for n in (100, 1000)],
    }
    prior_report.report(measured, log, tmp_path)
    assert "scores.svg" in (tmp_path / "prior.md").read_text() and ElementTree.parse(tmp_path / "scores.svg")
