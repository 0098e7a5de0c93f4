"""The attackers of benchmarks/attack.py, in a process of their own.

    python -m benchmarks.attackers NAME ADDRESS SECONDS

The token of an identified attacker comes from standard input; without one the attacker is unidentified. Each attack is
bounded in connections and in time, and prints how much of it the server let happen.

The rule of this file: an attacker keeps to HTTP/2's flow control, or the server would close its connection at once.
"""

import asyncio
import contextlib
import os
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.frames import Rude, rude

READ = "/keyvault.v1.KeyVault/Read"
LARGE = "attack/large"
"""Name of the record of full size that slow readers ask for."""
MESSAGE = 512 * 1024
STREAMS = 100
CONNECTIONS = 12
IN_FLIGHT = 2_000
IDLE = 500
_DATA, _HEADERS, _RST, _SETTINGS, _WINDOW = 0, 1, 3, 4, 8
_INITIAL_WINDOW_SIZE = 4
_FRAME = 16_384


class Windows:
    """How much the server lets us send on a connection, and on each of its streams."""

    def __init__(self) -> None:
        self.connection = 65_535
        self._initial = 65_535
        self._streams: defaultdict[int, int] = defaultdict(int)

    def take(self, stream: int, most: int) -> int:
        """Return how much may be sent on this stream now, and count it as sent."""
        size = max(0, min(most, _FRAME, self.connection, self._initial + self._streams[stream]))
        self.connection -= size
        self._streams[stream] -= size
        return size

    def follow(self, kind: int, stream: int, payload: bytes) -> None:
        """Take in a frame of the server."""
        if kind == _WINDOW:
            more = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            if stream:
                self._streams[stream] += more
            else:
                self.connection += more
        elif kind == _SETTINGS:
            for at in range(0, len(payload) - 5, 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                self._initial = value if name == _INITIAL_WINDOW_SIZE else self._initial


async def half_send(caller: Rude, token: str, happened: Counter[str]) -> None:
    """Announce a message of 512 KiB on each of 100 streams, and send all but its last byte; begin again what ends."""
    windows, left, last = Windows(), dict[int, int](), 1

    def begin() -> None:
        nonlocal last
        caller.call(last, READ, token=token)
        left[last] = 5 + MESSAGE - 1
        caller.part(last, b"\0" + struct.pack(">I", MESSAGE))
        left[last] -= 5
        windows.take(last, 5)
        last += 2

    caller.begin()
    for _ in range(STREAMS):
        begin()
    async for kind, stream, payload in caller.frames():
        windows.follow(kind, stream, payload)
        if kind in (_HEADERS, _RST) and left.pop(stream, None) is not None:
            happened["ended by the server"] += 1
            begin()
        for unfinished in left:
            while size := windows.take(unfinished, left[unfinished]):
                caller.part(unfinished, bytes(size))
                happened["bytes of messages"] += size
                left[unfinished] -= size
        await caller.sent()


async def take_nothing(caller: Rude, token: str, happened: Counter[str]) -> None:
    """Read a record of full size on 100 streams, and give the server no window for the replies."""
    request, last = pb.ReadRequest(key_id=LARGE).SerializeToString(), 1
    caller.begin(window=0)
    for last in range(1, 2 * STREAMS, 2):
        caller.call(last, READ, request, token)
    async for kind, _, _ in caller.frames():
        if kind == _RST or caller.ends:
            happened["ended by the server"] += 1
            last += 2
            caller.call(last, READ, request, token)
            await caller.sent()


async def hold(caller: Rude, token: str, happened: Counter[str]) -> None:
    """Connect, and say nothing more."""
    caller.begin()
    async for _ in caller.frames():
        pass


def by_hand(
    attack: Callable[[Rude, str, Counter[str]], Awaitable[None]], connections: int
) -> Callable[[str, str, Counter[str]], Awaitable[None]]:
    """Return an attack over so many connections, each of which comes back when it was closed."""

    async def attack_with_all(address: str, token: str, happened: Counter[str]) -> None:
        async def one() -> None:
            while True:
                with contextlib.suppress(OSError, EOFError):
                    async with rude(address) as caller:
                        happened["connections"] += 1
                        await attack(caller, token, happened)
                happened["connections closed"] += 1
                await asyncio.sleep(0.1)

        await asyncio.gather(*(one() for _ in range(connections)))

    return attack_with_all


async def flood(address: str, token: str, happened: Counter[str]) -> None:
    """Keep 2,000 calls in flight, over as many connections as their streams need."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def one(call: Any) -> None:
        while True:
            try:
                await call(b"", metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                happened[error.code().name] += 1

    channels = [
        grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
        for _ in range(IN_FLIGHT // STREAMS)
    ]
    await asyncio.gather(*(one(channel.unary_unary(READ)) for channel in channels for _ in range(STREAMS)))


ATTACKS: dict[str, list[Callable[[str, str, Counter[str]], Awaitable[None]]]] = {
    "slow senders": [by_hand(half_send, CONNECTIONS)],
    "slow readers": [by_hand(take_nothing, CONNECTIONS)],
    "a flood": [flood],
    "many connections": [by_hand(hold, IDLE)],
}
ATTACKS["all at once"] = [attack for several in list(ATTACKS.values()) for attack in several]


async def main(name: str, address: str, seconds: float, token: str) -> None:
    """Attack for so long, and print what happened."""
    happened: Counter[str] = Counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(attack(address, token, happened) for attack in ATTACKS[name]))
    print(", ".join(f"{number:,} {what}" for what, number in happened.most_common()), flush=True)


if __name__ == "__main__":
    os.nice(19)
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.stdin.readline().strip()))
