"""The programs of four languages, each built when a test first asks for it.

What is built lies in a temporary folder, or where git ignores it and the next build finds it. A language whose
toolchain is missing skips the test that asks.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.clients import Client, KeyvaultCommand
from tests.interop.languages import LANGUAGES
from tests.support.environment import for_downloads
from tests.support.processes import BIN
from tests.support.repository import ROOT
from tests.support.tools import toolchain

EXAMPLES = ROOT / "examples"
TOGETHER = [pytest.mark.external, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("interop")]
"""Marks of the tests that use the programs: one worker builds them once, and no build runs next to a program's test."""


def python(_: Path) -> Client:
    return KeyvaultCommand((BIN / "keyvault",))


def go(folder: Path) -> Client:
    toolchain("go")
    run("go", "go", "build", "-o", folder / "kv", ".")
    return Client((folder / "kv",))


def java(folder: Path) -> Client:
    """With an archive of its classes, which halves its start."""
    toolchain("java", "mvn")
    run("java", "mvn", "--quiet", "--batch-mode", "package", "-DskipTests")
    quick = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xlog:disable")
    program = ("-jar", EXAMPLES / "java" / "target" / "kv.jar")
    archiving = Client((*quick, f"-XX:ArchiveClassesAtExit={folder / 'kv.jsa'}", *program))
    archiving.at("127.0.0.1:1", timeout=1).run("put", "x", "--key", folder / "absent")
    return Client((*quick, f"-XX:SharedArchiveFile={folder / 'kv.jsa'}", *program))


def node(_: Path) -> Client:
    toolchain("node", "npm")
    run("node", "npm", "ci", "--silent")
    run("node", "npm", "run", "--silent", "build")
    return Client(("node", EXAMPLES / "node" / "dist" / "main.js"))


BUILDERS: dict[str, Callable[[Path], Client]] = {"python": python, "go": go, "java": java, "node": node}
assert list(BUILDERS) == LANGUAGES


class Programs:
    """One client a language, built at most once, also if that fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[str, Client | AssertionError] = {}

    def get(self, language: str) -> Client:
        if language not in self._built:
            folder = self._folder / language
            folder.mkdir(exist_ok=True)
            try:
                self._built[language] = BUILDERS[language](folder)
            except AssertionError as failed:
                self._built[language] = failed
        built = self._built[language]
        if isinstance(built, AssertionError):
            raise built
        return built


def run(example: str, *command: str | Path) -> str:
    """Run this in an example's folder, with what downloads need; return what it said."""
    folder = EXAMPLES / example
    done = subprocess.run(
        command,
        cwd=folder,
        env=for_downloads(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
