"""When a failed call to AWS is retried, and when not.

The rules of this file. Only an operation without effect is retried, and a write that may be done twice, such as that
of a copy; a conditional write never is. Pauses are random over their whole length ("full jitter"), so that calls that
failed together do not come back together. A budget keeps retries from multiplying an outage: however much fails,
retries are at most one for ten answered calls, and BUDGET more.

Source: AWS Builders' Library "Timeouts, retries, and backoff with jitter"; gRPC proposal A6, "Throttling".
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyvault_server.backends.aws.faults import NotDone
from keyvault_server.core.errors import BackendThrottled, BackendUnavailable

WITHOUT_EFFECT = frozenset(
    {
        "batch_get_item",
        "decrypt",
        "describe_key",
        "describe_table",
        "describe_time_to_live",
        "generate_data_key",
        "get_item",
        "query",
        "re_encrypt",
        "scan",
    }
)
"""Operations that a retry repeats without changing anything but the bill."""
ATTEMPTS = 3
"""Attempts of one call, the first included."""
BUDGET = 20
"""Retries in the budget while nothing fails."""
ANSWERS = 10
"""Answered calls that add one retry to the budget."""
PAUSE = 0.05
"""Longest pause before the second attempt, in seconds; before the third it is twice as long."""
THROTTLED_PAUSE = 0.25
"""Longest pause before the second attempt after a throttle, in seconds: throttling takes time to pass."""

_T = TypeVar("_T")


class Retries:
    """The retries of one client, and their budget."""

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._credit = BUDGET * ANSWERS
        """The budget, counted in answered calls: fractions of a retry would not add up to one."""

    async def run(
        self, operation: str, attempt: Callable[[], Awaitable[_T]], until: float, *, repeatable: bool = False
    ) -> _T:
        """Return or raise the outcome of the last attempt; none begins after `until` (of the loop's clock)."""
        repeatable |= operation in WITHOUT_EFFECT
        for number in range(1, ATTEMPTS + 1):
            try:
                reply = await attempt()
            except NotDone:
                raise
            except (BackendUnavailable, BackendThrottled) as error:
                pause = _pause(number, error)
                late = asyncio.get_running_loop().time() + pause >= until
                if not repeatable or number == ATTEMPTS or late or not self._spend():
                    raise
                await self._sleep(pause)
            else:
                self._credit = min(BUDGET * ANSWERS, self._credit + 1)
                return reply
        raise AssertionError("the last attempt answers or raises")

    def _spend(self) -> bool:
        """Take one retry from the budget; return False if there is none."""
        if self._credit < ANSWERS:
            return False
        self._credit -= ANSWERS
        return True


def _pause(number: int, error: Exception) -> float:
    longest = THROTTLED_PAUSE if isinstance(error, BackendThrottled) else PAUSE
    return random.uniform(0, longest * 2 ** (number - 1))  # noqa: S311 - it spreads load and hides nothing
