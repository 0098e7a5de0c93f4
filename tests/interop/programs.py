"""The programs of four languages, each built once for all workers of a run, when a test first asks for it.

They are built in a copy of the checkout, so that no build of another run changes a program while it is used. A language
whose toolchain is missing skips the test that asks.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.interop.clients import Client, KeyvaultCommand
from tests.interop.languages import LANGUAGES
from tests.support.environment import for_downloads
from tests.support.processes import BIN, server_process
from tests.support.repository import ROOT
from tests.support.tools import toolchain

MARKS = [pytest.mark.external, pytest.mark.slow, pytest.mark.timeout(900)]
"""Marks of the tests that use the programs."""
MAVEN = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
JAVA = ("java", *MAVEN, "-XX:CompileThresholdScaling=5", "-XX:-UsePerfData", "-Xlog:disable")
"""Compiling as little as possible saves two thirds of the processor time of a build, and a seventh of a call's."""
PLAYER = {
    "KEYVAULT_PLAYER": f"{sys.executable} -m tests.behaviour.server",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
}
"""Environment in which the tests of a library start the player of the behaviour suite."""
MADE = shutil.ignore_patterns("node_modules", "dist", "target", "generated", "__pycache__")
"""What a build leaves in a checkout."""


def no_build(_: Path) -> None:
    """Python's command is installed."""


def build_go(checkout: Path) -> None:
    toolchain("go")
    run(checkout / "examples" / "go", "go", "build", "-o", "kv", ".")


def build_java(checkout: Path) -> None:
    """Build it, and an archive of the classes that a call needs, which halves its start."""
    toolchain("java", "mvn")
    folder = checkout / "examples" / "java"
    run(folder, "mvn", "--quiet", "--batch-mode", "--file", "reactor.xml", "package", "-DskipTests")
    archiving = Client((*JAVA, f"-XX:ArchiveClassesAtExit={folder / 'kv.jsa'}", "-jar", folder / "target" / "kv.jar"))
    # Without the archive the program is slower to start, no more: a busy machine may give up making it.
    with server_process(checkout / "data") as server, suppress(AssertionError, subprocess.TimeoutExpired):
        archiving.at(server.address).create("x", folder / "x.key", b"")


def build_node(checkout: Path) -> None:
    """Build the library, then the program."""
    toolchain("node", "npm")
    for folder in (checkout / "sdk" / "node", checkout / "examples" / "node"):
        run(folder, "npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefer-offline")
        run(folder, "npm", "run", "--silent", "build")


BUILDS: dict[str, Callable[[Path], None]] = {
    "python": no_build,
    "go": build_go,
    "java": build_java,
    "node": build_node,
}
assert list(BUILDS) == LANGUAGES


def client_of(language: str, checkout: Path) -> Client:
    folder = checkout / "examples" / language
    if language == "go":
        return Client((folder / "kv",))
    if language == "java":
        archive = f"-XX:SharedArchiveFile={folder / 'kv.jsa'}"
        return Client((*JAVA, archive, "-jar", folder / "target" / "kv.jar"))
    if language == "node":
        return Client(("node", folder / "dist" / "main.js"))
    return KeyvaultCommand((BIN / "keyvault",))


class Programs:
    """One client a language, built at most once below a folder that all workers share, also if that fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, language: str) -> Client:
        return client_of(language, self._built(language) / "checkout")

    def envelope_of(self, language: str) -> Path:
        """Return where the tests of a language's envelope run: in its library, or with the program, built."""
        if language == "go":
            toolchain("go")
            return ROOT / "sdk" / "go" / "kve1"
        return self.library_of(language)

    def library_of(self, language: str) -> Path:
        """Return the folder of a language's library, built with its program."""
        return self._built(language) / "checkout" / "sdk" / language

    def _built(self, language: str) -> Path:
        folder = self._folder / language
        folder.mkdir(exist_ok=True, parents=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "outcome").exists():
                (folder / "outcome").write_text(self._build(language, folder))
        outcome = (folder / "outcome").read_text()
        assert not outcome, outcome
        return folder

    @staticmethod
    def _build(language: str, folder: Path) -> str:
        """Build one program; return what went wrong, or nothing."""
        checkout = folder / "checkout"
        if language != "python":
            for part in (f"examples/{language}", f"sdk/{language}", "protos", "tests/vectors"):
                if (ROOT / part).exists():
                    shutil.copytree(ROOT / part, checkout / part, ignore=MADE)
        try:
            BUILDS[language](checkout)
        except (AssertionError, subprocess.TimeoutExpired) as failed:
            return str(failed) or "it failed"
        return ""


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    """Run this in a folder, with what downloads need, and more of an environment; return what it said."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={"MAVEN_OPTS": " ".join(MAVEN)} | for_downloads() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
