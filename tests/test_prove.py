"""`make prove`: what it writes and where, and that it is never silent about what it could not do."""

import re
from pathlib import Path

import pytest

from tests.prove import PAGE, STEPS, CannotProve, Step, main, placed

WORKS = Step("platform", "--terse", "")
FAILS = Step("json.tool", "--no-such-option", "")
MISSING = Step("tests.nowhere.at_all", "", "")
TEXT = "before\n\n<!-- figures: a -->\nold\n<!-- end -->\n\nbetween\n\n<!-- figures: b -->\n<!-- end -->\nafter\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(TEXT)
    return path


def test_figures_go_into_their_place_and_nothing_else_changes() -> None:
    once = placed(TEXT, "a", "1\n2")
    assert once == TEXT.replace("\nold\n", "\n\n```text\n1\n2\n```\n\n")
    assert placed(once, "a", "1\n2") == once
    assert placed(placed(once, "b", "x"), "a", "1\n2") == placed(once, "b", "x")
    assert placed(TEXT, "b", r"\1 and \g<0>").count(r"\1 and \g<0>") == 1


@pytest.mark.process
def test_a_step_is_written_with_its_command_and_where_it_ran(page: Path) -> None:
    assert main(["a"], {"a": WORKS}, page) == 0
    written = page.read_text()
    assert "$ python -m platform --terse\n" in written
    assert re.search(r"\ncommit [0-9a-f]{12}.*, \d{4}-\d\d-\d\d, \d+ cores, Python 3\.[0-9.]+, \w+ .*\n```\n", written)
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written


@pytest.mark.process
def test_the_short_form_writes_nothing(page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--short"], {"a": WORKS, "b": WORKS}, page) == 0
    assert page.read_text() == TEXT
    assert "nothing is written" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ({"a": WORKS, "b": MISSING}, "b needs tests.nowhere.at_all, which is not here"),
        ({"a": WORKS, "c": WORKS}, r"has to have <!-- figures: c -->"),
    ],
)
def test_what_is_missing_is_reported_before_anything_runs(
    page: Path, capfd: pytest.CaptureFixture[str], steps: dict[str, Step], sentence: str
) -> None:
    assert main([], steps, page) == 1
    told = capfd.readouterr()
    assert re.search(sentence, told.err)
    assert told.out == ""
    assert page.read_text() == TEXT


@pytest.mark.process
def test_a_failing_step_ends_it_and_earlier_figures_stay(page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([], {"a": WORKS, "b": FAILS}, page) == 1
    assert "b failed with status 2, and its figures are not written" in capfd.readouterr().err
    assert page.read_text().count("```text") == 1


def test_an_unknown_name_is_refused(page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["c"], {"a": WORKS}, page) == 1
    assert "there is no c: a" in capfd.readouterr().err


def test_the_page_has_places_for_every_step_and_no_other() -> None:
    text = PAGE.read_text()
    for name in STEPS:
        placed(text, name, "")
    assert set(re.findall(r"<!-- figures: (\S+) -->", text)) == set(STEPS)


def test_a_place_that_is_there_twice_is_refused() -> None:
    with pytest.raises(CannotProve, match="once"):
        placed(TEXT + TEXT, "a", "")
