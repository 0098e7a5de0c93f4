"""In-memory implementations of the two ports, for tests of what stands on them. They pass the contract suites.

The rule of this file: a fake keeps every promise of its port, and breaks one only where a test says so: by a hook.
"""

import asyncio
import os
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault_api.envelope import Kind
from keyvault_server.core.errors import MasterKeyUnusable, NotAuthorized
from keyvault_server.core.ports import (
    CopyName,
    HeadChanged,
    ListedName,
    NamePage,
    NewDataKey,
    Walked,
    WrappedBlob,
)
from keyvault_server.core.records import Record, StoredHead, listed_as

Hook = Callable[[], Awaitable[object]]
NONCE_SIZE = 12


class Hooks:
    """What a test wants to happen before or after the next calls, each once: `hooks.before("put_if", hook)`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """How often each method was called, failures included."""
        self._before: dict[str, list[Hook]] = {}
        self._after: dict[str, list[Hook]] = {}

    def before(self, method: str, hook: Hook) -> None:
        """Await the hook when the method is next called, before it does anything. It may call the fake itself."""
        self._before.setdefault(method, []).append(hook)

    def after(self, method: str, hook: Hook) -> None:
        """Await the hook when the method has next done its work, before it answers."""
        self._after.setdefault(method, []).append(hook)

    def fail_before(self, method: str, error: Exception) -> None:
        """Let the next call raise and do nothing: a lost request."""
        self.before(method, _raising(error))

    def fail_after(self, method: str, error: Exception) -> None:
        """Let the next call do its work and raise: a lost reply."""
        self.after(method, _raising(error))

    async def _enter(self, method: str) -> None:
        self.calls[method] += 1
        await _run_next(self._before, method)

    async def _leave(self, method: str) -> None:
        await _run_next(self._after, method)


class Gate:
    """Holds the next calls of one method of a fake until it is opened, by its `before` or `after`."""

    def __init__(self, hooked: Callable[[str, Hook], None], method: str, calls: int = 1) -> None:
        self._open = asyncio.Event()
        self._all_here = asyncio.Event()
        self._missing = calls
        for _ in range(calls):
            hooked(method, self._wait)

    async def _wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._all_here.set()
        await self._open.wait()

    async def reached(self) -> None:
        """Return when all calls wait here."""
        async with asyncio.timeout(30):
            await self._all_here.wait()

    def open(self) -> None:
        """Let them go."""
        self._open.set()


class FakeKeyService(Hooks):
    """Master keys by label, with states; a data key is wrapped with AES-256-GCM. `calls` counts what reaches them."""

    def __init__(self, *labels: str) -> None:
        super().__init__()
        self._master_keys = {label: os.urandom(32) for label in labels or ("1",)}
        self._disabled: set[str] = set()
        self.current = next(iter(self._master_keys))

    def add(self, label: str) -> None:
        """Add a new master key, which mints from now on."""
        self._master_keys[label] = os.urandom(32)
        self.current = label

    def remove(self, label: str) -> None:
        """Remove a label from the configuration."""
        del self._master_keys[label]

    def disable(self, label: str) -> None:
        """Let calls that need this master key raise MasterKeyUnusable."""
        self._disabled.add(label)

    def enable(self, label: str) -> None:
        """Undo `disable`."""
        self._disabled.remove(label)

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        """See KeyService."""
        await self._enter("generate")
        data_key = os.urandom(32)
        made = NewDataKey(data_key, self.wrap(tenant, scope, data_key))
        await self._leave("generate")
        return made

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        """See KeyService."""
        self._refuse_unknown(wrapped.label)
        await self._enter("unwrap")
        data_key = self._open(tenant, scope, wrapped)
        await self._leave("unwrap")
        return data_key

    async def rewrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> WrappedBlob:
        """See KeyService."""
        self._refuse_unknown(wrapped.label)
        await self._enter("rewrap")
        rewrapped = self.wrap(tenant, scope, self._open(tenant, scope, wrapped))
        await self._leave("rewrap")
        return rewrapped

    async def check(self) -> None:
        """See KeyService."""
        await self._enter("check")
        self._usable(self.current)
        await self._leave("check")

    def wrap(self, tenant: str, scope: str, data_key: bytes) -> WrappedBlob:
        """Wrap any bytes, as a direct user of the master key can; not counted as a call."""
        nonce = os.urandom(NONCE_SIZE)
        sealed = AESGCM(self._usable(self.current)).encrypt(nonce, data_key, _context(self.current, tenant, scope))
        return WrappedBlob(self.current, nonce + sealed)

    def _open(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        nonce, sealed = wrapped.blob[:NONCE_SIZE], wrapped.blob[NONCE_SIZE:]
        try:
            data_key = AESGCM(self._usable(wrapped.label)).decrypt(
                nonce, sealed, _context(wrapped.label, tenant, scope)
            )
        except (InvalidTag, ValueError):  # ValueError: a nonce cut short
            raise NotAuthorized from None
        if len(data_key) != 32:
            raise NotAuthorized
        return data_key

    def _refuse_unknown(self, label: str) -> None:
        if label not in self._master_keys:
            raise NotAuthorized

    def _usable(self, label: str) -> bytes:
        if label in self._disabled:
            raise MasterKeyUnusable
        return self._master_keys[label]


class FakeRecordStore(Hooks):
    """Records and copies in two dictionaries, `records` and `copies`, which a test may read and change."""

    copies_itself = False
    reads_together = 1

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[tuple[str, str], Record] = {}
        self.copies: dict[CopyName, bytes] = {}

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        """See RecordStore."""
        await self._enter("get_head")
        stored = _head_of(self.records.get((tenant, key_id)))
        await self._leave("get_head")
        return stored

    async def get(self, tenant: str, key_id: str) -> Record | None:
        """See RecordStore."""
        await self._enter("get")
        stored = self.records.get((tenant, key_id))
        await self._leave("get")
        return stored

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        """See RecordStore."""
        await self._enter("put_if")
        stored = self.records.get((tenant, key_id))
        if (stored.head if stored else None) != expected:
            raise HeadChanged(_head_of(stored))
        self.records[tenant, key_id] = record
        await self._leave("put_if")

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        """See RecordStore."""
        await self._enter("list_names")
        kind = Kind.TOMBSTONE if deleted else Kind.DATA
        found = sorted(
            ListedName(key_id, record.created)
            for (owner, key_id), record in self.records.items()
            if owner == tenant and key_id.startswith(prefix) and key_id > after and listed_as(record) is kind
        )
        page = NamePage(found[:limit], found[limit - 1].key_id if len(found) > limit else None)
        await self._leave("list_names")
        return page

    async def walk(self) -> AsyncIterator[Walked]:
        """See RecordStore."""
        await self._enter("walk")
        for (tenant, key_id), record in list(self.records.items()):
            yield Walked(tenant, key_id, record)
        await self._leave("walk")

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        """See RecordStore."""
        await self._enter("keep")
        self.copies[CopyName(tenant, key_id, revision)] = stored.envelope
        await self._leave("keep")

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        """See RecordStore."""
        await self._enter("get_copy")
        copy = self.copies.get(CopyName(tenant, key_id, revision))
        await self._leave("get_copy")
        return copy

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        """See RecordStore."""
        self.calls["remove"] += 1
        for revision in revisions:
            self.copies.pop(CopyName(tenant, key_id, revision), None)

    async def walk_copies(self) -> AsyncIterator[CopyName]:
        """See RecordStore."""
        await self._enter("walk_copies")
        for name in list(self.copies):
            yield name
        await self._leave("walk_copies")

    async def remove_copy(self, tenant: str, key_id: str, revision: int, envelope: bytes) -> bool:
        """See RecordStore."""
        await self._enter("remove_copy")
        name = CopyName(tenant, key_id, revision)
        same = self.copies.get(name) == envelope
        if same:
            del self.copies[name]
        await self._leave("remove_copy")
        return same

    async def check(self) -> None:
        """See RecordStore."""
        await self._enter("check")
        await self._leave("check")


def _raising(error: Exception) -> Hook:
    async def fail() -> None:
        raise error

    return fail


async def _run_next(hooks: dict[str, list[Hook]], method: str) -> None:
    """Remove the hook first and run it then, so that it may call the same method."""
    if waiting := hooks.get(method):
        await waiting.pop(0)()


def _head_of(record: Record | None) -> StoredHead | None:
    return record and record.stored_head


def _context(*parts: str) -> bytes:
    return b"".join(struct.pack(">H", len(part.encode())) + part.encode() for part in parts)
