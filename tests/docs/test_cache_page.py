"""The blocks of docs/cache.md run, one after the other."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from keyvault_client import KeyVault
from tests.support.pages import PORT, blocks_of, run_awaiting
from tests.support.servers import Served


@pytest.mark.medium
async def test_the_blocks_run(
    server: Served, vault: KeyVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    key, new = await vault.generate_key("prod/"), await vault.generate_key("prod/db")
    key.save("prod.key")
    new.save("new.key")
    for name in ("prod/db", "prod/api"):
        await vault.create(name, b"s3cret", key=key)
    names: dict[str, Any] = {"serve": lambda: asyncio.sleep(0.05)}
    for number, (_, block) in enumerate(blocks_of("docs/cache.md")):
        names = await run_awaiting(block.replace(PORT, server.address), **names)
        if number == 0:
            assert names["password"] == b"s3cret"
            names["vault"] = vault  # the first block closed its own
        elif number == 1:
            assert capsys.readouterr().out == "prod/db is at revision 2\n"
        elif number == 2:
            names["key"] = new
    assert names["password"] == b"newer"
    assert capsys.readouterr().out == "prod/db b'newer' 0 seconds old\n"
