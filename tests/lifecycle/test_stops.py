"""SIGTERM under load, eight times: no accepted call fails, and no other is done."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle.stops import Client, Outcome, compared, cycle

STOPS = 8
MEANT = 32 * STOPS
"""Accepted calls that show it. A machine that is busy gets fewer into each stop, and then it takes more stops."""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_stop_under_load_fails_no_accepted_call(tmp_path: Path) -> None:
    """It does no other call."""
    total = Outcome()
    for seed in range(4 * STOPS):
        total += await cycle(tmp_path, seed)
        if seed + 1 >= STOPS and total.accepted > MEANT:
            break
    assert total.wrong == []
    assert total.accepted > MEANT
    assert set(total.refused) <= {"UNAVAILABLE", "CANCELLED"}


@pytest.mark.parametrize(
    ("began", "answer", "good"),
    [
        ("OK", "OK", True),
        ("NOT_FOUND", "NOT_FOUND", True),
        (None, "UNAVAILABLE", True),
        (None, "CANCELLED", True),
        ("OK", "UNAVAILABLE", False),
        ("CANCELLED", "CANCELLED", False),
        ("UNAVAILABLE", "UNAVAILABLE", False),
        (None, "OK", False),
        (None, "INTERNAL", False),
    ],
)
def test_a_call_is_done_and_answered_or_neither(began: str | None, answer: str, good: bool) -> None:
    nobody: Any = None
    client = Client(nobody, "s/1/1", nobody, random.Random(1), {"id": answer})
    assert (compared([client], {"id": began} if began else {}).wrong == []) is good
