"""docs/performance.md has a place for everything that `make benchmark` writes."""

import re
from collections import Counter

import pytest

from benchmarks.generator import Round
from benchmarks.report import PAGE, PLOTS, Measured, Section, block, marks, written
from benchmarks.rivals import Generator, Rounds
from benchmarks.sections import SECTIONS

BY_NAME = {section.name: section for section in SECTIONS}


def block_of(page: str, name: str) -> str:
    """What stands between a section's marks."""
    begin, end = marks(name)
    return page.partition(begin)[2].partition(end)[0]


def test_the_page_has_each_section_once_and_no_other() -> None:
    begins, ends = (
        re.findall(rf"^<!-- {word} (\w+) -->$", PAGE.read_text(), re.MULTILINE) for word in ("benchmark", "end of")
    )
    assert begins == ends == [section.name for section in SECTIONS]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_the_page_has_every_title_that_is_written(section: Section) -> None:
    table = [line for line in block_of(PAGE.read_text(), section.name).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == list(section.columns)
    assert [row[0] for row in cells[2:]] == list(section.rows)
    assert {len(row) for row in cells} == {len(section.columns)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_the_page_says_commit_and_machine_of_each_table(section: Section) -> None:
    assert re.search(
        r"^Commit [0-9a-f]{7,}.*; \d+ cores of .+; Linux .+", block_of(PAGE.read_text(), section.name), re.MULTILINE
    )


def test_every_plot_of_the_page_is_next_to_it() -> None:
    for section in SECTIONS:
        for name, text in section.plots:
            assert f"![{text}]({PLOTS}/{name})" in block_of(PAGE.read_text(), section.name)
            assert (PAGE.parent / PLOTS / name).read_text().startswith("<svg ")


def test_a_section_is_replaced_and_the_prose_stays() -> None:
    before = "Prose.\n\n<!-- benchmark calls -->\n\nold\n\n<!-- end of calls -->\n\nMore.\n"
    after = "Prose.\n\n<!-- benchmark calls -->\n\nnew\n\n<!-- end of calls -->\n\nMore.\n"
    assert written(before, "calls", "new") == after
    assert written(after, "calls", "new") == after


def test_a_page_without_a_section_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- benchmark calls -->"):
        written("Prose.\n<!-- end of calls -->\n", "calls", "new")


def test_what_was_not_measured_has_a_row_without_figures() -> None:
    text = block(BY_NAME["commands"], Measured({"`keyvault read`": ["9.9", "8.8", "7.7"]}, ["No bao."]), "Commit abc.")
    assert re.search(r"\| `keyvault read` +\| +9\.9 \| +8\.8 \| +7\.7 \|\n", text)
    assert re.search(r"\| `bao kv get` +\| +- \| +- \| +- \|\n", text)
    assert text.endswith("\n\nNo bao.<br>\nCommit abc.")


def test_a_busy_load_generator_is_named_as_the_limit() -> None:
    did = {"`keyvault read`": Generator(0.30, 0.81), "`bao kv get`": Generator(0.20, 0.80, late_seconds=0.0123)}
    measured = Measured(generator=did)
    text = block(BY_NAME["commands"], measured, "Commit abc.")
    assert "took at most 30% of its core, 81% with its waits for the core, and was up to 12 ms late" in text
    assert "here of `keyvault read`.<br>" in text


def test_calls_that_failed_are_named() -> None:
    measured = Measured()
    measured.note("`keyvault read`", Rounds([Round(statuses=Counter({0: 90, 14: 10}))]))
    measured.note("`bao kv get`", Rounds([Round(statuses=Counter({200: 9}), expected=200)]))
    text = block(BY_NAME["commands"], measured, "Commit abc.")
    assert "Calls that failed, and are in no figure: 10.0% of `keyvault read`.<br>" in text
