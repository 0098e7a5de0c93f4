"""The examples of docs/client.md run, in Python and in a shell."""

from pathlib import Path

import pytest

from keyvault_client import KeyVault
from tests.support.pages import PORT, Reader, run_awaiting, shows, texts_of
from tests.support.processes import server_process
from tests.support.servers import Served

PAGE = "docs/client.md"
FIRST, LIST, PAST, _ = texts_of(PAGE, "python")
SAVE, SHELL, DOCTOR = texts_of(PAGE, "sh")
(EXAMINED,) = texts_of(PAGE, "text")


async def test_the_first_example_runs(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert PORT in FIRST
    await run_awaiting(FIRST.replace(PORT, server.address))
    assert (tmp_path / "prod.key").exists()


async def test_the_examples_of_names_and_the_past_run(vault: KeyVault, capsys: pytest.CaptureFixture[str]) -> None:
    key = await vault.generate_key("prod/")
    await vault.create("prod/db", b"1", key=key)
    for data in (b"2", b"3", b"4"):
        await vault.update("prod/db", data, key=key)
    await run_awaiting(LIST, vault=vault)
    await run_awaiting(PAST, vault=vault, key=key)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["prod/db", "4", "3", "2", "1"]
    assert (await vault.read("prod/db", key=key)).plaintext == b"3"


@pytest.mark.process
@pytest.mark.slow
def test_the_blocks_for_a_shell_run(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        reader = Reader(tmp_path, server.address)
        reader.run("sh", SAVE)
        reader.run("sh", "echo -n one | keyvault create prod/db --key prod.key")
        reader.run("sh", "echo -n two | keyvault update prod/db --key prod.key")
        shown = reader.run("sh", SHELL).splitlines()
        assert shows(reader.show([DOCTOR])[-1], EXAMINED)
    assert [line.split("  ")[0] for line in shown] == [
        "prod/db",
        "revision 2",
        "revision 1",
        "oneprod/db is at revision 3",
    ]
