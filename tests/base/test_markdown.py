"""Tables and paragraphs in Markdown."""

from dreamfusion_ngp.base import markdown


def test_a_table_has_a_rule_that_aligns():
    assert markdown.table(["a", "b"], [["1", "2"]], "lr") == ["| a | b |", "|---|---:|", "| 1 | 2 |"]


def test_paragraphs_are_broken_and_nothing_else():
    row, picture, command = "| " + "x " * 80 + "|", "![" + "y " * 80 + "](z.svg)", "`" + "c " * 80 + "`"
    prose = "Some words\nand " + "more " * 50 + f"then [a link]({'u' * 30}) and `code that stays whole`."
    text = markdown.wrapped("\n\n".join(["# " + "h " * 80, row, picture, command, prose]))
    *kept, broken = text.strip().split("\n\n")
    assert kept == ["# " + "h " * 80, row, picture, command]
    assert max(map(len, broken.splitlines())) <= 100 and " ".join(broken.split()) == " ".join(prose.split())
    assert "`code that stays whole`" in broken and markdown.wrapped(text) == text
