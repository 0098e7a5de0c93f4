"""Stopping a server without losing a call.

Calls that arrive after draining began get UNAVAILABLE (or CANCELLED if gRPC never delivered them). They had no effect
and may be retried. A second signal cuts the waits short.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from keyvault_server.rpc.guard import CallGuard
from keyvault_server.rpc.health import Readiness

_GOODBYE_SECONDS = 1.0  # for GOAWAY and a ping back; an open health Watch takes all of it
_CLEANUP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Drain:
    """How long a stopping server waits, in seconds."""

    delay: float
    """While it is NOT_SERVING but still accepts calls."""
    longest: float
    """For the in-flight calls to finish."""


async def drain(
    waits: Drain, server: grpc.aio.Server, guard: CallGuard, readiness: Readiness, hurry: asyncio.Event
) -> None:
    """Stop the server without losing a call.

    1. Say NOT_SERVING and wait, so that load balancers send new calls elsewhere.
    2. Refuse the calls that arrive from now on; wait for the in-flight ones, cleanup and replies included. The guard
       counts them, because `Server.stop` does not wait for cleanup.
    3. Close the connections last: `stop` closes each right behind its last reply, which a TCP reset may then overtake
       (RFC 1122, 4.2.2.13).
    4. Wait for the cleanup of the calls that `stop` cancelled.
    """
    # 1.
    readiness.leave()
    await _first_of(hurry.wait(), seconds=waits.delay)
    # 2.
    guard.close()
    await _first_of(guard.wait_idle(), hurry.wait(), seconds=waits.longest)
    # 3.
    await server.stop(0 if hurry.is_set() else _GOODBYE_SECONDS)
    # 4.
    await _first_of(guard.wait_idle(), seconds=_CLEANUP_SECONDS)


async def _first_of(*waits: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Return when one of them is done, or after so many seconds."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
