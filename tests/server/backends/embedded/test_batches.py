"""Which puts share a transaction, and what becomes of those that wait while it fails."""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyvault_server.backends.embedded.sqlite import SqliteStore, open_store
from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.core.records import Record, successor
from tests.support.requests import some_envelope

RECORD = Record(bytes(72), bytes(16), 1, 1, b"body")


class SlowWriter:
    """A connection whose COMMIT waits for the test, and then fails if the test says so."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.disk = threading.Event()
        self.failure: Exception | None = None
        self.transactions = 0
        self.refused = ""
        """How a statement begins that fails."""
        self.seen: Callable[[str], object] = lambda statement: None

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self.seen(statement)
        self.transactions += statement.startswith("BEGIN")
        if self.refused and statement.startswith(self.refused):
            raise sqlite3.OperationalError
        return self._connection.execute(statement, *values)

    def commit(self) -> None:
        assert self.disk.wait(20)
        if self.failure:
            raise self.failure
        self._connection.commit()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, SlowWriter]]:
    path = tmp_path / "records.sqlite3"
    async with open_store(path):
        pass
    reader, writer = (sqlite3.connect(path, isolation_level=None, check_same_thread=False) for _ in range(2))
    slow: Any = SlowWriter(writer)
    store = SqliteStore(reader, slow)
    yield store, slow
    slow.disk.set()
    await store.close()


async def test_a_put_that_waited_for_a_failed_commit_fails_too(opened: tuple[SqliteStore, SlowWriter]) -> None:
    """It is not written after the store has stopped, and its caller does not wait for ever."""
    store, writer = opened
    writer.failure = MemoryError()
    async with asyncio.timeout(20):
        first = asyncio.create_task(store.put_if("t", "a", RECORD, None))
        while not writer.transactions:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(store.put_if("t", "b", RECORD, None))
        await asyncio.sleep(0.01)
        writer.disk.set()
        for task in (first, second):
            with pytest.raises(BackendUnavailable):
                await task
        with pytest.raises(BackendUnavailable, match="ask the operator to restart the server"):
            await store.put_if("t", "c", RECORD, None)
    assert writer.transactions == 1
    assert await store.get("t", "b") is None


async def test_large_waiting_puts_do_not_share_one_transaction(opened: tuple[SqliteStore, SlowWriter]) -> None:
    """The event loop is not held for long: 4 MiB and at most one record more are written at a time."""
    store, writer = opened
    record = Record(bytes(72), bytes(16), 1, 1, bytes(380_000))
    puts = [asyncio.create_task(store.put_if("t", str(number), record, None)) for number in range(37)]
    await asyncio.sleep(0)
    writer.disk.set()
    await asyncio.gather(*puts)
    assert writer.transactions == 4, "of 12, 12, 12 and 1"


def revisions(count: int, size: int = 100) -> list[Record]:
    """The first revisions of a record, each of which keeps the one before it."""
    made: list[Record] = []
    for revision in range(1, count + 1):
        before = made[-1] if made else None
        made.append(successor(before, some_envelope(revision, size), 1, fresh=False, history=2))
    return made


async def write(store: SqliteStore, key_id: str, *records: Record, after: Record | None = None) -> None:
    for record in records:
        await store.put_if("t", key_id, record, after.head if after else None)
        after = record


@pytest.mark.medium
async def test_copies_count_in_the_size_of_a_transaction(opened: tuple[SqliteStore, SlowWriter]) -> None:
    store, writer = opened
    writer.disk.set()
    pairs = [revisions(2, 380_000) for _ in range(13)]
    for number, (first, _) in enumerate(pairs):
        await write(store, str(number), first)
    writer.disk.clear()
    writer.transactions = 0
    puts = [asyncio.create_task(write(store, str(n), second, after=first)) for n, (first, second) in enumerate(pairs)]
    await asyncio.sleep(0)
    writer.disk.set()
    await asyncio.gather(*puts)
    assert writer.transactions == 3, "of 6, 6 and 1"


@pytest.mark.parametrize("refused", ["INSERT OR REPLACE INTO copy", "UPDATE record", "DELETE FROM copy"])
async def test_a_copy_is_in_the_transaction_of_its_head(opened: tuple[SqliteStore, SlowWriter], refused: str) -> None:
    """What fails before the COMMIT changed nothing, and writes go on."""
    store, writer = opened
    writer.disk.set()
    *stored, new = revisions(5)
    await write(store, "a", *stored)
    writer.refused = refused
    with pytest.raises(BackendUnavailable):
        await write(store, "a", new, after=stored[-1])
    assert await store.get("t", "a") == stored[-1]
    copies = [await store.get_copy("t", "a", revision) for revision in range(1, 6)]
    assert copies == [None, stored[1].envelope, stored[2].envelope, None, None]
    writer.refused = ""
    await write(store, "a", new, after=stored[-1])
    copies = [await store.get_copy("t", "a", revision) for revision in range(1, 6)]
    assert copies == [None, None, stored[2].envelope, stored[3].envelope, None]


async def test_a_failed_commit_leaves_neither_head_nor_copy(opened: tuple[SqliteStore, SlowWriter]) -> None:
    store, writer = opened
    writer.disk.set()
    *stored, new = revisions(5)
    await write(store, "a", *stored)
    writer.failure = MemoryError()
    with pytest.raises(BackendUnavailable):
        await write(store, "a", new, after=stored[-1])
    assert await store.get("t", "a") == stored[-1]
    copies = [await store.get_copy("t", "a", revision) for revision in range(1, 6)]
    assert copies == [None, stored[1].envelope, stored[2].envelope, None, None]


async def test_without_history_a_put_has_one_statement(tmp_path: Path) -> None:
    """A store with copies looks for those that it has to remove, also after a restart without history."""
    path = tmp_path / "records.sqlite3"
    first, second, third = revisions(3)
    async with open_store(path) as store:
        seen: list[str] = []
        store._writer.set_trace_callback(seen.append)
        await write(store, "a", first)
        await write(store, "a", replace(second, since=2, revisions=second.revisions[:12]), after=first)
        assert [statement.split()[0] for statement in seen if "copy" in statement] == []
        await write(store, "b", first, second)
    async with open_store(path) as store:
        assert await store.get_copy("t", "b", 1) == first.envelope
        await write(store, "b", replace(third, since=3, revisions=third.revisions[:12]), after=second)
        assert await store.get_copy("t", "b", 1) is None


async def test_copies_that_another_process_kept_are_removed(tmp_path: Path) -> None:
    """Also by a process that was opened before there was one, such as a purge."""
    path = tmp_path / "records.sqlite3"
    first, second, third = revisions(3)
    async with open_store(path) as purging:
        async with open_store(path) as serving:
            await write(serving, "a", first, second)
            assert await serving.get_copy("t", "a", 1) == first.envelope
        await write(purging, "a", replace(third, since=3, revisions=third.revisions[:12]), after=second)
        assert await purging.get_copy("t", "a", 1) is None


async def test_copies_are_removed_on_the_thread_of_the_disk(opened: tuple[SqliteStore, SlowWriter]) -> None:
    """To free large ones would hold the event loop for longer than it takes to write them."""
    store, writer = opened
    writer.disk.set()
    first, second = revisions(2)
    await write(store, "a", first)
    threads: list[threading.Thread] = []
    writer.seen = lambda statement: threads.append(threading.current_thread()) if "DELETE" in statement else None
    await write(store, "a", second, after=first)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_start_writes_again_what_a_crash_may_have_left(tmp_path: Path) -> None:
    """The end of the log may be in memory only, and a reader would see what a power cut takes away."""
    path, log = tmp_path / "records.sqlite3", tmp_path / "records.sqlite3-wal"
    async with open_store(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as crashed:
        crashed.execute("INSERT INTO record VALUES ('t', 'k', 2, x'00', x'', 1, 1, 1, x'', NULL, x'')")
        crashed.commit()
        content = log.read_bytes()
        os.utime(log, (1, 1))
        async with open_store(path):
            assert log.stat().st_mtime > 1
            assert log.read_bytes() == content
