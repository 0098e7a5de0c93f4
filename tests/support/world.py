"""A vault on fakes of the two ports, and what its callers do with it."""

import hashlib
from collections.abc import Awaitable, Callable

from keyvault_api.envelope import Kind
from keyvault_server.core.vault import Vault, Written
from tests.support.callers import Unrestricted
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.requests import Key

TENANT, NAME = "acme", "prod/db"
CALLER = Unrestricted(TENANT)


class World:
    """A vault on fakes, and what its callers do with it."""

    def __init__(self, history: int = 0) -> None:
        self.keys = FakeKeyService()
        self.records = FakeRecordStore()
        self.now = 1_000.0
        self.vault = Vault(self.keys, self.records, history=history, clock=self._tick)

    def _tick(self) -> float:
        self.now += 1
        return self.now

    async def mint(self, scope: str = NAME, tenant: str = TENANT) -> Key:
        made = await self.vault.generate_key(Unrestricted(tenant), scope)
        return Key(made.plaintext, made.wrapped_key, tenant)

    async def create(self, key: Key, revision: int = 1, data: bytes = b"data", name: str = NAME) -> bytes:
        envelope = key.seal(name, revision, data)
        await self.vault.create(CALLER, name, key.wrapped, envelope)
        return envelope

    async def update(self, key: Key, revision: int, data: bytes = b"data") -> Written:
        return await self.vault.update(CALLER, NAME, key.wrapped, key.seal(NAME, revision, data))

    async def delete(self, key: Key, revision: int) -> Written:
        return await self.vault.delete(CALLER, NAME, key.wrapped, key.seal(NAME, revision, b"", Kind.TOMBSTONE))

    def rotation(self, key: Key, new: Key, revision: int, data: bytes = b"data") -> Callable[[], Awaitable[Written]]:
        """A RotateKey that can be retried with the same bytes."""
        sealed = new.seal(NAME, revision, data)
        permit = key.seal(NAME, revision, hashlib.sha256(sealed).digest(), Kind.REKEY)
        return lambda: self.vault.rotate_key(CALLER, NAME, key.wrapped, permit, new.wrapped, sealed)

    async def opened(self, key: Key) -> bytes:
        found = await self.vault.read(CALLER, NAME)
        assert found.envelope is not None
        return key.open(NAME, found.envelope)
