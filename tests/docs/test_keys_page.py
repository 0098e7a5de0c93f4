"""The examples of docs/keys.md run."""

from pathlib import Path

import pytest

from keyvault_client import KeyRing, KeyVault
from tests.support.pages import PORT, blocks_of, run_awaiting
from tests.support.servers import Served

PYTHON = [text for language, text in blocks_of("docs/keys.md") if language == "python"]


async def test_the_examples_in_python_run(
    server: Served, vault: KeyVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir(mode=0o700)
    ring = KeyRing("keys")
    ring.save(await vault.generate_key("prod/"))
    await vault.create("prod/motd", b"hello", key=ring["prod/motd"])
    for block in PYTHON:
        assert PORT in block
        await run_awaiting(block.replace(PORT, server.address))
    assert capsys.readouterr().out.startswith("b'newer'\n{'prod/db': Record(")
    assert list(ring) == ["prod/", "prod/db"]
    record = await vault.read("prod/db", key=ring["prod/db"])
    assert (record.plaintext, record.revision) == (b"newer", 3)
