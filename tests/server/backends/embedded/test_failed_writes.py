"""What fails before a COMMIT changed nothing and stops nothing; a COMMIT that fails stops all writes."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from keyvault_server.backends.embedded.sqlite import SqliteStore, open_store
from keyvault_server.core.errors import BackendUnavailable, StoreFull, VaultError
from keyvault_server.core.records import Record
from tests.support.meters import RecordedMeter

RECORD = Record(bytes(72), bytes(16), 1, 1, b"body")


class FailingWriter:
    """A connection whose next statement of a kind fails once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.failures: dict[str, BaseException] = {}

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self._fail(statement.split()[0])
        return self._connection.execute(statement, *values)

    def commit(self) -> None:
        self._fail("COMMIT")
        self._connection.commit()

    def rollback(self) -> None:
        self._fail("ROLLBACK")
        self._connection.rollback()

    def _fail(self, kind: str) -> None:
        if kind in self.failures:
            raise self.failures.pop(kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
async def opened(tmp_path: Path) -> Any:
    path = tmp_path / "records.sqlite3"
    async with open_store(path):
        pass
    reader, writer = (sqlite3.connect(path, isolation_level=None, check_same_thread=False) for _ in range(2))
    failing: Any = FailingWriter(writer)
    store = SqliteStore(reader, failing)
    yield store, failing
    await store.close()


def disk_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("kind", ["BEGIN", "INSERT"])
@pytest.mark.parametrize("error", [MemoryError(), disk_error(sqlite3.SQLITE_IOERR), RuntimeError()], ids=ascii)
async def test_a_failure_before_the_commit_stops_no_writes(opened: Any, kind: str, error: BaseException) -> None:
    store, writer = opened
    writer.failures[kind] = error
    with pytest.raises(BackendUnavailable):
        await store.put_if("t", "a", RECORD, None)
    assert await store.get("t", "a") is None
    await store.check()
    await store.put_if("t", "a", RECORD, None)
    assert await store.get("t", "a") == RECORD


async def test_a_check_reads_the_table(opened: Any) -> None:
    store, writer = opened
    writer.execute("DROP TABLE record")
    with pytest.raises(BackendUnavailable):
        await store.check()


@pytest.mark.parametrize("error", [MemoryError(), disk_error(sqlite3.SQLITE_IOERR)], ids=ascii)
async def test_a_failed_commit_stops_all_writes(opened: Any, error: BaseException) -> None:
    store, writer = opened
    writer.failures["COMMIT"] = error
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            await store.put_if("t", "a", RECORD, None)
    with pytest.raises(BackendUnavailable, match="stopped writing"):
        await store.check()
    with pytest.raises(BackendUnavailable, match="stopped writing"):
        await store.remove_copy("t", "a", 1, b"envelope")


async def test_a_failed_rollback_stops_all_writes(opened: Any) -> None:
    store, writer = opened
    writer.failures |= {kind: disk_error(sqlite3.SQLITE_IOERR) for kind in ("INSERT", "ROLLBACK")}
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            await store.put_if("t", "a", RECORD, None)
    with pytest.raises(BackendUnavailable, match="stopped writing"):
        await store.check()


@pytest.mark.parametrize("kind", ["INSERT", "COMMIT"])
async def test_a_full_disk_is_named_and_stops_nothing(opened: Any, kind: str) -> None:
    store, writer = opened
    writer.failures[kind] = disk_error(sqlite3.SQLITE_FULL)
    failed: type[VaultError] = StoreFull
    assert not store.full
    with pytest.raises(failed):
        await store.put_if("t", "a", RECORD, None)
    assert store.full
    await store.put_if("t", "a", RECORD, None)
    assert not store.full


async def test_another_failure_is_not_a_full_disk(opened: Any) -> None:
    store, writer = opened
    for error in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
        writer.failures["INSERT"] = disk_error(error)
        with pytest.raises(VaultError):
            await store.put_if("t", "a", RECORD, None)
        assert store.full is (error == sqlite3.SQLITE_FULL)


async def test_a_full_store_is_a_metric(tmp_path: Path) -> None:
    """Until a write finds space."""
    meter, large = RecordedMeter(), Record(bytes(72), bytes(16), 1, 1, bytes(300_000))
    async with open_store(tmp_path / "records.sqlite3", meter) as store:
        assert meter.gauges["store_full"]() == 0
        store._writer.execute("PRAGMA max_page_count = 10")
        with pytest.raises(StoreFull):
            await store.put_if("t", "a", large, None)
        assert meter.gauges["store_full"]() == 1
        store._writer.execute("PRAGMA max_page_count = 4294967294")
        await store.put_if("t", "a", large, None)
        assert meter.gauges["store_full"]() == 0
