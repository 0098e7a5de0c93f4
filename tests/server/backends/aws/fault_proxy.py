"""A proxy between the server and AWS that breaks a call in every way in which the network or the service can.

The rule of this file: the fault of a request is chosen once the whole request has arrived. A request that the service
is to get reaches it, late if need be, even if its sender has hung up.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.server.backends.aws.wire import Message, Reply, aws_error, listening, read_message


class Loss(Enum):
    """What happens instead of a reply."""

    RESET = auto()
    """The connection is dropped."""
    HALF = auto()
    """The connection is dropped after half of the body."""
    SILENCE = auto()
    """Nothing comes until the client hangs up."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request."""

    effect: bool = True
    """Whether the service gets the request."""
    answer: Reply | Loss | None = None
    """What comes back; None: the service's own reply."""
    delay: float = 0.0
    """Seconds until the service gets it."""

    @property
    def writes_are_unknown(self) -> bool:
        """Whether a write may be done although its answer does not say so."""
        return self.effect and self.answer is not None


HTML = Reply(200, b"<html><body>Sign in to the network</body></html>", {"content-type": "text/html"})
_500 = aws_error("InternalServerError", 500)
_503 = Reply(503, b"<html><body>503 Service Unavailable</body></html>", {"content-type": "text/html"})

NONE = Fault()
FAULTS = {
    "latency": Fault(delay=0.3),
    "reset before the effect": Fault(effect=False, answer=Loss.RESET),
    "reset after the effect": Fault(answer=Loss.RESET),
    "half a reply": Fault(answer=Loss.HALF),
    "500 before the effect": Fault(effect=False, answer=_500),
    "500 after the effect": Fault(answer=_500),
    "503 before the effect": Fault(effect=False, answer=_503),
    "503 after the effect": Fault(answer=_503),
    "HTML with 200 before the effect": Fault(effect=False, answer=HTML),
    "HTML with 200 after the effect": Fault(answer=HTML),
    "throttling": Fault(effect=False, answer=aws_error("ThrottlingException")),
    "expired credentials": Fault(effect=False, answer=aws_error("ExpiredTokenException")),
    "black hole before the effect": Fault(effect=False, answer=Loss.SILENCE),
    "black hole after the effect": Fault(answer=Loss.SILENCE),
}


@dataclass
class Rule:
    """Which requests a fault hits; those that it spares go to the next rule."""

    fault: Fault
    operation: str | None = None
    """Name of an operation, such as `GetItem`; None for all."""
    number: int | None = None
    """Which of these requests to hit, counted from 1; None for each."""
    chance: float = 1.0
    seen: int = field(default=0, init=False)

    def hits(self, request: Message, rng: random.Random) -> bool:
        if self.operation not in (None, request.operation):
            return False
        self.seen += 1
        return self.number in (None, self.seen) and rng.random() < self.chance


@dataclass
class FaultProxy:
    """Stands before one service; `rules` may be changed while calls are in flight. See `fault_proxy`."""

    upstream: int
    rng: random.Random
    address: str = ""
    rules: list[Rule] = field(default_factory=list)
    connections: int = 0
    """Connections opened so far, by any client."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests so far, by operation."""
    hits: int = 0
    """Requests that a fault hit."""

    def break_with(
        self, fault: Fault, operation: str | None = None, number: int | None = None, chance: float = 1.0
    ) -> None:
        """Add a rule, after the existing ones."""
        self.rules.append(Rule(fault, operation, number, chance))

    def heal(self) -> None:
        """Spare every new request; what went into a black hole stays there."""
        self.rules.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            answered = True
            while answered:
                request = await read_message(reader)
                fault = self._choose_fault(request)
                await asyncio.sleep(fault.delay)
                reply = await _forward(request, *there) if fault.effect else Reply(503)
                answered = await _send_answer(fault.answer or reply, reply, reader, writer)
        finally:
            there[1].close()

    def _choose_fault(self, request: Message) -> Fault:
        self.requests[request.operation] += 1
        for rule in self.rules:
            if rule.hits(request, self.rng):
                self.hits += 1
                return rule.fault
        return NONE


async def _forward(request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    writer.write(bytes(request))
    return await read_message(reader)


async def _send_answer(
    answer: Message | Reply | Loss, reply: Message | Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Send the answer; return False if the connection cannot be used any further."""
    if not isinstance(answer, Loss):
        writer.write(bytes(answer))
        await writer.drain()
        return True
    if answer is Loss.HALF:
        writer.write(bytes(reply)[: -1 - len(reply.body) // 2])
        await writer.drain()
        writer.close()
        return False
    if answer is Loss.SILENCE:
        await reader.read()
    writer.transport.abort()
    return False


@asynccontextmanager
async def fault_proxy(upstream: str, seed: int = 0) -> AsyncIterator[FaultProxy]:
    """Run a proxy of the service at that address while the body runs; all chance comes from the seed."""
    proxy = FaultProxy(int(upstream.rpartition(":")[2]), random.Random(seed))
    async with listening(proxy.serve) as port:
        proxy.address = f"http://127.0.0.1:{port}"
        yield proxy
