"""Histories over the wire: concurrent clients of real servers, which are killed, or disturbed otherwise.

    python -m tests.reliability.wire embedded --histories 1000      one server on the embedded backend, kill -9
    python -m tests.reliability.wire replicas --histories 1000      two replicas on one DynamoDB stand-in, kill -9

The clients are those of the simulation (`clients.py`), on generated stubs. Their chance is seeded; what the machine
does is not. All times are of one process's monotonic clock. `play` takes any addresses and any disturbance.
"""

# ruff: noqa: T201 - a command prints

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import grpc
from google.rpc import code_pb2

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.wrapped_key import WrappedKey, parse_wrapped_key
from tests.reliability.clients import Caller, Message, Scene, Way
from tests.reliability.history import (
    Answer,
    Done,
    Got,
    History,
    Kept,
    ListRevisions,
    OperatorError,
    Read,
    Recorder,
    Request,
    Rotate,
    Seen,
    Unknown,
    Write,
)
from tests.reliability.hosts import Host, hosts
from tests.reliability.linearizability import NotLinearizable, check
from tests.reliability.listings import Asked, Lister, Page
from tests.reliability.readers import Item, Reader, misfit
from tests.support.refusals import read_failure
from tests.support.requests import Key, mint

Disturb = Callable[[], Awaitable[None]]
"""Runs while the clients do, and ends with everything back in order."""

ROUND = 50
"""Records, and so histories, of one round."""
CALLERS, OPERATIONS = 4, 7
"""Of each record, and of each caller."""
READERS, READINGS = 2, 10
"""Callers who read many records at a time, and how often each does."""
LISTINGS, SIZES = 6, (3, 7, 20, 100)
"""Of a round, in pages of so many names."""
LAG = 1.0
"""Seconds by which the index of a DynamoDB stand-in is behind at most."""
LARGE, LARGE_ONES = bytes(350_000), 4
"""What some records hold: so many do not fit into one reply."""
IMPATIENT = 0.15
"""The share of calls that are given up within a few milliseconds."""

_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
)
_NO_ANSWER = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}


class Line:
    """One channel to one server."""

    def __init__(self, stub: KeyVaultStub, rng: random.Random, history: int) -> None:
        self.history = history
        self._stub = stub
        self._rng = rng

    async def send(self, message: Message, scene: Scene) -> Answer:
        """One call, no more."""
        impatient = self._rng.random() < IMPATIENT
        seconds = self._rng.uniform(0.001, 0.02) if impatient else 5.0
        try:
            return await self._ask(message, seconds, scene)
        except grpc.aio.AioRpcError as failed:
            return _refusal(failed)

    async def read_many(self, items: Sequence[Item], scenes: Mapping[str, Scene]) -> Sequence[Answer]:
        """One BatchRead."""
        request = pb.BatchReadRequest(
            items=[
                pb.BatchReadRequest.Item(
                    key_id=one.record,
                    known_revision=one.read.known_revision,
                    include_deleted=one.read.include_deleted,
                )
                for one in items
            ]
        )
        try:
            response = await self._stub.BatchRead(request, timeout=5.0, wait_for_ready=True)
        except grpc.aio.AioRpcError as failed:
            return [_refusal(failed)] * len(items)
        sizes = [len(result.record.envelope) for result in response.results]
        answers = [_result(result, scenes[one.record]) for one, result in zip(items, response.results, strict=True)]
        wrong = misfit(answers, sizes)
        return [OperatorError(f"MISFIT {wrong}")] * len(items) if wrong else answers

    async def list_page(self, asked: Asked) -> Page | OperatorError | Unknown:
        """One List."""
        request = pb.ListRequest(
            prefix=asked.prefix, page_size=asked.size, page_token=asked.token, deleted=asked.deleted
        )
        try:
            response = await self._stub.List(request, timeout=5.0, wait_for_ready=True)
        except grpc.aio.AioRpcError as failed:
            return _refusal(failed)
        return Page([name.key_id for name in response.names], response.next_page_token)

    async def _ask(self, message: Message, seconds: float, scene: Scene) -> Answer:
        key_id, wrapped, envelope = message.key_id, message.wrapped_key, message.envelope
        match message.request:
            case ListRevisions():
                kept = await self._stub.ListRevisions(
                    pb.ListRevisionsRequest(key_id=key_id), timeout=seconds, wait_for_ready=True
                )
                return Kept(tuple(one.revision for one in kept.revisions))
            case Read(known, include_deleted, revision):
                request = pb.ReadRequest(
                    key_id=key_id, known_revision=known, include_deleted=include_deleted, revision=revision
                )
                return _got(await self._stub.Read(request, timeout=seconds, wait_for_ready=True), scene)
            case Write("create"):
                create = pb.CreateRequest(key_id=key_id, wrapped_key=wrapped, envelope=envelope)
                return _done(await self._stub.Create(create, timeout=seconds, wait_for_ready=True))
            case Write("update"):
                update = pb.UpdateRequest(key_id=key_id, wrapped_key=wrapped, envelope=envelope)
                return _done(await self._stub.Update(update, timeout=seconds, wait_for_ready=True))
            case Write("delete"):
                delete = pb.DeleteRequest(key_id=key_id, wrapped_key=wrapped, envelope=envelope)
                return _done(await self._stub.Delete(delete, timeout=seconds, wait_for_ready=True))
            case Rotate():
                rotate = pb.RotateKeyRequest(
                    key_id=key_id,
                    wrapped_key=wrapped,
                    authorization=message.authorization,
                    new_wrapped_key=message.new_wrapped_key,
                    envelope=envelope,
                )
                return _done(await self._stub.RotateKey(rotate, timeout=seconds, wait_for_ready=True))
        raise AssertionError(message)


def _done(written: pb.CreateResponse | pb.UpdateResponse | pb.DeleteResponse | pb.RotateKeyResponse) -> Answer:
    return Done(written.revision, written.replayed)


def _got(found: pb.ReadResponse, scene: Scene) -> Answer:
    return Got(found.revision, scene.name_of(None if found.not_modified else found.envelope), found.deleted)


def _result(result: pb.BatchReadResponse.Result, scene: Scene) -> Answer:
    if result.WhichOneof("answer") == "record":
        return _got(result.record, scene)
    error = result.error
    return _failed(code_pb2.Code.Name(error.code), error.reason, error.metadata)


def _refusal(failed: grpc.aio.AioRpcError) -> OperatorError | Unknown:
    failure = read_failure(failed)
    return _failed(failure.status, failure.reason, failure.metadata)


def _failed(status: str, reason: str, metadata: Mapping[str, str]) -> OperatorError | Unknown:
    if status in _NO_ANSWER:
        return Unknown(reason or status)
    current = metadata.get("current_revision")
    return OperatorError(reason or status, None if current is None else int(current))


async def play(
    servers: Sequence[tuple[str, int]], disturb: Disturb, *, seed: int, records: int = ROUND, lag: float | None = None
) -> list[History]:
    """One round: so many records, a few callers for each, one disturbance. Returns a history for each record.

    Of each server the address, and how many earlier revisions it keeps. `lag` is by how many seconds an index of names
    is behind at most; with None no names are listed.
    """
    rng = random.Random(seed)
    async with AsyncExitStack() as channels:
        lines = []
        for address, history in servers:
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            lines.append(Line(KeyVaultStub(channel), rng, history))
        keys, forged = await _keys(KeyVaultStub(channel))
        tables = [
            _Table(Scene(rng, [f"prod/{seed}-{number}"], keys, forged, data), Recorder(time.monotonic), lines)
            for number, data in enumerate(([LARGE] * LARGE_ONES + [b"data"] * records)[:records])
        ]
        readers = (_reader(f"r{number}", rng, tables).run(READINGS, think=0.1) for number in range(1, READERS + 1))
        lister = _lister("l1", rng, tables, f"prod/{seed}-", lag or 0.0)
        listers = [] if lag is None else [lister.run(LISTINGS, 0.02, SIZES)]
        await asyncio.gather(disturb(), *readers, *listers, *(table.play() for table in tables))
        await asyncio.gather(*(table.look() for table in tables))
        for deleted in () if lag is None else (False, True):
            await lister.list(Asked(f"prod/{seed}-", SIZES[0], "", deleted), 0.001)
    return [table.recorder.history for table in tables]


def _lister(name: str, rng: random.Random, tables: Sequence["_Table"], prefix: str, lag: float) -> Lister:
    """Sits at all tables."""
    recorders = {table.record: table.recorder for table in tables}
    pages = [line.list_page for line in tables[0].lines]
    return Lister(name, rng, recorders, pages, [prefix, f"{prefix}1"], lag)


def _reader(name: str, rng: random.Random, tables: Sequence["_Table"]) -> Reader:
    """Sits at all tables."""
    scenes = {table.record: table.scene for table in tables}
    recorders = {table.record: table.recorder for table in tables}
    return Reader(name, rng, recorders, [partial(line.read_many, scenes=scenes) for line in tables[0].lines])


async def _keys(stub: KeyVaultStub) -> tuple[list[Key], dict[str, Key]]:
    keys = [await mint(stub, "prod/") for _ in range(3)]
    dev, torn = await mint(stub, "dev/"), await mint(stub, "prod/")
    rescoped = WrappedKey("prod/", parse_wrapped_key(dev.wrapped).wrapped)
    forged = {"x-scope": replace(dev, wrapped=bytes(rescoped)), "x-torn": replace(torn, wrapped=torn.wrapped[:-1])}
    return keys, forged


@dataclass(frozen=True, slots=True)
class _Table:
    """One record and those who sit round it."""

    scene: Scene
    recorder: Recorder
    lines: Sequence[Line]

    @property
    def record(self) -> str:
        return self.scene.records[0]

    async def play(self) -> None:
        sends = [Way(partial(line.send, scene=self.scene), line.history) for line in self.lines]
        await asyncio.gather(*(self._caller(f"c{number}", sends) for number in range(1, CALLERS + 1)))

    async def _caller(self, name: str, sends: Sequence[Way]) -> None:
        await Caller(name, self.scene, self.recorder, sends, think=0.05, wait=0.2, patience=6).run(OPERATIONS)

    async def look(self) -> None:
        """What is stored in the end, earlier revisions too."""
        async with asyncio.timeout(60):
            await self._ask(Read(0, include_deleted=True))
            kept = await self._ask(ListRevisions())
            for revision in kept.revisions if isinstance(kept, Kept) else ():
                await self._ask(Read(revision=revision))

    async def _ask(self, request: Request) -> Answer:
        """Asks until there is an answer."""
        while True:
            call = self.lines[0].send(Message(request, self.record), self.scene)
            answer = await self.recorder.record("end", self.record, request, call)
            if not isinstance(answer, Unknown):
                return answer
            await asyncio.sleep(0.1)


@dataclass
class Figure:
    """What the rounds came to."""

    histories: int = 0
    attempts: int = 0
    unknown: int = 0
    named: int = 0
    """Looks at a name on a page."""
    earlier: int = 0
    """Reads of a revision by its number that found it."""
    wrong: list[NotLinearizable] = field(default_factory=list)

    def judge(self, played: Sequence[History]) -> None:
        """Takes a round in."""
        for history in played:
            self.histories += 1
            self.attempts += len(history)
            self.unknown += sum(isinstance(one.answer, Unknown) for one in history)
            self.named += sum(isinstance(one.answer, Seen) for one in history)
            self.earlier += sum(isinstance(one.answer, Got) and _is_earlier(one.request) for one in history)
            try:
                check(history)
            except NotLinearizable as wrong:
                self.wrong.append(wrong)


def _is_earlier(request: Request) -> bool:
    return isinstance(request, Read) and request.revision > 0


def disaster(victims: Sequence[Host], rng: random.Random, times: int) -> Disturb:
    """A disturbance: so many times one server is paused, and one killed with kill -9 and started again."""

    async def strike() -> None:
        for _ in range(times):
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            await rng.choice(victims).pause(rng.uniform(0.05, 0.3))
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            await rng.choice(victims).kill_and_restart()

    return strike


async def rounds(servers: Sequence[Host], histories: int, seed: int, kills: int = 2) -> Figure:
    """So many histories, in rounds with so many pauses and kills each. One server's index is its database."""
    figure, rng = Figure(), random.Random(seed)
    while figure.histories < histories:
        records = min(ROUND, histories - figure.histories)
        addresses = [(server.address, server.history) for server in servers]
        begin, strike = seed + figure.histories, disaster(servers, rng, kills)
        figure.judge(await play(addresses, strike, seed=begin, records=records, lag=0 if len(servers) == 1 else LAG))
    return figure


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 if a history is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deployment", choices=("embedded", "replicas"))
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, hosts(chosen.deployment, Path(directory)) as servers:
        figure = asyncio.run(rounds(servers, chosen.histories, chosen.seed))
        kills = sum(server.kills for server in servers)
    print(f"histories over the wire, {chosen.deployment}: {figure.histories:,} from seed {chosen.seed}")
    print(f"attempts: {figure.attempts:,}, {figure.unknown:,} of unknown outcome; pauses and kill -9: {kills} each")
    print(f"names looked for on pages: {figure.named:,}; revisions read by their number: {figure.earlier:,}")
    print(f"not linearizable: {len(figure.wrong)}")
    print(f"seconds: {time.monotonic() - started:.0f}")
    for wrong in figure.wrong[:3]:
        print(wrong)
    return 1 if figure.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
