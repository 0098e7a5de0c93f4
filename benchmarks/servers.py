"""Server processes of the benchmarks: on one core, in the shapes that operators run, from any version's tree.

    plain        no TLS, no callers, no audit log: the server as it starts without settings
    tls          the same over TLS
    production   mutual TLS, a policy, an audit log
    aws          plain, on a stand-in for DynamoDB and KMS that answers at once, on the generator's core
    aws-3ms      the same; the stand-in answers after 3 ms

The rule of this file: everything but the shape is the server's default, its limits included.
"""

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.aws_stand_in import ARN, TABLE
from benchmarks.hpack import RequestHeaders, grpc_headers
from benchmarks.http2 import Connection, connect
from keyvault_api.names import POLICY_METHODS
from tests.support.certificates import Authority, Issued, dns, uri

ROOT = Path(__file__).resolve().parent.parent
LATENCIES = {"aws": 0.0, "aws-3ms": 3.0}
"""Milliseconds that the stand-in for AWS takes, by shape."""
SHAPES = ("plain", "tls", "production", *LATENCIES)
KNOWN, LIMITED, DENIED, UNIDENTIFIED = "known", "limited", "denied", "unidentified"
"""Callers in the production shape: one that may do everything, one without quota left, one that may do nothing, and one
whose certificate has no name."""
SERVER_CORE, GENERATOR_CORE = 0, (os.cpu_count() or 1) - 1
_TICK = os.sysconf("SC_CLK_TCK")
_PLENTY = "{ per_second = 1_000_000_000, burst = 1_000_000_000_000 }"
_READY = re.compile(r"ready on (\S+)")


def sources_of(tree: Path) -> str:
    """Return the PYTHONPATH of a tree."""
    return os.pathsep.join(str(tree / source) for source in ("protos/python", "server", "client"))


OUR_SOURCES = os.pathsep.join((str(ROOT), sources_of(ROOT)))
"""PYTHONPATH of this tree, benchmarks and tests included."""


@dataclass(frozen=True)
class Server:
    """A running server, and what its callers need."""

    pid: int
    address: str
    callers: Mapping[str, ssl.SSLContext] = field(default_factory=dict)
    """TLS of each caller; empty in plaintext."""
    start_seconds: float = 0.0
    """From the command until it was ready."""

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its threads, those that ended included, to 10 ms."""
        return cpu_seconds(self.pid)

    def memory(self, name: str = "VmRSS") -> float:
        """Return its resident memory in MB (10^6 bytes); that of "VmHWM" is the most it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e6

    async def connect(self, method: str, caller: str = KNOWN) -> Connection:
        """Open a connection for calls of one method ("Read", or a path)."""
        tls = self.callers.get(caller)
        path = method if method.startswith("/") else f"/keyvault.v1.KeyVault/{method}"
        headers = grpc_headers(path, "localhost", "https" if tls else "http")
        return await connect(self.address, RequestHeaders(headers), tls)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, of all its threads, those that ended included, to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, core: int = SERVER_CORE
) -> Iterator[Server]:
    """Run a server on its core that prints "... ready on host:port"; end it with the body."""
    began = time.perf_counter()
    with log.open("ab") as stderr, on_core(core):
        process = subprocess.Popen(
            command,
            env=child_environment(environment or {}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=log.parent,
        )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            found = _READY.search(process.stdout.readline())
            if not found:
                sys.exit(f"benchmarks: the server did not start:\n{log.read_text(errors='replace')}")
            yield Server(process.pid, found[1], start_seconds=time.perf_counter() - began)
        finally:
            stop(process)


def child_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return our environment and more; programs keep their compiled modules, as installed ones have them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | dict(more)


def stop(process: "subprocess.Popen[str]", seconds: float = 30.0) -> None:
    """End a process, by force if it does not end by itself."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process, and those that it starts, on one core while the body runs."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def pin_generator() -> None:
    """Keep this process off the servers' core."""
    if (os.cpu_count() or 1) < 2:
        sys.exit("benchmarks: two cores are needed, one for the server and one for the load")
    os.sched_setaffinity(0, {GENERATOR_CORE})


@contextlib.contextmanager
def vault(shape: str, folder: Path, tree: Path = ROOT, **settings: str) -> Iterator[Server]:
    """Run the server of a tree in a shape, with its data in a new folder."""
    folder.mkdir()
    callers: dict[str, ssl.SSLContext] = {}
    if shape in ("tls", "production"):
        callers, secured = _secure(folder, production=shape == "production")
        settings = secured | settings
    serve: tuple[str, ...] = (sys.executable, "-P", "-m", "keyvault_server", "serve", "--listen", "127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        if shape in LATENCIES:
            settings = stack.enter_context(aws_stand_in(folder, LATENCIES[shape])) | settings
        else:
            serve = (*serve, "--data", str(folder / "data"))
        server = stack.enter_context(started(serve, folder / "log", {"PYTHONPATH": sources_of(tree)} | settings))
        yield replace(server, callers=callers)


@contextlib.contextmanager
def aws_stand_in(folder: Path, latency_ms: float) -> Iterator[dict[str, str]]:
    """Run the stand-in for AWS on the generator's core while the body runs; yield the settings of a server on it."""
    command = (sys.executable, "-m", "benchmarks.aws_stand_in", "--latency-ms", str(latency_ms))
    with started(command, folder / "aws-log", {"PYTHONPATH": OUR_SOURCES}, GENERATOR_CORE) as stand_in:
        yield {
            "KEYVAULT_BACKEND": "aws",
            "KEYVAULT_AWS_MASTER_KEYS": json.dumps({"1": ARN}),
            "KEYVAULT_AWS_TABLE": TABLE,
            "KEYVAULT_AWS_KMS_ENDPOINT": f"http://{stand_in.address}",
            "KEYVAULT_AWS_DYNAMODB_ENDPOINT": f"http://{stand_in.address}",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
        }


def _secure(folder: Path, *, production: bool) -> tuple[dict[str, ssl.SSLContext], dict[str, str]]:
    """Write certificates and a policy; return the callers' TLS and the server's settings."""
    authority = Authority(until=86_400.0)
    (folder / "ca.pem").write_bytes(authority.pem)
    certificate, key = authority.issue(dns("localhost"), until=86_400.0).write(folder, "server")
    settings = {"KEYVAULT_TLS_CERTIFICATE": str(certificate), "KEYVAULT_TLS_PRIVATE_KEY": str(key)}
    if not production:
        return {KNOWN: _context(folder, None)}, settings
    names = {name: (uri(_identity(name)),) for name in (KNOWN, LIMITED, DENIED)} | {UNIDENTIFIED: ()}
    callers = {name: _context(folder, authority.issue(*sans, until=86_400.0)) for name, sans in names.items()}
    (folder / "policy.toml").write_text(_policy())
    settings["KEYVAULT_TLS_CLIENT_CA"] = str(folder / "ca.pem")
    settings["KEYVAULT_POLICY"] = str(folder / "policy.toml")
    settings["KEYVAULT_AUDIT_FILE"] = str(folder / "audit.jsonl")
    return callers, settings


def _context(folder: Path, issued: Issued | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    if issued is not None:
        context.load_cert_chain(*issued.write(folder, "caller"))
    return context


def _identity(name: str) -> str:
    return f"spiffe://benchmark.test/{name}"


def _policy() -> str:
    """Return a policy of the three callers; the server's own bounds are the only ones on the known one."""
    buckets = [f"{bucket} = {_PLENTY}" for bucket in (*POLICY_METHODS, "read_bytes", "refused")]
    spent = ["Read = { per_second = 0.001, burst = 1 }", f"refused = {_PLENTY}"]
    entries = ((KNOWN, "*", buckets), (LIMITED, "*", spent), (DENIED, "nothing/here", [f"refused = {_PLENTY}"]))
    return "\n".join(_entry(*entry) for entry in entries)


def _entry(name: str, names: str, limits: list[str]) -> str:
    return "\n".join(
        (
            "[[caller]]",
            f'identity = "{_identity(name)}"',
            'tenant = "benchmark"',
            "[[caller.allow]]",
            'methods = ["*"]',
            f'names = ["{names}"]',
            "[caller.limits]",
            "calls_in_flight = 100_000",
            *limits,
            "",
        )
    )
