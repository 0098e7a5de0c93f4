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

from keyvault_server.core.errors import DeadlineExceeded, InvalidRequest

LOOK_SECONDS = 1.0
"""How often messages that are overdue are looked for."""
_END_SECONDS = 0.01


class Sender(Protocol):
    """The other end of a call, as grpc.aio.ServicerContext shows it."""

    async def read(self) -> Any:
        """Return the next message, or EOF."""


class Receiving:
    """The messages that are on their way to one server."""

    def __init__(self, places: int, seconds: float) -> None:
        """`seconds` is the longest time that a message may take, once its call was let in."""
        self.half_sent = Counter(dict.fromkeys(("late", "displaced", "missing", "unreadable"), 0))
        """Calls that ended without a message: its time was up, newer calls needed its place, the caller sent none, or
        it is above the limit or not to be decompressed."""
        self._places = places
        self._seconds = seconds
        self._since: dict[asyncio.Task[Any], float] = {}
        """The tasks that wait for a message, longest first."""
        self._overdue: set[asyncio.Task[Any]] = set()
        self._look: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return the number of messages that are on their way."""
        return len(self._since)

    async def message(self, sender: Sender) -> bytes:
        """Return a call's one message. Raises InvalidRequest, or DeadlineExceeded for one that takes too long.

        Too long is `seconds`, or less if newer calls need its place: theirs come in milliseconds.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        if len(self._since) - len(self._overdue) >= self._places:
            self._end(next(task for task in self._since if task not in self._overdue), "displaced")
        self._since[task] = loop.time()
        if self._look is None:
            self._look = loop.call_later(LOOK_SECONDS, self._cancel_overdue)
        try:
            data, why = await sender.read(), "missing"
        except asyncio.CancelledError:
            if task in self._overdue and not task.uncancel():
                raise DeadlineExceeded(
                    "the request message did not arrive in time: retry with the same bytes"
                ) from None
            raise
        except grpc.aio.BaseError:  # more than the limit, or not to be decompressed: gRPC has answered already
            data, why = grpc.aio.EOF, "unreadable"
        finally:
            del self._since[task]
            self._overdue.discard(task)
        if not isinstance(data, bytes):
            await asyncio.sleep(_END_SECONDS)  # if the caller is gone, gRPC cancels this task now
            self.half_sent[why] += 1
            raise InvalidRequest("the call has no request message")
        return data

    def _cancel_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        for task, since in self._since.items():
            if loop.time() - since < self._seconds:
                break
            self._end(task, "late")
        self._look = loop.call_later(LOOK_SECONDS, self._cancel_overdue) if self._since else None

    def _end(self, task: asyncio.Task[Any], why: str) -> None:
        if task not in self._overdue:
            self.half_sent[why] += 1
            self._overdue.add(task)
            task.cancel()
