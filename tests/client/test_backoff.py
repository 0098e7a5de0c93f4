"""The waits between attempts are the documented ones, random below a bound that doubles."""

import re

import pytest

from keyvault_client.transport import Backoff
from tests.support.repository import DOCS

DRAWS = 300
"""A bound that is half as high would pass once in 2^300 runs."""


def longest(number: int, remaining: float = 1_000.0, retry_after: float = 0.0) -> float:
    """The longest of many waits before the attempt of this number."""
    waits = []
    for _ in range(DRAWS):
        backoff = Backoff()
        waits += [[backoff.wait(remaining, retry_after) for _ in range(number)][-1] or 0.0]
    assert min(waits) >= retry_after
    return max(waits) - retry_after


def test_the_bounds_are_the_documented_ones() -> None:
    page = " ".join((DOCS / "client.md").read_text().split())
    found = re.search(r"whose bound doubles from ([\d.]+) s to ([\d.]+) s", page)
    assert found
    first, last = map(float, found.groups())
    for number, bound in enumerate([first, 2 * first, 4 * first, 8 * first, last, last], 1):
        assert bound / 2 < longest(number) <= bound


@pytest.mark.parametrize("retry_after", [0.0, 7.0])
def test_the_last_attempt_has_a_tenth_of_a_second(retry_after: float) -> None:
    assert Backoff().wait(retry_after + 0.1, retry_after) is None
    assert longest(1, retry_after + 0.11, retry_after) <= 0.01
    assert 0.1 < longest(1, retry_after + 100, retry_after) <= 0.2
