"""Reads that share a request: which join it, what each gets, and what becomes of those who leave; without a network."""

import asyncio
import gc
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pytest

from keyvault_server.backends.aws.connections import NotSent
from keyvault_server.backends.aws.gathered_reads import (
    MOST_NAMES,
    MOST_OUT,
    MOST_OUT_WITH_SLOW,
    SLOW,
    GatheredReads,
)
from keyvault_server.core.errors import BackendUnavailable
from tests.reliability.virtual_time import run

SECONDS, PATIENCE = 60.0, 10.0


class Store:
    """Stored texts, whose requests are out until a test lets them return."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.stored: dict[str, str] = {}
        self.requests: list[list[str]] = []
        self.untils: list[float] = []
        self.unprocessed: set[str] = set()
        """Names that a request for several leaves out."""
        self.dropped = 0
        self._returns: list[asyncio.Future[None]] = []
        self.reads = GatheredReads(self._one, self._many, seconds=SECONDS, patience=patience)

    def read(self, *names: str) -> "list[asyncio.Task[str | None]]":
        return [asyncio.create_task(self.reads.read(name)) for name in names]

    async def busy(self) -> "list[asyncio.Task[str | None]]":
        """Send as many requests as may be out, each for a name of its own."""
        tasks = []
        for number in range(MOST_OUT):
            tasks += self.read(f"busy-{number}")
            await turn()
        assert len(self.requests) == MOST_OUT
        return tasks

    async def give_back(self, request: int, error: Exception | None = None) -> None:
        """Let a request, counted from 0, return."""
        if error:
            self._returns[request].set_exception(error)
        else:
            self._returns[request].set_result(None)
        await turn()

    async def give_all_back(self) -> None:
        for back in self._returns:
            if not back.done():
                back.set_result(None)
        await turn()

    async def _one(self, name: str, until: float) -> str | None:
        return (await self._ask([name], until))[name]

    async def _many(self, names: Sequence[str], until: float) -> Mapping[str, str | None]:
        assert len(names) > 1
        found = await self._ask(names, until)
        return {name: text for name, text in found.items() if name not in self.unprocessed}

    async def _ask(self, names: Sequence[str], until: float) -> Mapping[str, str | None]:
        """Look at what is stored at once, and answer later: as late as an answer can be."""
        self.requests.append(list(names))
        self.untils.append(until)
        self._returns.append(asyncio.get_running_loop().create_future())
        found = {name: self.stored.get(name) for name in names}
        try:
            await self._returns[-1]
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        return found


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def store() -> Store:
    return Store()


async def test_a_lone_read_leaves_at_once_and_alone(store: Store) -> None:
    store.stored["a"] = "text"
    (read,) = store.read("a")
    await turn()
    assert store.requests == [["a"]]
    await store.give_all_back()
    assert await read == "text"


async def test_reads_that_begin_together_leave_together(store: Store) -> None:
    """Such as those of a batch; the next ones have a request of their own."""
    reads = store.read("a", "b", "c")
    await turn()
    assert store.requests == [["a", "b", "c"]]
    reads += store.read("d")
    await turn()
    assert store.requests[1:] == [["d"]]
    await store.give_all_back()
    assert await asyncio.gather(*reads) == [None] * 4


async def test_later_reads_leave_together_when_one_returns(store: Store) -> None:
    await store.busy()
    store.stored |= {"a": "A", "b": "B"}
    reads = store.read("a", "b", "c")
    await turn()
    assert len(store.requests) == MOST_OUT
    await store.give_back(0)
    assert store.requests[MOST_OUT:] == [["a", "b", "c"]]
    await store.give_all_back()
    assert await asyncio.gather(*reads) == ["A", "B", None]


async def test_one_that_waits_alone_is_asked_for_alone(store: Store) -> None:
    await store.busy()
    (read,) = store.read("a")
    await turn()
    await store.give_back(0)
    assert store.requests[MOST_OUT:] == [["a"]]
    await store.give_all_back()
    assert await read is None


async def test_equal_names_share_an_answer(store: Store) -> None:
    await store.busy()
    store.stored["a"] = "A"
    reads = store.read("a", "b", "a", "a")
    await turn()
    await store.give_back(0)
    assert store.requests[MOST_OUT:] == [["a", "b"]]
    await store.give_all_back()
    assert await asyncio.gather(*reads) == ["A", None, "A", "A"]


async def test_a_read_never_joins_a_request_that_has_left(store: Store) -> None:
    """What was stored since that request left would be missing."""
    await store.busy()
    early = store.read("a", "b")
    await turn()
    await store.give_back(0)
    store.stored["a"] = "written since"
    late = store.read("a", "busy-1")
    store.stored["busy-1"] = "written since"
    await turn()
    await store.give_all_back()
    await store.give_all_back()
    assert await asyncio.gather(*early, *late) == [None, None, "written since", "written since"]


async def test_a_request_has_34_names_the_longest_wait_first(store: Store) -> None:
    """docs/dynamodb.md names the numbers."""
    assert (MOST_OUT, MOST_OUT_WITH_SLOW, MOST_NAMES) == (2, 4, 34)
    await store.busy()
    names = [f"{number:02}" for number in range(MOST_NAMES + 1)]
    store.read(*names)
    await turn()
    await store.give_back(0)
    assert store.requests[MOST_OUT:] == [names[:-1]]
    await store.give_back(1)
    assert store.requests[MOST_OUT + 1 :] == [names[-1:]]
    await store.give_all_back()


async def test_two_requests_are_out_at_most(store: Store) -> None:
    await store.busy()
    for number in range(5):
        store.read(f"{number}a", f"{number}b")
        await turn()
        assert len(store.requests) == MOST_OUT + number
        await store.give_back(number)
    await store.give_all_back()


async def test_what_a_request_left_out_is_asked_for_alone(store: Store) -> None:
    """All joiners of the name share that request too."""
    await store.busy()
    store.stored |= {"a": "A", "b": "B"}
    store.unprocessed = {"a"}
    reads = store.read("a", "b", "a")
    await turn()
    await store.give_back(0)
    await store.give_back(MOST_OUT)
    assert await reads[1] == "B"
    assert store.requests[MOST_OUT + 1 :] == [["a"]]
    await store.give_all_back()
    assert await reads[0] == await reads[2] == "A"


async def test_a_failed_request_fails_for_each_of_its_joiners(store: Store) -> None:
    await store.busy()
    reads = store.read("a", "b", "a")
    await turn()
    await store.give_back(0)
    await store.give_back(MOST_OUT, BackendUnavailable("lost"))
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["lost"] * 3
    assert await read_now(store, "a") is None


async def test_one_who_leaves_harms_no_other(store: Store) -> None:
    """Whether before the request left or after."""
    await store.busy()
    store.stored |= {"a": "A", "b": "B"}
    reads = store.read("a", "b", "a", "c")
    await turn()
    reads[0].cancel()
    await store.give_back(0)
    reads[3].cancel()
    await turn()
    await store.give_all_back()
    assert await reads[1] == "B"
    assert await reads[2] == "A"
    assert store.dropped == 0


async def test_nothing_is_asked_for_those_who_left_before(store: Store) -> None:
    await store.busy()
    reads = store.read("a", "b", "c")
    await turn()
    for read in reads[:2]:
        read.cancel()
    await store.give_back(0)
    assert store.requests[MOST_OUT:] == [["c"]]
    await store.give_all_back()


async def test_a_request_is_dropped_when_all_have_left(store: Store) -> None:
    """Its place is free again."""
    await store.busy()
    reads = store.read("a", "b")
    await turn()
    await store.give_back(0)
    reads[0].cancel()
    await turn()
    assert store.dropped == 0
    reads[1].cancel()
    await turn()
    assert store.dropped == 1
    store.read("c")
    await turn()
    assert store.requests[-1] == ["c"]
    await store.give_all_back()


async def test_a_request_that_is_cancelled_leaves_nobody_waiting(store: Store) -> None:
    """The connections cancel what is in flight when the server stops."""
    await store.busy()
    reads = store.read("a", "b")
    await turn()
    await store.give_back(0)
    store._returns[MOST_OUT].cancel()
    await turn()
    assert all(read.cancelled() for read in reads)
    await store.give_all_back()


async def read_now(store: Store, name: str) -> str | None:
    """Read while every request returns at once."""
    (read,) = store.read(name)
    await turn()
    await store.give_all_back()
    return await read


def test_a_slow_request_lets_another_one_leave() -> None:
    """Four are out in the end, and no more."""

    async def main() -> None:
        store = Store(PATIENCE)
        await store.busy()
        store.read("a", "b")
        await asyncio.sleep(PATIENCE * SLOW * 0.9)
        assert len(store.requests) == MOST_OUT
        await asyncio.sleep(PATIENCE * SLOW * 0.2)
        assert store.requests[MOST_OUT:] == [["a", "b"]]
        store.read("c")
        await turn()
        assert store.requests[MOST_OUT + 1 :] == [["c"]]
        store.read("x", "y")
        await asyncio.sleep(PATIENCE * 0.9)
        assert len(store.requests) == MOST_OUT_WITH_SLOW
        await store.give_all_back()
        assert store.requests[MOST_OUT_WITH_SLOW:] == [["x", "y"]]
        await store.give_all_back()

    run(main())


def test_a_read_without_a_place_in_time_is_not_sent() -> None:
    async def main() -> None:
        store = Store(PATIENCE)
        for _ in range(MOST_OUT_WITH_SLOW):
            store.read("hangs")
            await asyncio.sleep(PATIENCE * SLOW * 1.1)
        assert len(store.requests) == MOST_OUT_WITH_SLOW
        began = asyncio.get_running_loop().time()
        with pytest.raises(NotSent):
            await store.reads.read("a")
        assert asyncio.get_running_loop().time() - began == pytest.approx(PATIENCE)
        await store.give_all_back()
        assert await read_now(store, "a") is None
        assert len(store.requests) == MOST_OUT_WITH_SLOW + 1

    run(main())


@pytest.mark.medium
def test_nothing_is_held_of_reads_that_got_no_place() -> None:
    """While all requests that are out hang, one call after the other may come and go."""

    async def main() -> None:
        store, held = Store(PATIENCE), weakref.WeakSet[Request]()
        for _ in range(MOST_OUT_WITH_SLOW):
            store.read("hangs")
            await asyncio.sleep(PATIENCE * SLOW * 1.1)

        async def call(name: str) -> None:
            request = Request()
            held.add(request)
            await store.reads.read(name)

        failed = await asyncio.gather(*map(call, "abcabc"), return_exceptions=True)
        assert {type(error) for error in failed} == {NotSent}
        del failed
        await turn()  # the loop holds what it runs
        gc.collect()
        assert not len(held)
        await store.give_all_back()
        assert len(store.requests) == MOST_OUT_WITH_SLOW

    run(main())


class Request:
    """What a call holds while it reads, such as the envelope of an Update."""


def test_patience_ends_with_the_wait_for_a_place() -> None:
    async def main() -> None:
        store = Store(PATIENCE)
        for _ in range(MOST_OUT_WITH_SLOW):
            store.read("hangs")
            await asyncio.sleep(PATIENCE * SLOW * 1.1)
        (read,) = store.read("a")
        await asyncio.sleep(PATIENCE * 0.9)
        await store.give_back(0)
        await asyncio.sleep(PATIENCE)
        await store.give_all_back()
        assert await read is None

    run(main())


def test_the_oldest_joiner_sets_the_time_limit() -> None:
    """So that the wait for a place is part of a call's time."""

    async def main() -> None:
        store = Store(PATIENCE)
        await store.busy()
        began = asyncio.get_running_loop().time()
        for name in ("a", "b", "a"):
            store.read(name)
            await asyncio.sleep(PATIENCE * SLOW / 4)
        await store.give_back(0)
        assert store.untils[-1] == pytest.approx(began + SECONDS)
        await store.give_all_back()

    run(main())


@pytest.mark.medium
async def test_nothing_is_left_behind(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Callers who leave in the moment in which their request fails leave no unseen error."""
    await store.busy()
    reads = store.read("a", "b")
    await turn()
    await store.give_back(0)
    store._returns[MOST_OUT].set_exception(BackendUnavailable())
    (joiners,) = (joiners for joiners in store.reads._left.values() if "a" in joiners)
    while not joiners["a"][0].answer.done():  # its caller has not woken up yet
        await asyncio.sleep(0)
    for read in reads:
        read.cancel()
    for read in reads:
        with suppress(asyncio.CancelledError, BackendUnavailable):
            await read
    await store.give_all_back()
    del reads, read, joiners
    gc.collect()
    assert caplog.records == []
    assert not store.reads._left
    assert not store.reads._out
    assert not store.reads._quick
