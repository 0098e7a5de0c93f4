"""Names that somebody planted in a store, in the report of `audit verify --against-store`."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cyclopts import App

from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.core.ports import RecordStore
from keyvault_server.core.records import Record, vacancy
from keyvault_server.operations.audit_cli import NotWhole, audit_app
from tests.support.processes import BIN
from tests.support.trails import CALL, Trail, some_change

FORGED = "store: 1 records match the logs"
PLANTED = f"x\x1b[2K\x9b1A\r\n{FORGED}\u202e"
SHOWN = f"x\\x1b[2K\\x9b1A\\r\\n{FORGED}\\u202e"


class Settings:
    """Nothing is set: the arguments name everything."""

    audit_file: Path | None = None
    audit_key: Path | None = None
    workers: int = 1


def report(trail: Trail) -> str:
    """Run the command, which refuses, and return the refusal."""

    @contextlib.asynccontextmanager
    async def records() -> AsyncIterator[RecordStore]:
        async with open_store(trail.folder / "records.sqlite3") as opened:
            yield opened

    app = App()
    app.command(audit_app(Settings, records))
    line = ["audit", "verify", str(trail.path), "--key", str(trail.key_path), "--against-store"]
    with pytest.raises(NotWhole) as refused:
        app(line, exit_on_error=False, print_error=False, result_action="return_value")
    return str(refused.value)


async def plant(trail: Trail, record: Record, tenant: str = CALL.tenant, key_id: str = PLANTED) -> None:
    async with open_store(trail.folder / "records.sqlite3") as records:
        await records.put_if(tenant, key_id, record, None)


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """A log of nothing."""
    trail = Trail(tmp_path)

    async def start() -> None:
        async with trail.open():
            pass

    asyncio.run(start())
    return trail


@pytest.mark.parametrize(
    ("tenant", "key_id"), [(CALL.tenant, PLANTED), (PLANTED, CALL.key_id)], ids=["key_id", "tenant"]
)
def test_a_planted_name_forges_no_line_of_the_report(
    trail: Trail, capsys: pytest.CaptureFixture[str], tenant: str, key_id: str
) -> None:
    asyncio.run(plant(trail, some_change()[1], tenant, key_id))
    refusal = report(trail)
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.split("\n"))
    assert FORGED not in said.splitlines()
    assert f"\nwrong: {f'{tenant} {key_id}'.replace(PLANTED, SHOWN)}: no log has this name" in said
    assert refusal.isprintable()
    assert SHOWN in refusal


def test_a_name_of_a_vacancy_is_escaped_too(trail: Trail, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(plant(trail, vacancy(1, 1)))
    report(trail)
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))


@pytest.mark.process
@pytest.mark.slow
def test_a_name_that_the_terminal_cannot_show_ends_no_report(trail: Trail, tmp_path: Path) -> None:
    data = tmp_path / "data"
    environment = os.environ | {"KEYVAULT_DATA": str(data), "PYTHONIOENCODING": "ascii"}
    subprocess.run([BIN / "keyvault-server", "init"], env=environment, check=True, capture_output=True)
    shutil.copy(data / "records.sqlite3", trail.folder / "records.sqlite3")
    asyncio.run(plant(trail, some_change()[1], key_id="\u4e16"))
    shutil.copy(trail.folder / "records.sqlite3", data / "records.sqlite3")
    line = ["audit", "verify", str(trail.path), "--key", str(trail.key_path), "--against-store"]
    done = subprocess.run([BIN / "keyvault-server", *line], env=environment, check=False, capture_output=True)
    assert done.returncode == 1
    assert b"\nwrong: acme \\u4e16: no log has this name" in done.stdout
    assert b"1 findings in the store" in done.stderr
