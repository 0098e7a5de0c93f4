"""Markdown pages whose blocks run as tests, as a reader runs them.

What is changed for a test: the port that a page names, for a free one; the folder, for a new one.
"""

import ast
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import BIN, announced
from tests.support.repository import ROOT

PORT = "127.0.0.1:50051"
Block = tuple[str, str]
"""Language and text of a fenced block."""


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, whose path starts at the root."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def texts_of(page: str, language: str) -> list[str]:
    """Return the text of each block in one language."""
    return [text for written_in, text in blocks_of(page) if written_in == language]


async def run_awaiting(block: str, **names: Any) -> dict[str, Any]:
    """Run a block of Python that may await at its top level, as a reader's coroutine has it; return its names."""
    code: Any = compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if (running := eval(code, names)) is not None:
        await running
    return names


def with_commands(**environment: str) -> dict[str, str]:
    """Return the environment of a reader who has `keyvault` on the PATH."""
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment


class Reader:
    """Runs blocks in one folder, against servers that run elsewhere than the page says."""

    def __init__(self, folder: Path, address: str) -> None:
        """Take the address of the server that the page has at PORT."""
        self.folder = folder
        self.moved = {PORT: address}
        self.environment = with_commands(KEYVAULT_ADDRESS=address)

    def add_to_path(self, program: Path) -> None:
        """Let blocks call this program by its name."""
        self.environment["PATH"] = f"{program.parent}{os.pathsep}{self.environment['PATH']}"

    def run(self, language: str, block: str) -> str:
        """Run a block, which has to succeed; return its standard output."""
        done = self._run(language, block, subprocess.PIPE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def show(self, blocks: Iterable[str]) -> list[str]:
        """Run blocks in one shell, which has to succeed; return what its screen shows of each, errors too."""
        mark = "-- the next block --"
        done = self._run("sh", f"echo '{mark}'\n".join(blocks), subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        shown = done.stdout
        for there, here in self.moved.items():
            shown = shown.replace(here, there)
        return shown.split(mark + "\n")

    def _run(self, language: str, block: str, stderr: int) -> "subprocess.CompletedProcess[str]":
        program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
        for there, here in self.moved.items():
            block = block.replace(there, here)
        return subprocess.run(
            [*program, block],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=180,
            check=False,
        )


@contextmanager
def started(block: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a block that ends in a server; yield the address that the server announces."""
    with tempfile.NamedTemporaryFile(prefix="page", suffix=".log") as log:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env=with_commands(**{"KEYVAULT_LISTEN": "127.0.0.1:0"} | environment),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        with process, process.stdout:
            try:
                yield announced(process, Path(log.name))
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)


def shows(screen: str, expected: str) -> bool:
    """Return whether a screen has the expected text: "..." in it matches any text, a blank any white space."""
    parts = [re.escape(" ".join(part.split())) for part in expected.split("...")]
    return re.fullmatch(".*?".join(part.replace(r"\ ", " ") for part in parts), " ".join(screen.split())) is not None
