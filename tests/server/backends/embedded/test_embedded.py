"""The embedded backend: what survives, who may read it, and what a failing disk makes of it."""

import asyncio
import base64
import contextlib
import json
import os
import resource
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.backends.embedded.backup import backup
from keyvault_server.backends.embedded.data_directory import DataDirectory, UnusableData
from keyvault_server.backends.embedded.keyring import Keyring
from keyvault_server.backends.embedded.sqlite import SNAPSHOT_SECONDS, open_store
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.records import Record
from keyvault_server.disk.files import rewrite_durably
from keyvault_server.disk.permissions import UnsafeFile
from keyvault_server.operations.composition import open_backend, rotate_master_key
from keyvault_server.operations.settings import Settings
from tests.support.ownership import give_to_foreign_group
from tests.support.processes import server_process
from tests.support.refusals import failure_of
from tests.support.requests import Key, create, mint, update
from tests.support.servers import embedded


@pytest.mark.process
@pytest.mark.slow
async def test_acknowledged_writes_survive_kill_9_and_restart(tmp_path: Path) -> None:
    acknowledged: dict[str, Key] = {}
    with server_process(tmp_path / "data") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = KeyVaultStub(channel)
            key = await mint(stub, "k/")

            async def worker(number: int) -> None:
                for count in range(10_000):
                    name = f"k/{number}/{count}"
                    try:
                        await stub.Create(create(key, name, name.encode()))
                    except grpc.aio.AioRpcError:
                        return
                    acknowledged[name] = key
                    if len(acknowledged) == 500:
                        server.process.kill()

            await asyncio.gather(*(worker(number) for number in range(32)))
        assert server.process.wait(10) == -signal.SIGKILL
    assert len(acknowledged) >= 500
    async with embedded(tmp_path / "data") as again:
        for name in acknowledged:
            read = await again.stub.Read(pb.ReadRequest(key_id=name))
            assert key.open(name, read.envelope) == name.encode()
        assert (await again.stub.Update(update(key, name, 2))).revision == 2, "the old key still unwraps"


@pytest.mark.process
@pytest.mark.slow
def test_everything_in_the_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with server_process(tmp_path / "data") as server:
            asyncio.run(_write_one(server.address))
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(previous)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert {"keyring.json", "records.sqlite3", "records.sqlite3-wal", "lock"} <= set(modes)
    assert set(modes.values()) == {0o600}


async def _write_one(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        key = await mint(KeyVaultStub(channel), "a")
        await KeyVaultStub(channel).Create(create(key, "a"))


@pytest.mark.parametrize("name", ["keyring.json", "records.sqlite3"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
async def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    settings = Settings(data=tmp_path)
    async with open_backend(settings):
        pass
    give_to_foreign_group(tmp_path / name)
    (tmp_path / name).chmod(mode)
    with pytest.raises(UnsafeFile, match="others can read"):
        async with open_backend(settings):
            pass


MASTER_KEY = base64.b64encode(b"a master key of exactly 32 bytes").decode()


def keyring_with(*labels: str) -> bytes:
    return json.dumps({"version": 1, "master_keys": dict.fromkeys(labels, MASTER_KEY)}).encode()


INVALID_KEYRINGS = {
    "empty": b"",
    "not UTF-8": b"\xff",
    "a list": b"[]",
    "null": b"null",
    "too deep": b"[" * 100_000,
    "no master keys": b'{"version": 1}',
    "a list of master keys, no version": b'{"master_keys": []}',
    "a list of master keys": b'{"version": 1, "master_keys": []}',
    "none at all": b'{"version": 1, "master_keys": {}}',
    "null for the master keys": b'{"version": 1, "master_keys": null}',
    "a number for a master key": b'{"version": 1, "master_keys": {"1": 1}}',
    "a short master key": b'{"version": 1, "master_keys": {"1": "AA=="}}',
    "a master key with a stray character": keyring_with("1").replace(
        MASTER_KEY.encode(), f"{MASTER_KEY[:8]}!{MASTER_KEY[8:]}".encode()
    ),
    "an earlier version": keyring_with("1").replace(b"1", b"0", 1),
    "a word for a version": keyring_with("1").replace(b"1", b'"2"', 1),
    "a word for a label": keyring_with("first"),
    "a label of 256 bytes": keyring_with("9" * 256),
    "a label of 5,000 bytes": keyring_with("9" * 5_000),
    "two spellings of one label": keyring_with("1", "01"),
}


@pytest.mark.parametrize("content", INVALID_KEYRINGS.values(), ids=INVALID_KEYRINGS)
def test_an_invalid_keyring_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keyring.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UnusableData, match=r"is not a valid keyring.*: restore it from its backup$") as refused:
        Keyring.load(path)
    assert "\n" not in str(refused.value)
    assert MASTER_KEY not in str(refused.value)


def test_a_keyring_of_a_later_version_is_not_to_be_restored(tmp_path: Path) -> None:
    """Its backup lacks the newest master keys."""
    path = tmp_path / "keyring.json"
    path.write_bytes(json.dumps({"version": 2, "keys": [MASTER_KEY]}).encode())
    path.chmod(0o600)
    for use in (Keyring.load, Keyring.rotate):
        with pytest.raises(UnusableData, match=r"by a later version of keyvault-server; this one is older") as refused:
            use(path)
        assert "backup" not in str(refused.value)
        assert MASTER_KEY not in str(refused.value)


def test_the_longest_label_of_a_keyring_fits_a_wrapped_key(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    path.write_bytes(keyring_with("9" * 255))
    path.chmod(0o600)
    assert Keyring.load(path).current_label == "9" * 255


async def test_a_lost_keyring_of_a_database_is_not_replaced(tmp_path: Path) -> None:
    """A new keyring would open none of its records."""
    async with open_backend(Settings(data=tmp_path)):
        pass
    (tmp_path / "keyring.json").unlink()
    with pytest.raises(UnusableData, match=r"keyring.json is missing.*restore .* from its backup"):
        async with open_backend(Settings(data=tmp_path)):
            pass
    assert not (tmp_path / "keyring.json").exists()


async def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite3"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    path.chmod(0o600)
    with pytest.raises(UnusableData, match="is not a KeyVault database"):
        async with open_store(path):
            pass


@pytest.mark.parametrize(
    ("schema", "advice"),
    [(1, "schema 1 of a version before the first release.* name a new directory"), (3, "schema 3.* run the release")],
)
async def test_a_database_of_another_schema_is_refused(tmp_path: Path, schema: int, advice: str) -> None:
    """No release had schema 1, so none is named."""
    directory = DataDirectory(tmp_path)
    async with open_store(directory.database):
        pass
    with closing(sqlite3.connect(directory.database)) as connection:
        connection.execute(f"PRAGMA user_version = {schema}")
    with pytest.raises(UnusableData, match=advice):
        async with open_store(directory.database):
            pass
    with pytest.raises(UnusableData, match=advice):
        backup(directory, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_an_empty_database_is_not_backed_up(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.database.touch(0o600)
    with pytest.raises(UnusableData, match="has no records: name the server's own directory"):
        backup(directory, tmp_path / "backup")


async def test_a_rotated_master_key_wraps_and_old_ones_unwrap(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    async with open_backend(settings) as (keys, _):
        old = await keys.generate("t", "s")
    assert rotate_master_key(settings) == "2"
    async with open_backend(settings) as (keys, _):
        assert (await keys.generate("t", "s")).wrapped.label == "2"
        assert await keys.unwrap("t", "s", old.wrapped) == old.plaintext
        moved = await keys.rewrap("t", "s", old.wrapped)
        assert moved.label == "2"
        assert await keys.unwrap("t", "s", moved) == old.plaintext
    assert set(json.loads((tmp_path / "keyring.json").read_text())["master_keys"]) == {"1", "2"}


async def test_the_master_key_is_not_rotated_under_a_running_server(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    async with open_backend(settings):
        with pytest.raises(UnusableData, match="in use"):
            rotate_master_key(settings)


def test_a_lock_is_given_back(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    for _ in range(2):
        with directory.locked(), pytest.raises(UnusableData), directory.locked():
            pass


@pytest.mark.parametrize("size", [0, 1, 4_096, 3_000_001])
def test_what_is_written_again_stays_the_same(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "log").write_bytes(content)
    rewrite_durably(tmp_path / "log")
    rewrite_durably(tmp_path / "absent")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"log": content}


@pytest.mark.parametrize("expected", [None, b"another head"])
async def test_a_row_of_another_format_is_not_written_over(tmp_path: Path, expected: bytes | None) -> None:
    """A put whose condition fails on such a row raises RecordCorrupt."""
    record = Record(os.urandom(72), os.urandom(16), 1, 1, b"x")
    async with open_store(tmp_path / "records.sqlite3") as store:
        await store.put_if("t", "k", record, None)
        store._writer.execute("UPDATE record SET format = 3")
        with pytest.raises(RecordCorrupt):
            await store.put_if("t", "k", record, expected)
        assert store._writer.execute("SELECT format, head, body FROM record").fetchall() == [(3, record.head, b"x")]


@pytest.mark.medium
@pytest.mark.parametrize("planted", ["a time", b"bytes", 1.5, 1e300])
async def test_times_of_another_type_are_no_obstacle(tmp_path: Path, planted: object) -> None:
    """They are informational: a record whose times were changed is read, changed and deleted like any other."""
    async with embedded(tmp_path) as server:
        key = await mint(server.stub, "prod/db")
        await server.stub.Create(create(key, "prod/db"))
        with contextlib.closing(sqlite3.connect(tmp_path / "records.sqlite3", timeout=10)) as other, other:
            other.execute("UPDATE record SET created = ?, updated = ?", (planted, planted))
        await asyncio.sleep(2 * SNAPSHOT_SECONDS)
        for known in (0, 1):
            read = await server.stub.Read(pb.ReadRequest(key_id="prod/db", known_revision=known))
            assert read.revision == 1
        assert (await server.stub.Update(update(key, "prod/db", 2))).revision == 2
        assert (await server.stub.Read(pb.ReadRequest(key_id="prod/db", revision=1))).revision == 1


@pytest.mark.medium
async def test_reads_share_a_view_for_a_moment_only(tmp_path: Path) -> None:
    """What another process wrote is seen soon, and its log can be reused: no view stays open."""
    path, record = tmp_path / "records.sqlite3", Record(os.urandom(72), os.urandom(16), 1, 1, b"x")
    async with open_store(path) as store, asyncio.timeout(20):
        await store.put_if("t", "k", record, None)
        assert await store.get("t", "k") == record
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            other.execute("DELETE FROM record")
        assert await store.get("t", "k") == record
        await asyncio.sleep(SNAPSHOT_SECONDS)
        while await store.get("t", "k") is not None:
            await asyncio.sleep(SNAPSHOT_SECONDS)


async def test_a_walk_over_copies_begins_with_a_view_of_its_own(tmp_path: Path) -> None:
    """Another process kept a copy after the last read."""
    path = tmp_path / "records.sqlite3"
    async with open_store(path) as store:
        assert await store.get("t", "k") is None
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            other.execute("INSERT INTO copy VALUES ('t', 'k', 1, x'00')")
        assert [copy.revision async for copy in store.walk_copies()] == [1]


@pytest.mark.medium
async def test_nothing_of_a_closed_store_runs_later(tmp_path: Path) -> None:
    loop, later = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: later.append(context["message"]))
    try:
        async with open_store(tmp_path / "records.sqlite3") as store:
            assert await store.get("t", "k") is None
        await asyncio.sleep(2 * SNAPSHOT_SECONDS)
    finally:
        loop.set_exception_handler(None)
    assert not later


def test_a_keyring_is_never_created_over_another(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    Keyring.create(path)
    content = path.read_bytes()
    with pytest.raises(FileExistsError):
        Keyring.create(path)
    assert path.read_bytes() == content


async def test_many_waiting_puts_share_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite3"
    async with open_store(path) as store:
        frames = (tmp_path / "records.sqlite3-wal").stat().st_size
        for count in (1, 64, 64):
            before = frames
            record = Record(os.urandom(72), os.urandom(16), 1, 1, b"x")
            await asyncio.gather(*(store.put_if("t", f"{count}-{before}-{n}", record, None) for n in range(count)))
            frames = (tmp_path / "records.sqlite3-wal").stat().st_size
        assert frames - before < 64 * 4096, "each put had a transaction, and at least a page of the log, of its own"


async def test_a_full_disk_fails_the_write_and_not_the_reads(tmp_path: Path) -> None:
    async with embedded(tmp_path / "data") as server:
        key = await mint(server.stub, "d/")
        await server.stub.Create(create(key, "d/before"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        wal = tmp_path / "data" / "records.sqlite3-wal"
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
        try:
            failure = await failure_of(server.stub.Create(create(key, "d/during", bytes(100_000))))
            assert (await server.stub.Read(pb.ReadRequest(key_id="d/before"))).revision == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)
        assert failure.reason in ("STORE_FULL", "BACKEND_UNAVAILABLE")
        gone = await failure_of(server.stub.Read(pb.ReadRequest(key_id="d/during")))
        assert gone.reason == "RECORD_NOT_FOUND"


async def test_a_full_database_is_store_full_until_there_is_room(tmp_path: Path) -> None:
    async with open_store(tmp_path / "records.sqlite3") as store:
        writer = store._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        record = Record(os.urandom(72), os.urandom(16), 1, 1, bytes(100_000))
        with pytest.raises(Exception, match="full"):
            await store.put_if("t", "k", record, None)
        assert await store.get("t", "k") is None
        writer.execute("PRAGMA max_page_count = 1000000")
        await store.put_if("t", "k", record, None)
        assert await store.get("t", "k") == record


async def test_a_cancelled_put_still_commits(tmp_path: Path) -> None:
    record = Record(os.urandom(72), os.urandom(16), 1, 1, b"x")
    async with open_store(tmp_path / "records.sqlite3") as store:
        task = asyncio.create_task(store.put_if("t", "k", record, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with open_store(tmp_path / "records.sqlite3") as store:
        assert await store.get("t", "k") == record


@pytest.mark.medium
async def test_reads_see_the_writes_and_let_the_log_be_reused(tmp_path: Path) -> None:
    body = os.urandom(24_000)
    async with open_store(tmp_path / "db") as store:
        head = None
        for number in range(400):
            record = Record(number.to_bytes(72, "big"), os.urandom(16), 1, number, body)
            putting = asyncio.create_task(store.put_if("t", "k", record, head))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (found := await store.get("t", "k")) is None or found.head in (head, record.head)
            await putting
            head = record.head
            assert (found := await store.get("t", "k")) is not None
            assert found.head == head, "what was answered is what is read"
        assert (tmp_path / "db-wal").stat().st_size < 6_000_000, (
            "10 MB were written; the log holds 1,000 pages of 4 KiB"
        )


async def test_a_walk_reports_writes_past_the_vault_and_goes_on(tmp_path: Path) -> None:
    good = Record(os.urandom(72), os.urandom(16), 1, 1, b"x")
    rows = [
        ("CAST(x'ff' AS TEXT)", "'name is no text'", "2", "1"),
        ("'t'", "CAST(x'ff' AS BLOB)", "2", "1"),
        ("'t'", "'other format'", "1", "1"),
        ("'t'", "'format is text'", "CAST(x'ff' AS TEXT)", "1"),
        ("'t'", "'time is text'", "2", "CAST(x'ff' AS TEXT)"),
    ]
    async with open_store(tmp_path / "records.sqlite3") as store:
        await store.put_if("t", "first", good, None)
        for tenant, key_id, number, time in rows:
            store._writer.execute(
                "INSERT INTO record (tenant, key_id, format, head, ring, created, updated, since, revisions, body)"
                f" VALUES ({tenant}, {key_id}, {number}, x'00', x'00', {time}, 1, 1, x'00', x'00')"
            )
        await store.put_if("t", "last", good, None)
        found = {(tenant, key_id): record async for tenant, key_id, record in store.walk()}
    planted = Record(b"\0", b"\0", 1, 1, b"\0", since=1, revisions=b"\0")
    assert found == {
        ("t", "first"): good,
        ("\\xff", "name is no text"): planted,
        ("t", "\\xff"): planted,
        ("t", "other format"): None,
        ("t", "format is text"): None,
        ("t", "time is text"): replace(planted, created=0),
        ("t", "last"): good,
    }


async def test_a_database_that_cannot_be_made_is_named_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match=r"none/records.sqlite3 cannot be opened: .*No such file"):
        async with open_store(tmp_path / "none" / "records.sqlite3"):
            pass
