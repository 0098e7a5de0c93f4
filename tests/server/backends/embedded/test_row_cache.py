"""Records that were read are kept in memory: never more than the bound, and never what the database does not say."""

import asyncio
import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from keyvault_server.backends.embedded.row_cache import RowCache
from keyvault_server.backends.embedded.sqlite import SqliteStore, open_store
from keyvault_server.core.errors import BackendUnavailable, RevisionNotFound
from keyvault_server.core.history import find_revision
from keyvault_server.core.records import Record, state_of, successor
from tests.server.backends.embedded.test_batches import SlowWriter, opened
from tests.support.requests import some_envelope

__all__ = ["opened"]


def record(body: bytes = b"x") -> Record:
    return Record(os.urandom(72), os.urandom(16), 1, 1, body)


def name(number: int) -> tuple[str, str]:
    return ("t", str(number))


def test_the_records_that_were_not_read_for_longest_go_first() -> None:
    cache = RowCache(10_000)
    for number in range(3):
        cache.keep(name(number), record(bytes(2_000)))
    assert cache.get(name(0))
    cache.keep(name(3), record(bytes(2_000)))
    assert [bool(cache.get(name(number))) for number in range(4)] == [True, False, True, True]


def test_a_record_over_the_bound_is_not_kept() -> None:
    cache = RowCache(10_000)
    cache.keep(name(0), record(bytes(10_000)))
    assert not len(cache)


def test_what_is_kept_again_or_dropped_is_counted_once() -> None:
    cache = RowCache(10_000)
    for _ in range(20):
        cache.keep(name(0), record(bytes(4_000)))
        cache.keep(name(1), record())
        cache.drop(name(1))
    cache.keep(name(2), record(bytes(3_000)))
    assert len(cache) == 2
    cache.clear()
    for number in range(2):
        cache.keep(name(number), record(bytes(4_000)))
    assert len(cache) == 2


async def test_a_read_after_a_write_has_what_was_written(tmp_path: Path) -> None:
    async with open_store(tmp_path / "records.sqlite3") as store:
        expected = None
        for body in (b"first", b"second"):
            new = record(body)
            await store.put_if("t", "k", new, expected)
            assert await store.get("t", "k") == new
            expected = new.head
            head = await store.get_head("t", "k")
            assert head is not None
            assert (head.head, head.ring) == (new.head, new.ring)


async def test_a_read_within_a_commit_leaves_nothing_old_behind(opened: tuple[SqliteStore, SlowWriter]) -> None:
    store, writer = opened
    old, new = record(b"old"), record(b"new")
    writer.disk.set()
    await store.put_if("t", "k", old, None)
    writer.disk.clear()
    put = asyncio.create_task(store.put_if("t", "k", new, old.head))
    async with asyncio.timeout(20):
        while writer.transactions < 2:
            await asyncio.sleep(0.001)
        assert await store.get("t", "k") == old
        writer.disk.set()
        await put
    assert await store.get("t", "k") == new


async def test_no_earlier_revision_is_missed_as_a_commit_ends(tmp_path: Path) -> None:
    """The disk's thread has committed, and the event loop has not heard of it: the copies are newer than the cache."""
    path = tmp_path / "records.sqlite3"
    async with open_store(path) as store, asyncio.timeout(20):
        records = await revisions_of(store, 3)
        assert await store.get("t", "k") == records[-1]
        assert (await find_revision(store, "t", "k", 2))[1].revision == 2
        put = asyncio.create_task(store.put_if("t", "k", following(records[-1]), records[-1].head))
        with contextlib.closing(sqlite3.connect(path)) as other:
            while other.execute("SELECT since FROM record").fetchone() != (3,):
                await asyncio.sleep(0)
                time.sleep(0.001)  # noqa: ASYNC251 - nothing else of the loop may run when it is committed
        with pytest.raises(RevisionNotFound):
            await find_revision(store, "t", "k", 2)
        await put


async def revisions_of(store: SqliteStore, number: int) -> list[Record]:
    """Store so many revisions of a record, of which the last two can be read."""
    records = [successor(None, some_envelope(revision=1), 1, fresh=True)]
    await store.put_if("t", "k", records[0], None)
    while len(records) < number:
        records.append(following(records[-1]))
        await store.put_if("t", "k", records[-1], records[-2].head)
    return records


def following(record: Record) -> Record:
    envelope = some_envelope(revision=state_of(record).revision + 1)
    return successor(record, envelope, 1, fresh=False, history=1)


async def test_a_read_after_a_failed_commit_has_what_is_stored(opened: tuple[SqliteStore, SlowWriter]) -> None:
    store, writer = opened
    old = record(b"old")
    writer.disk.set()
    await store.put_if("t", "k", old, None)
    assert await store.get("t", "k") == old
    writer.failure = MemoryError()
    with pytest.raises(BackendUnavailable):
        await store.put_if("t", "k", record(b"new"), old.head)
    assert await store.get("t", "k") == old


async def test_a_write_by_another_process_is_seen_while_we_write(
    opened: tuple[SqliteStore, SlowWriter], tmp_path: Path
) -> None:
    """Where writes follow one another, no view begins or ends by its time."""
    store, writer = opened
    writer.disk.set()
    await store.put_if("t", "k", record(), None)
    assert await store.get("t", "k")
    with contextlib.closing(sqlite3.connect(tmp_path / "records.sqlite3")) as other, other:
        other.execute("DELETE FROM record")
    writer.disk.clear()
    put = asyncio.create_task(store.put_if("t", "another", record(), None))
    async with asyncio.timeout(20):
        while writer.transactions < 2:
            await asyncio.sleep(0.001)
        assert await store.get("t", "k") is None
        writer.disk.set()
        await put


async def test_our_own_writes_leave_what_others_are_about(tmp_path: Path) -> None:
    """Or a server that writes would look everything up."""
    path = tmp_path / "records.sqlite3"
    async with open_store(path) as store:
        for key_id in ("k", "another"):
            await store.put_if("t", key_id, record(), None)
        kept = await store.get("t", "k")
        await store.put_if("t", "third", record(), None)
        assert await store.get("t", "k") is kept
