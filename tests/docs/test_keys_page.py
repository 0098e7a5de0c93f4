"""The examples of docs/keys.md run, in a shell and in Python."""

from pathlib import Path

import pytest

from keyvault_client import KeyRing, KeyVault
from tests.support.pages import PORT, Reader, run_awaiting, texts_of
from tests.support.processes import server_process
from tests.support.servers import Served

PAGE = "docs/keys.md"
USE, EXCHANGE = texts_of(PAGE, "python")
SHELL, ROTATE, REWRAP = texts_of(PAGE, "sh")


async def test_the_examples_in_python_run(
    server: Served, vault: KeyVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ".config/keyvault/keys"
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    ring = KeyRing(folder)
    ring.save(await vault.generate_key("prod/"))
    for name in ("prod/db", "prod/motd"):
        await vault.create(name, b"hello", key=ring[name])
    await run_awaiting(USE.replace(PORT, server.address))
    assert capsys.readouterr().out.startswith("b'newer'\n{'prod/db': Record(")
    await run_awaiting(EXCHANGE.replace(PORT, server.address), folder=folder, KeyVault=KeyVault, KeyRing=KeyRing)
    assert list(ring) == ["prod/", "prod/db"]
    record = await vault.read("prod/db", key=ring["prod/db"])
    assert (record.plaintext, record.revision) == (b"newer", 3)


@pytest.mark.process
@pytest.mark.slow
def test_the_examples_for_a_shell_run(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        reader = Reader(tmp_path, server.address)
        del reader.environment["KEYVAULT_KEYS"]
        reader.environment["HOME"] = str(tmp_path)
        shown, rotated, rewrapped = (reader.run("sh", block) for block in (SHELL, ROTATE, REWRAP))
    file = f"{tmp_path}/.config/keyvault/keys/prod%2F.key"
    assert shown.splitlines() == [
        f"saved the key for prod/ in {file}",
        "prod/db is at revision 1",
        f"hunter2prod/  default  {file}",
    ]
    assert rotated.splitlines() == [
        "records of prod/: 1 have the old key, 0 a new key, 0 another key",
        "nothing was changed: give --yes to rotate",
        "records of prod/: 0 have the old key, 1 a new key, 0 another key",
        f"new key: {file}",
        f"old key, for deleted names: {file}.old",
    ]
    assert rewrapped == f"rewrapped 1 of 1 keys in {tmp_path}/.config/keyvault/keys\n"
