"""`keyvault-server sweep` on both backends: which copies it removes, what it says, what it refuses."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.core.errors import OperatorError
from keyvault_server.core.records import successor
from keyvault_server.operations.composition import open_backend
from keyvault_server.operations.settings import Settings
from keyvault_server.operations.store_cli import sweep
from tests.support.engines import variables_of
from tests.support.requests import some_envelope

RECORDS = [("default", "prod/a"), ("default", "prod/b"), ("acme", "prod/a")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store of three records at revision 3 with one copy each, and two copies each that nothing needs."""

    async def fill() -> None:
        async with open_backend(Settings(data=tmp_path)) as (_, records):
            for tenant, key_id in RECORDS:
                stored = None
                for revision in range(1, 4):
                    record = successor(stored, some_envelope(revision), 1, fresh=False, history=1)
                    await records.put_if(tenant, key_id, record, stored.head if stored else None)
                    stored = record

    asyncio.run(fill())
    with closing(sqlite3.connect(tmp_path / "records.sqlite3")) as past, past:
        assert len(past.execute("SELECT * FROM copy").fetchall()) == len(RECORDS)
        for name in [*RECORDS, ("default", "prod/none")]:
            for revision in (1, 9):
                past.execute("INSERT INTO copy VALUES (?, ?, ?, x'00')", (*name, revision))
    return tmp_path


def left(data: Path) -> int:
    with closing(sqlite3.connect(data / "records.sqlite3")) as past:
        (number,) = past.execute("SELECT count(*) FROM copy WHERE revision = 1").fetchone()
    return int(number)


def test_all_records_are_swept_unless_one_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep("prod/a", data=data)
    assert capsys.readouterr().out == "3 copies of earlier revisions, 1 removed\n"
    sweep(tenant="acme", data=data)
    assert capsys.readouterr().out == "3 copies of earlier revisions, 1 removed\n"
    sweep(data=data)
    assert capsys.readouterr().out == (
        "9 copies of earlier revisions, 1 removed\n2 left: they are of names without a record, or with a corrupt one\n"
    )
    assert left(data) == 1, "that of the name without a record"


def test_names_that_cannot_be_are_refused(data: Path) -> None:
    for key_id, tenant in (("prod/", None), ("prod/a", "A")):
        with pytest.raises(CycloptsError, match="invalid"):
            sweep(key_id, tenant=tenant, data=data)
    assert left(data) == 4


def test_a_directory_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="has no records"):
        sweep(data=tmp_path / "none")


@pytest.fixture
def on_aws(standin_options: AwsOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name our own stand-ins to the command, as an operator does."""
    for name, value in variables_of(standin_options).items():
        monkeypatch.setenv(name, value)


@pytest.mark.medium
@pytest.mark.usefixtures("on_aws")
async def test_a_table_is_swept(standin_store: DynamoRecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    """While a server has it open, which an embedded store forbids."""
    tenant, stored = "t-" + os.urandom(8).hex(), None
    for revision in range(1, 4):
        record = successor(stored, some_envelope(revision), 1, fresh=False, history=1)
        await standin_store.put_if(tenant, "prod/a", record, stored.head if stored else None)
        for name in ("prod/a", "prod/none"):
            await standin_store.keep(tenant, name, revision, record)
        stored = record
    await asyncio.to_thread(sweep, "prod/a", tenant=tenant)
    assert capsys.readouterr().out == "3 copies of earlier revisions, 1 removed\n"
    await asyncio.to_thread(sweep, tenant=tenant)
    assert capsys.readouterr().out == (
        "5 copies of earlier revisions, 0 removed\n3 left: they are of names without a record, or with a corrupt one\n"
    )
    copies = [await standin_store.get_copy(tenant, "prod/a", revision) for revision in range(1, 4)]
    assert [copy is not None for copy in copies] == [False, True, True]
