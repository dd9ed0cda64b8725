"""The page of distillation rules: how different results are, what is run, what the page says."""

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.experiment_records import group_with, run_of
from support.known_denoiser import KnownDenoiser

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.cli.experiments import RULE_GROUPS as CLI_GROUPS
from dreamfusion_ngp.config.rules import RULES as KNOWN_RULES
from dreamfusion_ngp.evaluation.figures import DEFINITIONS
from dreamfusion_ngp.experiments import rules_page
from dreamfusion_ngp.experiments.arms import EVALUATIONS, config_of, evaluations
from dreamfusion_ngp.experiments.diversity import by_prompt, diversity
from dreamfusion_ngp.experiments.groups import GROUPS
from dreamfusion_ngp.experiments.pool import Runner
from dreamfusion_ngp.experiments.results import diversity_of
from dreamfusion_ngp.experiments.rules_page import RULE_GROUPS, compare_rules, write_page
from dreamfusion_ngp.experiments.tables import arms_table
from dreamfusion_ngp.guidance.moment import Moment
from dreamfusion_ngp.guidance.rules import FUNCTIONS
from dreamfusion_ngp.guidance.schedule import sample_timesteps


def address(value, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_diversity_is_the_mean_distance_of_pairs():
    assert diversity([address(0), address(51)]) == pytest.approx(0.2)
    assert diversity([address(0), address(51), address(255)]) == pytest.approx((0.2 + 1.0 + 0.8) / 3)
    assert diversity([address(7)] * 3) == 0 and diversity([address(7)]) is None and diversity([]) is None
    assert diversity([address(0, "JPEG"), address(51, "JPEG")]) == pytest.approx(0.2, abs=0.01)


def test_what_is_not_here_keeps_its_figure():
    found = by_prompt({"a": [address(0), address(51)], "b": [address(0)]}, {"a": 0.5, "b": 0.25, "c": 0.125})
    assert found == {"a": 0.2, "b": 0.25, "c": 0.125}


def test_a_diversity_is_of_the_runs_in_the_table():
    """From the pictures where all runs of a prompt have theirs, else as it was, if it was of the same runs."""
    runs = [{"prompt": prompt, "key": f"{prompt}{seed}"} for prompt in "abc" for seed in (0, 1)]
    before = {
        "runs": [*runs[:4], {"prompt": "c", "key": "of other weights"}],
        "diversity": {"a": 0.5, "b": 0.5, "c": 0.5},
    }
    pictures = {"a0": address(0), "a1": address(51), "b0": address(0), "c0": address(0)}
    assert diversity_of(runs, pictures, before) == {"a": 0.2, "b": 0.5}
    assert diversity_of(runs, pictures | {"c1": ""}, None) == {"a": 0.2}, "a run without a result has no picture"


def test_a_table_has_the_diversity_of_its_own_runs():
    runs = [run_of(prompt, seed, 0.5) for prompt in ("a red mug", "a blue boat", "a cyan cube") for seed in (0, 1)]
    group = group_with({"preset": runs, "csd": runs[:3]})
    group["arms"][0]["diversity"] = {"a red mug": 0.25, "a blue boat": 0.75, "a cyan cube": 0.75}
    table = arms_table("rules", group)
    assert "| 0.250 |" in table[2], "the boat has another run, the cube no partner"


def test_the_groups_are_every_rule_that_the_embedded_priors_can_have():
    assert RULE_GROUPS == CLI_GROUPS and set(RULE_GROUPS) <= set(GROUPS)
    no_words = {"linear", "nfsd", "bridge", "rfds", "rfds_rev"}
    for name in ("rules", "rules-long", "rules-256"):
        configs = [config_of(arm, "a red mug", 0) for arm in GROUPS[name].arms]
        assert {config.guidance.rule for config in configs} == set(KNOWN_RULES) - no_words
        model = "toybox-256" if name == "rules-256" else "toybox"
        assert {config.guidance.model for config in configs} == {model}
    once, long = ([config_of(arm, "a red mug", 0).steps for arm in GROUPS[n].arms] for n in ("rules", "rules-long"))
    assert long == pytest.approx([3 * steps for steps in once], abs=2)


@pytest.mark.parametrize("name", RULE_GROUPS)
def test_the_arms_of_a_group_spend_alike(name):
    spent = [evaluations(config_of(arm, "a red mug", 0)) for arm in GROUPS[name].arms]
    assert spent == pytest.approx([spent[0]] * len(spent), rel=0.01), "to within a step"


def test_a_rules_evaluations_are_counted_as_it_makes_them():
    """On the noise levels of the presets, by a denoiser that keeps count; of vsd, whose lesson is no such call, two."""
    for group in ("rules", "rules-256"):
        for arm in GROUPS[group].arms:
            config = config_of(arm, "a red mug", 0)
            if config.guidance.rule == "vsd":
                continue
            denoiser, n = KnownDenoiser(), config.views
            t = sample_timesteps(config.guidance, np.random.default_rng(0).random((2, n)), 0.5, 1000)
            x, moment = torch.zeros(n, 2, 4, 4, dtype=torch.float64), Moment(0, 0, 0.5, n)
            views: Any = range(n)  # of which that denoiser hears nothing
            settings = replace(config.guidance, scale=2.5)
            FUNCTIONS[config.guidance.rule](denoiser, x, x + 1, t, views, settings, moment)
            assert sum(len(texts) for texts, _ in denoiser.told) == EVALUATIONS[config.guidance.rule], arm.name


def test_the_claim_of_vsd_is_looked_at_at_its_scale():
    at = {arm.name: config_of(arm, "a red mug", 0).guidance for arm in GROUPS["rules-scale"].arms}
    assert {(g.rule, g.scale) for g in at.values()} == {("sds", None)} | {(r, 7.5) for r in ("sds", "x0", "asd", "vsd")}


def results(tmp_path, **more):
    arms = {
        "preset": [run_of("a red mug", s, 0.8, chroma=1.0, r_precision_geo=1.0) for s in (0, 1)],
        "csd": [run_of("a red mug", s, 0.5 + 0.1 * s, chroma=1.5, r_precision_geo=0.5) for s in (0, 1)],
    }
    group = group_with(arms, title="Distillation rules", **more)
    group["arms"][1]["diversity"] = {"a red mug": 0.25}
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": {"rules": group}}))
    return path


def test_the_page_has_tables_plots_and_what_is_not_measured(tmp_path):
    lines = write_page(results(tmp_path), tmp_path / "page")
    text, page = ((tmp_path / "page" / name).read_text() for name in ("rules.md", "index.html"))
    (row,) = [line for line in lines if line.startswith("| csd")]
    assert "0.55 ± 0.07" in row and "0.250" in row and "1.50 ± 0.00" in row and "-0.250" in row
    assert "| 0.100 ± 0.000 |" in row and "| 9,600 |" in row, "colour error and evaluations"
    assert text.count("Not measured yet.") == 3 and page.count("<svg") == 1 and page.count("<table>") == 1
    assert "0.55 ± 0.07" in page and "| -0.250 ± 0.050 |" in row, "a standard deviation and a standard error"
    assert all("standard deviation" in " ".join(t.split()) and "standard error" in t for t in (text, page))
    assert "diversity" in page and all(GROUPS[name].title in page for name in RULE_GROUPS)


def test_the_verb_makes_the_runs_and_the_page(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(rules_page, "ablate", lambda args: asked.append(args) or 0)
    words = ["experiments", "rules", "-o", str(tmp_path), "--prompts", "2", "--seeds", "1", "--groups", "rules"]
    assert compare_rules(cli.build_parser().parse_args(words)) == 0
    (args,) = asked
    assert (args.only, args.prompts, args.seeds, args.steps, args.threads) == (["rules"], 2, 1, None, 1)
    assert args.out == tmp_path / "rules.json" and args.runs == tmp_path / "runs"
    assert (tmp_path / "index.html").is_file(), "nothing was measured, which the page says"


def test_pictures_of_finished_runs_become_a_diversity_and_a_page(tmp_path, monkeypatch):
    """From the command line to the page, with records of runs in the place of runs."""

    def leave(runner, todo, total):
        for task, value in zip(todo, (0, 51), strict=True):
            machine = {"gpu": "", "machine": "2 cores", "simd": "plain", "versions": {"torch": "2"}, "commit": ""}
            judge = {"name": "toybox judge", "held_out": None, "images": 1, **runner.judge}
            figures = {"volumetric_iou": 0.5, "silhouette_iou": 0.9}
            record = {"judge": judge, "definitions": DEFINITIONS, "machine": machine, "truth": None, "figures": figures}
            record |= {"seconds": 100.0, "failed": "", "picture": address(value)}
            task.folder(runner.args.runs).mkdir(parents=True)
            (task.folder(runner.args.runs) / "run.json").write_text(json.dumps(record))
        runner.after()
        return True

    group = GROUPS["rules"]
    monkeypatch.setitem(GROUPS, "rules", replace(group, arms=group.arms[2:3]))
    monkeypatch.setattr(Runner, "make_all", leave)
    words = ["experiments", "rules", "-o", str(tmp_path), "--groups", "rules", "--prompts", "1", "--seeds", "2"]
    assert cli.main([*words, "--steps", "2"]) == 0
    (arm,) = json.loads((tmp_path / "rules.json").read_text())["groups"]["rules"]["arms"]
    assert arm["name"] == "csd" and len(arm["runs"]) == 2 and arm["diversity"] == {"a red mug": 0.2}
    assert "csd" in (tmp_path / "rules.md").read_text()


@pytest.mark.parametrize("words", [("--seeds", "0"), ("--steps", "0"), ("--processes", "-1"), ("--hours", "nan")])
def test_numbers_that_cannot_be_are_one_line(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(rules_page, "ablate", lambda _: pytest.fail("runs were made"))
    assert cli.main(["experiments", "rules", "-o", str(tmp_path / "rules"), *words]) == UsageError.exit_code
    assert f"error: {words[0]} must be at least" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"groups": 1}', '{"groups": {"rules": {"arms": [{"runs": [1]}]}}}'])
def test_results_that_are_damaged_are_one_line(tmp_path, capsys, monkeypatch, text):
    monkeypatch.setattr(Runner, "make_all", lambda *_: pytest.fail("runs were made"))
    (tmp_path / "rules.json").write_text(text)
    assert cli.main(["experiments", "rules", "-o", str(tmp_path)]) == UsageError.exit_code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{tmp_path / 'rules.json'} is damaged or no file of results" in err
