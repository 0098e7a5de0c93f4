"""The messages of calls, received after their headers were checked, each within a time limit.

gRPC hands over a unary call only when its whole message has come, so a caller that holds the last byte back costs a
message's memory before anything is known about it. Therefore the service's methods are served as stream-unary ones,
which look the same on the wire: the guard asks who calls first, and then waits for the message here.

The rule of this file: one timer for all, not one for each call; reading is the hot path.
"""

import asyncio
from collections import Counter
from typing import Any, Protocol

import grpc

from keyvault_server.core.errors import DeadlineExceeded, InvalidRequest, RateLimited, VaultError

LOOK_SECONDS = 1.0
"""How often messages that are overdue are looked for."""
SLOW_SECONDS = 0.1
"""How long a message keeps its place at least: all but those of slow or hostile callers are there by then."""
_END_SECONDS = 0.01


class Sender(Protocol):
    """The other end of a call, as grpc.aio.ServicerContext shows it."""

    async def read(self) -> Any:
        """Return the next message, or EOF."""


class Receiving:
    """The messages that are on their way to one server."""

    def __init__(self, places: int, seconds: float) -> None:
        """`seconds` is the longest time that a message may take, once its call was let in."""
        self.half_sent = Counter(dict.fromkeys(("late", "displaced", "missing"), 0))
        """Calls that ended without a message: its time was up, newer calls needed its place, or none came, which is
        also how gRPC reports one that is too large or not to be decompressed."""
        self._places = places
        self._seconds = seconds
        self._since: dict[asyncio.Task[Any], float] = {}
        """The tasks that wait for a message, longest first."""
        self._ended: dict[asyncio.Task[Any], VaultError] = {}
        """Those of them that were cancelled, and what their callers are answered."""
        self._look: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return the number of messages that are on their way."""
        return len(self._since)

    async def message(self, sender: Sender) -> bytes:
        """Return a call's one message. Raises InvalidRequest; DeadlineExceeded if it takes too long; RateLimited.

        A message that takes longer than most is given up when newer calls need its place.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._make_room(loop.time())
        self._since[task] = loop.time()
        if self._look is None:
            self._look = loop.call_later(LOOK_SECONDS, self._end_overdue)
        try:
            data = await sender.read()
        except asyncio.CancelledError:
            error = self._ended.get(task)
            if error is None or task.uncancel():
                raise
            raise error from None
        except grpc.aio.BaseError:  # more than the limit, or not to be decompressed: gRPC has answered already
            data = grpc.aio.EOF
        finally:
            del self._since[task]
            self._ended.pop(task, None)
        if not isinstance(data, bytes):
            self.half_sent["missing"] += 1
            await asyncio.sleep(_END_SECONDS)  # if the caller is gone, gRPC cancels this task now
            raise InvalidRequest("the call has no request message")
        return data

    def _make_room(self, now: float) -> None:
        """End the message that has taken longest if all places are taken; one that began just now keeps its own."""
        if len(self._since) - len(self._ended) < self._places:
            return
        task, since = next((task, since) for task, since in self._since.items() if task not in self._ended)
        if now - since >= SLOW_SECONDS:
            self._end(task, "displaced", RateLimited())

    def _end_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        for task, since in self._since.items():
            if loop.time() - since < self._seconds:
                break
            late = DeadlineExceeded("the request message did not arrive in time: retry with the same bytes")
            self._end(task, "late", late)
        for _ in range(len(self._since) - len(self._ended) - self._places):
            self._make_room(loop.time())
        self._look = loop.call_later(LOOK_SECONDS, self._end_overdue) if self._since else None

    def _end(self, task: asyncio.Task[Any], why: str, error: VaultError) -> None:
        if task not in self._ended:
            self.half_sent[why] += 1
            self._ended[task] = error
            task.cancel()
