"""The process of the embedded server: `python -m keyvault_client.testing.child FOLDER`.

It runs `python -m keyvault_server serve` on a unix socket in the folder, in its main thread, and the proxy in front of
it. Orders come in over standard input, one JSON object a line; each gets one line on standard output.

The rules of this file:

- When standard input ends, the folder is removed and the process ends. So nothing is left when the test was killed.
- The port stays ours while the server is stopped: it is bound, and nobody listens.
- The server is started by its module's name, as a user does it: nothing here imports it.
"""

import base64
import contextlib
import gc
import json
import logging
import os
import queue
import runpy
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.testing.faults import Faults, Order
from keyvault_client.testing.process import LOG
from keyvault_client.testing.proxy import CannotListen, Proxy

_SOCKET = "unix:server.sock"  # relative to the folder: the path of a unix socket has at most 107 bytes
_DATA = "data"
_READY = b"is ready on"
_SECONDS = 60.0
"""Longest time that the server may take to start or to stop."""
_END_SECONDS = 5.0
"""Longest time that the process may take to end in order."""

INSTALL = "pip install 'keyvault-grpc[testing]'"


class Failed(Exception):
    """An order failed; one sentence says why."""


class Child:
    """The server, started and stopped by orders."""

    def __init__(self, folder: Path, replies: int) -> None:
        """`replies` is the descriptor that replies go to."""
        self._folder = folder
        self._replies = replies
        self._faults = Faults()
        self._begin: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True: serve. False: end the process."""
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._proxy: Proxy | None = None
        self._port = 0
        self._held: socket.socket | None = None
        """Keeps the port while the server is stopped."""
        self._orders: dict[str, Callable[[dict[str, Any]], Any]] = {
            "start": lambda _: self._start(),
            "stop": lambda _: self._stop(),
            "reset": lambda _: self._reset(),
            "key": lambda order: self._generate_key(order["scope"]),
            "add": lambda order: self._faults.add(Order.from_json(order["fault"])),
            "calls": lambda order: self._faults.calls(order["fault"]),
            "remove": lambda order: self._faults.remove(order["fault"]),
            "clear": lambda _: self._faults.clear(),
        }

    def run(self) -> None:
        """Serve each time that an order says so, until the orders end; then remove the folder."""
        threading.Thread(target=self._obey, daemon=True).start()
        threading.Thread(target=self._read_banner, args=(_banner_pipe(),), daemon=True).start()
        while self._begin.get():
            self._events.put(_serve())
        _remove(self._folder)

    def _obey(self) -> None:
        for line in sys.stdin.buffer:
            order = json.loads(line)
            try:
                reply = {"done": self._orders[order["do"]](order)}
            except (Failed, CannotListen) as failed:
                reply = {"failed": str(failed)}
            except Exception as bug:  # the test must not wait for ever
                reply = {"failed": f"unexpected {type(bug).__name__} of the embedded server: {bug}"}
            os.write(self._replies, json.dumps(reply | {"number": order["number"]}).encode() + b"\n")
        self._end()

    def _end(self) -> None:
        """End the process in order, so that its coverage is measured, or else after some seconds."""

        def abandon() -> None:
            _remove(self._folder)
            os._exit(1)

        timer = threading.Timer(_END_SECONDS, abandon)
        timer.daemon = True
        timer.start()
        self._stop()
        self._begin.put(False)

    def _read_banner(self, banner: int) -> None:
        with os.fdopen(banner, "rb") as lines:
            for line in lines:
                if _READY in line:
                    self._events.put("")

    def _start(self) -> int:
        """Start the server, unless it runs; return the port."""
        if self._proxy is None:
            self._begin.put(True)
            self._wait_for_server(ready=True)
            try:
                self._release_port()
                self._proxy = Proxy(_SOCKET, self._faults, self._port)
            except CannotListen:
                self._end_server()
                raise
            self._port = self._proxy.port
        return self._port

    def _stop(self) -> None:
        """Stop the server as SIGTERM does, unless it is stopped: in-flight calls end first."""
        if self._proxy is None:
            return
        self._end_server()
        self._proxy.stop()
        self._proxy = None
        self._hold_port()

    def _end_server(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        self._wait_for_server(ready=False)

    def _wait_for_server(self, *, ready: bool) -> None:
        """Return when it is ready, or has ended. Raises Failed."""
        try:
            ended = self._events.get(timeout=_SECONDS)
        except queue.Empty:
            raise Failed(f"the server did not {'start' if ready else 'stop'} within {_SECONDS:.0f} s") from None
        if ready and ended:
            raise Failed(ended)

    def _reset(self) -> int:
        """Remove all records, master keys and faults; start the server, if it was stopped."""
        self._faults.clear()
        self._stop()
        shutil.rmtree(_DATA, ignore_errors=True)
        return self._start()

    def _generate_key(self, scope: str) -> dict[str, str]:
        if self._proxy is None:
            raise Failed("the server is stopped: start() it first")
        request = pb.GenerateKeyRequest(scope=scope)
        try:
            made = pb.GenerateKeyResponse.FromString(self._proxy.call("GenerateKey", request.SerializeToString()))
        except grpc.RpcError as refused:
            code: Any = refused
            raise Failed(f"GenerateKey: {code.details()}") from None
        return {name: base64.b64encode(value).decode() for name, value in _fields(made).items()}

    def _hold_port(self) -> None:
        """Bind the port without listening: connections are refused, and no other program gets it."""
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            self._held.bind(("127.0.0.1", self._port))

    def _release_port(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _fields(made: pb.GenerateKeyResponse) -> dict[str, bytes]:
    return {
        "tenant": made.tenant.encode(),
        "scope": made.scope.encode(),
        "plaintext_key": made.plaintext_key,
        "wrapped_key": made.wrapped_key,
    }


def _serve() -> str:
    """Serve until SIGTERM; return a sentence about how it ended."""
    sys.argv = ["keyvault-server", "serve", "--data", _DATA, "--listen", _SOCKET]
    try:
        runpy.run_module("keyvault_server", run_name="__main__")
    except ModuleNotFoundError as missing:
        return f"the server is not installed (no module {missing.name}): {INSTALL}"
    except SystemExit:
        pass
    finally:
        _clear_up()
    return _last_sentence() or "the server ended"


def _clear_up() -> None:
    """Release what a server leaves to the end of its process: its log, and objects that it excluded from collection."""
    log = logging.getLogger()
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stderr:
            handler.stream.close()
    log.handlers.clear()
    gc.unfreeze()
    gc.collect()


def _last_sentence() -> str:
    """Return what the server said last to its user, without its name; "" if it said nothing."""
    prefix = "keyvault-server: "
    lines = Path(LOG).read_text(errors="replace").splitlines()
    return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), "")


def _banner_pipe() -> int:
    """Let descriptor 1 write into a pipe; return its other end."""
    readable, writable = os.pipe()
    os.dup2(writable, 1)
    os.close(writable)
    return readable


def _remove(folder: Path) -> None:
    """Remove the folder, while the server may still write into it."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def main() -> None:
    """Run the process whose folder is the argument."""
    folder = Path(sys.argv[1])
    os.chdir(folder)
    Child(folder, os.dup(1)).run()


if __name__ == "__main__":
    main()
