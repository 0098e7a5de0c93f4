"""The client library against real servers: what a program meets."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import keyvault_client
from keyvault_api.envelope import MAX_PLAINTEXT, MAX_REVISION
from keyvault_client import (
    AlreadyExists,
    Busy,
    Conflict,
    DataKey,
    Denied,
    InvalidRequest,
    KeyVault,
    KeyVaultError,
    NotAuthorized,
    NotFound,
    OutcomeUnknown,
    RecordDamaged,
    RolledBack,
    ServerFailure,
    Unavailable,
)
from keyvault_server.core.errors import BackendThrottled, BackendUnavailable
from keyvault_server.core.records import Record as StoredRecord
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.processes import server_process
from tests.support.repository import DOCS
from tests.support.servers import Served, embedded, on_ports

NAME = "prod/db-password"


async def test_the_whole_life_of_a_record(vault: KeyVault) -> None:
    key = await vault.generate_key("prod/")
    assert (await vault.create(NAME, b"one", key=key)).revision == 1
    record = await vault.read(NAME, key=key)
    assert (record.key_id, record.plaintext, record.revision) == (NAME, b"one", 1)
    assert record.created.tzinfo is not None
    assert (await vault.update(NAME, b"two", key=key)).revision == 2
    new = await vault.generate_key(NAME)
    assert (await vault.rotate_key(NAME, key=key, new_key=new)).revision == 3
    assert (await vault.read(NAME, key=new)).plaintext == b"two"
    with pytest.raises(RecordDamaged, match="another key"):
        await vault.read(NAME, key=key)
    with pytest.raises(NotAuthorized):
        await vault.update(NAME, b"x", key=key)
    assert (await vault.delete(NAME, key=new)).revision == 4
    with pytest.raises(NotFound):
        await vault.read(NAME, key=new)
    assert (await vault.create(NAME, b"back", key=new)).revision == 5


@pytest.mark.parametrize("data", [b"", b"\x00\xfe\xff", bytes(16_384), bytes(MAX_PLAINTEXT)], ids=len)
async def test_every_length_comes_back(vault: KeyVault, data: bytes) -> None:
    key = await vault.generate_key()
    await vault.create(key.scope, data, key=key)
    assert (await vault.read(key.scope, key=key)).plaintext == data


async def test_create_on_a_live_record_says_so(vault: KeyVault) -> None:
    key = await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    with pytest.raises(AlreadyExists) as exists:
        await vault.create(NAME, b"two", key=key)
    assert exists.value.current_revision == 1
    assert (exists.value.reason, bool(exists.value.request_id)) == ("RECORD_EXISTS", True)


async def test_a_named_revision_is_one_that_another_can_follow(vault: KeyVault) -> None:
    key = await vault.generate_key(NAME)
    for revision in (-1, MAX_REVISION):
        with pytest.raises(InvalidRequest, match=f"invalid revision {revision}: must be 0 to 2"):
            await vault.create(NAME, b"x", key=key, revision=revision)
    for revision in (0, MAX_REVISION):
        with pytest.raises(InvalidRequest, match=f"invalid revision {revision}: must be 1 to 2"):
            await vault.update(NAME, b"x", key=key, revision=revision)
    assert (await vault.create(NAME, b"x", key=key, revision=0)).revision == 1


async def test_another_revision_than_the_named_one_is_a_conflict(vault: KeyVault) -> None:
    key, new = await vault.generate_key(NAME), await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    await vault.update(NAME, b"two", key=key, revision=1)
    for call in (
        vault.update(NAME, b"x", key=key, revision=1),
        vault.delete(NAME, key=key, revision=1),
        vault.rotate_key(NAME, key=key, new_key=new, revision=1),
    ):
        with pytest.raises(Conflict) as conflict:
            await call
        assert conflict.value.current_revision == 2
    assert (await vault.read(NAME, key=key)).plaintext == b"two"


@pytest.mark.medium
async def test_without_a_revision_the_last_writer_wins(server: Served) -> None:
    async with KeyVault(server.address) as one, KeyVault(server.address) as other:
        key = await one.generate_key(NAME)
        await one.create(NAME, b"0", key=key)
        await asyncio.gather(*(one.update(NAME, b"one", key=key) for _ in range(10)))
        await asyncio.gather(*(other.update(NAME, b"other", key=key) for _ in range(10)))
        await one.update(NAME, b"last", key=key)
        record = await other.read(NAME, key=key)
    assert (record.revision, record.plaintext) == (22, b"last")


async def test_a_rotation_done_by_an_earlier_attempt_is_done(vault: KeyVault) -> None:
    key, new = await vault.generate_key(NAME), await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    await vault.rotate_key(NAME, key=key, new_key=new)
    again = await vault.rotate_key(NAME, key=key, new_key=new)
    assert (again.revision, again.replayed) == (2, True)


async def test_a_reader_can_ask_for_news_only(vault: KeyVault) -> None:
    key = await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    assert await vault.read_if_changed(NAME, key=key, known_revision=1) is None
    await vault.update(NAME, b"two", key=key)
    news = await vault.read_if_changed(NAME, key=key, known_revision=1)
    assert news is not None
    assert news.plaintext == b"two"


async def test_the_highest_revision_can_be_the_known_one(vault: KeyVault) -> None:
    key = await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    with pytest.raises(RolledBack) as rolled_back:
        await vault.read_if_changed(NAME, key=key, known_revision=MAX_REVISION)
    assert rolled_back.value.seen == MAX_REVISION


async def test_a_rewrapped_key_goes_on_writing(vault: KeyVault) -> None:
    key = await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    moved = await vault.rewrap_key(key)
    assert moved.wrapped_key != key.wrapped_key
    assert (await vault.update(NAME, b"two", key=moved)).revision == 2


async def test_a_key_without_plaintext_is_unwrapped_where_allowed(tmp_path: Path) -> None:
    async with embedded(tmp_path / "data", unwrap_scopes=(NAME,)) as server, KeyVault(server.address) as vault:
        key, other = await vault.generate_key(NAME), await vault.generate_key("prod/")
        bare = key.without_plaintext()
        with pytest.raises(InvalidRequest, match="unwrap it first"):
            await vault.create(NAME, b"x", key=bare)
        assert await vault.unwrap_key(bare) == key
        with pytest.raises(Denied):
            await vault.unwrap_key(other)


async def test_an_impossible_request_is_refused_before_it_is_sent() -> None:
    key, other = DataKey("default", "prod/", b"w", bytes(32)), DataKey("default", "other/", b"o", b"o" * 32)
    async with KeyVault("127.0.0.1:1", timeout=1) as vault:  # no server there: a call would be Unavailable
        for call in (
            vault.generate_key("a b"),
            vault.read("prod/", key=key),
            vault.read("dev/x", key=key),
            vault.create(NAME, bytes(MAX_PLAINTEXT + 1), key=key),
            vault.create("dev/x", b"", key=key),
            vault.create(NAME, b"", key=key, revision=-1),
            vault.create(NAME, b"", key=key, revision=MAX_REVISION),
            vault.update(NAME, b"", key=key, revision=0),
            vault.update(NAME, b"", key=key, revision=MAX_REVISION),
            vault.update("dev/x", b"", key=key, revision=1),
            vault.update("dev/x", b"", key=key),
            vault.delete("dev/x", key=key, revision=1),
            vault.delete("dev/x", key=key),
            vault.rotate_key("dev/x", key=key, new_key=other),
            vault.rotate_key("other/x", key=key, new_key=other),
            vault.rotate_key(NAME, key=key, new_key=other),
            vault.rotate_key(NAME, key=key, new_key=key),
            vault.read_if_changed(NAME, key=key, known_revision=0),
            vault.read_if_changed(NAME, key=key, known_revision=MAX_REVISION + 1),
            vault.read_if_changed("dev/x", key=key, known_revision=1),
            vault.read(NAME, key=key, timeout=86_400.1),
            vault.read(NAME, key=key, timeout=-0.1),
            vault.read(NAME, key=key, timeout=float("nan")),
        ):
            with pytest.raises(InvalidRequest):
                await call


async def test_a_day_is_the_longest_timeout(vault: KeyVault) -> None:
    assert (await vault.generate_key(NAME, timeout=86_400)).scope == NAME


async def test_a_closed_client_sends_nothing(server: Served) -> None:
    async with KeyVault(server.address) as vault:
        await vault.generate_key(NAME)
    with pytest.raises(Unavailable, match="this client is closed"):
        await vault.generate_key(NAME)


@pytest.mark.medium
async def test_no_server_is_unavailable_and_nothing_was_written() -> None:
    key = DataKey("default", "prod/", b"w", bytes(32))
    async with KeyVault("127.0.0.1:1", timeout=0.5) as vault:
        with pytest.raises(Unavailable, match=r"cannot connect to 127\.0\.0\.1:1: connection refused"):
            await vault.create(NAME, b"x", key=key)


async def test_plaintext_to_another_machine_has_to_be_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="refusing plaintext"):
        KeyVault("vault.example:50051")
    await KeyVault("vault.example:50051", insecure=True).close()


@pytest.mark.slow
async def test_a_mutation_is_retried_after_a_lost_reply_and_done_once() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as vault:
        key = await vault.generate_key(NAME)
        records.fail_after("put_if", BackendUnavailable())
        done = await vault.create(NAME, b"one", key=key)
        assert (done.revision, done.replayed) == (1, True)
        records.fail_before("put_if", BackendThrottled())
        assert (await vault.update(NAME, b"two", key=key)).revision == 2


@pytest.mark.medium
async def test_an_outcome_that_stays_unknown_is_said_to_be_unknown() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as vault:
        key = await vault.generate_key(NAME)
        for _ in range(100):
            records.fail_before("put_if", BackendUnavailable())
        with pytest.raises(OutcomeUnknown, match="read the record"):
            await vault.create(NAME, b"one", key=key, timeout=0.5)


@pytest.mark.medium
async def test_after_16_newer_revisions_a_lost_reply_is_unknown() -> None:
    records = FakeRecordStore()
    async with (
        on_ports(FakeKeyService(), records) as server,
        KeyVault(server.address) as vault,
        KeyVault(server.address) as other,
    ):
        key = await vault.generate_key(NAME)
        await vault.create(NAME, b"0", key=key)
        newer = 0

        async def lost_reply() -> None:
            for _ in range(newer):
                await other.update(NAME, b"theirs", key=key)
            raise BackendUnavailable

        newer = 15
        records.after("put_if", lost_reply)
        assert (await vault.update(NAME, b"ours", key=key)).replayed
        newer = 16
        await vault.read(NAME, key=key)
        records.after("put_if", lost_reply)
        with pytest.raises(OutcomeUnknown):
            await vault.update(NAME, b"ours", key=key)
        assert (await vault.read(NAME, key=key)).plaintext == b"theirs", "it was not sealed a second time"


@pytest.mark.medium
async def test_a_delete_after_a_lost_reply_leaves_it_unknown() -> None:
    records = FakeRecordStore()
    async with (
        on_ports(FakeKeyService(), records) as server,
        KeyVault(server.address) as vault,
        KeyVault(server.address) as other,
    ):
        key = await vault.generate_key(NAME)
        await vault.create(NAME, b"0", key=key)

        async def lost_request() -> None:
            await other.delete(NAME, key=key)
            raise BackendUnavailable

        records.before("put_if", lost_request)
        with pytest.raises(OutcomeUnknown):
            await vault.update(NAME, b"ours", key=key, revision=1)


async def test_a_store_that_was_rolled_back_is_noticed(vault: KeyVault, tmp_path: Path) -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as vault:
        key = await vault.generate_key(NAME)
        await vault.create(NAME, b"one", key=key)
        old = dict(records.records)
        await vault.update(NAME, b"two", key=key)
        records.records.update(old)
        with pytest.raises(RolledBack) as rolled:
            await vault.read(NAME, key=key)
        assert (rolled.value.revision, rolled.value.seen) == (1, 2)
        with pytest.raises(RolledBack):
            await vault.update(NAME, b"three", key=key)


async def test_a_read_overtaken_by_an_own_write_is_no_rollback() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as vault:
        key = await vault.generate_key(NAME)
        await vault.create(NAME, b"one", key=key)
        looked, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            looked.set()
            await go_on.wait()

        records.after("get", slow)
        reading = asyncio.create_task(vault.read(NAME, key=key))
        await looked.wait()
        await vault.update(NAME, b"two", key=key)
        go_on.set()
        assert (await reading).plaintext == b"one"


async def test_an_envelope_put_in_anothers_place_is_noticed() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/a", b"a", key=key)
        await vault.create("prod/b", b"b", key=key)
        records.records["default", "prod/a"] = records.records["default", "prod/b"]
        with pytest.raises(RecordDamaged):
            await vault.read("prod/a", key=key)
        records.records["default", "prod/b"] = StoredRecord(b"", b"", 1, 1, b"")
        with pytest.raises(RecordDamaged):
            await vault.read("prod/b", key=key)


@pytest.mark.slow
async def test_a_busy_server_is_retried_after_the_time_it_names() -> None:
    keys = FakeKeyService()
    async with on_ports(keys, FakeRecordStore()) as server, KeyVault(server.address) as vault:
        keys.fail_before("generate", BackendThrottled())
        assert (await vault.generate_key(NAME)).scope == NAME
        for _ in range(100):
            keys.fail_before("generate", BackendThrottled())
        with pytest.raises(Busy) as busy:
            await vault.generate_key(NAME, timeout=2)
        assert busy.value.retry_after == 0.5


@pytest.mark.medium
async def test_a_token_that_could_not_be_fetched_is_fetched_again() -> None:
    """Nothing was sent, and the source may answer the next time."""
    fetched = []

    async def source() -> str:
        fetched.append(1)
        if len(fetched) == 1:
            raise ConnectionError
        return "token"

    async with on_ports(FakeKeyService(), FakeRecordStore()) as server, KeyVault(server.address, token=source) as vault:
        await vault.generate_key(NAME)
    assert len(fetched) == 2


async def test_a_fault_of_the_server_is_its_own_exception() -> None:
    keys = FakeKeyService()
    keys.fail_before("generate", RuntimeError("s3cret"))
    async with on_ports(keys, FakeRecordStore()) as server, KeyVault(server.address) as vault:
        with pytest.raises(ServerFailure, match="^internal error$") as failure:  # noqa: RUF043
            await vault.generate_key(NAME)
    assert failure.value.reason == "INTERNAL"


@pytest.mark.slow
async def test_a_call_ends_within_its_timeout() -> None:
    records = FakeRecordStore()
    forever = asyncio.Event()

    async def stuck() -> None:
        await forever.wait()

    async with on_ports(FakeKeyService(), records, drain_seconds=0.1) as server, KeyVault(server.address) as vault:
        key = await vault.generate_key(NAME)
        loop = asyncio.get_running_loop()
        for method, call, expected in (
            ("get", lambda: vault.read(NAME, key=key, timeout=0.3), Unavailable),
            ("put_if", lambda: vault.create(NAME, b"x", key=key, timeout=0.3), OutcomeUnknown),
        ):
            records.before(method, stuck)
            began = loop.time()
            with pytest.raises(expected):
                await call()
            assert loop.time() - began < 5, "the client's own timeout is 10 s"


@pytest.mark.process
@pytest.mark.slow
async def test_a_server_that_comes_back_is_found_again(tmp_path: Path) -> None:
    """Down for longer than any fixed number of attempts would take; the timeout alone bounds the waiting call."""
    with server_process(tmp_path / "data") as first:
        async with KeyVault(first.address, timeout=60) as vault:
            key = await vault.generate_key(NAME)
            await vault.create(NAME, b"one", key=key)
            first.stop()
            waiting = asyncio.create_task(vault.update(NAME, b"two", key=key))
            await asyncio.sleep(6)
            assert not waiting.done()
            with server_process(tmp_path / "data", listen=first.address):
                assert (await waiting).revision == 2


def test_no_repr_and_no_error_shows_a_secret(tmp_path: Path) -> None:
    secret, wrapped = os.urandom(32), os.urandom(40)
    key = DataKey("default", NAME, wrapped, secret)
    assert repr(key) == f"DataKey(tenant='default', scope='{NAME}')"
    with pytest.raises(InvalidRequest) as refused:
        DataKey.from_json(key.to_json().replace('"default"', '"NO SUCH TENANT"'))
    for text in (repr(refused.value), str(refused.value)):
        assert secret.hex() not in text
        assert key.to_json()[40:80] not in text


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    key = DataKey("default", NAME, b"wrapped", bytes(range(32)))
    previous = os.umask(0)
    try:
        key.save(tmp_path / "a.key")
    finally:
        os.umask(previous)
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert DataKey.load(tmp_path / "a.key") == key
    with pytest.raises(FileExistsError):
        key.save(tmp_path / "a.key")
    bare = key.without_plaintext()
    bare.save(tmp_path / "b.key")
    assert "plaintext_key" not in (tmp_path / "b.key").read_text()
    assert DataKey.load(tmp_path / "b.key") == bare


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"tenant": "t", "scope": "s", "wrapped_key": "!"}', '{"tenant": "t", "scope": "s"}', "\xff"],
)
def test_invalid_key_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a data key"):
        DataKey.from_json(text)


def test_the_exported_names_are_the_documented_ones() -> None:
    exported = {name: getattr(keyvault_client, name) for name in keyvault_client.__all__}
    errors = {name for name, value in exported.items() if isinstance(value, type) and issubclass(value, Exception)}
    assert all(issubclass(exported[name], KeyVaultError) for name in errors)
    documented = (DOCS / "client.md").read_text()
    assert not [name for name in exported if f"`{name}" not in documented]


@pytest.mark.parametrize(
    "lie",
    [
        {"plaintext_key": bytes(31)},
        {"plaintext_key": bytes(33)},
        {"wrapped_key": b""},
        {"wrapped_key": bytes(8_193)},
        {"tenant": "A"},
        {"scope": "a b"},
    ],
)
def test_a_key_with_an_impossible_part_is_refused(lie: dict[str, Any]) -> None:
    key = DataKey(**({"tenant": "acme", "scope": "a/", "wrapped_key": b"w", "plaintext_key": bytes(32)} | lie))
    with pytest.raises(InvalidRequest, match="not a data key: its"):
        DataKey.from_json(key.to_json())


async def test_a_rotation_to_the_same_data_key_is_refused(vault: KeyVault) -> None:
    key = await vault.generate_key("prod/")
    await vault.create("prod/db", b"data", key=key)
    with pytest.raises(InvalidRequest, match="the same data key"):
        await vault.rotate_key("prod/db", key=key, new_key=await vault.rewrap_key(key))
