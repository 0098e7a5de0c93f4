"""What a BatchRead may answer as a whole."""

import pytest

from tests.reliability.history import Answer, Got, OperatorError
from tests.reliability.readers import FULL, REPLY, misfit

E1, NOT_FOUND = Got(1, "e1"), OperatorError("RECORD_NOT_FOUND")


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [([E1, NOT_FOUND], [9, 0]), ([E1, E1], [9, REPLY - 9]), ([E1], [REPLY + 1]), ([E1, FULL, NOT_FOUND], [9, 0, 0])],
)
def test_a_reply_that_fits_is_right(answers: list[Answer], sizes: list[int]) -> None:
    assert misfit(answers, sizes) == ""


@pytest.mark.parametrize(
    ("answers", "sizes", "wrong"),
    [
        ([E1, E1], [9, REPLY], "the reply holds 1048585 bytes of envelopes"),
        ([NOT_FOUND, FULL], [0, 0], "the reply is full and holds no envelope"),
        ([E1, FULL, E1], [9, 0, 9], "an item behind a full reply is in it"),
    ],
)
def test_a_reply_that_does_not_fit_is_wrong(answers: list[Answer], sizes: list[int], wrong: str) -> None:
    assert misfit(answers, sizes) == wrong
