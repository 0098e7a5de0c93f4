"""What a page of names may be, and what it says of the names that it covers."""

import random
from collections.abc import Sequence

import pytest

from tests.reliability.history import Answer, OperatorError, Recorder, Seen, Unknown
from tests.reliability.listings import Asked, Lister, Page, misplaced

ASKED = Asked("prod/", 2, "", deleted=False)


@pytest.mark.parametrize("names", [[], ["prod/b"], ["prod/b", "prod/c"]])
def test_names_in_order_are_right(names: list[str]) -> None:
    assert misplaced(Page(names, ""), ASKED, "prod/a") == ""


@pytest.mark.parametrize("names", [["prod/a"], ["prod/c", "prod/b"], ["prod/b", "prod/b"], ["q"], list("qrs")])
def test_names_that_are_not_to_be_there_are_wrong(names: list[str]) -> None:
    assert misplaced(Page(names, ""), ASKED, "prod/a")


async def shown(pages: Sequence[Page | OperatorError | Unknown], names: str) -> list[tuple[str, Answer]]:
    """What a listing that is answered so notes of the names, a character each."""
    recorder, left = Recorder(lambda: 0.0), list(pages)

    async def answer(asked: Asked) -> Page | OperatorError | Unknown:
        return left.pop(0)

    lister = Lister("l", random.Random(1), dict.fromkeys(names, recorder), [answer], [""])
    await lister.run(1, 1e-6, [2])
    assert not left
    return [(one.record, one.answer) for one in recorder.history]


async def test_a_page_says_something_of_each_name_up_to_its_end() -> None:
    found = await shown([Page(["b", "d"], "more"), Page(["e"], "")], "abcdefg")
    assert [record for record, _ in found] == list("abcdefg")
    assert [record for record, answer in found if answer == Seen(True)] == list("bde")


async def test_an_empty_page_says_nothing_until_the_next_one() -> None:
    assert await shown([Page([], "more"), Page(["b"], "")], "ab") == [("a", Seen(False)), ("b", Seen(True))]


async def test_a_lost_page_is_asked_for_again_and_an_error_is_noted() -> None:
    found = await shown([Unknown(), OperatorError("INTERNAL"), Page([], "")], "a")
    assert found == [("a", OperatorError("INTERNAL")), ("a", Seen(False))]


async def test_a_name_on_two_pages_fits_no_model() -> None:
    found = await shown([Page(["a", "b"], "more"), Page(["b"], "")], "ab")
    assert isinstance(found[-1][1], OperatorError)
