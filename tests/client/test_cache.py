"""`vault.cache`: secrets from memory, what refreshes them, and what a failure takes away."""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    TLS,
    Busy,
    DataKey,
    InvalidRequest,
    KeyNotFound,
    KeyRing,
    KeyVault,
    NotCached,
    NotFound,
    NotRefreshed,
    Record,
    RecordDamaged,
    RolledBack,
    Secrets,
    ServerFailure,
    Unavailable,
)
from keyvault_client.cache import RETRY_SECONDS
from keyvault_client.records import seal
from keyvault_server.core.records import successor
from tests.support.fakes import FakeKeyService, FakeRecordStore, Gate
from tests.support.lying import lying_server
from tests.support.policy_server import BILLING, policy_server
from tests.support.servers import Served, grpc_server, on_ports

NOWHERE = "127.0.0.1:1"
NEVER = 86_400.0
SECRET = "hunter2"
KEY = DataKey("default", "a", b"wrapped", bytes(32))
OTHER = DataKey("default", "a", b"wrapped", bytes(range(32)))
BUSY = pb.BatchReadResponse.Error(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], reason="STORE_FULL")
GONE = pb.BatchReadResponse.Error(code=grpc.StatusCode.NOT_FOUND.value[0], reason="RECORD_NOT_FOUND")


def answer(*results: pb.ReadResponse | pb.BatchReadResponse.Error) -> pb.BatchReadResponse:
    made = pb.BatchReadResponse()
    for result in results:
        if isinstance(result, pb.ReadResponse):
            made.results.add(record=result)
        else:
            made.results.add(error=result)
    return made


def stored(revision: int, data: bytes = b"", key: DataKey = KEY, kind: Kind = Kind.DATA) -> pb.ReadResponse:
    """What a server answers for the record "a" at this revision."""
    envelope = seal(key, "a", revision, data, kind)
    return pb.ReadResponse(envelope=envelope, revision=revision, deleted=kind is Kind.TOMBSTONE)


async def settled(secrets: Secrets) -> None:
    """Refresh, whatever fails."""
    with suppress(NotRefreshed):
        await secrets.refresh()


@pytest.fixture
async def key(vault: KeyVault) -> DataKey:
    """A key that has made two records."""
    key = await vault.generate_key("prod/")
    await vault.create("prod/db", SECRET.encode(), key=key)
    await vault.create("prod/api", b"token", key=key)
    return key


async def test_secrets_are_a_mapping_in_memory(vault: KeyVault, key: DataKey) -> None:
    async with vault.cache({"prod/db": key, "prod/api": key}) as secrets:
        await vault.close()
        assert secrets["prod/db"] == b"hunter2"
        assert dict(secrets) == {"prod/db": b"hunter2", "prod/api": b"token"}
        assert secrets.record("prod/db").revision == 1
        assert 0 < secrets.age("prod/db") < 60
        assert secrets.failure("prod/db") is None
        assert SECRET not in repr([secrets, secrets.values(), secrets.record("prod/db")])
        assert ("prod/db" in secrets, "prod/x" in secrets, secrets.get("prod/x")) == (True, False, None)
        for look_up in (secrets.__getitem__, secrets.record, secrets.age, secrets.failure):
            with pytest.raises(KeyError) as error:
                look_up("prod/x")
            assert str(error.value) == "'prod/x' is not a name of this cache"


async def test_a_refresh_brings_what_changed_and_nothing_else() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as served, KeyVault(served.address) as vault:
        key = await vault.generate_key("prod/")
        for name in ("prod/a", "prod/b"):
            await vault.create(name, b"one", key=key)
        async with vault.cache({"prod/a": key, "prod/b": key}) as secrets:
            await vault.update("prod/a", b"two", key=key)
            records.calls.clear()
            await secrets.refresh()
            assert dict(secrets) == {"prod/a": b"two", "prod/b": b"one"}
            assert records.calls["get"] == 1


async def test_a_cache_refreshes_by_itself(vault: KeyVault, key: DataKey) -> None:
    async with vault.cache({"prod/db": key}, refresh=0.02) as secrets:
        await vault.update("prod/db", b"two", key=key)
        async with asyncio.timeout(10):
            while secrets["prod/db"] != b"two":
                await asyncio.sleep(0.005)
        assert secrets.record("prod/db").revision == 2


async def test_refreshes_are_spread_and_come_soon_after_an_outage() -> None:
    async with one_name(answer(stored(5)), answer(GONE), answer(BUSY)) as secrets:
        for expected, longest in ((NotFound, NEVER), (Busy, RETRY_SECONDS)):
            await settled(secrets)
            assert type(secrets.failure("a")) is expected
            waits = [secrets._wait() for _ in range(100)]
            assert 0.8 * longest <= min(waits) < 0.9 * longest < max(waits) <= longest


async def test_each_change_is_said_once(vault: KeyVault, key: DataKey) -> None:
    seen: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def later(name: str, record: Record) -> None:
        await asyncio.sleep(0)
        seen.put_nowait((name, record.plaintext))

    def at_once(name: str, record: Record) -> None:
        seen.put_nowait((name, record.plaintext))

    for number, on_change in enumerate((later, at_once)):
        data = b"%d" % number
        async with vault.cache({"prod/db": key, "prod/api": key}, on_change=on_change) as secrets:
            await vault.update("prod/db", data, key=key)
            await secrets.refresh()
            await secrets.refresh()
            async with asyncio.timeout(10):
                assert await seen.get() == ("prod/db", data)
            assert seen.empty()


async def test_the_same_revision_is_no_change() -> None:
    changes: list[str] = []
    async with one_name(answer(stored(5)), on_change=lambda name, _: changes.append(name)) as secrets:
        await secrets.refresh()
        await asyncio.sleep(0.01)
    assert not changes


async def test_a_failing_on_change_stops_nothing_and_leaks_nothing(
    vault: KeyVault, key: DataKey, caplog: pytest.LogCaptureFixture
) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()

    def on_change(_: str, record: Record) -> None:
        seen.put_nowait(record.revision)
        int(record.plaintext)

    async with vault.cache({"prod/db": key}, on_change=on_change) as secrets:
        for revision in (2, 3):
            await vault.update("prod/db", SECRET.encode(), key=key)
            await secrets.refresh()
            async with asyncio.timeout(10):
                assert await seen.get() == revision
        await asyncio.sleep(0)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("on_change failed for prod/db: ValueError at ")
    assert "test_cache.py" in lines[0]
    assert SECRET not in caplog.text


@pytest.mark.slow
async def test_an_outage_keeps_the_values_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keyvault_client")
    keys, records = FakeKeyService(), FakeRecordStore()
    async with AsyncExitStack() as clients:
        async with on_ports(keys, records) as served:
            vault = await clients.enter_async_context(KeyVault(served.address))
            key = await vault.generate_key("prod/")
            for name in ("prod/a", "prod/b"):
                await vault.create(name, b"one", key=key)
            cache = vault.cache({"prod/a": key, "prod/b": key}, refresh=NEVER, timeout=1.0)
            secrets = await clients.enter_async_context(cache)
        for _ in range(2):
            with pytest.raises(NotRefreshed, match="2 of 2 names were not refreshed: prod/a, prod/b: "):
                await secrets.refresh()
        assert dict(secrets) == {"prod/a": b"one", "prod/b": b"one"}
        assert isinstance(secrets.failure("prod/a"), Unavailable)
        old = secrets.age("prod/a")
        assert old > 1.0
        async with on_ports(keys, records, listen=served.address):
            async with asyncio.timeout(20):
                while secrets.failure("prod/a"):
                    await settled(secrets)
            assert secrets.age("prod/a") < old
    lines = [(record.levelname, record.getMessage().split(": ")[:2]) for record in caplog.records]
    assert [line for line in lines if "refresh" in line[1][0]] == [
        ("WARNING", ["refresh failed, the last values stay in use", "prod/a, prod/b"]),
        ("INFO", ["refreshed again", "prod/a, prod/b"]),
    ]


@asynccontextmanager
async def one_name(*answers: pb.BatchReadResponse, remember: int = 10_000, **options: Any) -> AsyncIterator[Secrets]:
    """A cache of the record "a" on a server that answers BatchRead so, in turn."""
    async with (
        lying_server({"BatchRead": answers}) as address,
        KeyVault(address, remember=remember) as vault,
        vault.cache({"a": KEY}, refresh=NEVER, **options) as secrets,
    ):
        yield secrets


@pytest.mark.parametrize(
    ("second", "failure"),
    [
        (answer(stored(4, b"old")), RolledBack),
        (answer(pb.ReadResponse(revision=4, not_modified=True)), RolledBack),
        (answer(pb.ReadResponse(revision=6, not_modified=True)), ServerFailure),
        (answer(stored(6, b"forged", OTHER)), RecordDamaged),
        (answer(stored(6, b"", OTHER, Kind.TOMBSTONE)), RecordDamaged),
        (answer(pb.ReadResponse(revision=6, deleted=True)), RecordDamaged),
        (answer(stored(4, b"", KEY, Kind.TOMBSTONE)), RolledBack),
        (answer(GONE), NotFound),
        (answer(), ServerFailure),
    ],
    ids=[
        "older",
        "not modified, older",
        "not modified, newer",
        "of another key",
        "deleted by another key",
        "deleted without proof",
        "deleted before",
        "not found",
        "too few",
    ],
)
async def test_what_is_not_proved_takes_no_value_away(second: pb.BatchReadResponse, failure: type[Exception]) -> None:
    async with one_name(answer(stored(5, b"five")), second) as secrets:
        with pytest.raises(NotRefreshed):
            await secrets.refresh()
        assert (secrets["a"], type(secrets.failure("a"))) == (b"five", failure)


async def test_an_old_revision_is_refused_with_no_memory_of_others() -> None:
    async with one_name(answer(stored(5, b"five")), answer(stored(4, b"old")), remember=0) as secrets:
        await settled(secrets)
        assert isinstance(secrets.failure("a"), RolledBack)


async def test_a_deleted_secret_is_not_served_until_it_is_back(vault: KeyVault, key: DataKey) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    async with vault.cache(
        {"prod/db": key, "prod/api": key}, on_change=lambda _, record: seen.put_nowait(record.plaintext)
    ) as secrets:
        await vault.delete("prod/db", key=key)
        for _ in range(2):
            with pytest.raises(NotRefreshed, match="1 of 2 names were not refreshed: prod/db: deleted at revision 2"):
                await secrets.refresh()
            with pytest.raises(NotCached, match="no value of prod/db: deleted at revision 2"):
                secrets["prod/db"]
            assert isinstance(secrets.failure("prod/db"), NotFound)
            assert list(secrets) == ["prod/api"]
        await vault.create("prod/db", b"back", key=key)
        await secrets.refresh()
        assert (secrets["prod/db"], secrets.failure("prod/db")) == (b"back", None)
        async with asyncio.timeout(10):
            assert await seen.get() == b"back"


async def test_a_rotated_secret_stays_old_until_its_key_comes(vault: KeyVault, key: DataKey) -> None:
    new = await vault.generate_key("prod/db")
    known: dict[str, DataKey] = {}

    async def new_key(name: str) -> DataKey | None:
        return known.get(name)

    async with vault.cache({"prod/db": key}, new_key=new_key) as secrets:
        await vault.rotate_key("prod/db", key=key, new_key=new)
        await settled(secrets)
        assert secrets["prod/db"] == b"hunter2"
        assert isinstance(secrets.failure("prod/db"), RecordDamaged)
        known["prod/db"] = new
        await secrets.refresh()
        assert secrets.record("prod/db").revision == 2
        del known["prod/db"]
        await vault.update("prod/db", b"three", key=new)
        await secrets.refresh()
        assert secrets["prod/db"] == b"three", "the key is kept"
        await vault.delete("prod/db", key=new)
        await settled(secrets)
        assert "prod/db" not in secrets


async def test_a_plain_new_key_is_asked_at_the_start_too(vault: KeyVault, key: DataKey) -> None:
    new = await vault.generate_key("prod/db")
    await vault.rotate_key("prod/db", key=key, new_key=new)
    async with vault.cache({"prod/db": key, "prod/api": key}, new_key={"prod/db": new}.get) as secrets:
        assert secrets.record("prod/db").revision == 2


def failing(_: str) -> DataKey:
    raise ValueError(SECRET)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("new_key", "failure", "text"),
    [
        (failing, RecordDamaged, "new_key failed: ValueError at "),
        (lambda _: KEY, RecordDamaged, "a does not open under this key"),
        (lambda _: replace(OTHER, scope="b"), InvalidRequest, "scope b does not cover a"),
        (lambda _: OTHER.without_plaintext(), InvalidRequest, "has no plaintext_key"),
        (lambda _: "no key", RecordDamaged, "new_key failed: AttributeError at "),
        (lambda _: asyncio.sleep(60), RecordDamaged, "new_key failed: TimeoutError at "),
        (lambda _: OTHER, RolledBack, "is at revision 4"),
    ],
    ids=["raises", "the old one", "of another scope", "without plaintext", "not a key", "never", "of an old revision"],
)
async def test_a_new_key_that_does_not_help_is_a_failure(
    new_key: Any, failure: type[Exception], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    revision = 4 if failure is RolledBack else 6
    answers = answer(stored(5, b"five")), answer(stored(revision, b"six", OTHER))
    timeout = 1.0 if "Timeout" in text else 30.0
    async with one_name(*answers, remember=0, new_key=new_key, timeout=timeout) as secrets:
        await settled(secrets)
        assert (secrets["a"], type(secrets.failure("a"))) == (b"five", failure)
        assert text in str(secrets.failure("a"))
        assert SECRET not in str(secrets.failure("a")) + caplog.text


async def test_with_a_key_ring_the_names_are_enough(server: Served, tmp_path: Path) -> None:
    """Also after a rotation, from when the new key is in the folder."""
    (tmp_path / "keys").mkdir(mode=0o700)
    async with KeyVault(server.address, keys=KeyRing(tmp_path / "keys")) as vault:
        first = await vault.generate_key("prod/")
        first.save(tmp_path / "keys" / "prod.key")
        for name in ("prod/a", "prod/b"):
            await vault.create(name, name.encode())
        async with vault.cache(["prod/a", "prod/b"]) as secrets:
            assert dict(secrets) == {"prod/a": b"prod/a", "prod/b": b"prod/b"}
            new = await vault.generate_key("prod/a")
            await vault.rotate_key("prod/a", new_key=new)
            new.without_plaintext().save(tmp_path / "keys" / "a.key")
            await settled(secrets)
            assert (secrets.record("prod/a").revision, type(secrets.failure("prod/a"))) == (1, RecordDamaged)
            new.save(tmp_path / "keys" / "a.key.new")
            await secrets.refresh()
            assert secrets.record("prod/a").revision == 2
        with pytest.raises(InvalidRequest, match="takes a list of names"):
            vault.cache("prod/a")
        with pytest.raises(KeyNotFound):
            vault.cache(["dev/a"])


async def test_a_start_finds_the_tenant_of_a_key_in_the_ring(server: Served, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    DataKey("another", "prod/", b"wrapped", bytes(32)).save(tmp_path / "keys" / "a.key")
    async with KeyVault(server.address, keys=KeyRing(tmp_path / "keys")) as vault:
        key = await vault.generate_key("prod/")
        key.save(tmp_path / "keys" / "b.key")
        await vault.create("prod/a", b"one", key=key)
        async with vault.cache(["prod/a"]) as secrets:
            assert secrets["prod/a"] == b"one"


async def test_a_start_names_every_name_that_failed(vault: KeyVault, key: DataKey) -> None:
    other = await vault.generate_key("prod/")
    keys = {"prod/db": other, "prod/none": key, "prod/api": key}
    with pytest.raises(NotRefreshed) as error:
        async with vault.cache(keys):
            raise AssertionError
    kinds = {name: type(failure) for name, failure in error.value.failures.items()}
    assert kinds == {"prod/db": RecordDamaged, "prod/none": NotFound}
    assert all(part in str(error.value) for part in ("2 of 3", "prod/db: ", "prod/none: "))


async def test_a_start_may_be_allowed_without_every_name(vault: KeyVault, key: DataKey) -> None:
    async with vault.cache({"prod/late": key, "prod/api": key}, allow_missing=True) as secrets:
        assert (list(secrets), len(secrets)) == (["prod/api"], 1)
        with pytest.raises(NotCached, match="no value of prod/late: "):
            secrets["prod/late"]
        await vault.create("prod/late", b"here", key=key)
        await secrets.refresh()
        assert secrets["prod/late"] == b"here"


@pytest.mark.medium
async def test_a_start_without_a_server_names_the_cause() -> None:
    async with KeyVault(NOWHERE, timeout=0.5) as vault:
        with pytest.raises(NotRefreshed, match=r"1 of 1 names were not refreshed: a: .*connection refused"):
            async with vault.cache({"a": KEY}):
                raise AssertionError


@pytest.mark.parametrize(
    "wrong",
    [
        {"refresh": 0},
        {"refresh": math.nan},
        {"refresh": 86_401},
        {"max_age": 0},
        {"max_age": math.nan},
        {"keys": {"b": KEY}},
        {"keys": {"a": KEY.without_plaintext()}},
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_the_start(wrong: dict[str, Any]) -> None:
    vault = KeyVault(NOWHERE)
    with pytest.raises(InvalidRequest):
        vault.cache(**{"keys": {"a": KEY}} | wrong)


async def test_a_cache_is_used_inside_of_its_block_and_once() -> None:
    async with lying_server({"BatchRead": answer(stored(1, b"one"))}) as address, KeyVault(address) as vault:
        cache = vault.cache({"a": KEY})
        for moment in ("before", "after"):
            with pytest.raises(NotCached, match="not open"):
                cache["a"]
            with pytest.raises(InvalidRequest, match="not open"):
                await cache.refresh()
            if moment == "before":
                async with cache as secrets:
                    assert secrets["a"] == b"one"
        with pytest.raises(InvalidRequest, match="used once"):
            await cache.__aenter__()


@pytest.mark.medium
async def test_a_value_beyond_max_age_is_not_served() -> None:
    async with one_name(answer(stored(5, b"five")), answer(GONE), answer(stored(5, b"five")), max_age=0.3) as secrets:
        assert secrets["a"] == b"five"
        await asyncio.sleep(0.31)
        await settled(secrets)
        for look_up in (secrets.__getitem__, secrets.record):
            with pytest.raises(NotCached, match=r"a was confirmed 0 s ago, more than max_age=0.3: "):
                look_up("a")
        assert (secrets.age("a") > 0.3, list(secrets), "a" in secrets) == (True, [], False)
        await secrets.refresh()
        assert secrets["a"] == b"five"


async def test_a_refresh_on_demand_sees_what_was_written_before() -> None:
    """Also while another one waits for its answer; those that are asked for at the same time share one."""
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as served, KeyVault(served.address) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/a", b"one", key=key)
        async with vault.cache({"prod/a": key}) as secrets:
            gate = Gate(records.after, "get_head")
            early = asyncio.create_task(secrets.refresh())
            await gate.reached()
            await vault.update("prod/a", b"two", key=key)
            late = [asyncio.create_task(secrets.refresh()) for _ in range(5)]
            await asyncio.sleep(0)
            gate.open()
            await early
            await asyncio.gather(*late)
            assert secrets["prod/a"] == b"two"


async def test_the_end_of_the_block_does_not_wait_for_a_refresh() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records, drain_seconds=0.1) as served, KeyVault(served.address) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/a", b"one", key=key)
        began = asyncio.get_running_loop().time()
        async with vault.cache({"prod/a": key}, refresh=0.01) as secrets:
            await Gate(records.before, "get_head").reached()
            assert secrets["prod/a"] == b"one"
        gate = Gate(records.before, "get")
        start = asyncio.create_task(vault.cache({"prod/a": key}).__aenter__())
        await gate.reached()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert asyncio.get_running_loop().time() - began < 10
        assert len(asyncio.all_tasks()) < 20


async def test_a_client_closed_during_a_refresh_keeps_the_values() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records, drain_seconds=0.1) as served, KeyVault(served.address) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/a", b"one", key=key)
        async with vault.cache({"prod/a": key}, refresh=NEVER) as secrets:
            gate = Gate(records.before, "get_head")
            refresh = asyncio.create_task(secrets.refresh())
            await gate.reached()
            await vault.close()
            with pytest.raises(NotRefreshed, match="closed"):
                await refresh
            assert secrets["prod/a"] == b"one"
            assert isinstance(secrets.failure("prod/a"), Unavailable)


@pytest.mark.medium
async def test_other_threads_look_up_while_secrets_change(vault: KeyVault, key: DataKey) -> None:
    found: set[bytes] = set()
    stop = threading.Event()

    async with vault.cache({"prod/db": key, "prod/api": key}) as secrets:

        def look_up() -> None:
            while not stop.is_set():
                found.add(secrets["prod/db"])
                assert set(secrets) <= {"prod/db", "prod/api"}

        reader = asyncio.create_task(asyncio.to_thread(look_up))
        for number in range(5):
            await vault.update("prod/db", b"%d" % number, key=key)
            await secrets.refresh()
        stop.set()
        await reader
    assert found <= {SECRET.encode(), *(b"%d" % number for number in range(5))}


async def test_names_that_were_not_confirmed_come_first() -> None:
    """So that a quota which lets some names pass at a time lets all of them pass in the end."""
    asked: list[list[str]] = []
    key = DataKey("default", "a/", b"wrapped", bytes(32))

    async def play(request: pb.BatchReadRequest, _: Any) -> pb.BatchReadResponse:
        names = [item.key_id for item in request.items]
        asked.append(names)
        known = {item.key_id: item.known_revision for item in request.items}
        return answer(
            *(
                GONE
                if name == "a/2" and len(asked) == 2
                else pb.ReadResponse(revision=1, not_modified=True)
                if known[name]
                else pb.ReadResponse(revision=1, envelope=seal(key, name, 1, b""))
                for name in names
            )
        )

    method = grpc.unary_unary_rpc_method_handler(
        play, pb.BatchReadRequest.FromString, pb.BatchReadResponse.SerializeToString
    )
    handler = grpc.method_handlers_generic_handler("keyvault.v1.KeyVault", {"BatchRead": method})
    async with (
        grpc_server(lambda server: server.add_generic_rpc_handlers((handler,))) as port,
        KeyVault(f"127.0.0.1:{port}") as vault,
        vault.cache({"a/1": key, "a/2": key}, refresh=NEVER) as secrets,
    ):
        await settled(secrets)
        await secrets.refresh()
    assert asked == [["a/1", "a/2"], ["a/1", "a/2"], ["a/2", "a/1"]]


@pytest.mark.slow
async def test_a_thousand_names_stay_inside_the_default_quotas(tmp_path: Path) -> None:
    """Of a real server with its policy: no Read of a start is RATE_LIMITED, and a refresh right after it gets all."""
    policy = """
[[caller]]
identity = "spiffe://test.example/billing"
tenant = "acme"
[[caller.allow]]
methods = ["Read"]
names = ["*"]
"""
    key = DataKey("acme", "prod/", b"wrapped", bytes(32))
    names = [f"prod/{number}" for number in range(1_000)]
    async with policy_server(tmp_path, policy_text=policy) as server:
        for name in names:
            record = successor(None, seal(key, name, 1, name.encode()), 1, fresh=False, history=0)
            await server.records.put_if("acme", name, record, None)
        certificate, private_key = server.authority.issue(BILLING).write(tmp_path, "client")
        async with (
            KeyVault(server.address, tls=TLS(tmp_path / "ca.pem", certificate, private_key)) as vault,
            vault.cache(dict.fromkeys(names, key), refresh=NEVER, timeout=30) as secrets,
        ):
            assert {name: data.decode() for name, data in secrets.items()} == {name: name for name in names}
            reads = [line for line in server.lines() if line.get("method") == "Read"]
            assert len(reads) == len(names)
            assert {line["status"] for line in reads} == {"OK"}
            await secrets.refresh()
            assert not any(map(secrets.failure, names))
