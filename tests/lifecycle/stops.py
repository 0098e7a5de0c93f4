"""Stops under load: `python -m tests.lifecycle.stops [--cycles N] [--seed N]`.

One cycle: clients of a real server process write and read, each call under a request id of its own, and a SIGTERM comes
at a random moment. A call was accepted if the server began it: then its request id is in the server's access log. Then

* every accepted call is OK, in the log and for its caller: none is broken off, and none is done without its reply;
* every other call fails as UNAVAILABLE or CANCELLED, and what is left on the disk, served again, has nothing of it:
  each name stands at the last revision that was acknowledged.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.support import requests
from tests.support.production_server import TENANTS, ProductionServer, production_server
from tests.support.requests import Key, mint
from tests.support.servers import embedded

CONNECTIONS, WRITERS = 2, 32
SIZES = (10, 1_000, 300_000)
"""Of what is written: replies to Read that are long on their way."""
FAILURES = 3
"""After so many a client goes: the server is gone."""
DONE = ("OK", "NOT_FOUND")
"""What a call is answered that the server began; a client reads its name before it has written it."""
UNTOUCHED = ("UNAVAILABLE", "CANCELLED")
"""What every other call is answered."""
ANONYMOUS = f"""
[[caller]]
identity = "anonymous"
tenant = "{TENANTS["alice"]}"
[[caller.allow]]
methods = ["Read"]
names = ["*"]
"""


@dataclass
class Outcome:
    """What the clients and the log say of one stop, or of many."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Calls that were not accepted, by status."""
    wrong: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Outcome") -> "Outcome":
        self.accepted += other.accepted
        self.refused += other.refused
        self.wrong += other.wrong
        return self


@dataclass
class Client:
    """Writes one name, revision by revision, and reads it in between, until the server is gone."""

    stub: KeyVaultStub
    name: str
    keys: tuple[Key, Key]
    chance: random.Random
    calls: dict[str, str] = field(default_factory=dict)
    """What each call was answered, by request id."""
    envelope: bytes = b""
    """The last that was acknowledged."""
    revision: int = 0
    live: bool = False

    async def run(self) -> None:
        failures = 0
        while failures < FAILURES:
            step = self.chance.choice(("update", "update", "rotate", "read", "read", "delete"))
            failures += not await (self._read() if step == "read" else self._write(step))

    async def _read(self) -> bool:
        return await self._call(self.stub.Read, pb.ReadRequest(key_id=self.name, include_deleted=True))

    async def _write(self, step: str) -> bool:
        revision, (present, other) = self.revision + 1, self.keys
        step = step if self.live else "create"
        call, request = self._mutation(step, present, other, revision)
        if not await self._call(call, request):
            return False
        self.envelope, self.revision, self.live = request.envelope, revision, step != "delete"
        self.keys = (other, present) if step == "rotate" else self.keys
        return True

    def _mutation(self, step: str, present: Key, other: Key, revision: int) -> tuple[Callable[..., Any], Any]:
        data = bytes(self.chance.choice(SIZES))
        match step:
            case "create":
                return self.stub.Create, requests.create(present, self.name, data, revision)
            case "update":
                return self.stub.Update, requests.update(present, self.name, revision, data)
            case "delete":
                return self.stub.Delete, requests.delete(present, self.name, revision)
            case _:
                return self.stub.RotateKey, requests.rotate(present, other, self.name, revision)

    async def _call(self, call: Callable[..., Any], request: Any) -> bool:
        """True if it was done."""
        request_id = f"{self.name.replace('/', '-')}-{len(self.calls)}"
        try:
            await call(request, timeout=20, metadata=(("x-request-id", request_id),))
            self.calls[request_id] = "OK"
        except grpc.aio.AioRpcError as failed:
            self.calls[request_id] = failed.code().name
        return self.calls[request_id] in DONE


async def cycle(folder: Path, seed: int) -> Outcome:
    """One server's life and end, on what earlier ones left in the folder."""
    with production_server(folder) as server:
        clients = await _load(server, seed)
        status = await asyncio.to_thread(server.server.process.wait, 30)
        outcome = compared(clients, logged(server.server.log))
    if status:
        outcome.wrong.append(f"the server ended with status {status}")
    outcome.wrong += await _looked_at(folder, clients)
    outcome.wrong = [f"seed {seed}: {sentence}" for sentence in outcome.wrong]
    return outcome


async def _load(server: ProductionServer, seed: int) -> list[Client]:
    """Clients that run until after the SIGTERM."""
    chance = random.Random(seed)
    channels = [server.channel() for _ in range(CONNECTIONS)]
    keys = await mint(KeyVaultStub(channels[0]), "s/"), await mint(KeyVaultStub(channels[0]), "s/")
    clients = [
        Client(KeyVaultStub(channels[number % CONNECTIONS]), f"s/{seed}/{number}", keys, random.Random(chance.random()))
        for number in range(CONNECTIONS * WRITERS)
    ]
    stop = chance.uniform(0.05, 0.6)
    asyncio.get_running_loop().call_later(stop, server.server.process.send_signal, signal.SIGTERM)
    await asyncio.gather(*(client.run() for client in clients))
    for channel in channels:
        await channel.close()
    return clients


def logged(log: Path) -> dict[str, str]:
    """The status of every call that the server began, by request id; of keys that were minted, too."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {line["request_id"]: line["status"] for line in lines if "call" in line}


def compared(clients: list[Client], log: dict[str, str]) -> Outcome:
    """What the callers got against what the server began."""
    outcome = Outcome()
    for request_id, answer in (pair for client in clients for pair in client.calls.items()):
        began = log.get(request_id)
        if began is None:
            outcome.refused[answer] += 1
            good = answer in UNTOUCHED
        else:
            outcome.accepted += 1
            good = began == answer and answer in DONE
        if not good:
            outcome.wrong.append(f"{request_id} is {began} in the log, and {answer} for its caller")
    return outcome


async def _looked_at(folder: Path, clients: list[Client]) -> list[str]:
    """What is left, served again."""
    (folder / "anonymous.toml").write_text(ANONYMOUS)
    wrong = []
    async with embedded(folder / "data", policy=folder / "anonymous.toml") as served:
        for client in clients:
            found = pb.ReadResponse()
            try:
                found = await served.stub.Read(pb.ReadRequest(key_id=client.name, include_deleted=True), timeout=10)
            except grpc.aio.AioRpcError as failed:
                if failed.code() is not grpc.StatusCode.NOT_FOUND:
                    wrong.append(f"Read of {client.name} is {failed.code().name}")
            if (found.revision, found.envelope) != (client.revision, client.envelope):
                wrong.append(f"{client.name} is at {found.revision}; {client.revision} was acknowledged last")
    return wrong


async def main(cycles: int, seed: int) -> bool:
    """Prints what became of so many stops; True if all is well."""
    began, total = time.monotonic(), Outcome()
    with tempfile.TemporaryDirectory(prefix="keyvault-stop-") as folder:
        for number in range(seed, seed + cycles):
            total += await cycle(Path(folder), number)
    for sentence in total.wrong[:20]:
        print("WRONG:", sentence)
    refused = ", ".join(f"{count} {status}" for status, count in total.refused.most_common())
    print(
        f"SIGTERM under load: {cycles} stops, seeds {seed} to {seed + cycles - 1}: {total.accepted:,} accepted calls,"
        f" {len(total.wrong)} failed or wrong; others, untouched: {refused};"
        f" {time.monotonic() - began:.0f} s on {os.cpu_count()} cores"
    )
    return not total.wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    raise SystemExit(not asyncio.run(main(given.cycles, given.seed)))
