"""A server for the tests of the command, and a shell next to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import server_process
from tests.support.shell import Shell


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("command") / "data"
    with server_process(data, KEYVAULT_UNWRAP_SCOPES='["prod/unwrap"]') as server:
        yield server.address


@pytest.fixture
def shell(tmp_path: Path, address: str) -> Shell:
    return Shell(tmp_path, address)
