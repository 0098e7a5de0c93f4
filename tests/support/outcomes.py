"""A command of a client against a misbehaving peer, and what it reported against what is stored.

The rule of this file: a client never reports a failure of what was written, nor success of what was not; it never lets
out an envelope for a revision that no envelope under its key has proved.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.interop.clients import Client
from tests.support import requests
from tests.support.misbehaving import Step, misbehaving
from tests.support.requests import Key, mint
from tests.support.servers import Served

UNKNOWN, FAILED = "outcome unknown", "failed"


def done_at(revision: int) -> str:
    """Return the outcome of a mutation that is reported as done."""
    return f"done at {revision}"


@dataclass(frozen=True)
class Record:
    """A name that one client writes, and its keys."""

    server: Served
    name: str
    folder: Path
    key: Key
    new_key: Key

    @classmethod
    async def make(cls, server: Served, name: str, folder: Path) -> "Record":
        """Make the keys and their files; nothing is stored yet."""
        record = cls(server, name, folder, await mint(server.stub, name), await mint(server.stub, name))
        for path, key in ((record.key_file, record.key), (record.new_key_file, record.new_key)):
            path.write_text(json.dumps(key.file(name)))
            path.chmod(0o600)
        return record

    @property
    def key_file(self) -> Path:
        return self.folder / "a.key"

    @property
    def new_key_file(self) -> Path:
        return self.folder / "b.key"

    async def create(self, revision: int = 1) -> None:
        await self.server.stub.Create(requests.create(self.key, self.name, revision=revision))

    async def update(self, revision: int) -> None:
        await self.server.stub.Update(requests.update(self.key, self.name, revision))

    async def delete(self, revision: int) -> None:
        await self.server.stub.Delete(requests.delete(self.key, self.name, revision))

    async def revision(self) -> int:
        """Return what the server has; 0 for a name without a record."""
        return await requests.stored_revision(self.server.stub, self.name)


Script = Callable[[Record], Mapping[str, Iterable[Step]]]
Prepare = Callable[[Record], Awaitable[object]]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what its peer got."""

    outcome: str
    line: str
    calls: list[str]
    sealed: list[int]
    """Revisions of the distinct envelopes, in order."""
    connections: int


async def tried(client: Client, verb: str, record: Record, script: Script, prepare: Prepare, seconds: float) -> Ended:
    """Run create, update, delete or rotate against a peer with this script, and hold the rule of this file."""
    await prepare(record)
    before = await record.revision()
    async with misbehaving(record.server, script(record)) as peer:
        outcome, line = await run(client.at(peer.address, timeout=seconds), verb, record)
        ended = Ended(outcome, line, peer.calls, peer.sealed, peer.relay.accepted)
    after = await record.revision()
    if after > before and after in ended.sealed:
        assert ended.outcome != FAILED, f"written, and reported as failed: {ended}"
    if ended.outcome.startswith("done"):
        assert ended.outcome == done_at(after), f"not written, and reported as done: {ended}"
    assert max(ended.sealed, default=0) <= max(before, after) + 1, f"sealed for what was not proved: {ended}"
    return ended


async def run(client: Client, verb: str, record: Record) -> tuple[str, str]:
    """Run create, update, delete or rotate; return the outcome that it reports, and its line of standard error."""
    arguments: list[str | Path] = [client.word(verb), record.name, "--key", record.key_file]
    if verb == "rotate":
        arguments += ["--new-key", record.new_key_file]
    given = b"new" if verb in {"create", "update"} else b""
    done = await asyncio.to_thread(client.run, *arguments, given=given)
    return _outcome(client, done, record.name), done.stderr.decode()


def _outcome(client: Client, done: "subprocess.CompletedProcess[bytes]", name: str) -> str:
    line = done.stderr.decode()
    if done.returncode == 0:
        written = re.fullmatch(rf"{name} is at revision (\d+)( \(.*\))?\n", done.stdout.decode())
        assert written, done.stdout
        return done_at(int(written[1]))
    unknown = re.search(r"\boutcome\b.*\bis unknown\b", line) is not None
    codes = {client.unknown} if unknown else client.failed
    assert (done.returncode in codes, done.stdout, line.count("\n")) == (True, b"", 1), (done.returncode, line)
    return UNKNOWN if unknown else FAILED
