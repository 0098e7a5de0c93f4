"""Crashes of a real server under load, and what is left: `python -m tests.crash.cycles [--cycles N] [--seed N]`.

One cycle: a server process is started, clients write to it, and it is killed with SIGKILL at a random moment. Then what
its disk holds is served again, in three ways: as the kill left it; after a power cut at a random moment of the same
run, when only synced bytes are left; and with a random part of the other bytes as well. Every write that had been
acknowledged by that moment has to be there, and nothing that was never sent.
"""

import argparse
import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.crash.power import Disk, Entry, Recorder, compiled, recording
from tests.support import requests
from tests.support.processes import server_process
from tests.support.requests import Key, mint
from tests.support.servers import Served, embedded

WRITERS = 16
EVER = 2**63
HISTORY = 10
"""Earlier revisions that can be read: the default of the setting."""


_COPIES = "SELECT tenant, key_id, count(*), min(revision) FROM copy GROUP BY 1, 2 ORDER BY 1, 2"
_NEEDED = (
    "SELECT tenant, key_id, length(revisions) / 12 - 1, since FROM record WHERE length(revisions) > 12 ORDER BY 1, 2"
)
"""Of each record that has earlier revisions: how many, and the oldest."""


@dataclass(slots=True)
class Write:
    """One envelope that was sent."""

    envelope: bytes
    key: Key
    """The key that it is under."""
    updates: bool
    """Whether it keeps the revisions before it readable."""
    acknowledged: int = EVER
    """How long the recording was when the answer came; EVER if none came."""


@dataclass(slots=True)
class Ledger:
    """What the clients know: every write, by name, in the order of revisions."""

    writes: dict[str, list[Write]] = field(default_factory=dict)

    def acknowledged(self, name: str, moment: int) -> int:
        """The highest revision of a name that had been acknowledged by then."""
        times = [write.acknowledged for write in self.writes[name]]
        return max((revision for revision, at in enumerate(times, 1) if at <= moment), default=0)


def readable(writes: list[Write], current: int) -> list[int]:
    """The revisions that can be read of a record at this one, newest first."""
    since = current
    while current - since < HISTORY and writes[since - 1].updates:
        since -= 1
    return list(range(current, since - 1, -1))


@dataclass(slots=True)
class Verdict:
    """What one look at a crashed vault found."""

    acknowledged: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Verdict") -> "Verdict":
        self.acknowledged += other.acknowledged
        self.lost += other.lost
        self.wrong += other.wrong
        return self


class Writer:
    """Creates one name, then updates, rotates, deletes and creates it again, until the server is gone."""

    def __init__(self, stub: KeyVaultStub, name: str, keys: tuple[Key, Key], seed: int, log: Path) -> None:
        self._stub = stub
        self._name = name
        self._present, self._other = keys
        self._random = random.Random(seed)
        self._log = log
        self.writes: list[Write] = []

    async def run(self) -> None:
        """Returns when a call fails: whether that write was done is unknown."""
        live = False
        while True:
            step = self._random.choice((*["update"] * 6, "rotate", "delete")) if live else "create"
            try:
                await self._send(step)
            except grpc.aio.AioRpcError:
                return
            self.writes[-1].acknowledged = self._log.stat().st_size
            live = step != "delete"

    async def _send(self, step: str) -> None:
        revision = len(self.writes) + 1
        data = self._random.randbytes(self._random.choice((0, 40, 1_000, 20_000)))
        if step == "create":
            created = requests.create(self._present, self._name, data, revision)
            await self._note(self._stub.Create, created, step)
        elif step == "update":
            await self._note(self._stub.Update, requests.update(self._present, self._name, revision, data), step)
        elif step == "delete":
            await self._note(self._stub.Delete, requests.delete(self._present, self._name, revision), step)
        else:
            request = requests.rotate(self._present, self._other, self._name, revision, data)
            self._present, self._other = self._other, self._present
            await self._note(self._stub.RotateKey, request, step)

    async def _note(self, call: Callable[..., Any], request: Any, step: str) -> None:
        self.writes.append(Write(request.envelope, self._present, step == "update"))
        await call(request, timeout=10)


async def crash(folder: Path, recorder: Recorder, chance: random.Random, deaf: str = "") -> Ledger:
    """Runs a recorded server in `folder`/data until it is killed; the recording is `folder`/log."""
    data, log = folder / "data", folder / "log"
    ledger = Ledger()
    with server_process(data, **recorder.environment(data, log, deaf)) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = KeyVaultStub(channel)
            keys = await mint(stub, "k/"), await mint(stub, "k/")
            writers = [Writer(stub, f"k/{n}", keys, chance.getrandbits(32), log) for n in range(WRITERS)]
            loop = asyncio.get_running_loop()
            loop.call_later(chance.uniform(0.02, 0.6), server.process.kill)
            await asyncio.gather(*(writer.run() for writer in writers))
        server.process.wait(10)
    for number, writer in enumerate(writers):
        ledger.writes[f"k/{number}"] = writer.writes
    return ledger


async def look(data: Path, ledger: Ledger, moment: int = EVER - 1) -> Verdict:
    """Serves what a crash left and compares it with what had been acknowledged by then."""
    verdict = Verdict()
    if any(ledger.acknowledged(name, moment) for name in ledger.writes):
        if whole(data / "records.sqlite3"):
            async with embedded(data) as served:
                for name, writes in ledger.writes.items():
                    verdict += await _look_at(served, name, writes, ledger.acknowledged(name, moment))
        else:
            verdict.wrong.append("the database is damaged or missing")
    return verdict


def whole(database: Path) -> bool:
    """SQLite's own check of a database as a crash left it, on a copy; and whether it has the copies that it needs."""
    if not database.exists():
        return False
    with tempfile.TemporaryDirectory() as folder:
        for path in database.parent.glob("records.sqlite3*"):
            shutil.copy(path, folder)
        connection = sqlite3.connect(Path(folder, database.name))
        try:
            sound = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'copy'").fetchone()
            kept = [connection.execute(query).fetchall() for query in (_COPIES, _NEEDED)] if made else [[], []]
            return bool(sound and kept[0] == kept[1])
        except sqlite3.DatabaseError:
            return False
        finally:
            connection.close()


async def _look_at(served: Served, name: str, writes: list[Write], acknowledged: int) -> Verdict:
    verdict = Verdict(acknowledged)
    try:
        found = await served.stub.Read(pb.ReadRequest(key_id=name, include_deleted=True), timeout=10)
    except grpc.aio.AioRpcError as failed:
        if failed.code() is not grpc.StatusCode.NOT_FOUND:
            verdict.wrong.append(f"{name}: Read answers {failed.code().name}")
        verdict.lost = acknowledged
        return verdict
    verdict.lost = max(0, acknowledged - found.revision)
    if found.revision > len(writes) or found.envelope != writes[found.revision - 1].envelope:
        verdict.wrong.append(f"{name}: revision {found.revision} is not what was sent")
    else:
        verdict.wrong += [] if found.deleted else await _wrong_revisions(served, name, writes, found.revision)
        verdict.wrong += await _still_owned(served, name, writes[found.revision - 1], found.revision + 1)
    return verdict


async def _wrong_revisions(served: Served, name: str, writes: list[Write], current: int) -> list[str]:
    """Exactly what an Update kept can be read, as it was sent."""
    listed = await served.stub.ListRevisions(pb.ListRevisionsRequest(key_id=name), timeout=10)
    expected = readable(writes, current)
    if [one.revision for one in listed.revisions] != expected:
        return [f"{name}: ListRevisions does not show {expected}"]
    wrong = []
    for revision in range(max(1, expected[-1] - 1), current + 1):
        try:
            read = await served.stub.Read(pb.ReadRequest(key_id=name, revision=revision), timeout=10)
            right = revision in expected and read.envelope == writes[revision - 1].envelope
        except grpc.aio.AioRpcError as failed:
            right = revision not in expected and failed.code() is grpc.StatusCode.NOT_FOUND
        wrong += [] if right else [f"{name}: Read of revision {revision} is wrong"]
    return wrong


async def _still_owned(served: Served, name: str, write: Write, revision: int) -> list[str]:
    """The key that sealed what is there opens it and may go on, so the keyring is whole too."""
    write.key.open(name, write.envelope)
    try:
        if write.envelope[5] == Kind.TOMBSTONE:
            await served.stub.Create(requests.create(write.key, name, b"again", revision), timeout=10)
        else:
            await served.stub.Update(requests.update(write.key, name, revision), timeout=10)
    except grpc.aio.AioRpcError as failed:
        return [f"{name}: its owner is answered {failed.code().name}"]
    return []


async def cut_and_look(
    folder: Path, entries: list[Entry], ledger: Ledger, chance: random.Random, *, torn: bool
) -> Verdict:
    """A power cut at a random moment of a recorded run."""
    disk = Disk(folder / "data")
    kept = chance.randrange(len(entries)) + 1
    for entry in entries[:kept]:
        disk.apply(entry)
    left = folder / "left"
    disk.cut(left, chance if torn else None)
    try:
        return await look(left, ledger, entries[kept - 1].end)
    finally:
        shutil.rmtree(left)


async def cycle(recorder: Recorder, seed: int, cuts: int = 1, deaf: str = "") -> dict[str, Verdict]:
    """One server's life and death; so many power cuts of each sort in it. `deaf`: see Recorder."""
    chance = random.Random(seed)
    found = {"kill -9": Verdict(), "power cut": Verdict(), "power cut, torn": Verdict()}
    with tempfile.TemporaryDirectory(prefix="keyvault-crash-") as name:
        folder = Path(name)
        ledger = await crash(folder, recorder, chance, deaf)
        entries = list(recording(folder / "log"))
        for _ in range(cuts):
            found["power cut"] += await cut_and_look(folder, entries, ledger, chance, torn=False)
            found["power cut, torn"] += await cut_and_look(folder, entries, ledger, chance, torn=True)
        found["kill -9"] += await look(folder / "data", ledger)
    return found


async def main(cycles: int, seed: int) -> bool:
    """Prints one line a kind of crash; True if nothing was lost and nothing wrong."""
    began = time.monotonic()
    total: dict[str, Verdict] = {}
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        recorder = compiled(Path(folder))
        for number in range(cycles):
            for kind, verdict in (await cycle(recorder, seed + number)).items():
                total.setdefault(kind, Verdict())
                total[kind] += verdict
                count[kind] += 1
                if verdict.lost or verdict.wrong:
                    print(f"seed {seed + number}, {kind}: {verdict.lost} lost; {'; '.join(verdict.wrong)}", flush=True)
    for kind, verdict in total.items():
        print(
            f"{kind}: {count[kind]} cycles, seeds {seed} to {seed + cycles - 1}: {verdict.acknowledged} acknowledged"
            f" writes, {verdict.lost} lost, {len(verdict.wrong)} wrong"
        )
    print(f"{time.monotonic() - began:.0f} s on {os.cpu_count()} cores")
    return not any(verdict.lost or verdict.wrong for verdict in total.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1_000, help="server lives; each is cut three ways")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    raise SystemExit(not asyncio.run(main(given.cycles, given.seed)))
