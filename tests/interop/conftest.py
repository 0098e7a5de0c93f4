"""The programs of four languages and the server that they share.

A program is built once a session, and only if a test asks for it: into a temporary folder, or where git ignores it and
the next build finds it.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.clients import EXAMPLES, Client, KeyvaultCommand
from tests.interop.matrix import TITLE, Matrix
from tests.serving import BIN, ServerProcess, server_process
from tests.tools import toolchain

MATRIX = pytest.StashKey[Matrix]()


def build(example: str, *command: str | Path) -> None:
    """Runs this in an example's folder; shows the end of what it said if it fails."""
    folder = EXAMPLES / example
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.fixture(scope="session")
def python() -> Client:
    return KeyvaultCommand((BIN / "keyvault",))


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Client:
    toolchain("go")
    binary = tmp_path_factory.mktemp("go") / "kv"
    build("go", "go", "build", "-o", binary, ".")
    return Client((binary,))


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> Client:
    toolchain("java", "mvn")
    build("java", "mvn", "--quiet", "--batch-mode", "package", "-DskipTests")
    classes = tmp_path_factory.mktemp("java") / "kv.jsa"
    quick = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xlog:disable")
    program = ("-jar", EXAMPLES / "java" / "target" / "kv.jar")
    warming_up = Client((*quick, f"-XX:ArchiveClassesAtExit={classes}", *program))
    warming_up.at("127.0.0.1:1", timeout=1).run("put", "x", "--key", classes.with_name("absent"))
    return Client((*quick, f"-XX:SharedArchiveFile={classes}", *program))


@pytest.fixture(scope="session")
def node() -> Client:
    toolchain("node", "npm")
    build("node", "npm", "ci", "--silent")
    build("node", "npm", "run", "--silent", "build")
    return Client(("node", EXAMPLES / "node" / "dist" / "main.js"))


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A `keyvault-server` in plaintext; every test has names of its own on it."""
    with server_process(tmp_path_factory.mktemp("interop") / "data") as server:
        yield server


@pytest.fixture
def matrix(pytestconfig: pytest.Config) -> Matrix:
    """What the summary shows at the end."""
    return pytestconfig.stash.setdefault(MATRIX, Matrix())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the matrix, also when all is well."""
    if MATRIX in config.stash:
        terminalreporter.section(TITLE)
        terminalreporter.write_line(config.stash[MATRIX].table())
