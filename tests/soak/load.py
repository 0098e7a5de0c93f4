"""A mix of everything that callers do to a server in its life, with good manners and bad.

Those who give calls up, by a deadline, by cancelling or by hanging up, have a server of their own (`hasty`): each such
call costs any grpc.aio server some bytes (watch.py), which would hide what another costs.

The rule of this file: what is asked of a name that nobody else writes has one right answer, and is compared with it; a
call that its caller gave up has none.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.support import requests
from tests.support.connections import channel as connected
from tests.support.production_server import ProductionServer
from tests.support.requests import Key, mint

NAMES = 16
"""Of each author: the database does not grow for ever."""
SIZES = (0, 40, 1_000, 1_000, 20_000, 200_000)
PAUSE_SECONDS = 0.02
"""Between two calls of one caller, on average."""
TIMEOUT = 60.0
BIG = 200_000


@dataclass
class Page:
    """What an author knows of one name."""

    key: Key
    other: Key
    data: bytes = b""
    revision: int = 0
    live: bool = False


@dataclass
class Mix:
    """One server under load."""

    server: ProductionServer
    seed: int
    hasty: bool
    """Who comes gives calls up."""
    calls: Counter[str] = field(default_factory=Counter)
    """What was done, by kind."""
    given_up: int = 0
    """Calls that nobody waited for to their end."""
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long the authors' calls took, since somebody looked last."""

    async def run(self, seconds: float) -> None:
        """Run everybody for so long."""
        steady = (*[self._author] * 8, *[self._mistaken] * 2, *[self._newcomer] * 2, self._unidentified)
        hasty = (*[self._author] * 2, *[self._impatient] * 2, *[self._leaver] * 2, self._forgetful)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as everybody:
                for number, who in enumerate(hasty if self.hasty else steady):
                    everybody.create_task(who(random.Random(f"{self.seed}/{number}"), f"soak/{number}/"))

    async def _author(self, chance: random.Random, prefix: str) -> None:
        """Writes and reads names of its own."""
        async with self.server.channel() as channel:
            stub = KeyVaultStub(channel)
            key, other = await mint(stub, prefix), await mint(stub, prefix)
            pages = {f"{prefix}{number}": Page(key, other) for number in range(NAMES)}
            while True:
                name = chance.choice(tuple(pages))
                step = chance.choice(("read", "read", "read", "update", "update", "rotate", "delete"))
                began = time.monotonic()
                try:
                    await _turn(stub, name, pages[name], step, bytes(chance.choice(SIZES)))
                except (grpc.aio.AioRpcError, AssertionError) as failed:
                    self.wrong.append(f"{step} of {name}: {failed!r}")
                self.seconds.append(time.monotonic() - began)
                await self._done("answered", chance)

    async def _mistaken(self, chance: random.Random, prefix: str) -> None:
        """Asks for what has to be refused."""
        async with self.server.channel() as channel:
            stub = KeyVaultStub(channel)
            key, other = await mint(stub, prefix), await mint(stub, prefix)
            await stub.Create(requests.create(key, f"{prefix}a"))
            raw: Any = channel.unary_unary("/keyvault.v1.KeyVault/Update")
            while True:
                envelope = chance.randbytes(200)
                await self._refused("NOT_FOUND", stub.Read(pb.ReadRequest(key_id=f"{prefix}none"), timeout=TIMEOUT))
                bad = pb.CreateRequest(key_id=f"{prefix}b", wrapped_key=key.wrapped, envelope=envelope)
                await self._refused("INVALID_ARGUMENT", stub.Create(bad, timeout=TIMEOUT))
                stolen = requests.update(other, f"{prefix}a", 2)
                await self._refused("PERMISSION_DENIED", stub.Update(stolen, timeout=TIMEOUT))
                stale = requests.update(key, f"{prefix}a", 7)
                await self._refused("ABORTED", stub.Update(stale, timeout=TIMEOUT))
                await self._refused("INVALID_ARGUMENT", raw(envelope, timeout=TIMEOUT))
                await self._done("round of refusals", chance)

    async def _refused(self, status: str, call: Awaitable[Any]) -> None:
        try:
            await call
            self.wrong.append(f"OK instead of {status}")
        except grpc.aio.AioRpcError as failed:
            if failed.code().name != status:
                self.wrong.append(f"{failed.code().name} instead of {status}: {failed.details()}")

    async def _impatient(self, chance: random.Random, prefix: str) -> None:
        """Gives its calls up, by cancelling or by a deadline, wherever they are."""
        async with self.server.channel() as channel:
            stub = KeyVaultStub(channel)
            key = await mint(stub, prefix)
            await stub.Create(requests.create(key, f"{prefix}a", bytes(BIG)))
            while True:
                revision = (await stub.Read(pb.ReadRequest(key_id=f"{prefix}a"), timeout=TIMEOUT)).revision
                patience = chance.uniform(0, 0.01)
                calls: list[Any] = [
                    stub.Update(requests.update(key, f"{prefix}a", revision + 1, bytes(BIG)), timeout=patience),
                    stub.Read(pb.ReadRequest(key_id=f"{prefix}a")),
                    stub.GenerateKey(pb.GenerateKeyRequest(scope=prefix)),
                ]
                await asyncio.sleep(patience)
                for call in calls[1:]:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                self.given_up += len(calls)
                await self._done("given up", chance)

    async def _newcomer(self, chance: random.Random, prefix: str) -> None:
        """Opens a new connection for a call or two."""
        while True:
            async with self.server.channel(chance.choice(("alice", "bob"))) as channel:
                for _ in range(chance.randrange(1, 4)):
                    await KeyVaultStub(channel).GenerateKey(pb.GenerateKeyRequest(), timeout=TIMEOUT)
            await self._done("connected", chance)

    async def _leaver(self, chance: random.Random, prefix: str) -> None:
        """Opens a new connection, and hangs up in the middle of its second call."""
        while True:
            async with self.server.channel(chance.choice(("alice", "bob"))) as channel:
                stub = KeyVaultStub(channel)
                await stub.GenerateKey(pb.GenerateKeyRequest(), timeout=TIMEOUT)
                last = stub.GenerateKey(pb.GenerateKeyRequest())
                await asyncio.sleep(chance.choice((0, 0.002)))
            last.cancel()
            self.given_up += 1
            await self._done("left", chance)

    async def _forgetful(self, chance: random.Random, prefix: str) -> None:
        """Starts calls and streams, and never asks for their answers."""
        while True:
            async with self.server.channel() as channel:
                stub, health = KeyVaultStub(channel), health_pb2_grpc.HealthStub(channel)
                for _ in range(10):
                    stub.Read(pb.ReadRequest(key_id=f"{prefix}none"))
                    stub.GenerateKey(pb.GenerateKeyRequest(scope=prefix), timeout=1)
                    health.Watch(health_pb2.HealthCheckRequest())
                    self.given_up += 3
                    await self._done("abandoned", chance)

    async def _unidentified(self, chance: random.Random, prefix: str) -> None:
        """Comes without a certificate, without TLS, or without a word."""
        ca = (self.server.folder / "certs" / "ca.pem").read_bytes()
        port = int(self.server.address.rpartition(":")[2])
        while True:
            async with connected(self.server.address, ca) as channel:
                await self._refused(
                    "UNAVAILABLE", KeyVaultStub(channel).GenerateKey(pb.GenerateKeyRequest(), timeout=5)
                )
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(chance.choice((b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", chance.randbytes(500))))
                await asyncio.sleep(chance.choice((0, 0.1)))
            finally:
                writer.transport.abort()
            await self._done("rejected", chance)

    async def _done(self, kind: str, chance: random.Random) -> None:
        self.calls[kind] += 1
        await asyncio.sleep(chance.expovariate(1 / PAUSE_SECONDS))


async def _turn(stub: KeyVaultStub, name: str, page: Page, step: str, data: bytes) -> None:
    """One call that has to succeed. Raises AioRpcError, AssertionError."""
    revision = page.revision + 1
    if not page.live:
        await stub.Create(requests.create(page.key, name, data, revision), timeout=TIMEOUT)
    elif step == "read":
        read = await stub.Read(pb.ReadRequest(key_id=name), timeout=TIMEOUT)
        assert page.key.open(name, read.envelope) == page.data
        return
    elif step == "update":
        await stub.Update(requests.update(page.key, name, revision, data), timeout=TIMEOUT)
    elif step == "rotate":
        await stub.RotateKey(requests.rotate(page.key, page.other, name, revision, data), timeout=TIMEOUT)
        page.key, page.other = page.other, page.key
    else:
        await stub.Delete(requests.delete(page.key, name, revision), timeout=TIMEOUT)
        page.revision, page.live = revision, False
        return
    page.revision, page.live, page.data = revision, True, data
