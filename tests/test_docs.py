"""The documentation follows the code: links lead somewhere, every decision is listed and says what a decision says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md")) + sorted(ROOT.glob("*.md"))
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}, which is not there"


@pytest.mark.parametrize("decision", DECISIONS, ids=name)
def test_a_decision_has_a_date_a_question_a_measurement_and_an_answer(decision):
    text = decision.read_text(encoding="utf-8")
    number, title = re.match(r"# (\d{4})\. (.+)\n", text).groups()
    assert decision.name.startswith(number + "-")
    places = [text.find(part) for part in ("\nDate: 20", "**Question.**", "**Measurement", "**Answer.**")]
    assert -1 not in places and places == sorted(places), f"{name(decision)}: parts at {places}"
    assert text.count("\n") <= 70, "a decision takes a page"
    line = f"- [{number}]({decision.name}) {title}"
    assert line in (DOCS / "decisions" / "index.md").read_text(encoding="utf-8").splitlines(), f"index.md lacks {line}"


def test_no_number_of_a_decision_is_given_twice():
    numbers = [decision.name[:4] for decision in DECISIONS]
    assert len(numbers) == len(set(numbers)), "two decisions with one number"
