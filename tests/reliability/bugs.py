"""Deliberate bugs, one at a time: each has to be caught, or finding nothing in the real vault would prove nothing.
`python -m tests.reliability.simulation --bugs` shows how soon, and how often, each is caught.

The rule of this file: a bug is a subclass or a wrapper of the vault, the store or the key service. It copies nothing
of them and patches nothing, and no switch for it is in the code that ships.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeGuard, TypeVar
from weakref import WeakKeyDictionary

from keyvault_api import envelope as kve1
from keyvault_api.envelope import HEAD_SIZE, Kind, parse_head
from keyvault_api.names import REMEMBERED_ENVELOPES
from keyvault_server.backends.aws.gathered_reads import GatheredReads
from keyvault_server.core.batch import Item, read_many
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import (
    BackendThrottled,
    BackendUnavailable,
    EnvelopeNotUnderKey,
    NotAuthorized,
    RecordExists,
    RecordNotFound,
    StaleRevision,
    VaultError,
)
from keyvault_server.core.mutation import Mutation, Rotation
from keyvault_server.core.ports import CopyName, HeadChanged, NamePage, NewDataKey, RecordStore, Walked, WrappedBlob
from keyvault_server.core.reading import Found
from keyvault_server.core.records import (
    DIGEST_SIZE,
    Readable,
    Record,
    StoredHead,
    digest,
    in_ring,
    readable_revisions,
    remembered_since,
    state_of,
    vacancy,
)
from keyvault_server.core.sweep import Swept, sweep
from keyvault_server.core.vault import Vault, Written
from tests.reliability.clients import ELSEWHERE
from tests.reliability.deployment import Deployment, Engine, Payer
from tests.reliability.history import Answer, History, OperatorError
from tests.reliability.network import BACKEND_TIMEOUT
from tests.support.fakes import FakeKeyService, FakeRecordStore

_T = TypeVar("_T")

OF_NO_MODEL = frozenset({"INTERNAL", "RECORD_CORRUPT", "LEFTOVER", "MISFIT", "MISPLACED", "OVERCHARGED"})
"""Reasons that are wrong in any history."""
LAG = 0.03
"""Seconds by which a replica is behind, and until what was written is on the disk."""


class Between:
    """A RecordStore before another one; what a bug does not touch goes through."""

    copies_itself = False
    reads_together = 8

    def __init__(self, store: RecordStore) -> None:
        self._store = store

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        return await self._store.get_head(tenant, key_id)

    async def get(self, tenant: str, key_id: str) -> Record | None:
        return await self._store.get(tenant, key_id)

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await self._store.put_if(tenant, key_id, record, expected)

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        return await self._store.list_names(tenant, prefix, after, limit, deleted=deleted)

    def walk(self) -> AsyncIterator[Walked]:
        return self._store.walk()

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        await self._store.keep(tenant, key_id, revision, stored)

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        return await self._store.get_copy(tenant, key_id, revision)

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        self._store.remove(tenant, key_id, revisions)

    def walk_copies(self) -> AsyncIterator[CopyName]:
        return self._store.walk_copies()

    async def remove_copy(self, tenant: str, key_id: str, revision: int, envelope: bytes) -> bool:
        return await self._store.remove_copy(tenant, key_id, revision, envelope)

    async def check(self) -> None:
        await self._store.check()


class Unconditional(Engine):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        stored = self.records.get((tenant, key_id))
        await super().put_if(tenant, key_id, record, stored.head if stored else None)


class OnRevisionAlone(Engine):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        stored = self.records.get((tenant, key_id))
        if stored and expected and _revision(stored.head) == _revision(expected):
            expected = stored.head
        await super().put_if(tenant, key_id, record, expected)


class Lagging(Engine):
    seconds = LAG

    async def get(self, tenant: str, key_id: str) -> Record | None:
        return self.earlier(self.seconds).get((tenant, key_id))


class AnsweredBeforeCommit(Engine):
    def crash(self) -> None:
        self.forget(LAG)


class ReadBeforeCommit(AnsweredBeforeCommit):
    """A write waits for the disk, but what others are answered until then does not."""

    def __init__(self) -> None:
        super().__init__()
        self._crashes = 0

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        before = self._crashes
        await super().put_if(tenant, key_id, record, expected)
        await asyncio.sleep(LAG)
        if self._crashes != before:
            raise BackendUnavailable

    def crash(self) -> None:
        super().crash()
        self._crashes += 1


class ForgetfulDelete(Engine):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, record, expected)
        if state_of(record).kind is Kind.TOMBSTONE:
            del self.records[tenant, key_id]


class LaggingNames(Engine):
    """Its index is behind where none may be."""

    def delay_index(self, lag: Callable[[], float]) -> None:
        super().delay_index(lambda: LAG)

    def __init__(self) -> None:
        super().__init__()
        self.delay_index(float)


class _OtherIndex(Engine):
    """Lists names by an index of its own, which follows all puts but some."""

    def __init__(self) -> None:
        super().__init__()
        self._index = FakeRecordStore()

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, record, expected)
        if not self._overlooks(record):
            self._index.records[tenant, key_id] = record

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        return await self._index.list_names(tenant, prefix, after, limit, deleted=deleted)

    def _overlooks(self, record: Record) -> bool:
        raise NotImplementedError


class ListedForGood(_OtherIndex):
    def _overlooks(self, record: Record) -> bool:
        return state_of(record).kind is Kind.TOMBSTONE


class ListsVacancies(_OtherIndex):
    def _overlooks(self, record: Record) -> bool:
        return state_of(record).kind is None


class LostBoundary(Between):
    """Goes on after the first name that did not fit onto the page."""

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        names, more = await super().list_names(tenant, prefix, after, limit + 1, deleted=deleted)
        return NamePage(names[:limit], names[limit].key_id if len(names) > limit else more)


class CountedPages(Between):
    """Goes on after so many names as there were on the pages before, whatever was created or deleted since."""

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store)
        self._counts: dict[str, int] = {}

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        begin = self._counts.get(after, 0) if after else 0
        names, more = await super().list_names(tenant, prefix, "", begin + limit, deleted=deleted)
        page = [name for name in names[begin:] if name.key_id > after]
        if more:
            self._counts[more] = begin + limit
        return NamePage(page, more)


class CopyAfterHead(Between):
    """Writes the copy of an envelope once another one has taken its place."""

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store)
        self._replaced: dict[CopyName, Record] = {}

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        self._replaced[CopyName(tenant, key_id, revision)] = stored

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, record, expected)
        if replaced := self._replaced.pop(CopyName(tenant, key_id, record.superseded), None):
            await super().keep(tenant, key_id, record.superseded, replaced)


class NoSecondHead(Between):
    """Does not look for another head when it finds no copy."""

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store)
        self._heads: dict[tuple[str, str], StoredHead | None] = {}
        self._missed: set[tuple[str, str]] = set()

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        if (tenant, key_id) in self._missed:
            self._missed.discard((tenant, key_id))
            return self._heads[tenant, key_id]
        self._heads[tenant, key_id] = await super().get_head(tenant, key_id)
        return self._heads[tenant, key_id]

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        found = await super().get_copy(tenant, key_id, revision)
        if found is None:
            self._missed.add((tenant, key_id))
        return found


class RemovesOneMore(Between):
    """Removes the oldest copy that can still be read, too."""

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        super().remove(tenant, key_id, range(revisions.start, revisions.stop + 1))


class _VisibleFor(Between):
    """Shows so many earlier revisions of each record, whatever its head says."""

    def __init__(self, history: int, store: RecordStore) -> None:
        super().__init__(store)
        self._history = history

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        stored = await super().get_head(tenant, key_id)
        if stored is None or not state_of(stored).live:
            return stored
        shown = min(self._history + 1, len(stored.ring) // DIGEST_SIZE)
        kept = list(readable_revisions(stored))
        entry = len(stored.revisions) // len(kept)
        revisions = (stored.revisions + stored.revisions[:entry] * shown)[: entry * shown]
        return replace(stored, since=kept[0].revision + 1 - shown, revisions=revisions)


class VisibleByReader(Vault):
    """Decides by its own setting which revisions can be read."""

    async def read(self, *arguments: Any, **named: Any) -> Found:
        return await Vault(self._keys, _VisibleFor(self._history, self._records)).read(*arguments, **named)

    async def list_revisions(self, caller: Caller, key_id: str) -> list[Readable]:
        return await Vault(self._keys, _VisibleFor(self._history, self._records)).list_revisions(caller, key_id)


class _HeadOnly(Between):
    """Shows that no earlier revision can be read."""

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        stored = await super().get_head(tenant, key_id)
        return replace(stored, since=_revision(stored.head), revisions=stored.revisions[:12]) if stored else None


async def _sweep_all_but_current(records: RecordStore) -> Swept:
    return await sweep(_HeadOnly(records))


class _OneLess(Between):
    """Shows that the oldest revision that can be read cannot."""

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        stored = await super().get_head(tenant, key_id)
        if stored is None or stored.since >= _revision(stored.head):
            return stored
        return replace(stored, since=stored.since + 1, revisions=stored.revisions[:-12])


async def _sweep_since(records: RecordStore) -> Swept:
    return await sweep(_OneLess(records))


async def _sweep_nothing(records: RecordStore) -> Swept:
    return Swept()


class _Keeps(Mutation):
    """Keeps what can be read readable, whatever it does."""

    updates = True


class _KeepsRotation(Rotation):
    updates = True


class DropForgotten(Vault):
    """Drops the history at a RotateKey, and neither at a Delete nor at a Create."""

    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        if isinstance(mutation, Rotation):
            return await super()._apply(caller, mutation)
        return await super()._apply(caller, _Keeps(**_fields(mutation)))


class KeptByRotation(Vault):
    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        if isinstance(mutation, Rotation):
            mutation = _KeepsRotation(**_fields(mutation))
        return await super()._apply(caller, mutation)


class ForgetfulPurge(Engine):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, record, expected)
        if state_of(record).kind is None:
            del self.records[tenant, key_id]


class RingOf(Between):
    """A shorter ring."""

    def __init__(self, length: int, store: RecordStore) -> None:
        super().__init__(store)
        self._size = length * DIGEST_SIZE

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, replace(record, ring=record.ring[: self._size]), expected)


class NoRing(Between):
    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        return _without_ring(await super().get_head(tenant, key_id))

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        try:
            await super().put_if(tenant, key_id, record, expected)
        except HeadChanged as changed:
            raise HeadChanged(_without_ring(changed.stored)) from None


class CachedHead(Between):
    """Asks for a head again only after it wrote itself."""

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store)
        self._cache: dict[tuple[str, str], StoredHead | None] = {}

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        if (tenant, key_id) not in self._cache:
            self._cache[tenant, key_id] = await super().get_head(tenant, key_id)
        return self._cache[tenant, key_id]

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        try:
            await super().put_if(tenant, key_id, record, expected)
        finally:
            self._cache.pop((tenant, key_id), None)


class Gathering(Between):
    """Reads as the DynamoDB store does; by itself not a bug. Now and then a request leaves a name out.

    One request is out at a time, since a simulated server has few callers.
    """

    reads: type[GatheredReads[Any]] = GatheredReads

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store)
        self._batches = itertools.count()
        self._heads = self._gathered(store.get_head)
        self._records = self._gathered(store.get)

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        return await self._heads.read(f"{tenant}#{key_id}")

    async def get(self, tenant: str, key_id: str) -> Record | None:
        return await self._records.read(f"{tenant}#{key_id}")

    def _gathered(self, read: Callable[[str, str], Awaitable[_T]]) -> GatheredReads[_T]:
        async def one(name: str, until: float) -> _T:
            tenant, _, key_id = name.partition("#")
            return await read(tenant, key_id)

        async def many(names: Sequence[str], until: float) -> Mapping[str, _T]:
            """Read each name at a time of its own, as DynamoDB may."""
            left_out = next(self._batches) % 4
            return {name: await one(name, until) for number, name in enumerate(names) if number != left_out}

        return self.reads(one, many, seconds=1.0, patience=4 * BACKEND_TIMEOUT, most_out=1)


class JoinsTheLeft(GatheredReads[Any]):
    """A read joins the request for its name that is out already."""

    async def read(self, name: str) -> Any:
        for joiners in self._left.values():
            if name in joiners and not joiners[name][0].answer.done():
                answer = asyncio.get_running_loop().create_future()
                joiners[name].append(joiners[name][0]._replace(answer=answer))
                return await answer
        asyncio.get_running_loop().call_soon(self._send_waiting)
        return await self._join(name)


class LateJoining(Gathering):
    reads = JoinsTheLeft


class BlindRetry(Between):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        try:
            await super().put_if(tenant, key_id, record, expected)
        except BackendUnavailable:
            try:
                await super().put_if(tenant, key_id, record, expected)
            except HeadChanged as changed:
                raise _conflict(changed.stored, expected) from None


class NoSecondLook(Between):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        try:
            await super().put_if(tenant, key_id, record, expected)
        except HeadChanged as changed:
            raise _conflict(changed.stored, expected) from None


class UnknownIsNotDone(Between):
    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        try:
            await super().put_if(tenant, key_id, record, expected)
        except BackendUnavailable:
            raise BackendThrottled from None


class Unbound(FakeKeyService):
    """Unwraps whatever it wrapped, for whomever and whatever."""

    def __init__(self) -> None:
        super().__init__()
        self._contexts: set[tuple[str, str]] = set()

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        self._contexts.add((tenant, scope))
        return await super().generate(tenant, scope)

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        for context in sorted(self._contexts):
            try:
                return await super().unwrap(*context, wrapped)
            except NotAuthorized:
                continue
        raise NotAuthorized


class UnprovedReplay(Vault):
    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        stored = await self._records.get_head(mutation.tenant, mutation.key_id)
        if stored and in_ring(digest(mutation.envelope), stored.ring):
            return Written(mutation.header.revision, stored.created, stored.updated, replayed=True)
        return await super()._apply(caller, mutation)


class RevisionFirst(Vault):
    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        stored = await self._records.get_head(mutation.tenant, mutation.key_id)
        if stored and in_ring(digest(mutation.envelope), stored.ring):
            raise StaleRevision(_revision(stored.head), remembered_since(stored))
        return await super()._apply(caller, mutation)


class OwnerlessTombstone(Vault):
    """Shows the rule a vacancy where a tombstone is."""

    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        stored = await self._records.get_head(mutation.tenant, mutation.key_id)
        known = stored and in_ring(digest(mutation.envelope), stored.ring)
        if not (stored and state_of(stored).kind is Kind.TOMBSTONE and mutation.creates and not known):
            return await super()._apply(caller, mutation)
        shown = replace(stored, head=vacancy(_revision(stored.head), 0).head, ring=b"", revisions=b"")
        return await Vault(self._keys, _Shown(self._records, stored, shown))._apply(caller, mutation)


class UnownedRecord(Vault):
    """Shows the rule a head that commits to whatever key is presented."""

    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        try:
            return await super()._apply(caller, mutation)
        except NotAuthorized:
            presented = (await self._unwrap_all(mutation)).current
            stored = await self._records.get_head(mutation.tenant, mutation.key_id)
        if stored is None or (kind := state_of(stored).kind) is None:
            raise NotAuthorized
        sealed = kve1.seal(presented, mutation.tenant, mutation.key_id, _revision(stored.head), b"", kind)
        shown = replace(stored, head=sealed[:HEAD_SIZE])
        return await Vault(self._keys, _Shown(self._records, stored, shown))._apply(caller, mutation)


class UnboundName(Vault):
    """Takes an envelope that was sealed for another name."""

    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        try:
            return await super()._apply(caller, mutation)
        except EnvelopeNotUnderKey:
            renamed = UnownedRecord(self._keys, _Renamed(self._records, mutation.key_id))
            return await renamed._apply(caller, replace(mutation, key_id=ELSEWHERE))


class _Shown(Between):
    """Shows one stored head as another, and keeps its ring."""

    def __init__(self, store: RecordStore, stored: StoredHead, shown: StoredHead) -> None:
        super().__init__(store)
        self._stored, self._as = stored, shown

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        stored = await super().get_head(tenant, key_id)
        return self._as if stored == self._stored else stored

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        if expected == self._as.head:
            ring = record.ring[:DIGEST_SIZE] + self._stored.ring
            expected, record = self._stored.head, replace(record, ring=ring[: REMEMBERED_ENVELOPES * DIGEST_SIZE])
        await super().put_if(tenant, key_id, record, expected)


class _Renamed(Between):
    """Keeps every record under one name."""

    def __init__(self, store: RecordStore, key_id: str) -> None:
        super().__init__(store)
        self._key_id = key_id

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        return await super().get_head(tenant, self._key_id)

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, self._key_id, record, expected)


class JoinsBatches:
    """An item that another batch of the same vault has asked for already is answered with what that one gets."""

    def __init__(self) -> None:
        self._out = WeakKeyDictionary[Vault, dict[Item, asyncio.Task[dict[Item, tuple[Payer, Found | VaultError]]]]]()

    async def __call__(
        self, vault: Vault, items: Sequence[Item], author_of: Callable[[int], Payer]
    ) -> Sequence[tuple[Payer, Found | VaultError]]:
        async def read() -> dict[Item, tuple[Payer, Found | VaultError]]:
            return dict(zip(mine, await read_many(vault, mine, author_of), strict=True))

        out = self._out.setdefault(vault, {})
        mine = [item for item in items if item not in out]
        batches = dict.fromkeys(mine, asyncio.create_task(read()))
        out |= batches
        batches = {item: out[item] for item in items}
        try:
            await asyncio.wait(set(batches.values()))
        finally:
            for item in mine:
                del out[item]
        return [batches[item].result()[item] for item in items]


class _PaysForGood(Payer):
    def refund(self, size: int) -> None:
        """Keep what was charged."""


async def _full_for_money(
    vault: Vault, items: Sequence[Item], author_of: Callable[[int], Payer]
) -> Sequence[tuple[Payer, Found | VaultError]]:
    return await read_many(vault, items, lambda number: _PaysForGood())


async def _by_name(
    vault: Vault, items: Sequence[Item], author_of: Callable[[int], Payer]
) -> Sequence[tuple[Payer, Found | VaultError]]:
    return await read_many(vault, sorted(items), author_of)


async def _one_error_for_all(
    vault: Vault, items: Sequence[Item], author_of: Callable[[int], Payer]
) -> Sequence[tuple[Payer, Found | VaultError]]:
    found = await read_many(vault, items, author_of)
    errors = [answer for _, answer in found if isinstance(answer, VaultError)]
    return [(payer, errors[0]) for payer, _ in found] if errors else found


def _fields(mutation: Mutation) -> dict[str, Any]:
    return {field.name: getattr(mutation, field.name) for field in fields(mutation)}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _revision(head: bytes) -> int:
    return parse_head(head).revision if len(head) == HEAD_SIZE else int.from_bytes(head, "big")


def _without_ring(stored: StoredHead | None) -> StoredHead | None:
    return replace(stored, ring=bytes(DIGEST_SIZE)) if stored and stored.ring else stored


def _conflict(stored: StoredHead | None, expected: bytes | None) -> VaultError:
    """What the vault would say, if it did not look whether the record holds the very envelope."""
    live = expected is not None and len(expected) == HEAD_SIZE and parse_head(expected).kind is Kind.DATA
    now = state_of(stored) if stored else None
    since = remembered_since(stored)
    if live:
        return StaleRevision(now.revision, since) if now and now.live else RecordNotFound()
    return RecordExists(now.revision, since) if now and now.live else StaleRevision(now.revision if now else 0, since)


def _of_no_model(answer: Answer) -> TypeGuard[OperatorError]:
    return isinstance(answer, OperatorError) and answer.reason.split()[0] in OF_NO_MODEL


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug, and what shows it."""

    deployment: Deployment
    wrong: str
    """What goes wrong."""
    seed: int
    """The first whose history shows it."""
    reason: str = ""
    """Of the answer that no model gives, if the bug shows itself by one; no other such answer counts as caught."""

    def evidence(self, history: History) -> History:
        """What of a history may show the bug: not what breaks in a store or a vault since the bug is badly made."""
        return [
            one for one in history if not _of_no_model(one.answer) or one.answer.reason.startswith(self.reason or " ")
        ]


def _ring_of(length: int) -> Callable[[RecordStore], RecordStore]:
    return lambda store: RingOf(length, store)


BUGS = {
    "no-condition": Bug(Deployment(engine=Unconditional), "two writers both get OK for one revision", 0),
    "revision-only-condition": Bug(Deployment(engine=OnRevisionAlone), "an update brings a purged record back", 38),
    "no-ring": Bug(Deployment(store=NoRing, histories=(0,)), "a retry of an applied write gets STALE_REVISION", 0),
    "ring-of-1": Bug(Deployment(store=_ring_of(1), histories=(0,)), "the same, once another write came between", 2),
    "ring-of-15": Bug(Deployment(store=_ring_of(15), histories=(0,)), "the same, at the last revision promised", 975),
    "eventually-consistent-read": Bug(Deployment(engine=Lagging), "a Read does not show what was answered before", 0),
    "reply-before-commit": Bug(Deployment(engine=AnsweredBeforeCommit), "an acknowledged write is gone", 0),
    "read-before-commit": Bug(Deployment(engine=ReadBeforeCommit), "a Read shows a write that is gone later", 81),
    "blind-retry": Bug(Deployment(store=BlindRetry), "a write is applied, and its caller hears the retry's refusal", 3),
    "late-joining": Bug(Deployment(store=LateJoining), "a Read shares an answer that was read before it began", 127),
    "no-second-look": Bug(Deployment(store=NoSecondLook), "bytes that race with themselves are applied and refused", 1),
    "unknown-is-not-done": Bug(Deployment(store=UnknownIsNotDone), "a write is done that was surely not done", 3),
    "delete-without-tombstone": Bug(Deployment(engine=ForgetfulDelete), "revisions begin again, for any key", 0),
    "purge-without-vacancy": Bug(Deployment(engine=ForgetfulPurge), "old envelopes fit again", 0),
    "create-on-foreign-tombstone": Bug(Deployment(vault=OwnerlessTombstone), "another key takes a deleted name", 56),
    "no-ownership-check": Bug(Deployment(vault=UnownedRecord), "the key of another record changes a record", 19),
    "wrapped-key-not-bound": Bug(Deployment(key_service=Unbound), "a key of another tenant or scope is accepted", 8),
    "name-not-bound": Bug(Deployment(vault=UnboundName), "an envelope that is for another record is stored", 42),
    "cached-head": Bug(Deployment(store=CachedHead), "a request is refused for what is stored no more", 0),
    "unproved-replay": Bug(Deployment(vault=UnprovedReplay), "someone who only saw an envelope gets OK for it", 4),
    "page-boundary-lost": Bug(Deployment(store=LostBoundary), "a name between two pages is on none", 22),
    "counted-pages": Bug(Deployment(store=CountedPages), "a Delete between two pages hides another name", 153),
    "entry-left-by-delete": Bug(Deployment(engine=ListedForGood), "a deleted name is listed as live", 0),
    "entry-left-by-purge": Bug(Deployment(engine=ListsVacancies), "a purged name is listed", 21),
    "lagging-index": Bug(Deployment(engine=LaggingNames), "a name that was created before is missing in a listing", 14),
    "copy-after-head": Bug(
        Deployment(store=CopyAfterHead), "a revision that can be read has no copy", 18, "RECORD_CORRUPT"
    ),
    "no-second-head": Bug(
        Deployment(store=NoSecondHead), "a copy that was just removed is taken for a lost one", 146, "RECORD_CORRUPT"
    ),
    "one-copy-too-many": Bug(
        Deployment(store=RemovesOneMore), "a copy is removed that can still be read", 3, "RECORD_CORRUPT"
    ),
    "visible-by-reader": Bug(Deployment(vault=VisibleByReader), "replicas do not agree on what can be read", 1),
    "sweep-at-since": Bug(
        Deployment(sweep=_sweep_since), "a sweep takes the oldest copy that can be read", 1, "RECORD_CORRUPT"
    ),
    "sweep-above-since": Bug(Deployment(sweep=_sweep_all_but_current), "a sweep takes all copies", 1, "RECORD_CORRUPT"),
    "no-sweep": Bug(Deployment(sweep=_sweep_nothing), "a copy that a late writer left stays for ever", 5, "LEFTOVER"),
    "drop-forgotten": Bug(Deployment(vault=DropForgotten), "a revision is read that a Delete dropped", 13),
    "kept-by-rotation": Bug(Deployment(vault=KeptByRotation), "what the old key sealed is read after a RotateKey", 2),
    "joined-batches": Bug(Deployment(read_many=JoinsBatches()), "an item's answer was read before it was asked for", 0),
    "paid-and-full": Bug(
        Deployment(read_many=_full_for_money), "what did not fit into a reply is charged", 127, "OVERCHARGED"
    ),
    "batch-by-name": Bug(Deployment(read_many=_by_name), "an item gets the answer of another one", 0),
    "one-error-for-all": Bug(Deployment(read_many=_one_error_for_all), "one absent record hides the others", 0),
    "revision-before-ring": Bug(Deployment(vault=RevisionFirst), "a retry of an applied write gets STALE_REVISION", 0),
}
"""By name, as `--bug` takes them."""
