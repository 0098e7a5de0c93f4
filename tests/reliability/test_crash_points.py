"""A server that dies at each of its steps in turn, between copy, head and drop; what it leaves is served again.

The store keeps copies as items of their own, as DynamoDB does. On the embedded backend they are in the transaction of
their head, and `tests/crash` shows what kills and power cuts leave.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from keyvault_server.core.ports import RecordStore
from keyvault_server.core.purge import purge
from keyvault_server.core.records import Record
from keyvault_server.core.sweep import sweep
from keyvault_server.core.vault import Vault
from keyvault_server.core.wrapped_key import WrappedKey
from tests.reliability.bugs import Between, CopyAfterHead, RemovesOneMore
from tests.reliability.clients import Message, Scene
from tests.reliability.deployment import CALLER, TENANT, ask
from tests.reliability.history import (
    Answer,
    Done,
    History,
    Kept,
    ListRevisions,
    OperatorError,
    Purge,
    Read,
    Recorder,
    Request,
    Unknown,
    Write,
)
from tests.reliability.linearizability import NotLinearizable, check
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.requests import Key

NAME, HISTORY = "prod/a", 2


class Died(Exception):
    """The server is gone; nobody answers."""


class Mortal(Between):
    """Dies at one of its effects: before that has happened, or after it, when nobody hears of it any more."""

    def __init__(self, store: RecordStore, effects: int, *, done: bool) -> None:
        super().__init__(store)
        self._left = effects
        self._done = done

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        if self._happens():
            await super().keep(tenant, key_id, revision, stored)
        self._survive()

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        if self._happens():
            await super().put_if(tenant, key_id, record, expected)
        self._survive()

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        if self._happens():
            super().remove(tenant, key_id, revisions)
        self._survive()

    def _happens(self) -> bool:
        self._left -= 1
        return self._left > 0 or (self._left == 0 and self._done)

    def _survive(self) -> None:
        if self._left <= 0:
            raise Died


def steps(scene: Scene) -> Iterator[Message]:
    """A life of a record, with more Updates than are kept."""
    changes = "create update update update rotate update delete create update delete"
    key, other = "k1", "k2"
    for revision, method in enumerate(changes.split(), 1):
        if method == "rotate":
            yield scene.rotation(NAME, key, other, revision)
            key, other = other, key
        else:
            yield scene.change(method, NAME, key, revision)


class Life:
    """A record's life on one store, and how it is looked at afterwards."""

    def __init__(self, between: Callable[[RecordStore], RecordStore]) -> None:
        self.engine = FakeRecordStore()
        self._between = between
        self._keys = FakeKeyService()
        self._recorder = Recorder(itertools.count().__next__)

    async def run(self, effects: int, *, done: bool) -> bool:
        """Until it dies at this effect; false if it does not. Then a second server goes on from there."""
        self._scene = Scene(random.Random(0), [NAME], [await self._mint(), await self._mint()], {})
        server = self._server(Mortal(self.engine, effects, done=done), HISTORY)
        for message in steps(self._scene):
            if isinstance(await self._ask(server, message), Unknown):
                await self._look()
                await self._ask(self._server(self.engine, HISTORY), message)  # the caller retries
                await self._look()
                return True
        return False

    async def end(self) -> History:
        """After a sweep, and after a purge, there are no other copies than those of what can be read."""
        await sweep(self.engine)
        readable = await self._look()
        assert {name.revision for name in self.engine.copies} <= set(readable)
        revision = await purge(self.engine, CALLER, NAME)
        self._recorder.note("operator", NAME, Purge(), Done(revision), self._recorder.now())
        await self._look()
        assert not self.engine.copies
        return self._recorder.history

    async def _look(self) -> Sequence[int]:
        """What a server shows that is set to keep nothing; each revision is tried."""
        server = self._server(self.engine, 0)
        await self._ask(server, Message(Read(0, include_deleted=True), NAME))
        kept = await self._ask(server, Message(ListRevisions(), NAME))
        for revision in range(1, 12):
            await self._ask(server, Message(Read(revision=revision), NAME))
        return kept.revisions if isinstance(kept, Kept) else ()

    def _server(self, store: RecordStore, history: int) -> Vault:
        return Vault(self._keys, self._between(store), history=history)

    async def _ask(self, server: Vault, message: Message) -> Answer:
        async def call() -> Answer:
            answer = await ask(server, message, self._scene)
            dead = isinstance(answer, OperatorError) and answer.reason.startswith("INTERNAL Died")
            return Unknown("the server died") if dead else answer

        return await self._recorder.record("c", NAME, _kept(message.request), call())

    async def _mint(self) -> Key:
        made = await self._keys.generate(TENANT, "prod/")
        return Key(made.plaintext, bytes(WrappedKey("prod/", made.wrapped)), TENANT)


def _kept(request: Request) -> Request:
    if isinstance(request, Write) and request.method == "update":
        return Write(request.method, request.key, request.envelope, HISTORY)
    return request


async def lives(between: Callable[[RecordStore], RecordStore] = Between) -> int:
    """Lets a server die at each of its effects; returns how many there were. Raises NotLinearizable."""
    for effects in itertools.count(1):
        for done in (False, True):
            life = Life(between)
            if not await life.run(effects, done=done):
                return effects - 1
            check(await life.end())
    raise AssertionError


@pytest.mark.medium
async def test_a_death_between_copy_head_and_drop_loses_nothing() -> None:
    """Nothing acknowledged is lost, nothing dropped can be read, and a sweep removes what is left over."""
    assert await lives() == 19, "10 heads, 5 copies and 4 drops"


@pytest.mark.parametrize("bug", [CopyAfterHead, RemovesOneMore])
async def test_a_death_shows_a_copy_that_is_late_or_missing(bug: Callable[[RecordStore], RecordStore]) -> None:
    with pytest.raises(NotLinearizable, match="RECORD_CORRUPT"):
        await lives(bug)
