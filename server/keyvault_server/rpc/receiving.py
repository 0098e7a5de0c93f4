"""The messages of calls, received after their headers were checked, each within a time limit.

gRPC hands over a unary call only when its whole message has come, so a caller that holds the last byte back costs a
message's memory before anything is known about it. Therefore the service's methods are served as stream-unary ones,
which look the same on the wire: the guard asks who calls first, and then waits for the message here.

The rule of this file: a message that is there already costs next to nothing; reading is the hot path.
"""

import asyncio
from collections import Counter
from typing import Any, Protocol

import grpc

from keyvault_server.core.errors import DeadlineExceeded, InvalidRequest, RateLimited, VaultError
from keyvault_server.rpc.time_limit import TimeLimit

SLOW_SECONDS = 0.1
"""How long a message keeps its place at least: all but those of slow or hostile callers are there by then."""
_END_SECONDS = 0.01


class Sender(Protocol):
    """The other end of a call, as grpc.aio.ServicerContext shows it."""

    async def read(self) -> Any:
        """Return the next message, or EOF."""


class Receiving(TimeLimit):
    """The messages that are on their way to one server."""

    def __init__(self, places: int, seconds: float) -> None:
        """`seconds` is the longest time that a message may take, once its call was let in."""
        super().__init__(seconds, self._late_message)
        self.half_sent = Counter(dict.fromkeys(("late", "displaced", "missing"), 0))
        """Calls that ended without a message: its time was up, newer calls needed its place, or none came, which is
        also how gRPC reports one that is too large or not to be decompressed."""
        self._places = places

    def __len__(self) -> int:
        """Return the number of messages that are on their way."""
        return len(self.since)

    async def message(self, sender: Sender) -> bytes:
        """Return a call's one message. Raises InvalidRequest; DeadlineExceeded if it takes too long; RateLimited.

        A message that takes longer than most is given up when newer calls need its place.
        """
        if len(self.since) >= self._places:
            self._make_room(asyncio.get_running_loop().time())
        with self:
            try:
                data = await sender.read()
            except grpc.aio.BaseError:  # more than the limit, or not to be decompressed: gRPC has answered already
                data = grpc.aio.EOF
        if not isinstance(data, bytes):
            self.half_sent["missing"] += 1
            await asyncio.sleep(_END_SECONDS)  # if the caller is gone, gRPC cancels this task now
            raise InvalidRequest("the call has no request message")
        return data

    def look(self, now: float) -> None:
        """End what is overdue, and what has places that newer messages need."""
        super().look(now)
        for _ in range(len(self.since) - len(self.ended) - self._places):
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """End the message that has taken longest if all places are taken; one that began just now keeps its own."""
        if len(self.since) - len(self.ended) < self._places:
            return
        task, since = next((task, since) for task, since in self.since.items() if task not in self.ended)
        if now - since >= SLOW_SECONDS and self.end(task, RateLimited()):
            self.half_sent["displaced"] += 1

    def _late_message(self) -> VaultError:
        self.half_sent["late"] += 1
        return DeadlineExceeded("the request message did not arrive in time: retry with the same bytes")
