"""Earlier revisions: listed, read with the checks of a current one, and restored."""

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_ENVELOPE, MAX_REVISION, MIN_ENVELOPE, Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    Conflict,
    DataKey,
    InvalidRequest,
    KeyVault,
    KeyVaultError,
    NotFound,
    OutcomeUnknown,
    RecordDamaged,
    Revision,
    RevisionNotFound,
    RolledBack,
    ServerFailure,
)
from tests.support.lying import Answer, Refused, lying_server
from tests.support.servers import Served
from tests.support.shell import Shell

NAME = "prod/db"
SECRET = os.urandom(32)
KEY = DataKey("acme", "prod/", b"wrapped", SECRET)
Call = Callable[[KeyVault], Awaitable[object]]


def sealed(revision: int, data: bytes = b"data", kind: Kind = Kind.DATA) -> bytes:
    return kve1.seal(SECRET, "acme", NAME, revision, b"" if kind is Kind.TOMBSTONE else data, kind)


def read_as(revision: int, data: bytes = b"data") -> pb.ReadResponse:
    return pb.ReadResponse(envelope=sealed(revision, data), revision=revision)


def not_kept(current: object) -> Refused:
    metadata = {} if current is None else {"current_revision": current}
    return Refused(grpc.StatusCode.NOT_FOUND, "revision 2 is not kept", "REVISION_NOT_FOUND", metadata)


STALE = Refused(grpc.StatusCode.ABORTED, "stale", "STALE_REVISION", {"current_revision": 9, "remembered_since": 1})


def revisions(*numbers: int, size: int = 100) -> pb.ListRevisionsResponse:
    return pb.ListRevisionsResponse(
        revisions=[pb.ListRevisionsResponse.Revision(revision=number, size=size) for number in numbers]
    )


@asynccontextmanager
async def client_of(**answers: Answer | Sequence[Answer]) -> AsyncIterator[KeyVault]:
    async with lying_server(answers) as address, KeyVault(address, timeout=5) as vault:
        yield vault


async def refused(call: Call, **answers: Answer | Sequence[Answer]) -> KeyVaultError:
    """Why a call to a server that says this fails, in one line."""
    async with client_of(**answers) as vault:
        with pytest.raises(KeyVaultError) as failed:
            await call(vault)
    assert str(failed.value).isprintable()
    return failed.value


async def second(vault: KeyVault) -> object:
    return await vault.read(NAME, key=KEY, revision=2)


async def restored(vault: KeyVault) -> object:
    return await vault.restore(NAME, key=KEY, revision=2)


# Which revisions there are.


async def test_revisions_are_listed_newest_first() -> None:
    async with client_of(ListRevisions=revisions(5, 4, 3)) as vault:
        listed = await vault.revisions(NAME)
    assert [one.revision for one in listed] == [5, 4, 3]
    assert listed[0].to_json() == {"revision": 5, "update_time": "1970-01-01T00:00:00Z", "size": 100}
    assert isinstance(listed[0], Revision)
    assert str(listed[0]) == "revision 5  1970-01-01T00:00:00Z  100 bytes sealed"


LISTS = {
    "none": revisions(),
    "zero": revisions(1, 0),
    "oldest first": revisions(1, 2),
    "twice": revisions(2, 2),
    "too many": revisions(*range(17, 0, -1)),
    "too small": revisions(1, size=MIN_ENVELOPE - 1),
    "too large": revisions(1, size=MAX_ENVELOPE + 1),
}


@pytest.mark.parametrize("lie", LISTS)
async def test_a_list_of_revisions_that_cannot_be_is_refused(lie: str) -> None:
    error = await refused(lambda vault: vault.revisions(NAME), ListRevisions=LISTS[lie])
    assert isinstance(error, ServerFailure)


async def test_the_longest_list_of_revisions_is_taken() -> None:
    async with client_of(ListRevisions=revisions(*range(16, 0, -1), size=MAX_ENVELOPE)) as vault:
        assert len(await vault.revisions(NAME)) == 16
    async with client_of(ListRevisions=revisions(MAX_REVISION, size=MIN_ENVELOPE)) as vault:
        assert len(await vault.revisions(NAME)) == 1


async def test_an_invalid_name_has_no_revisions() -> None:
    async with KeyVault("127.0.0.1:1") as vault:
        with pytest.raises(InvalidRequest, match="invalid key_id"):
            await vault.revisions("prod/")


# One of them, opened.


async def test_an_earlier_revision_is_read() -> None:
    async with client_of(Read=read_as(2, b"earlier")) as vault:
        record = await vault.read(NAME, key=KEY, revision=2)
    assert (record.plaintext, record.revision) == (b"earlier", 2)


async def test_the_last_revision_can_be_asked_for() -> None:
    async with client_of(Read=read_as(MAX_REVISION)) as vault:
        assert (await vault.read(NAME, key=KEY, revision=MAX_REVISION)).revision == MAX_REVISION


@pytest.mark.parametrize("revision", [0, -1, MAX_REVISION + 1])
@pytest.mark.parametrize("method", ["read", "restore"])
async def test_an_impossible_revision_is_not_asked_for(method: str, revision: int) -> None:
    async with KeyVault("127.0.0.1:1") as vault:
        with pytest.raises(InvalidRequest, match=f"invalid revision {revision}"):
            await getattr(vault, method)(NAME, key=KEY, revision=revision)


async def test_a_key_of_another_scope_reads_no_past() -> None:
    async with KeyVault("127.0.0.1:1") as vault:
        with pytest.raises(InvalidRequest, match="scope prod/ does not cover dev/db"):
            await vault.read("dev/db", key=KEY, revision=1)


@pytest.mark.parametrize("revision", [-1, 0, 1, 3, MAX_REVISION])
@pytest.mark.parametrize("call", [second, restored])
async def test_a_server_that_ignores_the_revision_is_older(call: Call, revision: int) -> None:
    answer = pb.ReadResponse(envelope=sealed(max(revision, 1)), revision=revision)
    error = await refused(call, Read=answer, Update=pb.UpdateResponse(revision=revision + 1 & MAX_REVISION))
    assert isinstance(error, ServerFailure)
    assert f"answered with revision {revision} of prod/db instead of 2: it is an older KeyVault" in str(error)


LIES = {
    "older": sealed(1),
    "newer": sealed(3),
    "tombstone": sealed(2, kind=Kind.TOMBSTONE),
    "rekey": sealed(2, bytes(32), Kind.REKEY),
    "key": kve1.seal(bytes(32), "acme", NAME, 2, b"x"),
    "tenant": kve1.seal(SECRET, "other", NAME, 2, b"x"),
    "name": kve1.seal(SECRET, "acme", "prod/other", 2, b"x"),
    "truncated": sealed(2)[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("call", [second, restored])
async def test_an_earlier_revision_is_what_its_envelope_says(call: Call, lie: str) -> None:
    assert isinstance(await refused(call, Read=pb.ReadResponse(envelope=LIES[lie], revision=2)), RecordDamaged)


async def test_a_revision_that_is_not_kept_has_its_exception() -> None:
    error = await refused(second, Read=not_kept(7))
    assert isinstance(error, RevisionNotFound)
    assert isinstance(error, NotFound)
    assert (error.current_revision, error.reason) == (7, "REVISION_NOT_FOUND")


@pytest.mark.parametrize("number", [None, "", "-1", "9" * 5_000, MAX_REVISION + 1])
async def test_a_current_revision_that_is_none_says_nothing(number: object) -> None:
    error = await refused(second, Read=not_kept(number))
    assert isinstance(error, RevisionNotFound)
    assert error.current_revision == 0


# What is remembered.


async def test_an_earlier_revision_that_was_asked_for_is_no_rollback() -> None:
    """And it does not lower what is remembered."""
    async with client_of(Read=[read_as(5), read_as(2), read_as(4)]) as vault:
        assert (await vault.read(NAME, key=KEY)).revision == 5
        assert (await vault.read(NAME, key=KEY, revision=2)).revision == 2
        with pytest.raises(RolledBack) as rolled:
            await vault.read(NAME, key=KEY)
    assert (rolled.value.revision, rolled.value.seen) == (4, 5)


async def test_a_revision_that_was_asked_for_is_remembered() -> None:
    async with client_of(Read=[read_as(2), read_as(1)]) as vault:
        await second(vault)
        with pytest.raises(RolledBack):
            await vault.read(NAME, key=KEY)


@pytest.mark.parametrize(("current", "kind"), [(4, RolledBack), (5, RevisionNotFound), (None, RevisionNotFound)])
async def test_a_current_revision_below_the_proved_one_is_a_rollback(
    current: int | None, kind: type[KeyVaultError]
) -> None:
    async with client_of(Read=[read_as(5), not_kept(current)]) as vault:
        await vault.read(NAME, key=KEY)
        with pytest.raises(KeyVaultError) as failed:
            await second(vault)
    assert type(failed.value) is kind


# Restored.


async def test_a_restore_is_sealed_after_the_current_revision() -> None:
    """Though nothing is remembered but the earlier one: no attempt is wasted."""
    async with client_of(Read=[read_as(2), read_as(7)], Update=[pb.UpdateResponse(revision=8), STALE]) as vault:
        assert (await vault.restore(NAME, key=KEY, revision=2)).revision == 8


async def test_a_restore_follows_a_faster_writer() -> None:
    answers = [read_as(2), read_as(7), read_as(9)]
    async with client_of(Read=answers, Update=[STALE, pb.UpdateResponse(revision=10)]) as vault:
        assert (await vault.restore(NAME, key=KEY, revision=2)).revision == 10


async def test_a_restore_never_goes_after_a_number_that_did_not_open() -> None:
    error = await refused(restored, Read=[read_as(2), read_as(7)], Update=STALE)
    assert isinstance(error, Conflict)
    assert "not new" in str(error)


async def test_a_restore_onto_an_older_record_is_a_rollback() -> None:
    assert isinstance(await refused(restored, Read=[read_as(2), read_as(1)]), RolledBack)


async def test_an_unknown_outcome_of_a_restore_is_reported() -> None:
    error = await refused(restored, Read=[read_as(2), read_as(3)], Update=pb.UpdateResponse(revision=9))
    assert isinstance(error, OutcomeUnknown)


# With a real server.


async def test_the_past_of_a_record_is_read_and_restored(vault: KeyVault) -> None:
    key = await vault.generate_key("prod/")
    await vault.create(NAME, b"one", key=key)
    for data in (b"two", b"three"):
        await vault.update(NAME, data, key=key)
    assert [(one.revision, one.size) for one in await vault.revisions(NAME)] == [(3, 93), (2, 91), (1, 91)]
    earlier = await vault.read(NAME, key=key, revision=1)
    assert (earlier.plaintext, earlier.revision, earlier.created) == (b"one", 1, earlier.updated)
    with pytest.raises(RevisionNotFound) as absent:
        await vault.read(NAME, key=key, revision=4)
    assert absent.value.current_revision == 3
    assert (await vault.restore(NAME, key=key, revision=1)).revision == 4
    assert (await vault.read(NAME, key=key)).plaintext == b"one"
    assert (await vault.read(NAME, key=key, revision=3)).plaintext == b"three"


async def test_a_fresh_client_restores_and_goes_on(server: Served) -> None:
    async with KeyVault(server.address) as vault:
        key = await vault.generate_key(NAME)
        await vault.create(NAME, b"one", key=key)
        await vault.update(NAME, b"two", key=key)
    async with KeyVault(server.address) as fresh:
        assert (await fresh.restore(NAME, key=key, revision=1)).revision == 3
        assert (await fresh.update(NAME, b"three", key=key)).revision == 4


async def test_a_rotation_and_a_deletion_drop_the_past(vault: KeyVault) -> None:
    key, new = await vault.generate_key(NAME), await vault.generate_key(NAME)
    await vault.create(NAME, b"one", key=key)
    await vault.rotate_key(NAME, key=key, new_key=new)
    assert [one.revision for one in await vault.revisions(NAME)] == [2]
    with pytest.raises(RevisionNotFound):
        await vault.restore(NAME, key=new, revision=1)
    with pytest.raises(RecordDamaged, match="another key"):
        await vault.read(NAME, key=key, revision=2)
    await vault.delete(NAME, key=new)
    for call in (vault.revisions(NAME), vault.read(NAME, key=new, revision=2)):
        with pytest.raises(NotFound) as gone:
            await call
        assert type(gone.value) is NotFound


# The command.


@pytest.mark.process
@pytest.mark.slow
def test_the_command_shows_and_restores_the_past(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    shell.ok(f"create {NAME} --key prod.key", b"one")
    shell.ok(f"update {NAME} --key prod.key", b"two")
    newest, oldest = shell.ok(f"history {NAME}").decode().splitlines()
    assert re.fullmatch(r"revision 2  20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ  91 bytes sealed", newest)
    assert oldest.startswith("revision 1  ")
    assert shell.ok(f"read {NAME} --key prod.key --revision 1") == b"one"
    line = shell.refused(f"read {NAME} --key prod.key --revision 3", status=3)
    assert "the record is at revision 2 [REVISION_NOT_FOUND " in line
    assert "--raw and --json" in shell.refused(f"read {NAME} --key prod.key --raw --json", status=2)
    assert shell.ok(f"restore {NAME} --key prod.key --revision 1") == b"prod/db is at revision 3\n"
    # For programs.
    lines = [json.loads(line) for line in shell.ok(f"history {NAME} --json").splitlines()]
    assert [(one["key_id"], one["revision"], one["size"]) for one in lines] == [(NAME, n, 91) for n in (3, 2, 1)]
    record = json.loads(shell.ok(f"read {NAME} --key prod.key --revision 2 --json"))
    assert set(record) == {"key_id", "revision", "create_time", "update_time", "data"}
    assert (record["revision"], record["update_time"], record["data"]) == (2, lines[1]["update_time"], "dHdv")
    done = json.loads(shell.ok(f"restore {NAME} --key prod.key --revision 2 --json"))
    assert set(done) == {"key_id", "revision", "create_time", "update_time", "replayed"}
    assert (done["revision"], done["create_time"], done["replayed"]) == (4, record["create_time"], False)
