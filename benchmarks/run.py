"""Prints KeyVault's figures, each as a ratio of two things timed in one run: `python benchmarks/run.py [--quick]`.

The servers run at the same time, pinned to core 0; the load runs on the last core. Rounds alternate between them, so
that a noisy machine disturbs all alike; each figure is the median of the rounds. A ratio of throughputs flatters the
slower server when the load generator is the bottleneck, so the ratio of server CPU per call is printed too.
"""

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault_api import envelope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.core.records import Record

KIB = os.urandom(1024)
IN_FLIGHT = 64
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Round:
    """What one round of calls took."""

    calls_per_second: float
    cpu_seconds_per_call: float


@dataclass(frozen=True)
class Server:
    """A server process."""

    pid: int
    address: str

    def cpu_seconds(self) -> float:
        """Of all its threads, so far."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def started(*command: str, **environment: str) -> Iterator[Server]:
    """A server process on core 0 that prints "... ready on host:port"."""
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        os.sched_setaffinity(process.pid, {0})
        assert process.stdout is not None
        match = re.search(r"ready on (\S+)", process.stdout.readline())
        assert match, "the server did not start"
        yield Server(process.pid, match[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def load(server: Server, method: str, requests: Callable[[], bytes], calls: int) -> Round:
    """So many calls, 64 in flight over one channel, request bytes made beforehand."""
    ready = [requests() for _ in range(calls)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary(f"/keyvault.v1.KeyVault/{method}")

        async def worker() -> None:
            while ready:
                await call(ready.pop(), timeout=30)

        cpu, began = server.cpu_seconds(), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        seconds = time.perf_counter() - began
        return Round(calls / seconds, (server.cpu_seconds() - cpu) / calls)


class Creates:
    """Request bytes of Creates of 1 KiB, each of a new name."""

    def __init__(self, key: pb.GenerateKeyResponse) -> None:
        self._key = key
        self._count = 0

    def __call__(self) -> bytes:
        """The next one."""
        self._count += 1
        name = f"bench/{self._count}"
        sealed = envelope.seal(self._key.plaintext_key, self._key.tenant, name, 1, KIB)
        return pb.CreateRequest(key_id=name, wrapped_key=self._key.wrapped_key, envelope=sealed).SerializeToString()


async def compare(calls: int, rounds: int) -> None:
    """Read and Create through the whole server, against no-op handlers that answer the same bytes."""
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    with tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as data, ExitStack() as servers:
        serve = ("-m", "keyvault_server", "serve", "--listen", "127.0.0.1:0", "--data")
        vault = servers.enter_context(started(sys.executable, *serve, f"{data}/plain"))
        log = f"{data}/audit.jsonl"
        audited = servers.enter_context(started(sys.executable, *serve, f"{data}/audited", KEYVAULT_AUDIT_FILE=log))
        async with grpc.aio.insecure_channel(vault.address) as channel:
            stub = KeyVaultStub(channel)
            creates = Creates(await stub.GenerateKey(pb.GenerateKeyRequest(scope="bench/")))
            first = pb.CreateRequest.FromString(creates())
            created = await stub.Create(first)
            read = await stub.Read(pb.ReadRequest(key_id=first.key_id))
        async with grpc.aio.insecure_channel(audited.address) as channel:
            stub = KeyVaultStub(channel)
            noted = Creates(await stub.GenerateKey(pb.GenerateKeyRequest(scope="bench/")))
            await stub.Create(pb.CreateRequest.FromString(noted()))
        answers = (read.SerializeToString().hex(), created.SerializeToString().hex())
        yardstick = (sys.executable, str(HERE / "noop_server.py"), *answers)
        plain = servers.enter_context(started(*yardstick))
        tuned = servers.enter_context(started(*yardstick, "tuned"))
        wanted = pb.ReadRequest(key_id=first.key_id).SerializeToString()
        for title, method, requests, noted_requests, goal in (
            ("Read of 1 KiB", "Read", lambda: wanted, lambda: wanted, 0.80),
            ("64 durable Creates in flight", "Create", creates, noted, 0.50),
        ):
            contestants = ((vault, requests), (plain, requests), (tuned, requests), (audited, noted_requests))
            played = [
                [await load(server, method, made, calls) for server, made in contestants] for _ in range(rounds + 1)
            ]
            report(title, played[1:], goal)  # the first round warms up


def report(title: str, played: list[list[Round]], goal: float) -> None:
    """One line against the plain no-op handler, one against the one with our server's scheduling and event loop."""
    for yardstick, name in ((1, "a no-op grpc.aio handler"), (2, "a no-op handler on SCHED_BATCH and uvloop too")):
        rate = statistics.median(r[0].calls_per_second / r[yardstick].calls_per_second for r in played)
        cpu = statistics.median(r[yardstick].cpu_seconds_per_call / r[0].cpu_seconds_per_call for r in played)
        ours, theirs = (statistics.median(r[side].calls_per_second for r in played) for side in (0, yardstick))
        print(
            f"{title}, against {name}: {rate:.2f} by throughput ({ours:.0f}/s to {theirs:.0f}/s),"
            f" {cpu:.2f} by server CPU per call{f'; {verdict(min(rate, cpu), goal)}' if yardstick == 1 else ''}"
        )
    rate = statistics.median(r[3].calls_per_second / r[0].calls_per_second for r in played)
    cpu = statistics.median(r[0].cpu_seconds_per_call / r[3].cpu_seconds_per_call for r in played)
    print(f"{title}, with an audit log against without: {rate:.2f} by throughput, {cpu:.2f} by server CPU per call")


async def group_commit(puts: int, rounds: int) -> None:
    """The record store alone: 64 puts in flight against one at a time."""
    played = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as data:
            async with open_store(Path(data) / "records.sqlite3") as store:

                async def put(name: str) -> None:
                    record = Record(os.urandom(72), os.urandom(16), 1, 1, KIB)
                    await store.put_if("bench", name, record, None)

                one = await puts_per_second(put, puts // 8, 1)
                played.append((await puts_per_second(put, puts, IN_FLIGHT), one))
    ratio = statistics.median(many / one for many, one in played)
    many, one = (statistics.median(side) for side in zip(*played, strict=True))
    print(
        f"64 puts in flight against sequential ones, at the store: {ratio:.1f} times"
        f" ({many:.0f}/s to {one:.0f}/s); {verdict(ratio, 5)}"
    )


async def puts_per_second(put: Callable[[str], Awaitable[None]], puts: int, in_flight: int) -> float:
    """So many puts of new names, so many of them at a time."""
    names = [f"{in_flight}-{number}" for number in range(puts)]

    async def worker() -> None:
        while names:
            await put(names.pop())

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return puts / (time.perf_counter() - began)


def sealing(times: int) -> None:
    """The envelope against the cipher that is in it."""
    key, nonce = os.urandom(32), os.urandom(12)
    gcm = AESGCM(key)

    def bare() -> None:
        gcm.decrypt(nonce, gcm.encrypt(nonce, KIB, None), None)

    def kve1() -> None:
        envelope.open(key, "bench", "bench/1", envelope.seal(key, "bench", "bench/1", 1, KIB))

    def microseconds(function: Callable[[], None]) -> float:
        began = time.perf_counter()
        for _ in range(times):
            function()
        return (time.perf_counter() - began) / times * 1e6

    pairs = [(microseconds(kve1), microseconds(bare)) for _ in range(5)]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"seal + open of 1 KiB against bare AES-256-GCM with its key set up: {ratio:.1f} times"
        f" ({ours:.1f} us to {theirs:.1f} us)"
    )


def verdict(figure: float, goal: float) -> str:
    """Against what we ask of ourselves."""
    return f"goal {goal:.2f}: {'met' if figure >= goal else 'MISSED'}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls: shows that it runs, not the figures")
    quick = parser.parse_args().quick
    asyncio.run(compare(*((500, 1) if quick else (6000, 7))))
    asyncio.run(group_commit(*((800, 1) if quick else (16000, 5))))
    sealing(500 if quick else 20000)
