"""Where messages go: the guard and the service in this process, or a server process over TLS. Either answers alike.

The rule of this file: a message is bytes, and so is what comes back; nothing on the way may repair it.
"""

import functools
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol

import grpc

from keyvault_api.v1.keyvault_pb2_grpc import add_KeyVaultServicer_to_server
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.core.vault import Vault
from keyvault_server.operations.composition import open_backend, open_gate
from keyvault_server.operations.environment import load_settings
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.guard import SERVICE, CallGuard, Limits
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.service import KeyVaultService
from tests.fuzz.rule import HISTORY
from tests.support.certificates import LOCALHOST, Authority, uri
from tests.support.production_server import TENANTS, UNWRAPPED, ProductionServer, identity, policy
from tests.support.refusals import read_failure

SECONDS = 60.0
"""Longer than any call may take."""
Spoil = Callable[[KeyService, RecordStore], tuple[KeyService, RecordStore]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: str
    reason: str = ""
    body: bytes = b""
    infos: int = 0
    """How many google.rpc.ErrorInfo; one in every error that the service itself gives."""
    told: str = ""
    """All text of an error."""

    @classmethod
    def of(cls, failed: grpc.aio.AioRpcError) -> "Answer":
        """An error."""
        failure = read_failure(failed)
        told = f"{failure.message} {failure.metadata} {failure.details}"
        return cls(failure.status, failure.reason, b"", failure.kinds.count("ErrorInfo"), told)


class Target(Protocol):
    """What can be sent to."""

    async def send(self, method: str, caller: str, message: bytes) -> Answer:
        """One call by a client of `dev-certs`."""


class _Aborted(Exception):
    """What ends a call with a status, as grpc.aio's own."""


@functools.cache
def _certificate(caller: str) -> bytes:
    return Authority().issue(uri(identity(caller))).certificate


class _Context:
    """What a handler sees of a call: the little of grpc.aio.ServicerContext that the guard asks for."""

    def __init__(self, caller: str, message: bytes) -> None:
        self._caller = caller
        self._message = message
        self._ended: list[Callable[[Any], None]] = []
        self.failed: grpc.aio.AioRpcError | None = None

    async def read(self) -> bytes:
        return self._message

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [_certificate(self._caller)]}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float:
        return SECONDS

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._ended.append(callback)

    async def abort(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...]) -> NoReturn:
        nothing = grpc.aio.Metadata()
        self.failed = grpc.aio.AioRpcError(code, nothing, grpc.aio.Metadata(*trailing), details)
        raise _Aborted

    def end(self) -> None:
        for callback in self._ended:
            callback(self)


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


class _Handlers:
    """Takes the place of a grpc.aio.Server when a service is added to it."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.by_name |= handlers

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        pass


class InProcess:
    """The guard and what is behind it, without grpc."""

    def __init__(self, guard: CallGuard, handlers: dict[str, Any]) -> None:
        self._guard = guard
        self._handlers = handlers

    async def send(self, method: str, caller: str, message: bytes) -> Answer:
        """See Target. What grpc.aio would answer with UNKNOWN is a crash."""
        context = _Context(caller, message)
        try:
            handler = await self._guarded(method)
            return Answer("OK", body=await handler.stream_unary(None, context))
        except _Aborted:
            assert context.failed
            return Answer.of(context.failed)
        except Exception as error:
            return Answer("CRASH", told=repr(error))
        finally:
            context.end()

    async def _guarded(self, method: str) -> Any:
        details: Any = SimpleNamespace(method=SERVICE + method, invocation_metadata=())

        async def continuation(_: object) -> Any:
            return self._handlers[method]

        return await self._guard.intercept_service(continuation, details)


@asynccontextmanager
async def in_process(folder: Path, spoilt: Spoil = lambda *ports: ports) -> AsyncIterator[InProcess]:
    """On the embedded backend in this folder, with a policy; the access log goes nowhere. `spoilt` puts bugs in."""
    (folder / "policy.toml").write_text(policy())
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    certificate, private_key = authority.issue(*LOCALHOST).write(folder, "server")
    settings = load_settings(
        data=folder / "data",
        policy=folder / "policy.toml",
        tls_certificate=certificate,
        tls_private_key=private_key,
        tls_client_ca=folder / "ca.pem",
    )
    metrics, handlers = Metrics(), _Handlers()
    async with open_backend(settings) as (keys, records), open_gate(settings, metrics) as gate:
        nowhere: Any = _Nowhere()
        access_log = AccessLog(nowhere)
        service: Any = KeyVaultService(Vault(*spoilt(keys, records), unwrap_scopes=[UNWRAPPED], history=HISTORY))
        server: Any = handlers
        add_KeyVaultServicer_to_server(service, server)
        yield InProcess(CallGuard(Limits(10_000, SECONDS), gate, metrics, access_log), handlers.by_name)


class Wire:
    """A server process, over one connection for each caller."""

    def __init__(self, channels: dict[str, grpc.aio.Channel]) -> None:
        self._channels = channels

    async def send(self, method: str, caller: str, message: bytes) -> Answer:
        """See Target."""
        call: Any = self._channels[caller].unary_unary(SERVICE + method)
        try:
            return Answer("OK", body=await call(message, timeout=SECONDS))
        except grpc.aio.AioRpcError as failed:
            return Answer.of(failed)


@asynccontextmanager
async def wire(server: ProductionServer) -> AsyncIterator[Wire]:
    """Connected while the body runs."""
    async with AsyncExitStack() as connections:
        channels = {name: await connections.enter_async_context(server.channel(name)) for name in TENANTS}
        yield Wire(channels)
