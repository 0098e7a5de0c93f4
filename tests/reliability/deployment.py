"""A vault as it is deployed, in virtual time: stateless servers, and a store and a key service far away from them.

The rule of this file: the vault is the real one, and so are the fakes of the two ports at the far end; only the way
there is unreliable. A seeded bug (`bugs.py`) puts something of its own in one of the places of a Deployment.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from keyvault_server.core import batch
from keyvault_server.core.errors import (
    BackendThrottled,
    BackendUnavailable,
    DeadlineExceeded,
    MasterKeyUnusable,
    VaultError,
)
from keyvault_server.core.listing import list_names
from keyvault_server.core.ports import CopyName, KeyService, NamePage, NewDataKey, RecordStore, Walked, WrappedBlob
from keyvault_server.core.reading import Found
from keyvault_server.core.records import Record, StoredHead
from keyvault_server.core.sweep import Swept, sweep
from keyvault_server.core.vault import Vault, Written
from tests.reliability.clients import Message, Scene
from tests.reliability.history import (
    Answer,
    Done,
    Got,
    Kept,
    ListRevisions,
    OperatorError,
    Read,
    Rotate,
    Unknown,
    Write,
)
from tests.reliability.listings import Asked, Page
from tests.reliability.network import CALL_TIMEOUT, CALL_TROUBLES, Fate, Network, regardless
from tests.reliability.readers import FULL, Item, misfit
from tests.support.callers import Unrestricted
from tests.support.fakes import FakeKeyService, FakeRecordStore

TENANT = "acme"
CALLER = Unrestricted(TENANT)

_T = TypeVar("_T")


class FarStore:
    """A RecordStore over the network."""

    copies_itself = False
    reads_together = 8

    def __init__(self, network: Network, engine: RecordStore) -> None:
        self._network = network
        self._engine = engine

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        return await self._network.backend(lambda: self._engine.get_head(tenant, key_id))

    async def get(self, tenant: str, key_id: str) -> Record | None:
        return await self._network.backend(lambda: self._engine.get(tenant, key_id))

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await self._network.backend(lambda: self._engine.put_if(tenant, key_id, record, expected))

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        return await self._network.backend(
            lambda: self._engine.list_names(tenant, prefix, after, limit, deleted=deleted)
        )

    def walk(self) -> AsyncIterator[Walked]:
        return self._engine.walk()

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        await self._network.backend(lambda: self._engine.keep(tenant, key_id, revision, stored))

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        return await self._network.backend(lambda: self._engine.get_copy(tenant, key_id, revision))

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        """Nobody waits for it, so nobody hears what becomes of it."""

        async def effect() -> None:
            self._engine.remove(tenant, key_id, revisions)

        self._network.background(regardless(self._network.backend(effect)))

    def walk_copies(self) -> AsyncIterator[CopyName]:
        return self._engine.walk_copies()

    async def remove_copy(self, tenant: str, key_id: str, revision: int, envelope: bytes) -> bool:
        return await self._network.backend(lambda: self._engine.remove_copy(tenant, key_id, revision, envelope))

    async def check(self) -> None:
        await self._network.backend(self._engine.check)


class FarKeys:
    """A KeyService over the network. Half of what it refuses at once it refuses for an unusable master key."""

    def __init__(self, network: Network, keys: KeyService) -> None:
        self._network = network
        self._keys = keys

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        return await self._call(lambda: self._keys.generate(tenant, scope))

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        return await self._call(lambda: self._keys.unwrap(tenant, scope, wrapped))

    async def rewrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> WrappedBlob:
        return await self._call(lambda: self._keys.rewrap(tenant, scope, wrapped))

    async def check(self) -> None:
        await self._call(self._keys.check)

    async def _call(self, effect: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await self._network.backend(effect)
        except BackendThrottled:
            if self._network.rng.random() < 0.5:
                raise MasterKeyUnusable from None
            raise


class Engine(FakeRecordStore):
    """The store at the far end. Each page of names comes from an index, which may be behind."""

    def __init__(self) -> None:
        super().__init__()
        self._lag: Callable[[], float] = float
        self._puts: list[tuple[float, tuple[str, str], Record]] = []

    def delay_index(self, lag: Callable[[], float]) -> None:
        """Let each page be by `lag` seconds behind."""
        self._lag = lag

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, record, expected)
        self._puts.append((asyncio.get_running_loop().time(), (tenant, key_id), record))

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        if not (lag := self._lag()):
            return await super().list_names(tenant, prefix, after, limit, deleted=deleted)
        index = FakeRecordStore()
        index.records = self.earlier(lag)
        return await index.list_names(tenant, prefix, after, limit, deleted=deleted)

    def earlier(self, seconds: float) -> dict[tuple[str, str], Record]:
        """What was stored so long ago."""
        then = asyncio.get_running_loop().time() - seconds
        return {name: record for when, name, record in self._puts if when <= then}

    def forget(self, seconds: float) -> None:
        """Lose what was stored after that."""
        self.records = self.earlier(seconds)
        then = asyncio.get_running_loop().time() - seconds
        self._puts = [put for put in self._puts if put[0] <= then]

    def crash(self) -> None:
        """A power cut and a restart: what was answered is there, so nothing changes."""


class Payer(Unrestricted):
    """The author of one item of a BatchRead, who notes what it costs."""

    def __init__(self) -> None:
        super().__init__(TENANT)
        self.calls = self.bytes = 0

    def spend(self) -> None:
        self.calls += 1

    def charge(self, size: int) -> None:
        self.bytes += size

    def refund(self, size: int) -> None:
        self.calls -= 1
        self.bytes -= size


class ReadMany(Protocol):
    """`keyvault_server.core.batch.read_many`, or a bug of it."""

    async def __call__(
        self, vault: Vault, items: Sequence[batch.Item], author_of: Callable[[int], Payer]
    ) -> Sequence[tuple[Payer, Found | VaultError]]: ...


def _nothing_between(far: RecordStore) -> RecordStore:
    return far


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is deployed: the real thing, but for what a seeded bug puts in a place of it."""

    engine: Callable[[], Engine] = Engine
    """The store at the far end, one for all servers."""
    key_service: Callable[[], KeyService] = FakeKeyService
    """The key service at the far end, one for all servers."""
    store: Callable[[RecordStore], RecordStore] = _nothing_between
    """What a server puts before the far store; a new one at each start."""
    vault: type[Vault] = Vault
    """In each server; a new one at each start."""
    histories: Sequence[int] = (0, 1, 2, 3, 10, 15)
    """How many earlier revisions a server may be set to keep readable."""
    read_many: ReadMany = batch.read_many
    """What answers a BatchRead."""
    sweep: Callable[[RecordStore], Awaitable[Swept]] = sweep
    """What an operator runs now and then."""

    def start(self, keys: KeyService, records: RecordStore, history: int) -> Vault:
        """A server's vault. Its clock is the loop's."""
        return self.vault(keys, self.store(records), history=history, clock=asyncio.get_running_loop().time)


async def ask(vault: Vault, message: Message, scene: Scene) -> Answer:
    """One call of a vault. The only place that knows who calls it."""
    caller, request = CALLER, message.request
    try:
        match request:
            case Read(known, deleted, revision):
                found = await vault.read(caller, message.key_id, known, include_deleted=deleted, revision=revision)
                return _got(found, scene)
            case ListRevisions():
                return Kept(tuple(one.revision for one in await vault.list_revisions(caller, message.key_id)))
            case Write(method):
                mutate = {"create": vault.create, "update": vault.update, "delete": vault.delete}[method]
                return _done(await mutate(caller, message.key_id, message.wrapped_key, message.envelope))
            case Rotate():
                return _done(
                    await vault.rotate_key(
                        caller,
                        message.key_id,
                        message.wrapped_key,
                        message.authorization,
                        message.new_wrapped_key,
                        message.envelope,
                    )
                )
            case _:
                raise AssertionError(request)
    except VaultError as error:
        return refusal(error)
    except Exception as error:  # the wire would say INTERNAL: no model allows that
        return OperatorError(f"INTERNAL {error!r}")


async def ask_for_many(deployment: Deployment, vault: Vault, items: Sequence[Item], scene: Scene) -> list[Answer]:
    """One BatchRead of a vault."""
    asked = [batch.Item(one.record, one.read.known_revision, one.read.include_deleted) for one in items]
    try:
        found = await deployment.read_many(vault, asked, lambda number: Payer())
    except Exception as error:  # the wire would say INTERNAL: no model allows that
        return [OperatorError(f"INTERNAL {error!r}")] * len(items)
    answers = [_item(payer, answer, scene) for payer, answer in found]
    sizes = [len(answer.envelope or b"") if isinstance(answer, Found) else 0 for _, answer in found]
    wrong = misfit(answers, sizes)
    return [OperatorError(f"MISFIT {wrong}")] * len(items) if wrong else answers


async def ask_for_page(vault: Vault, asked: Asked) -> Page | OperatorError | Unknown:
    """One List of a vault."""
    try:
        page = await list_names(vault, CALLER, asked.prefix, asked.size, asked.token, deleted=asked.deleted)
        return Page([name.key_id for name in page.names], page.next_page_token)
    except VaultError as error:
        return refusal(error)
    except Exception as error:  # the wire would say INTERNAL: no model allows that
        return OperatorError(f"INTERNAL {error!r}")


def _item(payer: Payer, found: Found | VaultError, scene: Scene) -> Answer:
    """What a caller makes of an item, and of what it had to pay for it."""
    answer = refusal(found) if isinstance(found, VaultError) else _got(found, scene)
    price = (payer.calls, payer.bytes)
    if isinstance(found, Found) and price != (1, len(found.envelope or b"")):
        return OperatorError(f"OVERCHARGED {price}")
    return OperatorError(f"OVERCHARGED {price}") if answer == FULL and price != (0, 0) else answer


def refusal(error: VaultError) -> OperatorError | Unknown:
    """What a caller makes of an error."""
    if isinstance(error, (BackendUnavailable, DeadlineExceeded)):
        return Unknown(error.reason)
    current = error.metadata.get("current_revision")
    return OperatorError(error.reason, None if current is None else int(current))


def _done(written: Written) -> Answer:
    return Done(written.revision, written.replayed)


def _got(found: Found, scene: Scene) -> Answer:
    return Got(found.revision, scene.name_of(found.envelope), found.deleted)


class Server:
    """A process with a vault in it: it starts, works, crashes, and starts again."""

    def __init__(self, network: Network, deployment: Deployment, keys: KeyService, engine: RecordStore) -> None:
        self.history = network.rng.choice(deployment.histories)
        self._network = network
        self._deployment = deployment
        self._keys = FarKeys(network, keys)
        self._records = FarStore(network, engine)
        self._vault = deployment.start(self._keys, self._records, self.history)
        self._working: dict[asyncio.Task[Any], None] = {}  # in order, so that a seed is a schedule
        self._up = True

    def crash(self) -> None:
        """What was running is gone; what it had sent is under way."""
        self._up = False
        for task in self._working:
            task.cancel()

    def restart(self) -> None:
        """With nothing in memory."""
        self._vault = self._deployment.start(self._keys, self._records, self.history)
        self._up = True

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self._working[task]

    async def send(self, message: Message, scene: Scene) -> Answer:
        """What a client sees of one call."""
        return await self._exchange(lambda: ask(self._vault, message, scene))

    async def read_many(self, items: Sequence[Item], scene: Scene) -> Sequence[Answer]:
        """What a client sees of one BatchRead."""
        answers = await self._exchange(lambda: ask_for_many(self._deployment, self._vault, items, scene))
        return answers if isinstance(answers, list) else [answers] * len(items)

    async def list_page(self, asked: Asked) -> Page | OperatorError | Unknown:
        """What a client sees of one List."""
        return await self._exchange(lambda: ask_for_page(self._vault, asked))

    async def _exchange(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T | OperatorError | Unknown:
        fate = self._network.fate(CALL_TROUBLES)
        await self._network.hop(fate)
        if fate is Fate.REFUSED:
            return OperatorError("RATE_LIMITED")
        if fate is Fate.LATE:
            self._network.later(lambda: self._work(call, None), CALL_TIMEOUT)
        if fate in (Fate.LATE, Fate.REQUEST_LOST):
            await asyncio.sleep(CALL_TIMEOUT)
            return Unknown("no answer in time")
        answer = await self._work(call, CALL_TIMEOUT)
        await self._network.hop(fate)
        return Unknown("the answer was lost") if fate is Fate.REPLY_LOST else answer

    async def _work(self, call: Callable[[], Coroutine[Any, Any, _T]], patience: float | None) -> _T | Unknown:
        if not self._up:
            return Unknown("no server there")
        task = asyncio.create_task(call())
        self._working[task] = None
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=patience)
        if not done:
            if self._network.rng.random() < 0.5:  # else the server never hears that its caller is gone
                task.cancel()
            return Unknown("no answer in time")
        return Unknown("the server crashed") if task.cancelled() else task.result()
