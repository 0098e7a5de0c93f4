"""Where a call came from, in its lines of the audit log."""

import io
import json
import re
from pathlib import Path

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.access.identity import AuthContext, Identifier, Metadata
from keyvault_server.audit.entry import Origin
from keyvault_server.core.errors import Unauthenticated
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.gatekeeper import UNIDENTIFIED, Gatekeeper, Visitor
from keyvault_server.rpc.guard import Limits
from tests.support.audit_server import audit_server
from tests.support.connections import channel
from tests.support.refusals import failure_of
from tests.support.requests import create, mint
from tests.support.trails import CALL, Trail, some_change

NOBODY = Identifier(certificates=True)
"""Knows no caller: there are no certificates here."""


async def test_every_line_of_a_call_has_the_callers_address(tmp_path: Path) -> None:
    """It is the one of the access log, and another connection has another one."""
    written = io.StringIO()
    access_log = AccessLog(written)
    async with audit_server(tmp_path, access_log=access_log) as server:
        await server.stub.Create(create(await mint(server.stub, "prod/"), "prod/a"))
        async with channel(server.address, None) as other:
            await failure_of(KeyVaultStub(other).Read(pb.ReadRequest(key_id="prod/none")))
    access_log.flush()
    lines = [line for line in server.trail.lines() if line["phase"] in ("intent", "outcome")]
    assert [line["method"] for line in lines] == ["GenerateKey", "Create", "Create", "Read"]
    first, *same, another = [line["peer"] for line in lines]
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:[0-9]+", first)
    assert set(same) == {first} != {another}
    logged = {line["request_id"]: line["peer"] for line in map(json.loads, written.getvalue().splitlines())}
    assert logged == {line["request"]: line["peer"] for line in lines}


async def test_a_rejected_call_has_its_address_too(tmp_path: Path) -> None:
    """Before its caller is known as well: there it is all that is known."""
    read = pb.ReadRequest(key_id="a")
    for limits, reason in ((Limits(), "UNAUTHENTICATED"), (Limits(unanswered_calls=0), "RATE_LIMITED")):
        (tmp_path / reason).mkdir()
        async with audit_server(tmp_path / reason, identifier=NOBODY, limits=limits) as server:
            assert (await failure_of(server.stub.Read(read))).reason == reason
        (line,) = [line for line in server.trail.lines() if line["phase"] == "outcome"]
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert "caller" not in line


class Peer:
    """The other end of a call; counts how often its address is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def auth_context(self) -> AuthContext:
        return {}

    def invocation_metadata(self) -> Metadata:
        return ()

    def peer(self) -> str:
        self.asked += 1
        return "ipv4:192.0.2.7:51934"


async def test_an_address_is_asked_for_where_a_line_needs_it(tmp_path: Path) -> None:
    """It costs time: once a call, and never for a call that is only counted or without an audit log."""
    peer = Peer()
    await Visitor(Gatekeeper(), "Read", "req-1", peer).record_outcome("OK", "")
    assert peer.asked == 0
    async with Trail(tmp_path).open() as audit:
        caller = Visitor(Gatekeeper(audit=audit), "Read", "req-1", peer)
        for _ in range(2):
            await caller.record_outcome("NOT_FOUND", "RECORD_NOT_FOUND")
        assert peer.asked == 1
        gate = Gatekeeper(NOBODY, audit=audit)
        for _ in range(int(UNIDENTIFIED.burst) + 5):
            caller = Visitor(gate, "Read", "req-2", peer)
            with pytest.raises(Unauthenticated):
                caller.enter()
            await caller.record_outcome("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert peer.asked == 1 + UNIDENTIFIED.burst


async def test_fields_of_an_origin_stand_in_the_documented_order(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    call = CALL._replace(origin=Origin("unix:", 0, 1000))
    async with trail.open() as audit:
        await audit.intent(call, some_change()[0], expected=None)
    fields = list(trail.lines()[2])
    at = fields.index("caller")
    assert fields[at : at + 5] == ["caller", "peer", "uid", "sudo_uid", "method"]
    assert [trail.lines()[2][name] for name in ("peer", "uid", "sudo_uid")] == ["unix:", 0, 1000]
    assert trail.verified().bad is None
