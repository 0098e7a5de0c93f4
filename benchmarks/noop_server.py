"""The yardstick: a grpc.aio server that answers every Read and Create of keyvault.v1 with the same bytes at once.

It refuses every Delete, before it has received its message, with a status as long as ours. No interceptor, no decoding,
no log: what grpc.aio itself can do. Prints its port, serves until SIGTERM. The third argument, "tuned", gives it what
our server has: uvloop, and a lower priority of gRPC's own threads.
"""

from __future__ import annotations  # grpc's context type takes parameters in the stubs only

import asyncio
import signal
import sys
from typing import Any

import grpc
import uvloop

from keyvault_server.operations.threads import keep_lowered

SERVICE = "keyvault.v1.KeyVault"
DETAILS = (("grpc-status-details-bin", bytes(150)),)


async def main(read_response: bytes, create_response: bytes, *, tuned: bool) -> None:
    """Serve both methods."""

    async def read(request: bytes, context: object) -> bytes:
        return read_response

    async def create(request: bytes, context: object) -> bytes:
        return create_response

    async def refuse(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "refused", DETAILS)

    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Read": grpc.unary_unary_rpc_method_handler(read),
        "Create": grpc.unary_unary_rpc_method_handler(create),
        "Delete": grpc.stream_unary_rpc_method_handler(refuse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    lowered = asyncio.create_task(keep_lowered()) if tuned else None
    print(f"ready on 127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    if lowered:
        lowered.cancel()
    await server.stop(None)


if __name__ == "__main__":
    is_tuned = sys.argv[3:] == ["tuned"]
    run = uvloop.run if is_tuned else asyncio.run
    run(main(bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]), tuned=is_tuned))
