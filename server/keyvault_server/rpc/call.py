"""One call of keyvault.v1, as the guard carries it from its headers to its line in the access log.

The rule of this file: a request id comes from the caller only if it is fit for a log.
"""

from __future__ import annotations  # grpc's context type takes parameters in the stubs only

import itertools
import os
import re
import time
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from keyvault_api.names import is_scope
from keyvault_server.access.identity import Metadata
from keyvault_server.core.errors import VaultError
from keyvault_server.rpc.gatekeeper import Gatekeeper, Visitor
from keyvault_server.rpc.status import details_of, message_of, status_of

_CALLER_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_process = os.urandom(5).hex()
_calls = itertools.count()


class GuardedCall:
    """One call."""

    __slots__ = ("caller", "context", "holds_slot", "method", "request", "request_id", "size", "started")

    def __init__(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any], metadata: Metadata, gate: Gatekeeper
    ) -> None:
        self.context = context
        self.request: Message | None = None
        self.request_id = _request_id(metadata)
        self.method = method
        self.caller = Visitor(gate, method, self.request_id, context, metadata)
        self.holds_slot = False
        self.size = 0
        """Bytes of the request that count as in flight."""
        self.started = time.perf_counter()

    @property
    def name(self) -> str:
        """The key_id, scope or prefix that the call is about; empty if what was sent is not a valid one."""
        request = self.request
        name: str = next(filter(None, (getattr(request, field, "") for field in ("key_id", "scope", "prefix"))), "")
        return name if is_scope(name) else ""

    async def fail(self, error: VaultError) -> NoReturn:
        """End the call with the error's status, by raising what grpc.aio ends a call with."""
        trailers = (("grpc-status-details-bin", details_of(error, self.request_id)),)
        raise await self.context.abort(status_of(error), message_of(error), trailers)


def _request_id(metadata: Metadata) -> str:
    """Return the caller's x-request-id if it is fit for a log, else the process's random id and a number."""
    for name, value in metadata:
        if name == "x-request-id" and isinstance(value, str) and _CALLER_ID.fullmatch(value):
            return value
    return f"{_process}-{next(_calls):x}"
