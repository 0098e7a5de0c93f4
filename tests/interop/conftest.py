"""What the tests of this folder share: the programs and a server."""

from collections.abc import Callable, Iterator

import pytest

from tests.interop.matrix import PAIR
from tests.interop.programs import Programs
from tests.support.processes import server_process


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Programs:
    """The programs of this run; its workers have folders next to each other."""
    own = tmp_path_factory.getbasetemp()
    return Programs((own if worker_id == "master" else own.parent) / "programs")


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a `keyvault-server` in plaintext; every test has names of its own on it."""
    with server_process(tmp_path_factory.mktemp("interop") / "data") as server:
        yield server.address


@pytest.fixture
def pair(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Let the summary show how the test of this pair of languages ended."""
    parameters = request.node.callspec.params
    record_property(PAIR, (parameters["creator"], parameters["other"]))
