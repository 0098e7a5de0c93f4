"""What gRPC's core writes to standard error: refused handshakes become numbers and lines, the rest stays visible."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.certificates import HOUR, LOCALHOST, Authority, Issued, uri
from tests.support.processes import server_process
from tests.support.repository import ROOT

pytestmark = [pytest.mark.process, pytest.mark.slow]


def shake_hands(address: str, roots: bytes, shown: Issued | None, folder: Path) -> None:
    """Connect with this client certificate, or none, and wait for the server's verdict."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    if shown:
        context.load_cert_chain(*shown.write(folder, "client"))
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as tls:
                tls.recv(1)
        except OSError:
            return


def eventually_scraped(url: str, line: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        with urlopen(url, timeout=5) as response:
            text = response.read().decode()
        if line in text.splitlines():
            return
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_a_refused_handshake_is_counted_and_logged(tmp_path: Path) -> None:
    authority = Authority()
    certificate, private_key = authority.issue(*LOCALHOST).write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    policy = '[[caller]]\nidentity = "spiffe://example.org/*"\ntenant = "acme"\n'
    (tmp_path / "policy.toml").write_text(policy)
    settings = {
        "KEYVAULT_POLICY": str(tmp_path / "policy.toml"),
        "KEYVAULT_TLS_CERTIFICATE": str(certificate),
        "KEYVAULT_TLS_PRIVATE_KEY": str(private_key),
        "KEYVAULT_TLS_CLIENT_CA": str(tmp_path / "ca.pem"),
        "KEYVAULT_METRICS_LISTEN": "127.0.0.1:0",
    }
    expired = authority.issue(uri("spiffe://example.org/a"), since=-2 * HOUR, until=-HOUR)
    with server_process(tmp_path / "data", **settings) as server:
        assert server.process.stdout is not None
        metrics = server.process.stdout.readline().split()[-1]
        for shown in (expired, None, expired):
            shake_hands(server.address, authority.pem, shown, tmp_path)
        count = 'keyvault_tls_handshakes_refused_total{reason="%s"} %s'
        eventually_scraped(metrics, count % ("CERTIFICATE_VERIFY_FAILED", "2.0"))
        eventually_scraped(metrics, count % ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "1.0"))
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line["message"] == "TLS handshake refused"]
    assert line["meaning"] == "certificate has expired"
    assert line["levelname"] == "WARNING"


PROGRAM = """
import os, sys
from keyvault_server.operations.core_log import core_log
with core_log(lambda line: print("taken", line.decode().strip(), flush=True)):
    print("to sys.stderr", file=sys.stderr)
    os.write(2, b"I1128 23:49:22.434974   29286 x.cc:1] a note\\n")
    os.write(2, b"F1128 23:49:22.434974   29286 x.cc:1] a stack\\n" + b"    @ 0x1\\n" * 100)
    if "abort" in sys.argv:
        os.abort()
print("after", file=sys.stderr)
"""

OUTPUT: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 30}


@pytest.mark.parametrize("how", ["abort", "end"])
def test_the_stack_of_an_abort_reaches_standard_error(how: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    # The process that divides the lines may outlive an abort by a moment; it has the pipe that run() reads to its end.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "serve", how], env=environment, cwd=ROOT, check=False, **OUTPUT
    )
    assert done.returncode == (-signal.SIGABRT if how == "abort" else 0), done.stderr
    assert done.stderr.count("@ 0x1") == 100
    assert "a stack" in done.stderr
    assert "to sys.stderr" in done.stderr
    assert "a note" not in done.stderr
    if how == "end":
        assert "after" in done.stderr
        assert "a note" in done.stdout


def test_a_chosen_verbosity_is_shown_too() -> None:
    environment = os.environ | {"GRPC_VERBOSITY": "info"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, "serve"], env=environment, cwd=ROOT, check=False, **OUTPUT)
    assert "a note" in done.stderr
    assert "a note" in done.stdout


def test_a_flood_of_lines_stops_no_writer(tmp_path: Path) -> None:
    """Nobody reads standard error: the writes to descriptor 2 are lost, and do not wait."""
    program = """
import os, sys
from keyvault_server.operations.core_log import core_log
with core_log(lambda line: None):
    lost = 0
    for _ in range(100_000):
        try:
            os.write(2, b"E a line that nobody reads\\n" * 4)
        except BlockingIOError:
            lost += 1
    print(lost, flush=True)
    os.kill(os.getpid(), 9)
"""
    unread, full = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=60,
            check=False,
        )
        assert int(done.stdout) > 0
    finally:
        os.close(unread)
        os.close(full)
