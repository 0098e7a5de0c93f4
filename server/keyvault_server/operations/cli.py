"""The command `keyvault-server`.

The rules of this file: data and the banner go to stdout, the log (JSON lines) and refusals to stderr. A refusal is one
line (`endings.py`). Flags override the environment, which `environment.py` reads.
"""

import asyncio
import json
import logging
import shlex
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TextIO

import uvloop
from cyclopts import App, Parameter
from pythonjsonlogger.json import JsonFormatter

from keyvault_api.names import POLICY_METHODS, is_scope
from keyvault_api.process import close_memory
from keyvault_server.access.patterns import check_identity
from keyvault_server.access.policy import unknown_rpc
from keyvault_server.operations.audit_cli import audit_app
from keyvault_server.operations.banner import announce
from keyvault_server.operations.composition import check_files, open_records, read_policy
from keyvault_server.operations.core_log import core_log
from keyvault_server.operations.dev_certs import TRUST_DOMAIN, write_dev_certs
from keyvault_server.operations.endings import bugs_logged, end_in_one_line, refuse
from keyvault_server.operations.environment import load_settings
from keyvault_server.operations.lifecycle import serve
from keyvault_server.operations.memory import MIB, parts
from keyvault_server.operations.open_files import COMMAND, allow_open_files, needed_by
from keyvault_server.operations.settings import Settings, check_address
from keyvault_server.operations.shares import describe_shares
from keyvault_server.operations.store_cli import NAME_RULE, Backend, Data, backup, init, purge, rotate_master_key, sweep
from keyvault_server.operations.supervisor import supervise
from keyvault_server.operations.worker import Worker
from keyvault_server.rpc.access_log import accepts_more
from keyvault_server.rpc.handshakes import RefusedHandshakes
from keyvault_server.rpc.health import LIVENESS, is_serving

ConfigFile = Annotated[
    Path | None, Parameter(help="TOML file of settings; variables override it (KEYVAULT_CONFIG names it, too).")
]
PolicyFile = Annotated[Path | None, Parameter(help="TOML file that says who may call what (KEYVAULT_POLICY).")]

app = App(
    name="keyvault-server",
    help="A vault that stores only what it cannot read. Settings are KEYVAULT_* variables: see check-config.\n\n"
    "Exit status: 0 success, 1 refused, 2 bad usage; one line on standard error says why.",
    version=lambda: version("keyvault-grpc"),
    default_parameter=Parameter(negative="", show_default=False),
)
policy_app = App(name="policy", help="Test a policy file.")
app.command(policy_app)
app.command(audit_app(load_settings, lambda: open_records(load_settings())))
for command in (init, backup, rotate_master_key, purge, sweep):
    app.command(command)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Waivers:
    """Protections to waive on a non-loopback address; each is also a variable KEYVAULT_INSECURE_*."""

    insecure_plaintext: Annotated[bool | None, Parameter(help="Listen on a non-loopback address without TLS.")] = None
    insecure_anonymous: Annotated[bool | None, Parameter(help="... without authentication.")] = None
    insecure_no_policy: Annotated[bool | None, Parameter(help="... without a policy.")] = None
    insecure_no_audit: Annotated[bool | None, Parameter(help="... without an audit log.")] = None
    insecure_embedded_keys: Annotated[bool | None, Parameter(help="... with master keys in a file.")] = None
    insecure_reflection: Annotated[bool | None, Parameter(help="... with reflection.")] = None


NOTHING_WAIVED = Waivers()


@app.command(name="serve")
def serve_command(
    *,
    config: ConfigFile = None,
    backend: Backend = None,
    data: Data = None,
    listen: Annotated[str | None, Parameter(help="host:port or unix:/path (KEYVAULT_LISTEN).")] = None,
    admin_listen: Annotated[str | None, Parameter(help="host:port for health only (KEYVAULT_ADMIN_LISTEN).")] = None,
    policy: PolicyFile = None,
    history: Annotated[
        int | None, Parameter(help="Earlier revisions of a record that can be read, 0 to 15 (KEYVAULT_HISTORY).")
    ] = None,
    workers: Annotated[
        int | None, Parameter(help="Processes on one port, with --backend aws (KEYVAULT_WORKERS).")
    ] = None,
    waivers: Waivers = NOTHING_WAIVED,
    worker: Annotated[int | None, Parameter(show=False, help="Number of this worker: its parent gives it.")] = None,
    channel: Annotated[int | None, Parameter(show=False, help="Descriptor of the line to that parent.")] = None,
) -> None:
    """Serve until SIGTERM or SIGINT. The embedded backend is created on first use."""
    given = {"backend": backend, "data": data, "listen": listen, "admin_listen": admin_listen, "policy": policy}
    given |= {"history": history, "workers": workers} | asdict(waivers)
    if (worker is None) is not (channel is None):
        refuse("--worker and --channel are for the parent of workers: give --workers", 2)
    if worker is not None and channel is not None:
        this = Worker(worker, channel)
        with this.reporting_refusals():
            _serve(load_settings(config, **given), this)
    else:
        _serve(load_settings(config, **given))


def _serve(settings: Settings, worker: Worker | None = None) -> None:
    allow_open_files(needed_by(settings))
    handshakes = RefusedHandshakes()
    with core_log(handshakes.take):
        _log_to_stderr(settings, worker)
        if settings.workers > 1 and worker is None:
            same_command = [sys.executable, *sys.orig_argv[1:]]
            with bugs_logged():
                asyncio.run(supervise(settings, same_command, lambda server: announce(settings, server)))
            return
        with bugs_logged():
            if worker:
                uvloop.run(worker.serve(settings, handshakes))
            else:
                uvloop.run(serve(settings, lambda server: announce(settings, server), handshakes))


@app.command
def dev_certs(folder: Annotated[Path, Parameter(help="Created if it does not exist.")], /) -> None:
    """Write certificates of a CA, a server and two clients into a folder, to try out TLS."""
    made = write_dev_certs(folder)
    print(f"CA       {made.ca}")
    print(f"server   {made.server.certificate} {made.server.private_key}")
    for name, pair in made.clients.items():
        print(f"client   {pair.certificate} {pair.private_key} spiffe://{TRUST_DOMAIN}/{name}")


@policy_app.command(name="test")
def policy_test(
    method: Annotated[str, Parameter(help="An RPC, such as Read.")],
    name: Annotated[str, Parameter(help='A key_id, a scope, or the prefix of a List; "" for an empty one.')],
    /,
    *,
    identity: Annotated[str, Parameter(name="--as", help="Such as spiffe://example.org/billing or jwt:SUBJECT.")],
    policy: PolicyFile = None,
) -> None:
    """Show whether the policy allows a call, and which line decides; exit 1 if it is denied."""
    path = policy or load_settings().policy
    if path is None:
        refuse("which policy? Give --policy, or set KEYVAULT_POLICY", 2)
    if method not in POLICY_METHODS:
        refuse(unknown_rpc(method), 2)
    try:
        check_identity(identity)
    except ValueError as error:
        refuse(f"invalid identity {identity!r}: {error}", 2)
    if name and not is_scope(name):
        refuse(f"invalid name {name!r}: {NAME_RULE}", 2)
    decision = read_policy(path).decide(identity, method, name)
    where = f"line {decision.line}: " if decision.line else ""
    print(f"{'allowed' if decision.allowed else 'denied'}: {where}{decision.why}")
    sys.exit(0 if decision.allowed else 1)


@app.command
def check_config(*, config: ConfigFile = None, backend: Backend = None, data: Data = None) -> None:
    """Print the settings in effect, in shell syntax, and check them, the certificates and the policy.

    Comments at the end say how much memory clients can make the server take.
    """
    settings = load_settings(config, backend=backend, data=data)
    check_files(settings)
    for name, value in settings.model_dump(mode="json").items():
        variable = f"KEYVAULT_{name.upper()}"
        text = value if isinstance(value, str) else json.dumps(value)
        print(f"# {variable} is unset" if value is None else f"{variable}={shlex.quote(text)}")
    for line in describe_shares(settings):
        print(f"# {line}")
    sizes = parts(settings)
    print(f"# Clients can make the server take at most {sum(size for _, size in sizes) // MIB} MiB of memory:")
    for what, size in sizes:
        print(f"# {size / MIB:8.1f} MiB  {what}")


@app.command
def healthcheck(
    *,
    address: Annotated[str | None, Parameter(help="Default: the admin address, else the main one.")] = None,
    liveness: Annotated[bool, Parameter(help="Ask whether the process works, whatever its backends do.")] = False,
) -> None:
    """Exit 0 if a server answers SERVING in plaintext, else 1. For containers; restart on --liveness only."""
    settings = load_settings()
    if address is not None:
        try:
            check_address(address)
        except ValueError as error:
            refuse(f"--address {address}: {error}", 2)
    target = address or settings.admin_listen or settings.listen
    if not asyncio.run(is_serving(target, LIVENESS if liveness else "")):
        refuse(f"{target} is not serving in plaintext (a server with TLS does on KEYVAULT_ADMIN_LISTEN)", 1)


def main() -> None:
    """Entry point. Every command closes its memory: many read master keys or the key of the audit log."""
    close_memory()
    logging.getLogger("keyvault_server").addHandler(logging.NullHandler())  # a command that does not serve logs nothing
    end_in_one_line(_run)


def _run() -> None:
    allow_open_files(COMMAND)
    app(exit_on_error=False, print_error=False)


class _Handler(logging.StreamHandler[TextIO]):
    """Drops a line rather than block every call on the reader of stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if accepts_more(self.stream):
            super().emit(record)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a line of grpc.aio says more than that a caller left while its reply was sent, with a traceback.

    The access log has a line of such a call, and a caller that did it on purpose would fill the log.
    """
    return not str(record.msg).startswith("ExecuteBatchError raised in core")


def _log_to_stderr(settings: Settings, worker: Worker | None) -> None:
    """Log our own lines as JSON, and libraries' from WARNING on: at DEBUG botocore prints what it sends."""
    handler = _Handler(sys.stderr)
    of_worker = {"worker": worker.number} if worker else {}
    handler.setFormatter(JsonFormatter(["levelname", "name", "message"], timestamp="time", static_fields=of_worker))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
    logging.getLogger("keyvault_server").setLevel(settings.log_level)
