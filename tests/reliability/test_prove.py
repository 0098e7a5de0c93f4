"""The figures find their place in the page."""

import pytest

from tests.reliability.prove import FIGURES, PAGE, NoSuchPlace, filled


@pytest.mark.parametrize("name", FIGURES)
def test_the_page_has_a_place_for_each_figure_and_what_is_there_is_replaced(name: str) -> None:
    page = PAGE.read_text()
    once = filled(page, name, "not linearizable: 0\n")
    assert "\n```text\nnot linearizable: 0\n```\n" in once
    assert filled(once, name, "another") == filled(page, name, "another")
    assert filled(once, name, "another").count("<!-- end -->") == page.count("<!-- end -->")


def test_a_figure_without_a_place_is_refused() -> None:
    with pytest.raises(NoSuchPlace):
        filled(PAGE.read_text(), "no-such", "text")
