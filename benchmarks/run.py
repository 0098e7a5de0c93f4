"""Prints KeyVault's figures, each as a ratio of two things timed in one run: `python benchmarks/run.py [--quick]`.

Both servers run at the same time, pinned to core 0; the load runs on the last core. Rounds alternate between them, so
that a noisy machine disturbs both alike; each figure is the median of the rounds. A ratio of throughputs flatters the
slower server when the load generator is the bottleneck, so the ratio of server CPU seconds per call stands beside it.
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from keyvault import envelope
from keyvault.v1 import keyvault_pb2 as pb
from keyvault.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.records import Record

KIB = os.urandom(1024)
IN_FLIGHT = 64
HERE = Path(__file__).parent


@dataclass
class Round:
    calls_per_second: float
    cpu_seconds_per_call: float


@dataclass
class Server:
    pid: int
    address: str

    def cpu_seconds(self) -> float:
        """Of all its threads, so far."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def started(*command: str) -> Iterator[Server]:
    """A server process on core 0 that prints "... ready on host:port"."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        os.sched_setaffinity(process.pid, {0})
        assert process.stdout is not None
        match = re.search(r"ready on (\S+)", process.stdout.readline())
        assert match, "the server did not start"
        yield Server(process.pid, match[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def load(server: Server, method: str, requests: Callable[[], bytes], calls: int) -> Round:
    """So many calls, 64 in flight over one channel, request bytes made beforehand."""
    ready = [requests() for _ in range(calls)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/keyvault.v1.KeyVault/{method}")

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
        self._count += 1
        name = f"bench/{self._count}"
        sealed = envelope.seal(self._key.plaintext_key, self._key.tenant, name, 1, KIB)
        return pb.CreateRequest(key_id=name, wrapped_key=self._key.wrapped_key, envelope=sealed).SerializeToString()


async def compare(calls: int, rounds: int) -> None:
    os.sched_setaffinity(0, {os.cpu_count() - 1})  # type: ignore[operator]
    with tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as data:
        serve = ("-m", "keyvault_server", "serve", "--data", data, "--listen", "127.0.0.1:0")
        with started(sys.executable, *serve) as vault:
            async with grpc.aio.insecure_channel(vault.address) as channel:
                stub = KeyVaultStub(channel)
                key = await stub.GenerateKey(pb.GenerateKeyRequest(scope="bench/"))
                creates = Creates(key)
                first = pb.CreateRequest.FromString(creates())
                created = await stub.Create(first)
                read = await stub.Read(pb.ReadRequest(key_id=first.key_id))
            answers = (read.SerializeToString().hex(), created.SerializeToString().hex())
            with started(sys.executable, str(HERE / "noop_server.py"), *answers) as noop:
                wanted = pb.ReadRequest(key_id=first.key_id).SerializeToString()
                await contest("Read of 1 KiB", "Read", lambda: wanted, vault, noop, calls, rounds, 0.80)
                await contest("64 durable Creates in flight", "Create", creates, vault, noop, calls, rounds, 0.50)


async def contest(
    title: str,
    method: str,
    requests: Callable[[], bytes],
    vault: Server,
    noop: Server,
    calls: int,
    rounds: int,
    goal: float,
) -> None:
    pairs = []
    for _ in range(rounds + 1):
        pairs.append((await load(vault, method, requests, calls), await load(noop, method, requests, calls)))
    del pairs[0]  # warms up
    rate = statistics.median(ours.calls_per_second / theirs.calls_per_second for ours, theirs in pairs)
    cpu = statistics.median(theirs.cpu_seconds_per_call / ours.cpu_seconds_per_call for ours, theirs in pairs)
    ours = statistics.median(pair[0].calls_per_second for pair in pairs)
    theirs = statistics.median(pair[1].calls_per_second for pair in pairs)
    print(
        f"{title}, against a no-op grpc.aio handler: {rate:.2f} by throughput ({ours:.0f}/s to {theirs:.0f}/s), ",
        end="",
    )
    print(f"{cpu:.2f} by server CPU per call; goal {goal:.2f}: {'met' if min(rate, cpu) >= goal else 'MISSED'}")


async def group_commit(puts: int, rounds: int) -> None:
    ratios = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as data:
            async with open_store(Path(data) / "records.sqlite3") as store:

                async def put(name: str) -> None:
                    record = Record(os.urandom(72), os.urandom(16), 1, 1, KIB)
                    await store.put_if("bench", name, record, None)

                one = await puts_per_second(put, puts // 8, 1)
                many = await puts_per_second(put, puts, IN_FLIGHT)
                ratios.append((many / one, many, one))
    ratio, many, one = (
        statistics.median(r[0] for r in ratios),
        *map(statistics.median, list(zip(*ratios, strict=True))[1:]),
    )
    met = "met" if ratio >= 5 else "MISSED"
    print(
        f"64 puts in flight against sequential ones, at the store: {ratio:.1f} times ({many:.0f}/s to {one:.0f}/s); ",
        end="",
    )
    print(f"goal 5: {met}")


async def puts_per_second(put: Callable[[str], Awaitable[None]], puts: int, in_flight: int) -> float:
    names = [f"{in_flight}-{number}" for number in range(puts)]

    async def worker() -> None:
        while names:
            await put(names.pop())

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return puts / (time.perf_counter() - began)


def sealing(times: int) -> None:
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
    print(f"seal + open of 1 KiB against bare AES-256-GCM with its key set up: {ratio:.1f} times ", end="")
    print(f"({ours:.1f} us to {theirs:.1f} us)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls: shows that it runs, not the figures")
    quick = parser.parse_args().quick
    asyncio.run(compare(*((500, 1) if quick else (6000, 7))))
    asyncio.run(group_commit(*((800, 1) if quick else (16000, 5))))
    sealing(500 if quick else 20000)
