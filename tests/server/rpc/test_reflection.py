"""Reflection finds every kind of symbol, in both versions, for the tools that people use."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2 as pb

from tests.support.servers import Served
from tests.support.tools import tool

VERSIONS = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]
SYMBOLS = {
    "a service": "keyvault.v1.KeyVault",
    "a method": "keyvault.v1.KeyVault.Read",
    "a message": "keyvault.v1.ReadRequest",
    "a field": "keyvault.v1.ReadRequest.key_id",
    "an enum": "keyvault.v1.ErrorReason",
    "an enum value": "keyvault.v1.RECORD_NOT_FOUND",
    "health's method": "grpc.health.v1.Health.Check",
    "an imported message": "google.protobuf.Timestamp",
    "reflection v1": "grpc.reflection.v1.ServerReflection",
    "reflection v1alpha's method": "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
}
DESCRIBED = [name for name in SYMBOLS if name not in {"a field", "an enum value"}]


async def ask(
    channel: grpc.aio.Channel, version: str, request: pb.ServerReflectionRequest
) -> pb.ServerReflectionResponse:
    async def requests() -> AsyncIterator[pb.ServerReflectionRequest]:
        yield request

    call = channel.stream_stream(
        f"/{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    async for answer in call(requests(), timeout=30):
        return answer
    raise AssertionError("no answer")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("symbol", SYMBOLS.values(), ids=SYMBOLS)
async def test_every_kind_of_symbol_is_found(server: Served, version: str, symbol: str) -> None:
    answer = await ask(server.channel, version, pb.ServerReflectionRequest(file_containing_symbol=symbol))
    assert answer.file_descriptor_response.file_descriptor_proto, answer


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("symbol", ["keyvault.v1.KeyVault.Nothing", "keyvault.v1.Nothing", "nothing", ".", ""])
async def test_what_does_not_exist_is_not_found(server: Served, version: str, symbol: str) -> None:
    answer = await ask(server.channel, version, pb.ServerReflectionRequest(file_containing_symbol=symbol))
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.external
@pytest.mark.process
@pytest.mark.parametrize("symbol", [SYMBOLS[name] for name in DESCRIBED], ids=DESCRIBED)
async def test_grpcurl_describes_every_kind_of_symbol(server: Served, symbol: str) -> None:
    command = (tool("grpcurl", "bin/grpcurl"), "-plaintext", server.address, "describe", symbol)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error.decode()
    assert symbol in output.decode()
