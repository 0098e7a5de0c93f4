"""Attacks a server, and prints what it costs: `python -m benchmarks.attack [--seconds 60] [--quick]`.

For each attack, by callers without an identity and by one that the policy knows: the server's peak of memory and what
is left of it LEFT_SECONDS later, and the Reads of a known caller before and during the attack (median, 99th percentile,
how many failed). The server has its default limits; it runs on core 0, the attackers on the last one with the lowest
priority.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.attackers import ATTACKS, LARGE
from keyvault_api import envelope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.processes import server_process

MIB = 1024 * 1024
NAME = "known/small"
GOAL_TIMES, GOAL_MIB, GOAL_LEFT = 5.0, 400, 1.10
LEFT_SECONDS = 15
"""Seconds from the attack's end until the server has given its memory back: it waits for two quiet looks."""
POLICY = """
[[caller]]
identity = "jwt:known"
tenant = "one"
[[caller.allow]]
methods = ["*"]
names = ["*"]
[caller.limits]
Read = { per_second = 100_000, burst = 100_000 }

[[caller]]
identity = "jwt:attacker"
tenant = "one"
[[caller.allow]]
methods = ["*"]
names = ["*"]
"""


@dataclass(frozen=True)
class Reads:
    """What a known caller saw, in seconds."""

    median: float
    p99: float
    failed: Counter[str]
    calls: int


class Memory:
    """The memory of a process, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def now(self) -> float:
        """Return what the process has now."""
        return self._status("VmRSS")

    def peak(self) -> float:
        """Return the peak since `reset`."""
        return self._status("VmHWM")

    def reset(self) -> None:
        """Begin a new peak."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def _status(self, field: str) -> float:
        text = Path(f"/proc/{self._pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) / 1024


async def read_for(stub: KeyVaultStub, token: str, seconds: float) -> Reads:
    """Read one small record after the other."""
    times, failed, metadata = [], Counter[str](), (("authorization", f"Bearer {token}"),)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            await stub.Read(pb.ReadRequest(key_id=NAME), metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            failed[f"{error.code().name} {error.details()}"] += 1
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return Reads(statistics.median(times), statistics.quantiles(times, n=100)[-1], failed, len(times))


async def prepare(stub: KeyVaultStub, token: str) -> None:
    """Create the records that are read."""
    metadata = (("authorization", f"Bearer {token}"),)
    for name, size in ((NAME, 100), (LARGE, 380_000)):
        key = await stub.GenerateKey(pb.GenerateKeyRequest(scope=name), metadata=metadata)
        sealed = envelope.seal(key.plaintext_key, key.tenant, name, 1, bytes(size))
        await stub.Create(
            pb.CreateRequest(key_id=name, wrapped_key=key.wrapped_key, envelope=sealed), metadata=metadata
        )


@contextmanager
def attackers(name: str, address: str, seconds: float, token: str) -> Iterator["subprocess.Popen[str]"]:
    """Attack while the body runs, in a process of its own."""
    command = (sys.executable, "-m", "benchmarks.attackers", name, address, str(seconds))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(f"{token}\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def pin(pid: int) -> None:
    """Keep all threads of the server on core 0: those that it has already have the core of this process."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {0})


async def attack(name: str, folder: Path, issuer: Issuer, seconds: float, *, identified: bool) -> bool:
    """Attack a fresh server in one way; return whether the goals are met."""
    (folder / "keys.json").write_bytes(issuer.key_set())
    (folder / "policy.toml").write_text(POLICY)
    settings = {
        "KEYVAULT_JWT_KEYS": str(folder / "keys.json"),
        "KEYVAULT_JWT_ISSUER": ISSUER,
        "KEYVAULT_JWT_AUDIENCE": AUDIENCE,
        "KEYVAULT_POLICY": str(folder / "policy.toml"),
    }
    known = issuer.token(sub="known")
    with server_process(folder / "data", **settings) as server:
        pin(server.process.pid)
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub, memory = KeyVaultStub(channel), Memory(server.process.pid)
            await prepare(stub, known)
            await read_for(stub, known, seconds / 10)
            before = await read_for(stub, known, seconds / 4)
            rested = memory.now()
            memory.reset()
            token = issuer.token(sub="attacker") if identified else ""
            with attackers(name, server.address, seconds, token) as process:
                during = await read_for(stub, known, seconds - 2)
                happened = await asyncio.to_thread(process.communicate)
            peak = memory.peak()
            await asyncio.sleep(LEFT_SECONDS)
            left = memory.now()
    who = "an identified caller" if identified else "unidentified callers"
    times = during.p99 / before.p99
    print(f"\n{name} by {who}: {happened[0].strip() or 'nothing happened'}")
    print(f"  memory: {rested:.0f} MiB before, peak {peak:.0f} MiB, {left:.0f} MiB {LEFT_SECONDS} s later")
    print(
        f"  a known caller's Read: median {before.median * 1e3:.1f} ms, p99 {before.p99 * 1e3:.1f} ms before;"
        f" {during.median * 1e3:.1f} and {during.p99 * 1e3:.1f} ms during ({times:.1f} times);"
        f" {during.failed.total()} of {during.calls} failed {dict(during.failed) or ''}"
    )
    good = times <= GOAL_TIMES and not during.failed and peak <= GOAL_MIB and left <= GOAL_LEFT * rested
    print(f"  {'good' if good else 'MISSED'}", flush=True)
    return good


async def main(seconds: float, chosen: list[str]) -> int:
    """Make every attack; return the exit status."""
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    issuer, good = Issuer(), True
    for name in chosen:
        for identified in (False, True):
            with tempfile.TemporaryDirectory(prefix="attack-") as folder:
                good &= await attack(name, Path(folder), issuer, seconds, identified=identified)
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}; all of them by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack")
    asked = parser.parse_args()
    sys.exit(asyncio.run(main(asked.seconds, asked.names or list(ATTACKS))))
