"""grpc.health.v1 with true readiness: SERVING means that both backends answered lately."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

SERVICES = ("", "keyvault.v1.KeyVault")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_log = logging.getLogger(__name__)


class Backend(Protocol):
    """Something that a server needs to be ready."""

    async def check(self) -> None:
        """Returns if it can be used now; raises otherwise."""


class Readiness:
    """Asks the backends every `interval` seconds and tells the health service what they said."""

    def __init__(self, *backends: Backend, interval: float = 5.0, timeout: float = 5.0) -> None:
        self.servicer = health_aio.HealthServicer()
        self._backends = backends
        self._interval = interval
        self._timeout = timeout
        self._ready: bool | None = None

    @property
    def ready(self) -> bool:
        """What was told last."""
        return bool(self._ready)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keeps the status true while the body runs; it is set when the body begins."""
        await self._look()
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def leave(self) -> None:
        """NOT_SERVING from now on, for good."""
        await self.servicer.enter_graceful_shutdown()

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
        for service in SERVICES:
            await self.servicer.set(service, _SERVING if ready else _NOT_SERVING)


async def is_serving(address: str) -> bool:
    """Asks a server in plaintext whether it is SERVING; False too if it does not answer within 3 s."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=3.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == _SERVING)
