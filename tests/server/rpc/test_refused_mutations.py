"""What the audit log says of a refused mutation: enough to put the attempts on one name together."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.audit.line import envelope_value, name_value
from keyvault_server.core.records import digest
from tests.support.audit_server import AuditServer, audit_server
from tests.support.refusals import failure_of
from tests.support.requests import Key, create, delete, mint, rotate, update

NAME = "prod/db"
Attempt = Callable[[AuditServer, Key, Key], Coroutine[Any, Any, tuple[Any, bytes, int, str]]]


async def of_another(server: AuditServer, owner: Key, other: Key) -> tuple[Any, bytes, int, str]:
    request = update(other, NAME, 2)
    return server.stub.Update(request), request.envelope, 2, "DATA"


async def stale(server: AuditServer, owner: Key, other: Key) -> tuple[Any, bytes, int, str]:
    request = delete(owner, NAME, 9)
    return server.stub.Delete(request), request.envelope, 9, "TOMBSTONE"


async def of_another_scope(server: AuditServer, owner: Key, other: Key) -> tuple[Any, bytes, int, str]:
    elsewhere = await mint(server.stub, "dev/")
    request = create(elsewhere, NAME)
    return server.stub.Create(request), request.envelope, 1, "DATA"


async def of_another_kind(server: AuditServer, owner: Key, other: Key) -> tuple[Any, bytes, int, str]:
    sealed = owner.seal(NAME, 2, b"", Kind.TOMBSTONE)
    request = pb.UpdateRequest(key_id=NAME, wrapped_key=owner.wrapped, envelope=sealed)
    return server.stub.Update(request), sealed, 2, "TOMBSTONE"


async def not_under_its_key(server: AuditServer, owner: Key, other: Key) -> tuple[Any, bytes, int, str]:
    sealed = other.seal(NAME, 2)
    request = pb.UpdateRequest(key_id=NAME, wrapped_key=owner.wrapped, envelope=sealed)
    return server.stub.Update(request), sealed, 2, "DATA"


async def rotated_by_another(server: AuditServer, owner: Key, other: Key) -> tuple[Any, bytes, int, str]:
    request = rotate(other, other, NAME, 2)
    return server.stub.RotateKey(request), request.envelope, 2, "DATA"


REFUSED: dict[str, Attempt] = {
    "NOT_AUTHORIZED": of_another,
    "STALE_REVISION": stale,
    "WRONG_SCOPE": of_another_scope,
    "WRONG_KIND": of_another_kind,
    "ENVELOPE_NOT_UNDER_KEY": not_under_its_key,
    "NOT_AUTHORIZED in a rotation": rotated_by_another,
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_mutation_has_name_revision_kind_and_envelope(tmp_path: Path, case: str) -> None:
    async with audit_server(tmp_path) as server:
        owner, other = await mint(server.stub, "prod/"), await mint(server.stub, "prod/")
        await server.stub.Create(create(owner, NAME))
        call, envelope, revision, kind = await REFUSED[case](server, owner, other)
        assert (await failure_of(call)).reason == case.split()[0]
    line = server.trail.lines()[-2]
    key = server.trail.key
    assert line["name"] == name_value(key, "default", NAME)
    assert (line["revision"], line["kind"]) == (revision, kind)
    assert line["envelope"] == envelope_value(key, digest(envelope))
    assert "intent" not in line


async def test_a_malformed_request_has_the_name_that_was_sent(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server:
        await failure_of(server.stub.Create(pb.CreateRequest(key_id="no name", envelope=b"no envelope")))
        await failure_of(server.stub.Read(pb.ReadRequest(key_id="no name")))
        await failure_of(server.stub.GenerateKey(pb.GenerateKeyRequest(scope="no name")))
    lines = [line for line in server.trail.lines() if line["phase"] == "outcome"]
    assert {line["name"] for line in lines} == {name_value(server.trail.key, "default", "no name")}
    assert [("revision" in line, "envelope" in line) for line in lines] == [(False, False)] * 3


async def test_a_replay_has_what_was_sent_and_says_so(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server:
        owner = await mint(server.stub, "prod/")
        request = create(owner, NAME)
        for _ in range(2):
            await server.stub.Create(request)
    line = server.trail.lines()[-2]
    assert (line["replayed"], line["revision"], line["status"]) == (True, 1, "OK")
    assert line["envelope"] == envelope_value(server.trail.key, digest(request.envelope))
