"""ListRevisions and a Read of an earlier revision, over the wire."""

from pathlib import Path
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.policy_server import BILLING, policy_of_reads, policy_server
from tests.support.refusals import failure_of
from tests.support.requests import create, delete, mint, rotate, update
from tests.support.servers import embedded

NAME = "prod/db"


def revisions(name: str = NAME) -> pb.ListRevisionsRequest:
    return pb.ListRevisionsRequest(key_id=name)


async def test_an_earlier_revision_is_read_as_it_was(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        key = await mint(server.stub, NAME)
        await server.stub.Create(create(key, NAME, b"one"))
        second = await server.stub.Update(update(key, NAME, 2, b"two, longer"))
        await server.stub.Update(update(key, NAME, 3, b"three"))
        old = await server.stub.Read(pb.ReadRequest(key_id=NAME, revision=2))
        assert key.open(NAME, old.envelope) == b"two, longer"
        assert (old.tenant, old.revision, old.update_time) == (key.tenant, 2, second.update_time)
        assert (old.create_time, old.deleted, old.not_modified) == (second.create_time, False, False)
        listed = (await server.stub.ListRevisions(revisions())).revisions
        assert [one.revision for one in listed] == [3, 2, 1]
        assert (listed[1].update_time, listed[1].size) == (old.update_time, len(old.envelope))


@pytest.mark.medium
async def test_ten_earlier_revisions_are_kept_unless_set_otherwise(tmp_path: Path) -> None:
    async with embedded(tmp_path / "default") as server, embedded(tmp_path / "one", history=1) as short:
        for stub, expected in ((server.stub, [*range(12, 1, -1)]), (short.stub, [12, 11])):
            key = await mint(stub, NAME)
            await stub.Create(create(key, NAME))
            for revision in range(2, 13):
                await stub.Update(update(key, NAME, revision))
            assert [one.revision for one in (await stub.ListRevisions(revisions())).revisions] == expected


async def test_what_cannot_be_read_is_answered_with_its_reason(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        stub = server.stub
        key, new = await mint(stub, NAME), await mint(stub, NAME)
        await stub.Create(create(key, NAME))
        await stub.Update(update(key, NAME, 2))
        await stub.RotateKey(rotate(key, new, NAME, 3))
        for revision in (1, 2, 4, 2**63 - 1):
            missing = await failure_of(stub.Read(pb.ReadRequest(key_id=NAME, revision=revision)))
            assert (missing.status, missing.reason) == ("NOT_FOUND", "REVISION_NOT_FOUND")
            assert missing.metadata["current_revision"] == "3"
        invalid: list[dict[str, Any]] = [{"revision": -1}, {"revision": 3, "known_revision": 3}]
        invalid += [{"revision": 3, "include_deleted": True}, {"revision": -(2**63), "known_revision": 1}]
        for fields in invalid:
            refused = await failure_of(stub.Read(pb.ReadRequest(key_id=NAME, **fields)))
            assert (refused.status, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
        assert (await failure_of(stub.ListRevisions(revisions("a b")))).reason == "INVALID_KEY_ID"
        await stub.Delete(delete(new, NAME, 4))
        for call in (stub.ListRevisions(revisions()), stub.Read(pb.ReadRequest(key_id=NAME, revision=3))):
            assert (await failure_of(call)).reason == "RECORD_NOT_FOUND"


async def test_a_listing_of_revisions_needs_and_costs_a_read(tmp_path: Path) -> None:
    async with (
        policy_server(tmp_path, policy_text=policy_of_reads(3)) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        key = await mint(stub, "prod/")
        await stub.Create(create(key, NAME))
        denied = await failure_of(stub.ListRevisions(revisions("test/db")))
        assert denied.reason == "POLICY_DENIED"
        await stub.ListRevisions(revisions())
        await stub.ListRevisions(revisions())
        await stub.Read(pb.ReadRequest(key_id=NAME, revision=1))
        for call in (stub.ListRevisions(revisions()), stub.Read(pb.ReadRequest(key_id=NAME))):
            assert (await failure_of(call)).reason == "RATE_LIMITED"
        lines = [line for line in server.lines() if line.get("method") == "ListRevisions"]
        assert [line["status"] for line in lines] == ["PERMISSION_DENIED", "OK", "OK", "RESOURCE_EXHAUSTED"]
