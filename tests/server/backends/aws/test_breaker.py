"""The breaker: only a few calls wait for a backend that stopped responding; every call asks one that fails at once."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from keyvault_server.backends.aws.breaker import SILENCES
from keyvault_server.core.errors import BackendUnavailable
from tests.server.backends.aws.conftest import Line, OpenLine
from tests.server.backends.aws.fault_proxy import FAULTS, Fault, Loss

pytestmark = pytest.mark.slow

TENANT = "acme"
BLACK_HOLE = FAULTS["black hole before the effect"]
FAILING = {name: fault for name, fault in FAULTS.items() if fault.answer not in (None, Loss.SILENCE)}


@pytest.fixture
async def line(open_line: OpenLine) -> AsyncIterator[Line]:
    """A Line whose attempts time out soon."""
    async with open_line(call_timeout=2.5, max_connections=2 * SILENCES) as opened:
        yield opened


@pytest.fixture
async def patient(open_line: OpenLine) -> AsyncIterator[Line]:
    """A Line whose attempts time out so late that no busy machine makes them."""
    async with open_line(call_timeout=20.0, max_connections=2 * SILENCES) as opened:
        yield opened


async def ask(line: Line, times: int) -> list[BaseException | None]:
    """Ask KMS for so many data keys at the same time; return what went wrong with each."""
    calls = (line.keys.generate(TENANT, "prod/") for _ in range(times))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [outcome if isinstance(outcome, BaseException) else None for outcome in outcomes]


async def fall_silent(line: Line) -> None:
    line.kms.break_with(BLACK_HOLE)
    await ask(line, 2 * SILENCES)
    line.kms.requests.clear()


async def test_a_hanging_backend_is_probed_and_nobody_waits_for_it(line: Line) -> None:
    """Now and then one call asks it."""
    await fall_silent(line)
    for _ in range(20):
        assert all(isinstance(outcome, BackendUnavailable) for outcome in await ask(line, 50))
    assert line.kms.requests["GenerateDataKey"] < 100


async def test_it_is_used_again_once_it_answers(line: Line) -> None:
    await fall_silent(line)
    line.kms.heal()
    async with asyncio.timeout(20):
        while await ask(line, 1) != [None]:
            await asyncio.sleep(0.05)
    assert await ask(line, SILENCES) == [None] * SILENCES


async def test_the_other_service_is_used_all_the_while(line: Line) -> None:
    await fall_silent(line)
    assert await line.records.get(TENANT, "absent") is None


async def test_callers_who_leave_count_the_silence_all_the_same(line: Line) -> None:
    """Their requests time out after they have left, and count."""
    line.kms.break_with(BLACK_HOLE)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ask(line, 2 * SILENCES)
    await asyncio.sleep(1.0)
    line.kms.requests.clear()
    await ask(line, 50)
    assert line.kms.requests["GenerateDataKey"] < 10


@pytest.mark.parametrize("fault", FAILING.values(), ids=FAILING)
async def test_a_backend_that_fails_at_once_is_asked_by_every_call(patient: Line, fault: Fault) -> None:
    patient.kms.break_with(fault)
    await ask(patient, 2 * SILENCES)
    patient.kms.heal()
    assert await ask(patient, 20) == [None] * 20


async def test_silence_now_and_then_is_only_that(line: Line) -> None:
    for _ in range(SILENCES):
        line.kms.break_with(BLACK_HOLE, number=1)
        assert await ask(line, 2) == [None] * 2
        line.kms.heal()


async def test_the_log_says_once_that_a_backend_hangs_and_is_back(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "keyvault_server.backends.aws.breaker"):
        await fall_silent(line)
        await ask(line, 50)
        line.kms.heal()
        async with asyncio.timeout(20):
            while await ask(line, 1) != [None]:
                await asyncio.sleep(0.05)
    logged = [record for record in caplog.records if record.name.endswith("breaker")]
    assert [record.levelname for record in logged] == ["ERROR", "WARNING"]
    assert {record.service for record in logged} == {"kms"}  # type: ignore[attr-defined]
