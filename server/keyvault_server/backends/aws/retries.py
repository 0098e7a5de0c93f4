"""When a failed call is sent again, and when no more.

The rules of this file. Only what has no effect is repeated; a write never is. Pauses are random over their whole length
("full jitter"), so that those who failed together do not come back together. A budget keeps an outage from being
multiplied: whatever fails, the repetitions are a tenth of the answered calls, and a few.

Source: AWS Builders' Library "Timeouts, retries, and backoff with jitter"; gRPC proposal A6, "Throttling".
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyvault_server.backends.aws.connections import NotSent
from keyvault_server.core.errors import BackendThrottled, BackendUnavailable

WITHOUT_EFFECT = frozenset(
    {
        "decrypt",
        "describe_key",
        "describe_table",
        "describe_time_to_live",
        "generate_data_key",
        "get_item",
        "re_encrypt",
        "scan",
    }
)
"""Operations of which a second one changes nothing but the bill."""
ATTEMPTS = 3
BUDGET = 20.0
"""Repetitions in store when all is well."""
EARNED = 0.1
"""What an answered call adds to the store."""
PAUSE = 0.05
"""Seconds, at most, before the second attempt; before the third twice as much."""
THROTTLED_PAUSE = 0.25
"""The same after a throttle, which takes its time to pass."""

_T = TypeVar("_T")


class Retries:
    """The repetitions of one client."""

    def __init__(self) -> None:
        self._budget = BUDGET

    async def run(self, operation: str, attempt: Callable[[], Awaitable[_T]], until: float) -> _T:
        """The outcome of the last attempt, none of which begins after `until` (of the loop's clock)."""
        for number in range(1, ATTEMPTS + 1):
            try:
                reply = await attempt()
            except NotSent:
                raise
            except (BackendUnavailable, BackendThrottled) as error:
                pause = _pause(number, error)
                late = asyncio.get_running_loop().time() + pause >= until
                if operation not in WITHOUT_EFFECT or number == ATTEMPTS or late or not self._spend():
                    raise
                await asyncio.sleep(pause)
            else:
                self._budget = min(BUDGET, self._budget + EARNED)
                return reply
        raise AssertionError("the last attempt answers or raises")

    def _spend(self) -> bool:
        if self._budget < 1:
            return False
        self._budget -= 1
        return True


def _pause(number: int, error: Exception) -> float:
    longest = THROTTLED_PAUSE if isinstance(error, BackendThrottled) else PAUSE
    return random.uniform(0, longest * 2 ** (number - 1))  # noqa: S311 - it spreads load and hides nothing
