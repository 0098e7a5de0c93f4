"""A page that is one tour through several shells, run as a reader runs it: block after block, each in its shell.

The paragraph above a block says where it goes: "**Shell 1.** ..." or "Save this as `FILE`", with "Ctrl+C" if a server
runs in that shell and has to be stopped first. What a test changes: the servers listen on a free port in place of the
page's, the same one for all of them, and Ctrl+C is a signal to the shell's process group.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from tests.support.pages import PORT, with_commands
from tests.support.repository import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_READY = re.compile(r"is ready on (\S+)")
_SECONDS = 120


@dataclass(frozen=True)
class Step:
    """One block of a tour."""

    text: str
    shell: int
    """Number of the shell that runs it; 0 if it is saved as a file."""
    file: str
    stops_the_server: bool


def steps_of(page: str) -> list[Step]:
    """Return the blocks of a page, whose path starts at the root; each has to say where it goes. Pictures are none."""
    text = (ROOT / page).read_text()
    return [
        _step(text[: block.start()].rstrip().rpartition("\n\n")[2], block[1], block[2])
        for block in _BLOCK.finditer(text)
        if block[1] != "mermaid"
    ]


def _step(above: str, language: str, text: str) -> Step:
    if language == "sh":
        shell = re.match(r"\*\*Shell (\d)\.\*\* ", above)
        assert shell, f"the page names no shell for\n{text}"
        return Step(text, int(shell[1]), "", "Ctrl+C" in above)
    file = re.search(r"Save this as\s+`([\w./]+)`", above)
    assert file, f"the page names no file for\n{text}"
    return Step(text, 0, file[1], False)


class Tour:
    """Takes the steps of a page in their order, in a folder that stands for the checkout."""

    def __init__(self, page: str, folder: Path, logs: Path, **environment: str) -> None:
        """`logs` gets what the shells print; variables in `environment` are the reader's own."""
        self.rest = steps_of(page)
        """Steps that were not taken yet."""
        self._folder, self._logs = folder, logs
        self._environment = with_commands(KEYVAULT_LISTEN="127.0.0.1:0") | environment
        self._shells: dict[int, _Shell] = {}
        self._address = ""

    def __enter__(self) -> "Tour":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for shell in self._shells.values():
            shell.close()

    def add_to_path(self, folder: Path) -> None:
        """Let shells that are opened from now on find the programs of this folder."""
        self._environment["PATH"] = f"{folder}{os.pathsep}{self._environment['PATH']}"

    def skip(self, words: str) -> None:
        """Leave out the next step, which has these words."""
        self._next(words)

    def save(self, words: str) -> None:
        """Take the next step, which has these words and is a file."""
        step = self._next(words)
        (self._folder / step.file).write_text(self._moved(step.text))

    def run(self, words: str) -> str:
        """Take the next step, which has these words; return what its commands print on standard output."""
        return self._started(self._next(words)).finish()

    def again(self, number: int, text: str) -> str:
        """Run commands that are not on the page, in one of its shells; return what they print on standard output."""
        return self._started(Step(text, number, "", False)).finish()

    def serve(self, words: str, *, before: str = "") -> None:
        """Take the next step, which has these words and ends in a server; return when it is ready.

        `before` has commands that run first in its shell.
        """
        step = self._next(words)
        self._address = self._started(replace(step, text=before + step.text)).ready()
        for each in self._shells.values():
            each.address = self._address

    def _started(self, step: Step) -> "_Shell":
        shell = self._shell(step.shell)
        assert shell.serves == step.stops_the_server, f"shell {step.shell} serves: {shell.serves}, at\n{step.text}"
        if shell.serves:
            shell.stop_server()
        shell.start(self._moved(step.text))
        return shell

    def _next(self, words: str) -> Step:
        step = self.rest.pop(0)
        assert words in step.text, f"the next block of the page is not that of {words!r} but\n{step.text}"
        return step

    def _moved(self, text: str) -> str:
        return text.replace(PORT, self._address) if self._address else text

    def _shell(self, number: int) -> "_Shell":
        if number not in self._shells:
            self._shells[number] = _Shell(self._folder, self._logs / f"shell-{number}", self._environment)
            self._shells[number].address = self._address
        return self._shells[number]


class _Shell:
    """A bash that keeps its folder and variables from block to block, and ends at the first command that fails."""

    def __init__(self, folder: Path, logs: Path, environment: dict[str, str]) -> None:
        self.serves = False
        self.address = ""
        self._logs = logs
        self._blocks = 0
        logs.mkdir()
        self._bash = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def start(self, text: str) -> None:
        """Run a block; its commands read nothing from the terminal."""
        assert self._bash.stdin is not None
        self._blocks += 1
        moved = f"export KEYVAULT_ADDRESS={self.address} KEYVAULT_LISTEN={self.address}\n" if self.address else ""
        self._log("sh").write_text(moved + text)
        streams = f"</dev/null >'{self._log('out')}' 2>'{self._log('err')}'"
        self._bash.stdin.write(f"source '{self._log('sh')}' {streams}\ntouch '{self._log('done')}'\n")
        self._bash.stdin.flush()

    def finish(self) -> str:
        """Wait for the block; return its standard output."""
        self._wait_until(self._log("done").exists)
        return self._log("out").read_text()

    def ready(self) -> str:
        """Wait for a server that the block ends in; return its address."""
        self._wait_until(lambda: self._log("out").exists() and _READY.search(self._log("out").read_text()) is not None)
        self.serves = True
        ready = _READY.search(self._log("out").read_text())
        assert ready
        return ready[1]

    def stop_server(self) -> None:
        """Press Ctrl+C and wait for the shell's prompt."""
        os.killpg(self._bash.pid, signal.SIGINT)
        self.finish()
        self.serves = False

    def close(self) -> None:
        """End the shell and all that runs in it."""
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        with self._bash:
            self._bash.wait(30)

    def _log(self, kind: str) -> Path:
        return self._logs / f"{self._blocks:02}.{kind}"

    def _wait_until(self, so: Callable[[], bool]) -> None:
        end = time.monotonic() + _SECONDS
        while not so():
            assert self._bash.poll() is None, self._shown()
            assert time.monotonic() < end, self._shown()
            time.sleep(0.02)

    def _shown(self) -> str:
        return "\n".join(file.read_text() for kind in ("sh", "out", "err") if (file := self._log(kind)).exists())
