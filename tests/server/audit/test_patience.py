"""How long a line may wait for its turn, in virtual time."""

import asyncio
from typing import Any

import pytest

from keyvault_server.audit.patience import LOOK_SECONDS, Patience
from keyvault_server.core.errors import AuditUnavailable
from tests.reliability.virtual_time import run

SECONDS = 10.0


def test_a_line_that_waits_too_long_is_refused() -> None:
    """At most a look late, whatever waits before and after it; what is answered is not."""

    async def main() -> None:
        patience, loop = Patience(SECONDS), asyncio.get_running_loop()
        answered: asyncio.Future[int] = loop.create_future()
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(patience.wait(answered))]
        began, ended = [], []

        async def wait() -> None:
            began.append(loop.time())
            with pytest.raises(AuditUnavailable):
                await patience.wait(loop.create_future())
            ended.append(loop.time())

        for _ in range(5):
            waits.append(asyncio.create_task(wait()))
            await asyncio.sleep(0.7)
        answered.set_result(7)
        assert (await asyncio.gather(*waits))[0] == 7
        late = [end - begin - SECONDS for begin, end in zip(began, ended, strict=True)]
        assert all(-0.001 <= one <= LOOK_SECONDS for one in late)
        await asyncio.sleep(LOOK_SECONDS)
        assert patience._look is None, "nothing waits, so nothing looks"

    run(main())


def test_a_wait_that_is_cancelled_is_forgotten() -> None:
    async def main() -> None:
        patience = Patience(SECONDS)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(patience.wait(answer))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(2 * SECONDS)
        assert answer.cancelled()
        assert not patience._since

    run(main())
