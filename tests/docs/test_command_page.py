"""The blocks of docs/command.md run, from top to bottom, and its table has the exit codes."""

import re
from pathlib import Path

import pytest

from keyvault_client.exit_codes import ExitCode
from tests.support.pages import Reader, texts_of
from tests.support.processes import server_process
from tests.support.repository import ROOT

PAGE = "docs/command.md"
SHOWN = [
    "prod/api is at revision 1",
    "the password has 7 characters",
    "there is a token",
    "started from the file",
    "exit code 3",
    "prod/db is at revision 2",
    "create     web/DB_PASSWORD",
    "created    web/API_TOKEN at revision 1",
    "the token has 6 characters",
    ' "DB_PASSWORD": "a \\"new\\" one"',
    "prod/db is at revision 3",
    "+hunter3",
]


def test_the_table_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) +\| ([a-z ]+?) +\|", (ROOT / PAGE).read_text(), re.MULTILINE)
    assert {int(number): name for number, name in rows} == {
        code.value: code.name.lower().replace("_", " ") for code in ExitCode
    }


@pytest.mark.process
@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        reader = Reader(tmp_path, server.address)
        shown = "".join(reader.show(texts_of(PAGE, "sh")))
    for line in SHOWN:
        assert line in shown.splitlines()
