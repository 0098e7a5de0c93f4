"""The contract over the wire: what each method answers, and the status and details of each refusal."""

from pathlib import Path

import pytest

from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.support.refusals import failure_of
from tests.support.requests import create, delete, mint, rotate, update
from tests.support.servers import Served, embedded

NAME = "prod/db-password"


async def test_a_record_is_created_read_updated_rotated_and_deleted(stub: KeyVaultStub) -> None:
    key, other = await mint(stub, "prod/"), await mint(stub, NAME)
    created = await stub.Create(create(key, NAME, b"one"))
    assert (created.revision, created.replayed) == (1, False)
    assert created.create_time == created.update_time
    read = await stub.Read(pb.ReadRequest(key_id=NAME))
    assert (read.tenant, read.revision, read.deleted, read.not_modified) == ("default", 1, False, False)
    assert key.open(NAME, read.envelope) == b"one"
    updated = await stub.Update(update(key, NAME, 2, b"two"))
    assert (updated.revision, updated.create_time) == (2, created.create_time)
    assert (await stub.RotateKey(rotate(key, other, NAME, 3, b"three"))).revision == 3
    read = await stub.Read(pb.ReadRequest(key_id=NAME))
    assert other.open(NAME, read.envelope) == b"three"
    assert (await stub.Delete(delete(other, NAME, 4))).revision == 4
    assert (await failure_of(stub.Read(pb.ReadRequest(key_id=NAME)))).reason == "RECORD_NOT_FOUND"
    tombstone = await stub.Read(pb.ReadRequest(key_id=NAME, include_deleted=True))
    assert (tombstone.deleted, tombstone.revision, len(tombstone.envelope)) == (True, 4, 88)
    again = await stub.Create(create(other, NAME, b"five", revision=5))
    assert again.revision == 5
    assert again.create_time.ToNanoseconds() > created.create_time.ToNanoseconds()


async def test_a_key_without_a_scope_is_for_one_new_name(stub: KeyVaultStub) -> None:
    made = await stub.GenerateKey(pb.GenerateKeyRequest())
    assert len(made.scope) == 32
    assert int(made.scope, 16) >= 0
    assert (made.tenant, len(made.plaintext_key)) == ("default", 32)


async def test_a_reader_who_has_the_revision_is_sent_no_envelope(stub: KeyVaultStub) -> None:
    key = await mint(stub, NAME)
    await stub.Create(create(key, NAME))
    same = await stub.Read(pb.ReadRequest(key_id=NAME, known_revision=1))
    assert (same.not_modified, same.envelope, same.revision) == (True, b"", 1)
    other = await stub.Read(pb.ReadRequest(key_id=NAME, known_revision=7))
    assert (other.not_modified, len(other.envelope) > 0) == (False, True)
    await stub.Delete(delete(key, NAME, 2))
    gone = await failure_of(stub.Read(pb.ReadRequest(key_id=NAME, known_revision=2)))
    assert gone.reason == "RECORD_NOT_FOUND"
    kept = await stub.Read(pb.ReadRequest(key_id=NAME, known_revision=2, include_deleted=True))
    assert (kept.not_modified, kept.deleted, kept.envelope) == (True, True, b"")


async def test_a_rewrapped_key_is_the_same_data_key(stub: KeyVaultStub) -> None:
    key = await mint(stub, NAME)
    await stub.Create(create(key, NAME))
    moved = (await stub.RewrapKey(pb.RewrapKeyRequest(wrapped_key=key.wrapped))).wrapped_key
    assert moved != key.wrapped
    request = update(key, NAME, 2)
    request.wrapped_key = moved
    assert (await stub.Update(request)).revision == 2


async def test_unwrapping_is_off_but_for_scopes_in_the_settings(server: Served, tmp_path: Path) -> None:
    key = await mint(server.stub, NAME)
    refused = await failure_of(server.stub.UnwrapKey(pb.UnwrapKeyRequest(wrapped_key=key.wrapped)))
    assert (refused.status, refused.reason) == ("PERMISSION_DENIED", "POLICY_DENIED")
    async with embedded(tmp_path / "other", unwrap_scopes=(NAME,)) as other:
        key, wide = await mint(other.stub, NAME), await mint(other.stub, "prod/")
        told = await other.stub.UnwrapKey(pb.UnwrapKeyRequest(wrapped_key=key.wrapped))
        assert (told.tenant, told.scope, told.plaintext_key) == ("default", NAME, key.plaintext)
        refused = await failure_of(other.stub.UnwrapKey(pb.UnwrapKeyRequest(wrapped_key=wide.wrapped)))
        assert refused.reason == "POLICY_DENIED"


async def test_a_refusal_has_a_status_an_error_info_and_a_request_id(stub: KeyVaultStub) -> None:
    key, narrow, stranger = await mint(stub, "prod/"), await mint(stub, "prod/x"), await mint(stub, "prod/")
    await stub.Create(create(key, NAME))
    torn = update(key, NAME, 2)
    torn.envelope = torn.envelope[:-1] + bytes([torn.envelope[-1] ^ 1])
    huge = create(key, "prod/huge")
    huge.envelope += bytes(400_000)
    cases = {
        "INVALID_KEY_ID": (stub.Read(pb.ReadRequest(key_id="prod/")), "INVALID_ARGUMENT", "key_id"),
        "MALFORMED_REQUEST": (stub.Read(pb.ReadRequest(key_id=NAME, known_revision=-1)), "INVALID_ARGUMENT", "known"),
        "MALFORMED_WRAPPED_KEY": (
            stub.Create(pb.CreateRequest(key_id=NAME, wrapped_key=b"x", envelope=key.seal(NAME, 1))),
            "INVALID_ARGUMENT",
            "wrapped key",
        ),
        "WRONG_SCOPE": (stub.Update(update(narrow, NAME, 2)), "INVALID_ARGUMENT", "scope"),
        "MALFORMED_ENVELOPE": (
            stub.Create(pb.CreateRequest(key_id=NAME, wrapped_key=key.wrapped, envelope=b"KVE")),
            "INVALID_ARGUMENT",
            "envelope",
        ),
        "WRONG_KIND": (
            stub.Update(
                pb.UpdateRequest(key_id=NAME, wrapped_key=key.wrapped, envelope=key.seal(NAME, 2, b"", Kind.TOMBSTONE))
            ),
            "INVALID_ARGUMENT",
            "TOMBSTONE",
        ),
        "TOO_LARGE": (stub.Create(huge), "INVALID_ARGUMENT", "380456"),
        "ENVELOPE_NOT_UNDER_KEY": (stub.Update(torn), "INVALID_ARGUMENT", "open"),
        "SAME_DATA_KEY": (stub.RotateKey(rotate(key, key, NAME, 2)), "INVALID_ARGUMENT", "same"),
        "RECORD_NOT_FOUND": (stub.Update(update(key, "prod/none", 2)), "NOT_FOUND", "no such record"),
        "RECORD_EXISTS": (stub.Create(create(key, NAME, b"other")), "ALREADY_EXISTS", "exists"),
        "STALE_REVISION": (stub.Update(update(key, NAME, 3)), "ABORTED", "revision"),
        "NOT_AUTHORIZED": (stub.Update(update(stranger, NAME, 2)), "PERMISSION_DENIED", "key"),
    }
    for reason, (call, status, word) in cases.items():
        failure = await failure_of(call)
        assert (failure.reason, failure.status) == (reason, status)
        assert word in failure.message, reason
        assert failure.kinds.count("ErrorInfo") == 1, reason
        assert failure.metadata["request_id"], reason
        assert ("BadRequest" in failure.kinds) == (status == "INVALID_ARGUMENT"), reason
        if reason in ("STALE_REVISION", "RECORD_EXISTS"):
            assert failure.metadata["current_revision"] == "1"


@pytest.mark.parametrize("given", ["abc-1", "x" * 64])
async def test_the_callers_request_id_comes_back_with_the_error(stub: KeyVaultStub, given: str) -> None:
    failure = await failure_of(stub.Read(pb.ReadRequest(key_id="none"), metadata=(("x-request-id", given),)))
    assert failure.metadata["request_id"] == given


async def test_a_request_id_that_is_not_fit_for_a_log_is_replaced(stub: KeyVaultStub) -> None:
    failure = await failure_of(stub.Read(pb.ReadRequest(key_id="none"), metadata=(("x-request-id", 'a"b' * 9),)))
    assert 'a"b' not in failure.metadata["request_id"]


async def test_the_largest_record_makes_the_round_trip(stub: KeyVaultStub) -> None:
    key, data = await mint(stub, "b/"), bytes(range(250)) * 1520
    name = "b/" + "x" * 253
    await stub.Create(create(key, name, data))
    read = await stub.Read(pb.ReadRequest(key_id=name))
    assert len(read.envelope) == 380_456
    assert key.open(name, read.envelope) == data
