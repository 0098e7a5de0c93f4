"""What the tests of this folder share: the programs, a server, and the table at the end."""

from collections.abc import Iterator

import pytest

from tests.interop.matrix import TITLE, Matrix
from tests.interop.programs import Programs
from tests.support.processes import server_process

MATRIX = pytest.StashKey[Matrix]()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a `keyvault-server` in plaintext; every test has names of its own on it."""
    with server_process(tmp_path_factory.mktemp("interop") / "data") as server:
        yield server.address


@pytest.fixture
def matrix(pytestconfig: pytest.Config) -> Matrix:
    """What the summary shows at the end."""
    return pytestconfig.stash.setdefault(MATRIX, Matrix())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the matrix, also when all is well."""
    if MATRIX in config.stash:
        terminalreporter.section(TITLE)
        terminalreporter.write_line(config.stash[MATRIX].table())
