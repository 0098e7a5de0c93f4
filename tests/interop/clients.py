"""One vault, four programs: `keyvault` and the example of each other language, under the same four verbs.

A client here is a command and an environment; every call is a process of its own, as a user starts it.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from tests.support.forked import run_forked

Command = Sequence[str | Path]
Done = subprocess.CompletedProcess[bytes]


@dataclass(frozen=True)
class Client:
    """An example program on its library, whose `put` creates or updates and makes the key that is missing."""

    words: ClassVar[Mapping[str, str]] = {"create": "put", "update": "put", "read": "get"}
    """What the program calls a verb, where that is another word."""
    failed, unknown = frozenset({1, 3, 4, 5, 6}), 7
    """Exit codes of a change that surely failed, and of one whose outcome is unknown."""
    command: Command
    environment: dict[str, str] = field(default_factory=dict)

    def word(self, verb: str) -> str:
        """Return what the program calls this verb."""
        return self.words.get(verb, verb)

    def at(self, address: str, **settings: object) -> "Client":
        """The same, speaking to this server; settings are the KEYVAULT_ variables in lower case."""
        given = {f"KEYVAULT_{name.upper()}": str(value) for name, value in settings.items()}
        default = {"KEYVAULT_ADDRESS": address, "KEYVAULT_TIMEOUT": "30"}
        return replace(self, environment=self.environment | default | given)

    def create(self, name: str, key: Path, data: bytes) -> int:
        """Stores a new record under a key that is not there yet; the revision."""
        assert not key.exists()
        return self._written(name, self.run("put", name, "--key", key, given=data))

    def read(self, name: str, key: Path, *, revision: int = 0) -> bytes:
        """Return the data of the current revision, or of an earlier one."""
        earlier = ("--revision", str(revision)) if revision else ()
        return self._succeeded(self.run(self.word("read"), name, "--key", key, *earlier))

    def output(self, *arguments: str | Path) -> str:
        """Return what the program writes."""
        return self._succeeded(self.run(*arguments)).decode()

    def update(self, name: str, key: Path, data: bytes) -> int:
        return self._written(name, self.run(self.word("update"), name, "--key", key, given=data))

    def rotate(self, name: str, key: Path, new_key: Path) -> int:
        """Hands the record to a key that is not there yet."""
        assert not new_key.exists()
        return self._written(name, self.run("rotate", name, "--key", key, "--new-key", new_key))

    def delete(self, name: str, key: Path) -> int:
        return self._written(name, self.run("delete", name, "--key", key))

    def refused(self, *arguments: str | Path, given: bytes = b"") -> str:
        """The one line that the program says instead of doing it."""
        done = self.run(*arguments, given=given)
        line = done.stderr.decode()
        assert (done.returncode in self.failed, done.stdout, line.count("\n")) == (True, b"", 1), line
        return line

    def run(self, *arguments: str | Path, given: bytes = b"") -> Done:
        """Runs the program to its end, whatever that is."""
        return self._ended(
            [*self.command, *arguments],
            given,
            os.environ | {"KEYVAULT_STATE": "", "KEYVAULT_KEYS": ""} | self.environment,
        )

    def _ended(self, command: Command, given: bytes, environment: dict[str, str]) -> Done:
        return subprocess.run(command, input=given, env=environment, capture_output=True, timeout=60, check=False)

    def _succeeded(self, done: Done) -> bytes:
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def _written(self, name: str, done: Done) -> int:
        words, _, revision = self._succeeded(done).decode().rpartition(" ")
        assert words == f"{name} is at revision"
        return int(revision)


@dataclass(frozen=True)
class KeyvaultCommand(Client):
    """`keyvault`, which leaves the making of keys and the choice between create and update to its user."""

    words: ClassVar[Mapping[str, str]] = {"rotate": "rotate-key"}

    def update(self, name: str, key: Path, data: bytes) -> int:
        return self._written(name, self.run("update", name, "--key", key, "--allow-empty", given=data))

    def create(self, name: str, key: Path, data: bytes) -> int:
        self.generate(name, key)
        return self._written(name, self.run("create", name, "--key", key, given=data))

    def rotate(self, name: str, key: Path, new_key: Path) -> int:
        self.generate(name, new_key)
        return self._written(name, self.run("rotate-key", name, "--key", key, "--new-key", new_key))

    def _ended(self, command: Command, given: bytes, environment: dict[str, str]) -> Done:
        return run_forked(command, given=given, environment=environment, timeout=60)

    def generate(self, name: str, key: Path) -> None:
        """A fresh key for this name, in a file."""
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._succeeded(self.run("generate-key", name)))
