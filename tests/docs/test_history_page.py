"""The commands of docs/history.md do what the page says."""

import asyncio
import shlex
from pathlib import Path

import pytest

from keyvault_server.core.caller import DEFAULT_TENANT
from keyvault_server.core.records import successor
from keyvault_server.operations.cli import app
from keyvault_server.operations.composition import open_backend
from keyvault_server.operations.settings import Settings
from tests.support.pages import blocks_of
from tests.support.requests import some_envelope


async def fill(folder: Path) -> None:
    async with open_backend(Settings(data=folder)) as (_, records):
        for name, revisions in (("prod/db", 2), ("prod/web", 3)):
            stored = None
            for revision in range(1, revisions + 1):
                record = successor(stored, some_envelope(revision), 1, fresh=False, history=10)
                await records.put_if(DEFAULT_TENANT, name, record, stored.head if stored else None)
                stored = record


def test_the_commands_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(fill(tmp_path))
    monkeypatch.setenv("KEYVAULT_DATA", str(tmp_path))
    (_, commands), (_, expected) = blocks_of("docs/history.md")
    for line in commands.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "keyvault-server"
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    assert capsys.readouterr().out == expected
