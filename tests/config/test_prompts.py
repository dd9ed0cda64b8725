"""View words and the cleaning of prompts."""

import math
import unicodedata

import numpy as np
import pytest

from dreamfusion_ngp.base.characters import MAX_TEXT
from dreamfusion_ngp.base.errors import PromptError
from dreamfusion_ngp.config.prompts import (
    DEGREE_VIEWS,
    VIEW_WORDS,
    blended_view,
    clean_prompt,
    degree_view,
    degree_views,
    fine_view,
    paper_view,
    perp_neg_view,
    view_prompt,
    view_text,
)


def at(view, azimuth_deg, elevation_deg=15.0):
    return view(math.radians(azimuth_deg), math.radians(elevation_deg))


@pytest.mark.parametrize(
    "azimuth, word",
    [
        (0, "front"),
        (44.9, "front"),
        (45.1, "side"),
        (90, "side"),
        (134.9, "side"),
        (135.1, "back"),
        (180, "back"),
        (224.9, "back"),
        (225.1, "side"),
        (270, "side"),
        (314.9, "side"),
        (315.1, "front"),
        (359.9, "front"),
        (360, "front"),
        (-44.9, "front"),
        (-45.1, "side"),
        (-90, "side"),
        (-135.1, "back"),
        (-180, "back"),
        (404.9, "front"),
        (3600 + 180, "back"),
    ],
)
def test_paper_view_is_the_nearest_quadrant(azimuth, word):
    assert at(paper_view, azimuth) == f"{word} view"


@pytest.mark.parametrize("azimuth", range(0, 360, 30))
def test_overhead_begins_above_60_degrees(azimuth):
    assert "overhead" not in at(paper_view, azimuth, 59.99)
    assert at(paper_view, azimuth, 60.01) == at(paper_view, azimuth, 90) == "overhead view"
    assert "overhead" not in at(paper_view, azimuth, -10)
    assert at(fine_view, azimuth, 60.01).endswith("overhead") and at(fine_view, azimuth, 59.99).endswith("high angle")


@pytest.mark.parametrize("turn", [-360, 0, 360, 720])
def test_fine_view_has_eight_directions(turn):
    words = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")
    for i, word in enumerate(words):
        for offset in (-22.4, 0.0, 22.4):
            assert at(fine_view, 45 * i + offset + turn) == f"{word} view, raised angle"


@pytest.mark.parametrize(
    "elevation, height",
    [
        (-10, "low angle"),
        (11.9, "low angle"),
        (12.1, "raised angle"),
        (34.9, "raised angle"),
        (35.1, "high angle"),
        (59.9, "high angle"),
        (60.1, "overhead"),
        (90, "overhead"),
    ],
)
def test_fine_view_has_four_heights(elevation, height):
    assert at(fine_view, 0, elevation) == f"front view, {height}"


@pytest.mark.parametrize("turn", [-360, 0, 360])
@pytest.mark.parametrize("offset", [-7.4, 0.0, 7.4])
def test_degree_view_is_the_nearest_of_24_by_7(turn, offset):
    for a in range(0, 360, 15):
        for e in range(0, 91, 15):
            assert at(degree_view, a + offset + turn, min(e + offset, 90)) == f"az{a} el{e}"
    assert at(degree_view, 30, -10) == at(degree_view, 30, -90) == "az30 el0"


def test_degree_views_are_numbered():
    views = [f"az{a} el{e}" for a in range(0, 360, 15) for e in range(0, 91, 15)]
    random = np.random.default_rng(0)
    azimuth, elevation = random.uniform(-7, 14, 3000), random.uniform(-0.2, math.pi / 2, 3000)
    said = [degree_view(a, e) for a, e in zip(azimuth, elevation, strict=True)]
    assert [views[i] for i in degree_views(azimuth, elevation)] == said and len(views) == DEGREE_VIEWS


def test_fine_view_tells_left_from_right_and_paper_view_does_not():
    assert at(fine_view, 90) != at(fine_view, -90)
    assert at(paper_view, 90) == at(paper_view, -90)
    assert VIEW_WORDS["none"](1.0, 1.0) == ""


def test_view_prompt_joins_what_is_there():
    assert view_prompt("a red mug", "front view", "clay") == "a red mug, front view, clay"
    assert view_prompt("a red mug", "") == "a red mug"
    assert view_prompt("", "front view") == "front view"
    assert view_prompt("", "", "") == ""


@pytest.mark.parametrize(
    "text",
    [
        "../../etc/passwd",
        "a/b\\c:d*e?",
        "C:\\mug",
        "~",
        "$HOME `id`",
        "a mug; rm -rf /",
        "%00",
        "-o",
        "{prompt}",
        "\U0001f600 a mug",
        "\u05e7\u05e2\u05e8\u05d4 \u05d0\u05d3\u05d5\u05de\u05d4",
        "\u0643\u0648\u0628",
        "a \u202emug\u202c",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "x" * MAX_TEXT,
    ],
)
def test_printable_text_stays_as_it_is(text):
    assert clean_prompt(text) == text


def test_white_space_and_composition_are_normalised():
    assert clean_prompt("  a\tred\n\r\n mug\u3000\u00a0") == "a red mug"
    assert clean_prompt("cafe\u0301") == "caf\u00e9" == unicodedata.normalize("NFC", "cafe\u0301")
    assert clean_prompt(clean_prompt("  a   b ")) == "a b"


@pytest.mark.parametrize(
    "text", ["", " ", "\t\n\r", "\u3000\u00a0", "\u200b", "\u200b \u2060\ufeff", "\u202e\u202c", "\u00ad"]
)
def test_nothing_visible_is_an_empty_prompt(text):
    with pytest.raises(PromptError, match="empty.*a red mug"):
        clean_prompt(text)


@pytest.mark.parametrize(
    "text, code",
    [
        ("a\0mug", "U+0000"),
        ("\x1b[31mmug", "U+001B"),
        ("mug\x7f", "U+007F"),
        ("mug \ud800", "U+D800"),
        ("\udfff\ud83d", "U+D83D"),
        ("mug \uffff", "U+FFFF"),
    ],
)
def test_control_and_broken_characters_are_named_not_printed(text, code):
    with pytest.raises(PromptError) as caught:
        clean_prompt(text)
    message = str(caught.value)
    assert code in message and message.isprintable()
    message.encode("utf-8")


def test_a_megabyte_is_refused_in_one_short_line():
    with pytest.raises(PromptError, match="1048576 characters") as caught:
        clean_prompt("x" * 2**20)
    assert len(str(caught.value)) < 200
    with pytest.raises(PromptError, match=str(MAX_TEXT)):
        clean_prompt("\0" * (MAX_TEXT + 1))


@pytest.mark.parametrize(
    "azimuth, start, end, share",
    [
        (0, "front", "side", 1.0),
        (45, "front", "side", 0.5),
        (-60, "front", "side", 1 / 3),
        (89.999, "front", "side", 0),
        (90, "side", "back", 1.0),
        (-135, "side", "back", 0.5),
        (180, "side", "back", 0.0),
        (405, "front", "side", 0.5),
    ],
)
def test_words_are_mixed_by_the_azimuth(azimuth, start, end, share):
    text = at(blended_view, azimuth)
    assert (text.start, text.end) == (f"{start} view", f"{end} view") and not text.against
    assert text.share == pytest.approx(share, abs=1e-4)
    overhead = at(blended_view, azimuth, 61.0)
    assert (overhead.start, overhead.end, overhead.share) == ("overhead view", "overhead view", 1.0)


@pytest.mark.parametrize(
    "azimuth, against",
    [
        (0, {"front view": 0.0, "side view": -1.574}),
        (89.999, {"front view": -1.574, "side view": 0.0}),
        (90, {"side view": 0.0, "front view": -1.574}),
        (180, {"side view": -0.394, "front view": -1.967}),
    ],
)
def test_what_a_view_is_not(azimuth, against):
    text = at(perp_neg_view, azimuth)
    assert dict(text.against) == pytest.approx(against, abs=1e-3)
    assert (text.start, text.end, text.share) == tuple(
        getattr(at(blended_view, azimuth), n) for n in ("start", "end", "share")
    )
    assert [weight for _, weight in at(perp_neg_view, azimuth, 80.0).against] == [0.0, 0.0]


def test_every_kind_of_view_text():
    angle = (math.radians(100), math.radians(10))
    assert view_text("fine", "nearest", *angle) == type(blended_view(*angle))(fine_view(*angle), fine_view(*angle), 1.0)
    assert view_text("paper", "linear", *angle) == blended_view(*angle)
    assert view_text("paper", "perp-neg", *angle) == perp_neg_view(*angle)
