"""The index of names in SQLite: what a page reads, what a write touches, and what was planted."""

from pathlib import Path

import pytest

from keyvault_api.envelope import Kind
from keyvault_server.backends.embedded.names import NAMES, page_values
from keyvault_server.backends.embedded.sqlite import SqliteStore, open_store
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.listing import list_names
from keyvault_server.core.records import Record, vacancy
from keyvault_server.core.vault import Vault
from tests.support.callers import Unrestricted
from tests.support.fakes import FakeKeyService
from tests.support.listed import record_of
from tests.support.refusals import refused


async def names_of(store: SqliteStore, *, deleted: bool = False) -> list[str]:
    return [name.key_id for name in (await store.list_names("t", "", "", 100, deleted=deleted)).names]


async def test_a_page_reads_the_index_alone(tmp_path: Path) -> None:
    """Its rows are in the order of the page already: nothing is sorted, and no record is read."""
    async with open_store(tmp_path / "records.sqlite3") as store:
        values = page_values("t", "prod/", "prod/b", 100, deleted=False)
        plan = store._reader.execute(f"EXPLAIN QUERY PLAN {NAMES}", values).fetchall()
    assert [step[-1] for step in plan] == [
        "SEARCH record USING COVERING INDEX names (tenant=? AND kind=? AND key_id>? AND key_id<?)"
    ]


async def test_an_update_writes_no_page_of_the_index(tmp_path: Path) -> None:
    """Only if the kind or the create time changes is it written."""
    path, log = tmp_path / "records.sqlite3", tmp_path / "records.sqlite3-wal"
    written = []
    async with open_store(path) as store:
        stored: Record | None = None
        states = [
            record_of("k", created=1),
            record_of("k", created=1, revision=2),
            record_of("k", created=1, revision=3),
            record_of("k", Kind.TOMBSTONE, 1, revision=4),
            record_of("k", created=5, revision=5),
            vacancy(5, 5),
        ]
        for record in states:
            before = log.stat().st_size
            await store.put_if("t", "k", record, stored.head if stored else None)
            written.append((log.stat().st_size - before) // 4_000)
            stored = record
    assert written == [3, 1, 1, 2, 2, 2], "pages: the record, its key, the index"


async def test_a_listing_shows_a_write_that_was_answered(tmp_path: Path) -> None:
    """Reads share a snapshot, which ends with the next write."""
    async with open_store(tmp_path / "records.sqlite3") as store:
        assert await names_of(store) == []
        first = record_of("a")
        await store.put_if("t", "a", first, None)
        assert await names_of(store) == ["a"]
        await store.put_if("t", "a", record_of("a", Kind.TOMBSTONE, revision=2), first.head)
        assert await names_of(store) == []
        assert await names_of(store, deleted=True) == ["a"]


async def test_no_page_follows_the_last_name(tmp_path: Path) -> None:
    async with open_store(tmp_path / "records.sqlite3") as store:
        for name in ("a", "b", "c"):
            await store.put_if("t", name, record_of(name), None)
        found = [(await store.list_names("t", "", "", limit, deleted=False)).more for limit in (1, 2, 3, 4)]
    assert found == ["a", "b", None, None]


async def test_names_are_there_after_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path / "records.sqlite3") as store:
        await store.put_if("t", "a", record_of("a"), None)
        await store.put_if("t", "b", record_of("b", Kind.TOMBSTONE), None)
    async with open_store(tmp_path / "records.sqlite3") as store:
        assert (await names_of(store), await names_of(store, deleted=True)) == (["a"], ["b"])


@pytest.mark.parametrize(
    "planted", ["CAST(x'70726f642f61ff' AS TEXT)", "CAST(x'70726f642fff' AS TEXT)", "'prod/a b'", "'prod/' || char(27)"]
)
async def test_a_planted_name_is_reported_and_breaks_nothing(tmp_path: Path, planted: str) -> None:
    async with open_store(tmp_path / "records.sqlite3") as store:
        await store.put_if("t", "prod/a", record_of("prod/a"), None)
        store._writer.execute(f"UPDATE record SET key_id = {planted}")
        vault = Vault(FakeKeyService(), store)
        shown = await store.list_names("t", "prod/", "", 10, deleted=False)
        if shown.names:
            assert isinstance(await refused(list_names(vault, Unrestricted("t"), "prod/")), RecordCorrupt)
        assert (await list_names(vault, Unrestricted("t"), "prod/b")).names == []


async def test_a_planted_time_is_a_number(tmp_path: Path) -> None:
    async with open_store(tmp_path / "records.sqlite3") as store:
        await store.put_if("t", "a", record_of("a"), None)
        store._writer.execute("UPDATE record SET created = 'soon'")
        assert (await store.list_names("t", "", "", 10, deleted=False)).names == [("a", 0)]
