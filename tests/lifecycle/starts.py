"""Starts over a full database: `python -m tests.lifecycle.starts [--records N] [--times N]`.

Fills a database with small records, a million by default, and then starts a real server over it, time and
again: what is measured is from the exec of the server to the answer of its first Read, over a new connection. Before
each cold start the kernel is asked to forget what it has of the files. A start over one record is measured too,
since most of a start is Python's.

The records are written past the store, by SQL in the schema of `backends/embedded/database.py`, which is quicker; they
are sealed as any other and read through the server.
"""

import argparse
import asyncio
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from keyvault_api import envelope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.caller import DEFAULT_TENANT
from keyvault_server.core.records import FORMAT, successor
from keyvault_server.core.wrapped_key import WrappedKey
from keyvault_server.operations.composition import open_backend
from keyvault_server.operations.settings import Settings
from tests.support.processes import STARTED, server_process
from tests.support.requests import Key

GOAL_SECONDS = 2.0
SCOPE = "m/"
_INSERT = (
    "INSERT INTO record (tenant, key_id, format, head, ring, created, updated, since, revisions, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def name(number: int) -> str:
    """Of a record."""
    return f"{SCOPE}{number:08}"


def text(number: int) -> bytes:
    """What is in it."""
    return f"secret {number}".encode()


async def filled(folder: Path, records: int) -> Key:
    """A new embedded backend with so many records; returns the key that they are all under."""
    async with open_backend(Settings(data=folder)) as (keys, _):
        made = await keys.generate(DEFAULT_TENANT, SCOPE)
    key = Key(made.plaintext, bytes(WrappedKey(SCOPE, made.wrapped)))
    connection = sqlite3.connect(folder / "records.sqlite3")
    try:
        with connection:
            connection.executemany(_INSERT, _rows(key, records))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return key


def _rows(key: Key, records: int) -> Iterator[tuple[object, ...]]:
    now = int(time.time() * 1_000_000)
    for number in range(records):
        sealed = envelope.seal(key.plaintext, DEFAULT_TENANT, name(number), 1, text(number))
        record = successor(None, sealed, now, fresh=True)
        yield DEFAULT_TENANT, name(number), FORMAT, record.head, record.ring, now, now, 1, record.revisions, record.body


@dataclass(frozen=True)
class Start:
    """How long one took, in seconds."""

    to_first_read: float
    processor: float
    """Of all threads of the server, until then."""


async def start(folder: Path, key: Key, number: int) -> Start:
    """Starts a server and reads one record, which has to be the one that was written."""
    began = time.monotonic()
    with server_process(folder, program=STARTED, KEYVAULT_ACCESS_LOG="false") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            read = await KeyVaultStub(channel).Read(pb.ReadRequest(key_id=name(number)), timeout=30)
            took = time.monotonic() - began
            processor = _processor_seconds(server.process.pid)
        assert key.open(name(number), read.envelope) == text(number)
        assert server.stop() == 0
    return Start(took, processor)


def _processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def forget(folder: Path) -> None:
    """Asks the kernel to drop what it has of these files from memory."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


async def measured(folder: Path, key: Key, records: int, times: int, *, cold: bool) -> list[Start]:
    """So many starts, each with a Read of another record."""
    chance, starts = random.Random(records), []
    for _ in range(times):
        if cold:
            forget(folder)
        starts.append(await start(folder, key, chance.randrange(records)))
    return starts


def printed(what: str, starts: list[Start]) -> float:
    """Prints the median of some starts; returns it."""
    seconds = statistics.median(each.to_first_read for each in starts)
    worst = max(each.to_first_read for each in starts)
    processor = statistics.median(each.processor for each in starts)
    print(
        f"{what}: first Read {seconds:.2f} s after exec, {worst:.2f} s at worst, of which"
        f" {processor:.2f} s of processor time; {len(starts)} starts",
        flush=True,
    )
    return seconds


async def main(folder: Path, records: int, times: int) -> bool:
    """Prints the figures; True if the goal is met by the median of the cold starts."""
    began = time.monotonic()
    key = await filled(folder / "full", records)
    size = (folder / "full" / "records.sqlite3").stat().st_size
    print(f"{records:,} records in {size / 1e6:.0f} MB, filled by SQL in {time.monotonic() - began:.0f} s", flush=True)
    one = await filled(folder / "one", 1)
    nothing = printed("1 record", await measured(folder / "one", one, 1, times, cold=False))
    warm = printed(f"{records:,} records", await measured(folder / "full", key, records, times, cold=False))
    cold = printed(f"{records:,} records, cold", await measured(folder / "full", key, records, times, cold=True))
    met = cold <= GOAL_SECONDS
    print(
        f"start: {records:,} records served {cold:.2f} s after exec ({warm / nothing:.2f} times one record's when warm,"
        f" {cold / nothing:.2f} when cold), load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores;"
        f" goal {GOAL_SECONDS:.0f} s: {'met' if met else 'MISSED'}"
    )
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyvault-start-") as made:
        raise SystemExit(not asyncio.run(main(Path(made), given.records, given.times)))
