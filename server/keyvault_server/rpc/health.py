"""grpc.health.v1 with true readiness: SERVING means that both backends answered lately."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyvault_server.core.background import in_background

SERVICES = ("", "keyvault.v1.KeyVault")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_log = logging.getLogger(__name__)


class Backend(Protocol):
    """Something that a server needs to be ready."""

    async def check(self) -> None:
        """Returns if it can be used now; raises otherwise."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # grpc_health has no stubs
    """One status for all SERVICES, told to whoever asks or watches.

    grpc_health's own servicer waits for a lock before it takes a new status, and holds it while it writes to a watcher:
    a stranger who does not read would hold up readiness and the stop. And a watcher who leaves ends the others' news.
    """

    def __init__(self) -> None:
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()

    def set(self, status: int) -> None:
        """From now on."""
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: D102, N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(  # noqa: D102, N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            changed, status = self._changed, self._status if request.service in SERVICES else _UNKNOWN
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            await changed.wait()


class Readiness:
    """Asks the backends every `interval` seconds and tells the health service what they said."""

    def __init__(self, *backends: Backend, interval: float = 5.0, timeout: float = 5.0) -> None:
        self.servicer = Health()
        self._backends = backends
        self._interval = interval
        self._timeout = timeout
        self._ready: bool | None = None
        self._left = False

    @property
    def ready(self) -> bool:
        """What was told last."""
        return bool(self._ready)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keeps the status true while the body runs; it is set when the body begins."""
        await self._look()
        async with in_background(self._watch()):
            yield

    def leave(self) -> None:
        """NOT_SERVING from now on, for good."""
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
        except Exception as error:  # whatever it is, the answer is "not ready"; its text may hold names of the backend
            ready, cause = False, type(error).__name__
        if ready is not self._ready:
            _log.log(logging.INFO if ready else logging.ERROR, "readiness", extra={"ready": ready, "cause": cause})
            self._ready = ready
        self.servicer.set(_SERVING if ready and not self._left else _NOT_SERVING)


async def is_serving(address: str) -> bool:
    """Asks a server in plaintext whether it is SERVING; False too if it does not answer within 3 s."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=3.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == _SERVING)
