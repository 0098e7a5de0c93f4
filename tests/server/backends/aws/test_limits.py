"""The documented numbers of retries and connections, counted without a network."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from botocore.exceptions import ReadTimeoutError

from keyvault_server.backends.aws.breaker import SILENCES, Breaker
from keyvault_server.backends.aws.connections import ConnectionPool, NotSent
from keyvault_server.backends.aws.retries import (
    ANSWERS,
    ATTEMPTS,
    BUDGET,
    PAUSE,
    THROTTLED_PAUSE,
    WITHOUT_EFFECT,
    Retries,
)
from keyvault_server.core.errors import BackendThrottled, BackendUnavailable, MasterKeyUnusable
from tests.reliability.virtual_time import run

LATER = float("inf")
PATIENCE = 0.02


class Attempts:
    """Attempts at one operation, all of which fail, and the pauses between them."""

    def __init__(self, failure: Exception) -> None:
        self.failure: Exception | None = failure
        self.number = 0
        self.pauses: list[float] = []
        self.retries = Retries(self.sleep)

    async def attempt(self) -> str:
        self.number += 1
        if self.failure:
            raise self.failure
        return "reply"

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def run(self, operation: str = "decrypt", until: float = LATER, *, repeatable: bool = False) -> int:
        """Make one call; return how many attempts it had."""
        before = self.number
        if self.failure is None:
            assert await self.retries.run(operation, self.attempt, until) == "reply"
        else:
            with pytest.raises(type(self.failure)):
                await self.retries.run(operation, self.attempt, until, repeatable=repeatable)
        return self.number - before


def test_the_numbers_are_those_of_the_page() -> None:
    """docs/dynamodb.md names them."""
    assert (ATTEMPTS, BUDGET, ANSWERS, PAUSE, THROTTLED_PAUSE, SILENCES) == (3, 20, 10, 0.05, 0.25, 10)


@pytest.mark.parametrize("operation", sorted(WITHOUT_EFFECT))
async def test_an_operation_without_effect_has_three_attempts(operation: str) -> None:
    assert await Attempts(BackendUnavailable()).run(operation) == ATTEMPTS


@pytest.mark.parametrize("operation", ["put_item", "delete_item"])
async def test_a_repeatable_write_has_three_attempts(operation: str) -> None:
    """That of a copy is one, and its removal."""
    assert await Attempts(BackendUnavailable()).run(operation, repeatable=True) == ATTEMPTS


@pytest.mark.parametrize("operation", ["delete_item", "put_item", "create_table", "create_key", "create_alias"])
async def test_an_operation_with_an_effect_has_one(operation: str) -> None:
    assert await Attempts(BackendUnavailable()).run(operation) == 1


@pytest.mark.parametrize("failure", [NotSent(), MasterKeyUnusable()], ids=repr)
async def test_what_would_fail_again_is_not_retried(failure: Exception) -> None:
    assert await Attempts(failure).run() == 1


async def test_a_budget_of_exactly_twenty_retries_is_spent() -> None:
    calls = Attempts(BackendUnavailable())
    assert [await calls.run() for _ in range(BUDGET // (ATTEMPTS - 1))] == [ATTEMPTS] * (BUDGET // (ATTEMPTS - 1))
    assert await calls.run() == 1


async def test_ten_answered_calls_earn_exactly_one_retry() -> None:
    calls, failure = Attempts(BackendUnavailable()), BackendUnavailable()
    for _ in range(BUDGET // (ATTEMPTS - 1)):
        await calls.run()
    for answered, attempts in ((ANSWERS - 1, 1), (1, 2), (ANSWERS * 2, 3), (0, 1)):
        calls.failure = None
        for _ in range(answered):
            await calls.run()
        calls.failure = failure
        assert await calls.run() == attempts


async def test_a_full_budget_earns_nothing() -> None:
    calls = Attempts(BackendUnavailable())
    calls.failure = None
    for _ in range(ANSWERS * 5):
        await calls.run()
    calls.failure = BackendUnavailable()
    assert sum([await calls.run() - 1 for _ in range(BUDGET)]) == BUDGET


@pytest.mark.parametrize(("failure", "longest"), [(BackendUnavailable(), PAUSE), (BackendThrottled(), THROTTLED_PAUSE)])
async def test_pauses_are_random_over_their_whole_length(failure: Exception, longest: float) -> None:
    """The second may be twice as long."""
    first, second = [], []
    for _ in range(200):
        calls = Attempts(failure)
        await calls.run()
        first.append(calls.pauses[0])
        second.append(calls.pauses[1])
    for pauses, limit in ((first, longest), (second, 2 * longest)):
        assert 0 <= min(pauses) < 0.1 * limit
        assert 0.9 * limit < max(pauses) <= limit


async def test_no_attempt_begins_when_the_time_is_up() -> None:
    now = asyncio.get_running_loop().time()
    assert await Attempts(BackendUnavailable()).run(until=now) == 1


def pool(number: int, breaker: Breaker | None = None) -> ConnectionPool:
    return ConnectionPool(number, 60.0, PATIENCE, breaker or Breaker("kms"))


async def test_a_call_that_gets_no_connection_is_not_sent() -> None:
    """Nor does it leave one more connection behind."""
    connections, running, sent = pool(1), asyncio.Event(), []

    async def hold() -> None:
        running.set()
        await asyncio.sleep(60)

    async def send() -> None:
        sent.append(1)

    holder = asyncio.create_task(connections.run(hold, LATER))
    await running.wait()
    for _ in range(3):
        with pytest.raises(NotSent):
            await connections.run(send, LATER)
    assert sent == []
    await connections.aclose()
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert await most_at_once(connections, 5) == 1


async def most_at_once(connections: ConnectionPool, calls: int) -> int:
    """Return how many of these calls are in flight together at most."""
    in_flight, most = 0, 0

    async def send() -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        in_flight -= 1

    await asyncio.gather(*(connections.run(send, LATER) for _ in range(calls)))
    return most


@pytest.mark.parametrize("number", [1, 3])
async def test_as_many_calls_as_connections_are_in_flight(number: int) -> None:
    assert await most_at_once(pool(number), 10) == number


async def test_an_open_breaker_sends_nothing_and_frees_the_connection() -> None:
    connections = pool(1)

    async def silent() -> None:
        raise ReadTimeoutError(endpoint_url="https://kms")

    async def outcome(call: Callable[[], Awaitable[None]]) -> type[BaseException] | None:
        try:
            await connections.run(call, LATER)
        except (NotSent, ReadTimeoutError) as error:
            return type(error)
        return None

    assert [await outcome(silent) for _ in range(SILENCES)] == [ReadTimeoutError] * SILENCES
    assert [await outcome(silent) for _ in range(5)] == [NotSent] * 5


class Request:
    """A request whose reply takes five seconds."""

    def __init__(self) -> None:
        self.outcome = "not sent"

    async def send(self) -> str:
        self.outcome = "sent"
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        self.outcome = "answered"
        return "reply"


def test_a_caller_whose_time_is_up_leaves_the_request_alone() -> None:
    """It has the pool's time, here 60 seconds, before it is cancelled."""

    async def main() -> None:
        connections, request = pool(1), Request()
        with pytest.raises(TimeoutError):
            await connections.run(request.send, until=3)
        assert asyncio.get_running_loop().time() == pytest.approx(3)
        assert request.outcome == "sent"
        await asyncio.sleep(3)
        assert request.outcome == "answered"
        assert await connections.run(request.send, until=20) == "reply"

    run(main())


def test_a_request_that_goes_on_for_ever_is_cancelled_in_the_end() -> None:
    async def main() -> None:
        connections = ConnectionPool(1, 1.0, PATIENCE, Breaker("kms"))
        request = Request()
        with pytest.raises(TimeoutError):
            await connections.run(request.send, until=3)
        await asyncio.sleep(0.9)
        assert request.outcome == "sent"
        await asyncio.sleep(0.2)
        assert request.outcome == "cancelled"
        assert await connections.run(request.send, until=20) == "reply"

    run(main())


async def test_a_closed_pool_has_nothing_in_flight() -> None:
    """The SDK's client is closed next, under requests that would still end theirs."""
    connections, running, ended = pool(1), asyncio.Event(), []

    async def end_slowly() -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(1)

    caller = asyncio.create_task(connections.run(end_slowly, LATER))
    await running.wait()
    caller.cancel()
    await connections.aclose()
    assert ended == [1]


def test_a_caller_who_leaves_does_not_cancel_the_request() -> None:
    async def main() -> None:
        connections, request = pool(1), Request()
        caller = asyncio.create_task(connections.run(request.send, until=20))
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(5)
        assert request.outcome == "answered"

    run(main())


def test_the_wait_for_a_connection_ends_when_the_time_is_up() -> None:
    async def main() -> None:
        connections, first, second = ConnectionPool(1, 60.0, 2.0, Breaker("kms")), Request(), Request()
        holder = asyncio.create_task(connections.run(first.send, until=20))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await connections.run(second.send, until=1)
        assert asyncio.get_running_loop().time() == pytest.approx(1)
        with pytest.raises(NotSent):
            await connections.run(second.send, until=20)
        assert asyncio.get_running_loop().time() == pytest.approx(3)
        assert second.outcome == "not sent"
        assert await holder == "reply"

    run(main())
