"""The documentation follows the code: links lead somewhere, every decision is listed and says what a decision says."""

import re
import runpy
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
def test_a_decision_has_a_date_a_question_a_reason_and_an_answer(decision):
    text = decision.read_text(encoding="utf-8")
    number, title = re.match(r"# (\d{4})\. (.+)\n", text).groups()
    assert decision.name.startswith(number + "-")
    places = [text.find(part) for part in ("\nDate: 20", "**Question.**", "**Answer.**")]
    assert -1 not in places and places == sorted(places), f"{name(decision)}: parts at {places}"
    assert "**Measurement" in text or "**Argument.**" in text, f"{name(decision)}: decided by what?"
    assert text.count("\n") <= 70, "a decision takes a page"
    line = f"- [{number}]({decision.name}) {title}"
    assert line in (DOCS / "decisions" / "index.md").read_text(encoding="utf-8").splitlines(), f"index.md lacks {line}"


def test_the_code_of_the_page_about_ops_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "ops.md").read_text(encoding="utf-8"), re.DOTALL)
    scope = {}
    exec(code, scope)
    assert scope["image"].shape == (2, 48, 64, 3) and scope["vertices"].grad.any()


def test_no_number_of_a_decision_is_given_twice():
    numbers = [decision.name[:4] for decision in DECISIONS]
    assert len(numbers) == len(set(numbers)), "two decisions with one number"


def test_the_picture_shows_the_package():
    """Every folder and lone module of the package and no other, and no arrow that the code does not have."""
    scope = runpy.run_path(str(DOCS / "draw_architecture.py"))
    picture = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    again = "; run python docs/draw_architecture.py, after a change of its ROOMS where a folder is new"
    assert set(re.findall(r'<g id="(\w+)"', picture)) == scope["rooms"](), "folders differ" + again
    arrows = set(re.findall(r'<path class="(\w+)-(\w+)"', picture))
    assert arrows and arrows <= {(room, to) for room, targets in scope["imports"]().items() for to in targets}, again


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_layouts_name_every_folder_of_the_package(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:      (\w+)(?:/|\.py)  |\| `(\w+)` \|.*\|.*\|$)", text, re.MULTILINE))
    rooms = runpy.run_path(str(DOCS / "draw_architecture.py"))["rooms"]()
    named = {one or other for one, other in named}
    assert rooms <= named, f"{page} lacks {rooms - named}"
    assert page == "README.md" or named == rooms, f"{page} has {named - rooms}, which are gone"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_keeps_100_columns(page):
    code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.startswith("```")
        prose = not code and not line.startswith(("|", "    ", "- [", "![", "```", "`python "))
        assert len(line) <= (100 if prose else 900), f"{name(page)}:{number} has {len(line)} columns"


def test_the_first_block_of_the_readme_holds_the_two_commands_of_ci():
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    first, second = block.splitlines()
    assert "dreamfusion-ngp generate" in first and "pytest" in second


def test_files_that_pages_name_are_there():
    """Such as `csrc/ops.h` or `guidance/sds.py`, from the root of the repository, of the package or of docs/."""
    rooms = runpy.run_path(str(DOCS / "draw_architecture.py"))["rooms"]()
    tops = "|".join(sorted(rooms | {"csrc", "tests", "benches", "docs", "examples", "dreamfusion_ngp"}))
    pattern = re.compile(rf"(?<![\w/.~-])((?:{tops})/[\w/.]*\.(?:py|h|cu|cuh|cpp|sh|md|json))")
    found = 0
    for page in PAGES:
        prose = re.sub(r"```python.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for path in pattern.findall(prose):
            found += 1
            there = any((root / path).exists() for root in (ROOT, ROOT / "dreamfusion_ngp", DOCS))
            assert there or "NAME" in path, f"{name(page)} names {path}, which is not there"
    assert found > 50
