"""The service config for bare stubs: what gRPC retries by itself, and what it leaves to the caller."""

import json
from importlib import resources
from typing import Any

import grpc
import pytest

from keyvault_api.names import METHODS
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.support.servers import grpc_server

CONFIG = resources.files("keyvault_api.v1").joinpath("keyvault_service_config.json").read_text()
RETRIED = ("Read", "GenerateKey")


class Unavailable(grpc.GenericRpcHandler):
    """Answers the first two requests of each method with UNAVAILABLE, and later ones."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path: Any = handler_call_details.method
        method = path.rpartition("/")[2]

        async def answer(_: bytes, context: Any) -> bytes:
            self.asked.append(method)
            if self.asked.count(method) <= 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.slow
async def test_bare_stubs_retry_read_and_generate_key_alone() -> None:
    server = Unavailable()
    options = (("grpc.service_config", CONFIG),)
    async with (
        grpc_server(lambda added: added.add_generic_rpc_handlers((server,))) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        stub = KeyVaultStub(channel)
        for method in METHODS:
            call = getattr(stub, method)(getattr(pb, f"{method}Request")(), timeout=20)
            if method in RETRIED:
                await call
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="restarting"):
                    await call
    assert {method: server.asked.count(method) for method in METHODS} == {
        method: 3 if method in RETRIED else 1 for method in METHODS
    }


def test_the_config_hedges_nothing_and_sets_no_deadline() -> None:
    """A deadline of a service config is seconds too short in gRPC's C core, and a hedged call is sent twice."""
    (methods,) = json.loads(CONFIG)["methodConfig"]
    assert set(methods) == {"name", "retryPolicy"}
    service = pb.DESCRIPTOR.services_by_name["KeyVault"].full_name
    assert methods["name"] == [{"service": service, "method": method} for method in RETRIED]
