"""The embedded server's process, as the test sees it: start it, give it orders, end it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHILD = "keyvault_client.testing.child"
LOG = "server.log"
"""File in the process's folder that has its standard error."""

_PREFIX = "KEYVAULT_"
_DROPPED = frozenset(("GRPC_VERBOSITY", "PYTHONWARNINGS", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG"))
"""Variables that are meant for the test: a warning must not end the server."""
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy", "all_proxy")
_OURS = frozenset(
    _PREFIX + name for name in ("LISTEN", "DATA", "BACKEND", "WORKERS", "TLS_CERTIFICATE", "TLS_PRIVATE_KEY")
)
"""Settings that the embedded server has to have as it has them."""
_END_SECONDS = 10.0


class EmbeddedServerError(Exception):
    """The embedded server did not do what was asked; one sentence says why."""


class ServerProcess:
    """One process in a folder of its own. Orders may come from any thread, one after the other."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """Start it; `settings` are variables of docs/settings.md. Raises ValueError for one that is not free."""
        self._environment = environment(os.environ, settings or {})
        self.folder = Path(tempfile.mkdtemp(prefix="keyvault-"))
        self._lock = threading.Lock()
        self._number = 0
        try:
            self._process = self._launch()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _launch(self) -> "subprocess.Popen[bytes]":
        """Start the process. Raises OSError.

        Its session is one of its own: Ctrl-C is for the test. When the test ends, however it does, the process reads
        the end of its standard input.
        """
        with (self.folder / LOG).open("wb") as log:
            return subprocess.Popen(
                # -P: a file in the current folder must not take the place of a module.
                [sys.executable, "-P", "-m", _CHILD, self.folder],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What the server wrote to standard error."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / LOG).read_text(errors="replace")
        return ""

    def ask(self, do: str, **order: Any) -> Any:
        """Give an order and return its result. Raises EmbeddedServerError."""
        with self._lock:
            self._number += 1
            reply = self._reply(json.dumps({"do": do, "number": self._number, **order}).encode() + b"\n")
        if "failed" in reply:
            raise EmbeddedServerError(reply["failed"])
        return reply["done"]

    def end(self) -> None:
        """End the process and remove its folder. May be called more than once, and in the middle of an order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # what it left, if somebody killed it

    def _reply(self, order: bytes) -> dict[str, Any]:
        """Return the reply to an order; an earlier one may still come, if Ctrl-C interrupted the wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(order)
            self._process.stdin.flush()
            while line := self._process.stdout.readline():
                reply: dict[str, Any] = json.loads(line)
                if reply["number"] == self._number:
                    return reply
        except (OSError, ValueError):  # the pipe is broken or closed
            pass
        raise EmbeddedServerError(self._why_ended())

    def _why_ended(self) -> str:
        if self._process.stdin is None or self._process.stdin.closed:
            return "the embedded server was closed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        lines = self.log.splitlines()
        said = f": {lines[-1]}" if lines else ""
        return f"the embedded server's process ended with status {self._process.returncode}{said}"


def environment(ours: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the process's environment: this one, without proxies and settings of KeyVault, and with these settings.

    Raises ValueError for a setting that the embedded server chooses itself, or that is not one.
    """
    for name in settings:
        if name in _OURS or not name.startswith(_PREFIX):
            what = "the embedded server chooses it" if name in _OURS else "docs/settings.md lists them all"
            raise ValueError(f"cannot set {name}: {what}")
    kept = {
        name: value
        for name, value in ours.items()
        if not name.startswith(_PREFIX) and name.lower() not in _PROXIES and name not in _DROPPED
    }
    return kept | dict(settings)
