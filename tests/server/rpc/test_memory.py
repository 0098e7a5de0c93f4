"""A want of memory is not the caller's mistake."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import SERVICE, CallGuard, Limits
from keyvault_server.rpc.metrics import Metrics
from tests.support.refusals import failure_of
from tests.support.servers import grpc_server

# What protobuf's upb raises, by its own words for the two.
ANSWERS = {
    "Error parsing message with type 'x': Arena alloc failed": ("RESOURCE_EXHAUSTED", "RATE_LIMITED"),
    "Error parsing message with type 'x': Wire format was corrupt": ("INVALID_ARGUMENT", "MALFORMED_REQUEST"),
}


@pytest.mark.parametrize("words", ANSWERS)
async def test_a_message_without_memory_for_it_may_be_retried(words: str) -> None:
    def decode(data: bytes) -> bytes:
        raise DecodeError(words)

    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b""

    def register(server: grpc.aio.Server) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(
            behaviour, request_deserializer=decode, response_serializer=bytes
        )
        service = SERVICE.strip("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Read": handler}),))

    guard = CallGuard(Limits(), Gatekeeper(), Metrics())
    async with (
        grpc_server(register, interceptors=(guard,)) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call: Any = channel.unary_unary(f"{SERVICE}Read")
        failure = await failure_of(call(b"", timeout=30))
    assert (failure.status, failure.reason) == ANSWERS[words]
