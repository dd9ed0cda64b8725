"""Captions: what they name and how often, and prompts read back."""

import itertools
import math

import numpy as np
import pytest

from dreamfusion_ngp.base.errors import PromptError
from dreamfusion_ngp.config.presets import PRESETS, preset
from dreamfusion_ngp.config.prompts import MODE_WORDS, VIEW_WORDS, view_prompt
from dreamfusion_ngp.scene.lights import ALBEDO, LAMBERTIAN, TEXTURELESS
from dreamfusion_ngp.toybox.world import captions
from dreamfusion_ngp.toybox.world.captions import WORDS, caption, parse_prompt, subject
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS

N = 8000


def words(text):
    return text.replace(",", " ").split()


def draw(mode, n=N, seed=0, azimuth=math.pi / 2, elevation=0.4, framed=True):
    random = np.random.default_rng(seed)
    return [caption("mug", "red", azimuth, elevation, mode, random, framed) for _ in range(n)]


def share(found, total=N):
    return sum(found) / total


def close(measured, expected, n=N):
    """Within 4 standard errors of a share counted n times: one right caption in 16,000 seeds would fail."""
    return abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_the_vocabulary_has_no_word_twice():
    assert len(set(WORDS)) == len(WORDS)
    assert set(CLASSES) <= set(WORDS) and set(COLORS) <= set(WORDS)
    assert all(word == word.lower() and word.isalnum() for word in WORDS)


def test_every_caption_is_made_of_known_words():
    """All classes, colours, modes and view words of config/prompts.py, with every combination of dropped parts."""
    angles = [(math.radians(a), math.radians(e)) for a in range(0, 360, 15) for e in (-10, 5, 20, 45, 75, 90)]
    said = {view(a, e) for view in VIEW_WORDS.values() for a, e in angles} | set(MODE_WORDS)
    assert {word for text in said for word in words(text)} <= set(WORDS)
    for name, color in itertools.product(CLASSES, (*COLORS, "")):
        assert set(words(subject(name, color))) <= set(WORDS)
    random = np.random.default_rng(0)
    for name, color, mode in itertools.product(CLASSES, COLORS, (ALBEDO, LAMBERTIAN, TEXTURELESS)):
        a, e = angles[random.integers(len(angles))]
        assert set(words(caption(name, color, a, e, mode, random))) <= set(WORDS)


def test_the_prompts_of_every_preset_are_made_of_known_words():
    """What the embedded prior is asked for: a toy, and view and mode as the preset words them."""
    for name, azimuth, elevation in itertools.product(PRESETS, range(0, 360, 5), range(-10, 91, 5)):
        guidance = preset(name).guidance
        view = VIEW_WORDS[guidance.view_words](math.radians(azimuth), math.radians(elevation))
        for mode in MODE_WORDS if guidance.mode_words else [""]:
            assert set(words(view_prompt("a red mug", view, mode))) <= set(WORDS), (name, azimuth, elevation)


@pytest.mark.parametrize(
    "name, color, expected",
    [
        ("mug", "red", "a red mug"),
        ("torus", "orange", "an orange torus"),
        ("mug", "", "a mug"),
        ("airplane", "", "an airplane"),
        ("airplane", "blue", "a blue airplane"),
    ],
)
def test_subject(name, color, expected):
    assert subject(name, color) == expected


@pytest.mark.parametrize("mode", (ALBEDO, LAMBERTIAN, TEXTURELESS))
def test_dropout_leaves_enough_of_everything(mode):
    """The unconditional branch is trained (guidance needs it), and every part is named in most captions."""
    texts = draw(mode)
    assert 0.05 < share(t == "" for t in texts) < 0.2
    for part in ("mug", "red"):
        assert 0.5 < share(part in t for t in texts) < 0.95, part
    assert 0.5 < share("view" in t or "az90" in t for t in texts) < 0.9


@pytest.mark.parametrize("mode", (ALBEDO, LAMBERTIAN, TEXTURELESS))
def test_dropout_rates(mode):
    texts = draw(mode)
    said = [t for t in texts if t]
    n = len(said)
    # No caption at all, and one whose every part is dropped: nothing is left of it either.
    all_dropped = captions.P_NO_SUBJECT * captions.P_NO_VIEW * captions.P_NO_MODE
    empty = captions.P_EMPTY + (1 - captions.P_EMPTY) * all_dropped
    assert close(share(t == "" for t in texts), empty)

    def among_said(p):  # given that the caption is not empty
        return p * (1 - captions.P_EMPTY) / (1 - empty)

    with_subject = [t for t in said if "mug" in t]
    assert close(share(("mug" in t for t in said), n), among_said(1 - captions.P_NO_SUBJECT), n)
    with_view = [t for t in said if "view" in t or "az90 el30" in t]
    assert close(len(with_view) / n, among_said(1 - captions.P_NO_VIEW), n)
    no_color = captions.P_NO_COLOR_IF_CLAY if mode == TEXTURELESS else captions.P_NO_COLOR
    assert close(share(("red" not in t for t in with_subject), len(with_subject)), no_color, len(with_subject))
    assert close(share(("photo" in t for t in with_subject), len(with_subject)), captions.P_PHOTO, len(with_subject))
    for t in with_view:
        assert ("az90" in t) + ("right side view, raised angle" in t) + ("view" in t and "right" not in t) == 1, t
    degrees, paper = ("az90" in t for t in with_view), ("view" in t and "right" not in t for t in with_view)
    assert close(share(degrees, len(with_view)), captions.P_DEGREES, len(with_view))
    assert close(share(paper, len(with_view)), captions.P_PAPER_VIEW, len(with_view))


def test_degrees_are_for_framed_cameras():
    with_view = [t for t in draw(ALBEDO, framed=False) if "view" in t]
    assert not any("az90" in t for t in draw(ALBEDO, framed=False))
    paper = captions.P_PAPER_VIEW / (1 - captions.P_DEGREES)
    assert close(share(("angle" not in t for t in with_view), len(with_view)), paper, len(with_view))


@pytest.mark.parametrize("mode, word", [(ALBEDO, "flat colors"), (TEXTURELESS, "clay")])
def test_mode_words(mode, word):
    said = [t for t in draw(mode) if "mug" in t]
    assert close(share((word in t for t in said), len(said)), 1 - captions.P_NO_MODE, len(said))
    others = {"flat colors", "clay"} - {word}
    assert not any(other in t for t in said for other in others)
    assert not any("flat" in t or "clay" in t for t in draw(LAMBERTIAN))


def test_captions_read_like_prompts_with_view_words():
    texts = set(draw(TEXTURELESS))
    assert "a red mug, az90 el30, clay" in texts and "az90 el30" in texts
    assert "a red mug, right side view, raised angle, clay" in texts
    assert "a red mug, side view" in texts and "a mug" in texts and "right side view, raised angle" in texts
    assert "a photo of a red mug, right side view, raised angle" in texts


def test_whole_captions_leave_nothing_out():
    random = np.random.default_rng(0)
    for mode, end in ((ALBEDO, ", flat colors"), (LAMBERTIAN, ", lit"), (TEXTURELESS, ", clay")):
        texts = {caption("mug", "red", np.pi / 2, 0.3, mode, random, whole=True) for _ in range(30)}
        assert texts == {f"a red mug, az90 el15{end}"}


def test_every_caption_takes_the_same_number_of_draws():
    for mode, seed in itertools.product((ALBEDO, LAMBERTIAN, TEXTURELESS), range(20)):
        a, b = np.random.default_rng(seed), np.random.default_rng(seed)
        caption("mug", "red", 0.0, 0.0, mode, a)
        b.random(7)
        assert a.random() == b.random()


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a red mug", ("mug", "red")),
        ("red mug", ("mug", "red")),
        ("mug", ("mug", "")),
        ("A RED MUG.", ("mug", "red")),
        ("an orange torus", ("torus", "orange")),
        ("a photo of a yellow chair", ("chair", "yellow")),
        ("mug, red!", ("mug", "red")),
        ("a dslr photo of the purple house", ("house", "purple")),
        ("a red mug, front view, clay", ("mug", "red")),
        ("3d render of a toy airplane", ("airplane", "")),
        ("a grey mug", ("mug", "gray")),
        ("A GREY-MUG?", ("mug", "gray")),
        ("\u201ca red mug\u201d", ("mug", "red")),
        ("\u00abred mug\u00bb", ("mug", "red")),
        ("'the red mug'", ("mug", "red")),
        ("a red\u2011mug", ("mug", "red")),
        ("a red\u2013mug \u2014 front view", ("mug", "red")),
        ("a red\u200b mug\ufeff", ("mug", "red")),
        ("a\u200bred\u200bmug", ("mug", "red")),
        ("a red\u00a0m\u00adug", ("mug", "red")),
        ("\uff41 \uff52\uff45\uff44 mug\u3002", ("mug", "red")),
        ("an aeroplane", ("airplane", "")),
    ],
)
def test_good_prompts(prompt, expected):
    assert parse_prompt(prompt) == expected


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_and_colour_is_understood(name):
    for color in (*COLORS, ""):
        assert parse_prompt(subject(name, color)) == (name, color)


@pytest.mark.parametrize(
    "prompt, complaint",
    [
        ("a red dragon", "'dragon'"),
        ("a crimson mug", "'crimson'"),
        ("a corgi riding a bike", "'corgi'"),
        ("a mug and a chair", "'and'"),
        ("a mug chair", "one object"),
        ("a red", "one object"),
        ("", "one object"),
        ("a red blue mug", "at most one colour"),
        ("../../mug", "'/mug'"),
        ("mug\0", "mug"),
        ("mugchair", "'mugchair'"),
        ("\u202ered mug", "red"),
        ("\U0001f600", "\U0001f600"),
        ("mug" * 700, "mug"),
        ("red mug " * 200, "one object"),
    ],
)
def test_bad_prompts_say_what_is_known(prompt, complaint):
    with pytest.raises(PromptError) as caught:
        parse_prompt(prompt)
    message = str(caught.value)
    assert complaint in message and "mug" in message and "purple" in message and "diffusers" in message
    assert len(message) < 700 and "\n" not in message and "\0" not in message
