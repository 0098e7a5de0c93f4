"""The metadata of calls: how many entries, whatever each of them takes on the wire.

gRPC bounds what metadata takes on the wire (16 KiB). HPACK's table lets one byte stand for an entry of 4 kB, so 12 kB
become 17 MB of Python strings, each time that metadata is asked for: 1.2 MB took a server's time for 2.5 s.

The rule of this file: entries are counted before anything else about a call. More than honest metadata can have within
gRPC's limit cuts the connection, or the next such call would cost the same.
"""

from __future__ import annotations  # grpc's handler types take parameters in the stubs only

from collections import Counter
from collections.abc import Awaitable, Callable, Sized
from typing import Any

import grpc

from keyvault_server.rpc.sockets import cut

MOST_ENTRIES = 256
"""More than gRPC's 16 KiB hold, if each takes its 32 bytes (RFC 9113, 10.5.1), a name and a value of 32 together."""


class MetadataLimit(grpc.aio.ServerInterceptor):
    """Refuses calls with too many entries, and cuts their connections."""

    def __init__(self, cuts: Counter[str], cut: Callable[[str], bool] = cut) -> None:
        """`cuts` counts the connections that are cut, by reason."""
        self._cuts = cuts
        self._cuts.update(metadata=0)
        self._cut = cut
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(self._refuse)

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self.refusal_of(handler_call_details.invocation_metadata) or await continuation(handler_call_details)

    def refusal_of(self, metadata: Sized) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what refuses a call with this metadata; None if it is within the limit."""
        return self._refusal if len(metadata) > MOST_ENTRIES else None

    async def _refuse(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self._cuts["metadata"] += self._cut(context.peer())
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"metadata has more than {MOST_ENTRIES} entries")
