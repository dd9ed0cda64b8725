"""The groups: arms differ in what they claim, and each is a setting that the command line takes."""

import json
import re
from random import Random

import numpy as np
import pytest

from dreamfusion_ngp import cli
from dreamfusion_ngp.cli.experiments import RULE_GROUPS
from dreamfusion_ngp.cli.settings import run_config
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.experiments import task
from dreamfusion_ngp.experiments.arms import arguments, config_of
from dreamfusion_ngp.experiments.groups import DEFAULT, GROUPS, SIX, TWENTY_FOUR
from dreamfusion_ngp.scene.lights import ALBEDO, LAMBERTIAN, TEXTURELESS
from dreamfusion_ngp.toybox.world.captions import parse_prompt, subject
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS, DIRECTIONAL

PAPER = {arm.name: arm for arm in GROUPS["paper"].arms}


def looked_at(arm, prompt="a red mug", parts=100):
    """(captions, shading modes, elevations in degrees, focal lengths) of the views of a run, evenly over its length."""
    from dreamfusion_ngp.guidance.texts import branches
    from dreamfusion_ngp.scene.views import sample_views

    config, random = config_of(arm, prompt, 0), np.random.default_rng(0)
    views = [sample_views(config.camera, config.light, config.views, k / parts, random) for k in range(parts)]
    captions = {text for v in views for text in branches(config.guidance, prompt, v).texts[1].ravel()}
    return (
        captions,
        {int(m) for v in views for m in v.modes},
        np.rad2deg(np.concatenate([v.cameras.elevation for v in views])),
        np.concatenate([v.cameras.focal for v in views]),
    )


def test_the_papers_arms_add_one_thing_each():
    base, views, words, lit, whole = (looked_at(arm) for arm in GROUPS["paper"].arms)
    assert base[0] == views[0] == {"a red mug"}, "one caption, from wherever it is seen"
    assert len(words[0]) > 8 and any("az180" in text for text in words[0])
    assert base[2].min() >= 0 and base[2].max() <= 30 and np.ptp(base[3]) == 0
    assert views[2].max() > 75 and views[2].min() < 0 and np.ptp(views[3]) > 0.2
    assert base[1] == views[1] == words[1] == {ALBEDO}
    assert lit[1] == {ALBEDO, LAMBERTIAN} and whole[1] == {ALBEDO, LAMBERTIAN, TEXTURELESS}
    assert not any("clay" in text for text in lit[0]) and any("clay" in text for text in whole[0])


@pytest.mark.parametrize("name", GROUPS)
def test_every_arm_is_a_setting_of_its_own_that_is_accepted(name):
    configs = [config_of(arm, GROUPS[name].prompts[0], 0) for arm in GROUPS[name].arms]
    for config in configs:
        check_config(config)
    different = {(repr(config), arm.oracle) for config, arm in zip(configs, GROUPS[name].arms, strict=True)}
    assert len(different) == len(configs) == len({arm.name for arm in GROUPS[name].arms})
    pictures = {config.steps * config.views * config.accumulate for config in configs}
    assert len(pictures) == 1 or name in ("limits", "preset", "mesh", *RULE_GROUPS), "arms see equally many pictures"
    assert all(arm.why for arm in GROUPS[name].arms)
    for config, arm in zip(configs, GROUPS[name].arms, strict=True):
        words = arguments(arm, GROUPS[name].prompts[0], 0)
        assert run_config(cli.build_parser().parse_args(words)) == config, "the command that is shown makes the run"


def test_what_the_arms_say_of_the_preset_is_so():
    preset, prior = config_of(DEFAULT, "a red mug", 0), task.PRIOR / "dreamfusion_ngp.json"
    assert preset.views == 4 and preset.camera.stratified_azimuth and preset.guidance.scale is None
    assert json.loads(prior.read_text())["guidance_scale"] == 2.5 and preset.guidance.weighting == "clean"
    assert (preset.guidance.t_range[1], preset.guidance.t_max_end, preset.guidance.t_window) == (0.998, 0.998, 0.16)
    paper = config_of(GROUPS["preset"].arms[0], "a red mug", 0)
    assert paper.preset == "dreamfusion" and paper.field.levels == 16 and paper.steps == preset.steps


def test_an_arm_that_names_a_preset_has_it():
    for group in GROUPS.values():
        for arm in group.arms:
            named = re.search(r"preset `([\w-]+)`", arm.why)
            assert not named or named[1] == arm.preset, (group.title, arm.name)
            assert "as it is" not in arm.why or (arm.steps == 1 and not arm.rule), (group.title, arm.name)


def test_two_views_are_antipodal_and_independent_ones_are_not():
    from dreamfusion_ngp.scene.cameras import sample_cameras

    arms = {arm.name: config_of(arm, "a red mug", 0) for arm in GROUPS["antipodal"].arms}
    for name, opposite in (("2 views", True), ("2 independent", False)):
        gaps = [
            float(np.ptp(sample_cameras(arms[name].camera, 2, np.random.default_rng(s)).azimuth.numpy()))
            for s in range(20)
        ]
        assert all(abs(gap - np.pi) < 1e-5 for gap in gaps) == opposite


def test_the_twenty_four_were_drawn_by_a_fixed_seed():
    random = Random(5)

    def drawn(items):
        return sorted(items, key=lambda _: random.random())

    classes, colors = drawn(CLASSES) + drawn(CLASSES), drawn(COLORS) * 3
    assert tuple(subject(name, color) for name, color in list(zip(classes, colors, strict=False))[:24]) == TWENTY_FOUR
    assert len(set(TWENTY_FOUR)) == 24 and {parse_prompt(p)[0] for p in TWENTY_FOUR} == set(CLASSES)
    assert sum(parse_prompt(p)[0] in DIRECTIONAL for p in SIX) >= 4


def test_the_command_of_a_run_is_what_was_run():
    words = arguments(PAPER["base"], "a red mug", 3, steps=100, resolution=32)
    assert words[:6] == ["generate", "a red mug", "--preset", "fast", "--seed", "3"]
    config = config_of(PAPER["base"], "a red mug", 3, steps=100, resolution=32)
    assert (config.steps, config.render.resolution, config.seed) == (100, 32, 3)
    assert arguments(DEFAULT, "a red mug", 0) == ["generate", "a red mug", "--preset", "fast", "--seed", "0"]
    assert config_of(GROUPS["views"].arms[0], "a red mug", 0, steps=100).steps == 400
