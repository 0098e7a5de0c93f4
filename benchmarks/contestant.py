"""One server of a comparison, and the rounds that it plays.

The rule of this file: a round has connections of its own, so that no server ends one for its age, and its requests are
made before its clock runs.
"""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.calls import IN_FLIGHT, KINDS, Requests
from benchmarks.generator import Link, Round, closed_loop, open_loop
from benchmarks.http2 import Connection
from benchmarks.servers import Server

THROTTLED_CALLS = 1_500
"""How many calls are sent at once where the answers wait: below the number at which a server cuts connections."""
OPEN_CONNECTIONS = 16
_MOST_MADE = 40_000


@dataclass
class Contestant:
    """A server, its requests, and how long its rounds are."""

    name: str
    server: Server
    requests: Requests
    seconds: float
    _per_second: float = 1_000.0

    async def full(self, kind: str) -> Round:
        """Keep 64 calls in flight on one connection; those that are throttled are all sent at once, over several."""
        what = KINDS[kind]
        calls, links = (THROTTLED_CALLS, 15) if what.throttled else (None, 1)
        await self.requests.make(kind, min(_MOST_MADE, int(self._per_second * self.seconds * 1.3)))
        async with AsyncExitStack() as stack:
            took = await closed_loop(
                await self._connect(stack, kind, links),
                self.requests.source(kind),
                in_flight=calls or IN_FLIGHT,
                seconds=self.seconds,
                cpu=self.server.cpu_seconds,
                expected=what.expected,
                calls=calls,
            )
        self._per_second = max(self._per_second, took.per_second)
        return took

    async def alone(self, kind: str) -> Round:
        """Keep one call in flight."""
        await self.requests.make(kind, 100)
        async with AsyncExitStack() as stack:
            return await closed_loop(
                await self._connect(stack, kind, 1),
                self.requests.source(kind),
                in_flight=1,
                seconds=self.seconds,
                cpu=self.server.cpu_seconds,
            )

    async def offered(self, kind: str, per_second: float) -> Round:
        """Offer calls at this rate, over connections enough."""
        await self.requests.make(kind, min(_MOST_MADE, int(per_second * self.seconds * 1.1)))
        async with AsyncExitStack() as stack:
            return await open_loop(
                await self._connect(stack, kind, OPEN_CONNECTIONS),
                self.requests.source(kind),
                per_second=per_second,
                seconds=self.seconds,
                cpu=self.server.cpu_seconds,
                expected=KINDS[kind].expected,
            )

    async def mixed(self, reads: int) -> tuple[Round, Round]:
        """Keep one Create and so many Reads in flight; return both."""
        await self.requests.make("Create", 100)
        async with AsyncExitStack() as stack:
            creates, links = await self._connect(stack, "Create", 1), await self._connect(stack, "Read", 1)
            loops = (
                closed_loop(
                    connections,
                    self.requests.source(kind),
                    in_flight=in_flight,
                    seconds=self.seconds,
                    cpu=self.server.cpu_seconds,
                )
                for kind, connections, in_flight in (("Create", creates, 1), ("Read", links, reads))
            )
            one, many = await asyncio.gather(*loops)
        return one, many

    async def _connect(self, stack: AsyncExitStack, kind: str, count: int) -> list[Connection]:
        links = [await self.server.connect(KINDS[kind].method, KINDS[kind].caller) for _ in range(count)]
        close(stack, links)
        return links


def close(stack: AsyncExitStack, links: Iterable[Link]) -> None:
    """Close connections with the stack."""
    for link in links:
        stack.callback(link.close)
