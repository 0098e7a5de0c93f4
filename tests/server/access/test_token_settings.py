"""What the settings demand of tokens, as callers of a server meet it."""

from pathlib import Path
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.connections import bearer
from tests.support.policy_server import policy_server
from tests.support.refusals import failure_of

pytestmark = pytest.mark.slow


async def test_a_server_demands_the_type_and_lifetime_that_are_set(tmp_path: Path) -> None:
    demanded: dict[str, Any] = {"jwt_type": "at+jwt", "jwt_lifetime_seconds": 3600}
    request = pb.GenerateKeyRequest()
    async with policy_server(tmp_path, certificates=False, tokens=True, **demanded) as gate, gate.stub(None) as stub:
        good = gate.issuer.token(header={"typ": "application/AT+JWT"})
        assert (await stub.GenerateKey(request, metadata=bearer(good))).tenant == "beta"
        for bad, sentence in (
            (gate.issuer.token(), "typ is not at+jwt"),
            (gate.issuer.token(header={"typ": "at+jwt"}, iat=1), "valid for more than 3600 s"),
            (gate.issuer.token(header={"typ": "at+jwt"}, iat=None), "has no iat"),
        ):
            failure = await failure_of(stub.GenerateKey(request, metadata=bearer(bad)))
            assert failure.status == "UNAUTHENTICATED"
            assert sentence in failure.message
            assert bad not in failure.message
