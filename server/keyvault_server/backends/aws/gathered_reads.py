"""Reads that share a request: while two requests are out, later reads wait, and leave together with the next one.

The rules of this file. A read joins only a request that has not left: what the request reads is as new as the read
itself. A read that finds a place leaves as soon as what the event loop has to do now is done, with the reads that begin
until then, such as those of a batch: a quiet server does not wait. Reads of one name share its answer. A caller who
leaves takes nothing from the others; a request whose callers have all left is dropped. A request that is slow lets
another one leave, so that one dead connection does not hold all reads up.

It knows neither AWS nor records: the two functions that it is given do the reading.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from keyvault_server.backends.aws.connections import NotSent

MOST_OUT = 2
"""Requests that are out at a time, slow ones not counted."""
MOST_OUT_WITH_SLOW = 4
"""Requests that are out at a time at most, slow ones included."""
MOST_NAMES = 34
"""Names that share a request, a third of the largest BatchRead: 13 MB of the largest records, of which DynamoDB sends
16 MB in one reply at most."""
SLOW = 0.05
"""Fraction of the patience after which a request that is out is slow."""
_RESOLUTION = 0.001
"""Seconds by which a timer may come early."""

T = TypeVar("T")


class _Joiner(NamedTuple):
    """A read that waits, or whose request has left."""

    answer: "asyncio.Future[Any]"
    since: float


_Joiners = dict[str, list[_Joiner]]


class GatheredReads(Generic[T]):
    """The reads of one store. Belongs to one event loop."""

    def __init__(
        self,
        one: Callable[[str, float], Awaitable[T]],
        many: Callable[[Sequence[str], float], Awaitable[Mapping[str, T]]],
        *,
        seconds: float,
        patience: float,
        most_out: int = MOST_OUT,
    ) -> None:
        """Read a name by `one`, several by `many`, which leaves out those that it could not read this time.

        Both get the time, by the loop's clock, at which their oldest caller has waited for `seconds`. A read waits
        `patience` seconds for a place.
        """
        self._one = one
        self._many = many
        self._seconds = seconds
        self._patience = patience
        self._most_out = most_out
        self._waiting: OrderedDict[str, list[_Joiner]] = OrderedDict()
        self._left: dict[asyncio.Task[None], _Joiners] = {}
        self._expiry: asyncio.TimerHandle | None = None
        """Ends waits for a place: one timer for all of them, since to set one costs as much as to parse an item."""
        self._leaving = False
        """Whether what waits leaves within this turn of the loop."""
        self._out = 0
        self._quick: set[object] = set()
        """The requests that are out and not slow."""

    async def read(self, name: str) -> T:
        """Return what is stored under the name at some time after this call began.

        Raises NotSent without a place in time, or what `one` and `many` raise.
        """
        if not self._leaving and self._has_place():
            self._leaving = True
            asyncio.get_running_loop().call_soon(self._send_begun)
        return await self._join(name)

    def _send_begun(self) -> None:
        self._leaving = False
        self._send_waiting()

    async def _join(self, name: str) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._waiting.setdefault(name, []).append(_Joiner(answer, loop.time()))
        if self._expiry is None:
            self._expiry = loop.call_later(self._patience, self._end_waits)
        try:
            return await answer
        except asyncio.CancelledError:
            self._drop_deserted()
            raise

    def _end_waits(self) -> None:
        """Refuse those that have waited too long, and forget them: an error holds its call's frames and its request."""
        loop = asyncio.get_running_loop()
        latest = loop.time() - self._patience + _RESOLUTION
        for name, waiting in list(self._waiting.items()):
            for joiner in waiting:
                if joiner.since <= latest and not joiner.answer.done():
                    joiner.answer.set_exception(NotSent())
            self._waiting[name] = [joiner for joiner in waiting if joiner.since > latest]
            if not self._waiting[name]:
                del self._waiting[name]
        oldest = min((joiner.since for joiner in _each(self._waiting)), default=None)
        self._expiry = None if oldest is None else loop.call_at(oldest + self._patience, self._end_waits)

    def _has_place(self) -> bool:
        return len(self._quick) < self._most_out and self._out < MOST_OUT_WITH_SLOW

    def _leave(self) -> tuple[object, asyncio.TimerHandle]:
        """Take a place for a request until it is slow."""
        request = object()
        self._quick.add(request)
        self._out += 1
        return request, asyncio.get_running_loop().call_later(self._patience * SLOW, self._give_up_place, request)

    def _give_up_place(self, request: object) -> None:
        self._quick.discard(request)
        self._send_waiting()

    def _return(self, request: object, slow: asyncio.TimerHandle) -> None:
        slow.cancel()
        self._out -= 1
        self._give_up_place(request)

    def _send_waiting(self) -> None:
        """Send what waits while there is a place; the longest wait first."""
        while self._waiting and self._has_place():
            joiners: _Joiners = {}
            while self._waiting and len(joiners) < MOST_NAMES:
                name, waiting = self._waiting.popitem(last=False)
                if there := [joiner for joiner in waiting if not joiner.answer.done()]:
                    joiners[name] = there
            if joiners:
                self._send(joiners)

    def _send(self, joiners: _Joiners) -> None:
        request = self._leave()
        task = asyncio.create_task(self._answer(joiners))
        self._left[task] = joiners

        def end(task: asyncio.Task[None]) -> None:  # a task that is cancelled before it runs has no `finally`
            del self._left[task]
            self._return(*request)

        task.add_done_callback(end)

    async def _answer(self, joiners: _Joiners) -> None:
        """Read the names and give each of their joiners the answer, or the error."""
        try:
            found = await self._read(list(joiners), min(joiner.since for joiner in _each(joiners)) + self._seconds)
        except asyncio.CancelledError:  # the server stops, or all joiners have left
            for joiner in _each(joiners):
                joiner.answer.cancel()
            raise
        except Exception as error:  # whatever it is, each joiner raises it
            for joiner in _each(joiners):
                if not joiner.answer.done():
                    joiner.answer.set_exception(error)
            return
        for name, there in joiners.items():
            if name not in found:
                self._send({name: there})
                continue
            for joiner in there:
                if not joiner.answer.done():
                    joiner.answer.set_result(found[name])

    async def _read(self, names: Sequence[str], until: float) -> Mapping[str, T]:
        if len(names) > 1:
            return await self._many(names, until)
        return {names[0]: await self._one(names[0], until)}

    def _drop_deserted(self) -> None:
        """Cancel requests whose joiners have all left; one that was sent is awaited by the connections."""
        for task, joiners in self._left.items():
            if all(joiner.answer.done() for joiner in _each(joiners)):
                task.cancel()


def _each(joiners: Mapping[str, list[_Joiner]]) -> Iterable[_Joiner]:
    return (joiner for there in joiners.values() for joiner in there)
