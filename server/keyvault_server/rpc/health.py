"""grpc.health.v1: readiness, which depends on the backends, and liveness, which does not.

Readiness is the status of the services "" and keyvault.v1.KeyVault: SERVING means that the backends and the audit log
answered lately. Liveness is the status of the service "liveness": SERVING means that the event loop turns. A probe that
restarts a server must ask for liveness: an outage of KMS or DynamoDB is not repaired by a restart of every replica.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyvault_server.core.background import in_background
from keyvault_server.core.errors import BackendFault

READINESS = ("", "keyvault.v1.KeyVault")
LIVENESS = "liveness"
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_log = logging.getLogger(__name__)


class Backend(Protocol):
    """Something that the server depends on to be ready."""

    async def check(self) -> None:
        """Raise unless it can be used now."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # grpc_health has no stubs
    """One status for readiness, and SERVING for liveness, for calls of Check and Watch.

    grpc_health's own servicer holds a lock while it writes to a watcher, and needs it to set a status: a watcher that
    does not read would block readiness and the stop. A watcher that leaves also ends the updates of the others.
    """

    def __init__(self, alive: Callable[[], bool] = lambda: True) -> None:
        """`alive` says whether liveness is SERVING; watchers see it at the next `set`."""
        self._alive = alive
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()

    def set(self, status: int) -> None:
        """Set the status from now on."""
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: D102, N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        status = self._status_of(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: D102, N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        sent = None
        while True:
            changed, status = self._changed, self._status_of(request.service)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
            await changed.wait()

    def _status_of(self, service: str) -> int:
        if service == LIVENESS:
            return _SERVING if self._alive() else _NOT_SERVING
        return self._status if service in READINESS else _UNKNOWN


class Readiness:
    """Checks the backends every `interval` seconds and sets the health status accordingly."""

    def __init__(
        self,
        *backends: Backend,
        interval: float = 5.0,
        timeout: float = 5.0,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """`alive` is liveness, which does not depend on the backends."""
        self.servicer = Health(alive)
        self._backends = backends
        self._interval = interval
        self._timeout = timeout
        self._ready: bool | None = None
        self._left = False

    @property
    def ready(self) -> bool:
        """Whether the last check succeeded."""
        return bool(self._ready)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep the status up to date while the body runs; it is set when the body begins."""
        await self._look()
        async with in_background(self._watch()):
            yield

    def leave(self) -> None:
        """Set NOT_SERVING for good."""
        self._left = True
        self.servicer.set(_NOT_SERVING)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._look()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                for backend in self._backends:
                    await backend.check()
            ready, cause = True, ""
        except Exception as error:  # any error means "not ready"
            ready, cause = False, _cause(error)
        if ready is not self._ready:
            _log.log(logging.INFO if ready else logging.ERROR, "readiness", extra={"ready": ready, "cause": cause})
            self._ready = ready
        self.servicer.set(_SERVING if ready and not self._left else _NOT_SERVING)


def _cause(error: Exception) -> str:
    """Return the class of the error, and a backend's own cause; another text may hold names of the backend."""
    fault = error if isinstance(error, BackendFault) else error.__cause__
    return f"{type(error).__name__}: {fault}" if isinstance(fault, BackendFault) else type(error).__name__


async def is_serving(address: str, service: str = "") -> bool:
    """Ask a server in plaintext whether a service is SERVING; return False if it does not answer within 3 s.

    A proxy of the environment is not used: a health check is about this machine or its neighbour.
    """
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=3.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == _SERVING)
