"""What callers do to a few records, well and badly behaved ones: the same against a simulated vault and a real server.

The rule of this file: it knows data keys, and seals real envelopes, but no wire; what drives it says how a message
is sent and how an answer is read. All chance comes from the generator that it is given.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from keyvault_api.envelope import Kind
from tests.reliability.history import (
    CHANGES,
    Answer,
    Done,
    Got,
    Kept,
    ListRevisions,
    OperatorError,
    Read,
    Recorder,
    Request,
    Rotate,
    Sealed,
    Unknown,
    Write,
)
from tests.support.requests import Key

ELSEWHERE = "prod/elsewhere"
"""A record that nobody asks for; envelopes are sealed for it to be presented for others."""


@dataclass(frozen=True, slots=True)
class Message:
    """A call: what it means, and the bytes that carry it. A retry has the same bytes."""

    request: Request
    key_id: str
    wrapped_key: bytes = field(default=b"", repr=False)
    envelope: bytes = field(default=b"", repr=False)
    authorization: bytes = field(default=b"", repr=False)
    new_wrapped_key: bytes = field(default=b"", repr=False)


Send: TypeAlias = Callable[[Message], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a server."""

    send: Send
    history: int = 0
    """How many earlier revisions the server keeps readable at an Update."""

    def asked(self, request: Request) -> Request:
        """The request as this server is asked."""
        if isinstance(request, Write) and request.method == "update":
            return replace(request, history=self.history)
        return request


class Scene:
    """A few records, the data keys about, and what was sent so far. All callers of a history share one."""

    def __init__(
        self,
        rng: random.Random,
        records: Sequence[str],
        keys: Sequence[Key],
        forged: Mapping[str, Key],
        data: bytes = b"data",
    ) -> None:
        """`data` is what all envelopes hold, but those of tombstones and permits."""
        self.rng = rng
        self.records = records
        self._data = data
        self.sent: list[Message] = []
        """Every mutation, once."""
        self.owner: dict[str, str] = {}
        """Whose key a record was last heard to be under."""
        self.keys = [f"k{number}" for number in range(1, len(keys) + 1)]
        """The names of all data keys that are what they seem."""
        self._keys = {**dict(zip(self.keys, keys, strict=True)), **forged}
        self._forged = list(forged)
        self._names: dict[bytes, str] = {}
        self._by_name: dict[str, Sealed] = {}

    def any_key(self) -> str:
        """One of all data keys, forged ones among them."""
        return self.rng.choice(self.keys if self.rng.random() < 0.7 else self._forged)

    def wrapped(self, key: str) -> bytes:
        """The wrapped key of this name."""
        return self._keys[key].wrapped

    def seal(
        self, key: str, record: str, revision: int, data: bytes, kind: Kind = Kind.DATA, permits: str = ""
    ) -> tuple[bytes, Sealed]:
        """A fresh envelope and its name."""
        envelope = self._keys[key].seal(record, revision, data, kind)
        sealed = Sealed(f"e{len(self._names) + 1}", kind, revision, key, record, permits)
        self._names[envelope] = sealed.name
        self._by_name[sealed.name] = sealed
        return envelope, sealed

    def sealed(self, name: str) -> Sealed | None:
        """The envelope of this name."""
        return self._by_name.get(name)

    def name_of(self, envelope: bytes | None) -> str:
        """For `Got.envelope`; None is not modified."""
        return "" if envelope is None else self._names.get(envelope, "bytes that nobody sealed")

    def change(self, method: str, record: str, key: str, revision: int, sealed_for: str | None = None) -> Message:
        """Create, Update or Delete."""
        kind, data = (Kind.TOMBSTONE, b"") if method == "delete" else (Kind.DATA, self._data)
        envelope, sealed = self.seal(key, sealed_for or record, revision, data, kind)
        return Message(Write(method, key, sealed), record, self.wrapped(key), envelope)

    def rotation(self, record: str, key: str, new_key: str, revision: int, *, permitted: bool = True) -> Message:
        """RotateKey; its permit is for other bytes unless `permitted`."""
        envelope, sealed = self.seal(new_key, record, revision, self._data)
        names = hashlib.sha256(envelope if permitted else b"other").digest()
        authorization, permit = self.seal(
            key, record, revision, names, Kind.REKEY, sealed.name if permitted else "other bytes"
        )
        request = Rotate(key, permit, new_key, sealed)
        return Message(request, record, self.wrapped(key), envelope, authorization, self.wrapped(new_key))


@dataclass
class _Belief:
    """What a caller thinks of a record, from the last answer it had."""

    revision: int = 0
    live: bool = False


class Caller:
    """One caller: reads, writes, repeats itself, and sometimes cheats. It retries with the same bytes on Unknown."""

    def __init__(
        self,
        name: str,
        scene: Scene,
        recorder: Recorder,
        servers: Sequence[Way],
        *,
        think: float,
        wait: float,
        patience: int,
    ) -> None:
        """`think` and `wait` are mean seconds before an operation and before its next attempt."""
        self._name = name
        self._scene = scene
        self._rng = scene.rng
        self._recorder = recorder
        self._servers = servers
        self._think = think
        self._wait = wait
        self._patience = patience
        self._beliefs = {record: _Belief() for record in scene.records}

    async def run(self, operations: int) -> None:
        """So many operations, one after the other; each may take several attempts."""
        for _ in range(operations):
            await asyncio.sleep(self._rng.expovariate(1 / self._think))
            await self.perform(self._choose())

    async def perform(self, message: Message) -> None:
        """Sends until there is a definite answer or patience ends."""
        if isinstance(message.request, CHANGES) and message not in self._scene.sent[-8:]:
            self._scene.sent.append(message)
        for attempt in range(self._patience):
            if attempt:
                await asyncio.sleep(self._rng.expovariate(1 / self._wait))
            at = self._rng.randrange(len(self._servers))
            way, who = self._servers[at], f"{self._name}>s{at + 1}"
            request = way.asked(message.request)
            answer = await self._recorder.record(who, message.key_id, request, way.send(message))
            if not isinstance(answer, Unknown):
                self._learn(message, answer)
                return

    def _learn(self, message: Message, answer: Answer) -> None:
        belief, record = self._beliefs[message.key_id], message.key_id
        match answer:
            case Done(revision) if revision >= belief.revision:
                envelope = _envelope(message)
                belief.revision, belief.live = revision, envelope.kind is Kind.DATA
                self._scene.owner[record] = envelope.key
            case Got() if isinstance(message.request, Read) and message.request.revision:
                pass  # an earlier one
            case Kept(revisions):
                belief.revision, belief.live = revisions[0], True
            case Got(revision, name, deleted):
                belief.revision, belief.live = revision, not deleted
                if sealed := self._scene.sealed(name):
                    self._scene.owner[record] = sealed.key
            case OperatorError("STALE_REVISION" | "RECORD_EXISTS", int(revision)):
                exists = answer.reason == "RECORD_EXISTS"
                belief.revision, belief.live = revision, exists or not _creates(message)
            case OperatorError("REVISION_NOT_FOUND", int(revision)):
                belief.revision, belief.live = revision, True
            case OperatorError("RECORD_NOT_FOUND"):
                belief.live = False

    def _choose(self) -> Message:
        record = self._rng.choice(self._scene.records)
        chance = self._rng.random()
        if chance < 0.25:
            return self._read(record)
        if chance < 0.40 and (repeated := self._repetition(record)):
            return repeated
        return self._mutation(record)

    def _read(self, record: str) -> Message:
        chance = self._rng.random()
        if chance < 0.2:
            return Message(ListRevisions(), record)
        if chance < 0.5:
            age = self._rng.choice((-1, 0, 1, 1, 1, 2, 3, 10, 15, 16))
            return Message(Read(revision=max(1, self._beliefs[record].revision - age)), record)
        known = self._rng.choice((0, self._beliefs[record].revision))
        return Message(Read(known, self._rng.random() < 0.5), record)

    def _repetition(self, record: str) -> Message | None:
        """Bytes that were sent before, by anyone: the last, or as old as a ring is long; the key may be another."""
        sent = [one for one in self._scene.sent if one.key_id == record]
        if not sent:
            return None
        if self._rng.random() < 0.5:
            newest = self._beliefs[record].revision
            distant = range(newest - 17, newest - 13)
            sent = [one for one in sent if _envelope(one).revision in distant] or sent[-3:]
        message = self._rng.choice(sent)
        if isinstance(message.request, Write) and self._rng.random() < 0.3:
            key = self._scene.any_key()
            return replace(message, request=replace(message.request, key=key), wrapped_key=self._scene.wrapped(key))
        return message

    def _mutation(self, record: str) -> Message:
        belief, rng = self._beliefs[record], self._rng
        revision = max(1, belief.revision + (1 if rng.random() < 0.9 else rng.choice((-1, 0, 2))))
        key = self._scene.owner.get(record) or rng.choice(self._scene.keys)
        if rng.random() < 0.12:
            key = self._scene.any_key()
        if not belief.live:
            method = "create" if rng.random() < 0.8 else "update"
        else:
            method = rng.choices(("update", "delete", "rotate", "create"), (60, 12, 20, 8))[0]
        if method == "rotate":
            new_key = rng.choice(self._scene.keys) if rng.random() < 0.9 else self._scene.any_key()
            return self._scene.rotation(record, key, new_key, revision, permitted=rng.random() < 0.9)
        sealed_for = ELSEWHERE if rng.random() < 0.05 else record
        return self._scene.change(method, record, key, revision, sealed_for)


def _envelope(message: Message) -> Sealed:
    assert isinstance(message.request, (Write, Rotate))
    return message.request.envelope


def _creates(message: Message) -> bool:
    return isinstance(message.request, Write) and message.request.method == "create"
