"""What a server says is checked before it is used: no lie is kept, and none raises what is not a KeyVaultError."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_REVISION, Kind
from keyvault_api.names import MAX_REPLY, MAX_WRAPPED_KEY
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    AlreadyExists,
    BadPageToken,
    Busy,
    Conflict,
    DataKey,
    Denied,
    InvalidRequest,
    KeyVault,
    KeyVaultError,
    MasterKeyUnusable,
    NotAuthorized,
    NotFound,
    OutcomeUnknown,
    RecordDamaged,
    RevisionNotFound,
    RolledBack,
    ServerFailure,
    Unavailable,
)
from tests.support.forked import run_forked
from tests.support.lying import Answer, Refused, lying_server
from tests.support.processes import BIN

TENANT, SCOPE, NAME = "acme", "prod/", "prod/db"
SECRET, WRAPPED = os.urandom(32), os.urandom(40)
KEY, NEW = DataKey(TENANT, SCOPE, WRAPPED, SECRET), DataKey(TENANT, SCOPE, b"new", os.urandom(32))
STALE = Refused(grpc.StatusCode.ABORTED, "stale", "STALE_REVISION", {"current_revision": 7})
HEX = "0123456789abcdef0123456789abcdef"
FORGED = "x\x1b[2K\r\nkeyvault: all is well\u202e"
Call: TypeAlias = Callable[[KeyVault], Awaitable[object]]


@asynccontextmanager
async def client_of(**answers: Answer | Sequence[Answer]) -> AsyncIterator[KeyVault]:
    """A client of a server that says this."""
    async with lying_server(answers) as address, KeyVault(address, timeout=5) as vault:
        yield vault


async def failure(call: Call, **answers: Answer) -> KeyVaultError:
    """The failure of a call to a server that says this; it shows no key and is one line."""
    async with client_of(**answers) as vault:
        with pytest.raises(KeyVaultError) as failed:
            await call(vault)
    sentence = str(failed.value)
    assert sentence.isprintable()
    assert SECRET.hex() not in sentence
    assert repr(SECRET)[2:-1] not in sentence
    return failed.value


def generated(**fields: object) -> pb.GenerateKeyResponse:
    true = {"tenant": TENANT, "scope": SCOPE, "plaintext_key": SECRET, "wrapped_key": WRAPPED}
    return pb.GenerateKeyResponse(**(true | fields))  # type: ignore[arg-type]


def unwrapped(**fields: object) -> pb.UnwrapKeyResponse:
    true = {"tenant": TENANT, "scope": SCOPE, "plaintext_key": SECRET}
    return pb.UnwrapKeyResponse(**(true | fields))  # type: ignore[arg-type]


def sealed(revision: int, kind: Kind = Kind.DATA, data: bytes = b"data") -> bytes:
    return kve1.seal(SECRET, TENANT, NAME, revision, b"" if kind is Kind.TOMBSTONE else data, kind)


# Keys.


@pytest.mark.parametrize(
    ("asked", "lie"),
    [
        (NAME, {"scope": "prod/"}),
        (NAME, {"scope": "prod/other"}),
        (NAME, {"scope": ""}),
        ("prod/", {"scope": "prod/db"}),
        ("prod/", {"scope": "p"}),
        ("", {"scope": "prod/"}),
        ("", {"scope": "prod/db"}),
        ("", {"scope": ""}),
        ("", {"scope": HEX + "/"}),
        (SCOPE, {"tenant": ""}),
        (SCOPE, {"tenant": "A"}),
        (SCOPE, {"tenant": FORGED}),
        (NAME, {"scope": FORGED}),
        (SCOPE, {"plaintext_key": b""}),
        (SCOPE, {"plaintext_key": bytes(31)}),
        (SCOPE, {"plaintext_key": bytes(33)}),
        (SCOPE, {"wrapped_key": b""}),
        (SCOPE, {"wrapped_key": bytes(MAX_WRAPPED_KEY + 1)}),
        (SCOPE, {"wrapped_key": bytes(20_000)}),
    ],
)
async def test_a_generated_key_is_the_one_that_was_asked_for(asked: str, lie: dict[str, object]) -> None:
    error = await failure(lambda vault: vault.generate_key(asked), GenerateKey=generated(**lie))
    assert isinstance(error, ServerFailure)
    assert "GenerateKey" in str(error)


async def test_the_name_that_the_server_makes_is_taken() -> None:
    async with client_of(GenerateKey=generated(scope=HEX)) as vault:
        assert await vault.generate_key() == DataKey(TENANT, HEX, WRAPPED, SECRET)


@pytest.mark.parametrize("wrapped", [b"", bytes(MAX_WRAPPED_KEY + 1), bytes(20_000)], ids=len)
async def test_a_rewrapped_key_is_one_that_a_key_file_holds(wrapped: bytes) -> None:
    answer = pb.RewrapKeyResponse(wrapped_key=wrapped)
    error = await failure(lambda vault: vault.rewrap_key(KEY), RewrapKey=answer)
    assert isinstance(error, ServerFailure)
    assert f"{len(wrapped)} bytes" in str(error)


async def test_the_longest_wrapped_key_is_taken() -> None:
    async with client_of(RewrapKey=pb.RewrapKeyResponse(wrapped_key=bytes(MAX_WRAPPED_KEY))) as vault:
        assert len((await vault.rewrap_key(KEY)).wrapped_key) == MAX_WRAPPED_KEY


@pytest.mark.parametrize(
    "lie",
    [
        {"tenant": "other"},
        {"tenant": ""},
        {"scope": "prod/db"},
        {"scope": ""},
        {"scope": FORGED},
        {"plaintext_key": b"five!"},
        {"plaintext_key": b""},
        {"plaintext_key": bytes(33)},
    ],
)
async def test_an_unwrapped_key_is_the_one_that_was_sent(lie: dict[str, object]) -> None:
    bare = KEY.without_plaintext()
    error = await failure(lambda vault: vault.unwrap_key(bare), UnwrapKey=unwrapped(**lie))
    assert isinstance(error, ServerFailure)
    assert "UnwrapKey" in str(error)


async def test_a_known_plaintext_key_is_not_exchanged() -> None:
    error = await failure(lambda vault: vault.unwrap_key(KEY), UnwrapKey=unwrapped(plaintext_key=bytes(32)))
    assert isinstance(error, ServerFailure)
    async with client_of(UnwrapKey=unwrapped()) as vault:
        assert await vault.unwrap_key(KEY) == KEY


# Records.


async def read(vault: KeyVault) -> object:
    return await vault.read(NAME, key=KEY)


async def update(vault: KeyVault) -> object:
    return await vault.update(NAME, b"new", key=KEY, revision=1)


LIES = {
    "older": pb.ReadResponse(envelope=sealed(1), revision=2),
    "newer": pb.ReadResponse(envelope=sealed(2), revision=1),
    "last": pb.ReadResponse(envelope=sealed(1), revision=MAX_REVISION),
    "tombstone": pb.ReadResponse(envelope=sealed(1, Kind.TOMBSTONE), revision=1),
    "deleted": pb.ReadResponse(envelope=sealed(1, Kind.TOMBSTONE), revision=1, deleted=True),
    "rekey": pb.ReadResponse(envelope=sealed(1, Kind.REKEY, bytes(32)), revision=1),
    "key": pb.ReadResponse(envelope=kve1.seal(bytes(32), TENANT, NAME, 1, b"x"), revision=1),
    "tenant": pb.ReadResponse(envelope=kve1.seal(SECRET, "other", NAME, 1, b"x"), revision=1, tenant="other"),
    "name": pb.ReadResponse(envelope=kve1.seal(SECRET, TENANT, "prod/other", 1, b"x"), revision=1),
    "truncated": pb.ReadResponse(envelope=sealed(1)[:-1], revision=1),
    "magic": pb.ReadResponse(envelope=b"KVE", revision=1),
    "nothing": pb.ReadResponse(revision=1),
    "not modified": pb.ReadResponse(revision=1, not_modified=True),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_record_is_what_its_envelope_says(lie: str) -> None:
    """An old envelope does not pass for a newer one, nor a tombstone for data."""
    assert isinstance(await failure(read, Read=LIES[lie]), RecordDamaged)


@pytest.mark.parametrize("revision", [0, -1, -(2**63)])
async def test_a_revision_below_one_is_a_failure(revision: int) -> None:
    answer = pb.ReadResponse(envelope=sealed(1), revision=revision)
    assert isinstance(await failure(read, Read=answer), ServerFailure)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.REKEY])
async def test_a_tombstone_is_what_its_envelope_says(kind: Kind) -> None:
    for answer in (
        pb.ReadResponse(envelope=sealed(7, kind, bytes(32)), revision=7, deleted=True),
        pb.ReadResponse(envelope=sealed(6, Kind.TOMBSTONE), revision=7, deleted=True),
    ):
        error = await failure(lambda vault: vault.create(NAME, b"x", key=KEY), Create=STALE, Read=answer)
        assert isinstance(error, RecordDamaged)


async def test_a_change_without_time_is_not_sent() -> None:
    """Its outcome would be unknown: the connection stands."""
    async with client_of(Read=pb.ReadResponse(envelope=sealed(1), revision=1), Update=b"\xff") as vault:
        await read(vault)
        with pytest.raises(Unavailable, match="timed out before the request was sent"):
            await vault.update(NAME, b"new", key=KEY, revision=1, timeout=0)


@pytest.mark.parametrize("revision", [0, -1, 1, 3, MAX_REVISION])
async def test_an_ok_for_another_revision_settles_nothing(revision: int) -> None:
    error = await failure(update, Update=pb.UpdateResponse(revision=revision))
    assert isinstance(error, OutcomeUnknown)
    assert "read the record" in str(error)


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(seconds=1, nanos=2**31 - 1),
        Timestamp(seconds=1, nanos=-1),
        Timestamp(seconds=253_402_300_800),
    ],
    ids=str,
)
async def test_a_time_that_no_clock_shows_is_the_epoch(time: Timestamp) -> None:
    answer = pb.ReadResponse(envelope=sealed(1), revision=1, create_time=time, update_time=time)
    done = pb.UpdateResponse(revision=2, create_time=time, update_time=time)
    epoch = datetime.fromtimestamp(0, UTC)
    async with client_of(Read=answer, Update=done) as vault:
        record, written = await vault.read(NAME, key=KEY), await vault.update(NAME, b"x", key=KEY, revision=1)
    assert [record.created, record.updated, written.created, written.updated] == [epoch] * 4


async def rotate(vault: KeyVault) -> object:
    return await vault.rotate_key(NAME, key=KEY, new_key=NEW)


@pytest.mark.parametrize("lie", LIES)
async def test_a_rotation_begins_at_what_the_envelope_says(lie: str) -> None:
    assert isinstance(await failure(rotate, Read=LIES[lie]), RecordDamaged)


async def test_a_rotation_that_the_new_key_does_not_open_is_not_done() -> None:
    """Its head commits to the new key, and its body is damaged, or its revision is another."""
    done = kve1.seal(NEW.secret(), TENANT, NAME, 2, b"data")
    for answer in (
        pb.ReadResponse(envelope=done[:-1] + bytes([done[-1] ^ 1]), revision=2),
        pb.ReadResponse(envelope=done, revision=3),
    ):
        assert isinstance(await failure(rotate, Read=answer), RecordDamaged)


async def test_no_revision_follows_the_last_one() -> None:
    """A record or a tombstone that is there cannot be replaced; nothing is sealed."""
    last = pb.ReadResponse(envelope=sealed(MAX_REVISION), revision=MAX_REVISION)
    for call in (lambda vault: vault.update(NAME, b"x", key=KEY), lambda vault: vault.delete(NAME, key=KEY), rotate):
        assert isinstance(await failure(call, Read=last), InvalidRequest)
    gone = pb.ReadResponse(envelope=sealed(MAX_REVISION, Kind.TOMBSTONE), revision=MAX_REVISION, deleted=True)
    error = await failure(create, Create=STALE, Read=gone)
    assert isinstance(error, InvalidRequest)


async def create(vault: KeyVault) -> object:
    return await vault.create(NAME, b"x", key=KEY)


async def test_a_server_that_contradicts_itself_is_not_asked_for_ever() -> None:
    """It refuses the next revision, and shows no later one."""
    live = pb.ReadResponse(envelope=sealed(5), revision=5)
    for call in (lambda vault: vault.update(NAME, b"x", key=KEY), lambda vault: vault.delete(NAME, key=KEY), rotate):
        error = await failure(call, Update=STALE, Delete=STALE, RotateKey=STALE, Read=live)
        assert isinstance(error, Conflict)
        assert "not new" in str(error)


async def test_a_named_revision_of_a_rotation_is_the_one_that_opens() -> None:
    live = pb.ReadResponse(envelope=sealed(5), revision=5)
    error = await failure(lambda vault: vault.rotate_key(NAME, key=KEY, new_key=NEW, revision=4), Read=live)
    assert isinstance(error, Conflict)
    assert error.current_revision == 5


async def test_a_rotation_at_a_named_revision_is_sealed_once() -> None:
    live = pb.ReadResponse(envelope=sealed(5), revision=5)
    async with client_of(Read=live, RotateKey=[STALE, pb.RotateKeyResponse(revision=6)]) as vault:
        with pytest.raises(Conflict, match="stale"):
            await vault.rotate_key(NAME, key=KEY, new_key=NEW, revision=5)


async def test_a_live_record_in_the_way_exists() -> None:
    live = pb.ReadResponse(envelope=sealed(7), revision=7)
    assert isinstance(await failure(create, Create=STALE, Read=live), AlreadyExists)


async def test_a_purged_name_is_for_the_caller_to_decide() -> None:
    """What the server says of it proves nothing: no record is asked for, and nothing is sealed."""
    purged = Refused(grpc.StatusCode.ABORTED, "no", "STALE_REVISION", {"current_revision": 7, "vacant": "true"})
    error = await failure(create, Create=purged)
    assert isinstance(error, Conflict)
    assert error.vacant
    async with client_of(Create=pb.CreateResponse(revision=8)) as vault:
        assert (await vault.create(NAME, b"x", key=KEY, revision=7)).revision == 8


SEEN: dict[str, tuple[Call, dict[str, Answer | Sequence[Answer]]]] = {
    "read": (
        read,
        {"Read": [pb.ReadResponse(envelope=sealed(5), revision=5), pb.ReadResponse(envelope=sealed(4), revision=4)]},
    ),
    "acknowledged": (
        lambda vault: vault.update(NAME, b"x", key=KEY, revision=4),
        {"Update": pb.UpdateResponse(revision=5), "Read": pb.ReadResponse(envelope=sealed(4), revision=4)},
    ),
    "deleted": (
        create,
        {
            "Create": [STALE, pb.CreateResponse(revision=6)],
            "Read": [
                pb.ReadResponse(envelope=sealed(5, Kind.TOMBSTONE), revision=5, deleted=True),
                pb.ReadResponse(envelope=sealed(4), revision=4),
            ],
        },
    ),
}


@pytest.mark.parametrize("how", SEEN)
async def test_a_revision_that_was_proved_is_remembered(how: str) -> None:
    call, answers = SEEN[how]
    async with client_of(**answers) as vault:
        await call(vault)
        with pytest.raises(RolledBack) as rolled:
            await vault.read(NAME, key=KEY)
    assert (rolled.value.revision, rolled.value.seen) == (4, 6 if how == "deleted" else 5)


async def test_a_tombstone_that_was_opened_is_remembered() -> None:
    """Also if the Create that needed it fails."""
    denied = Refused(grpc.StatusCode.PERMISSION_DENIED, "no", "POLICY_DENIED")
    gone = pb.ReadResponse(envelope=sealed(5, Kind.TOMBSTONE), revision=5, deleted=True)
    async with client_of(Create=[STALE, denied], Read=[gone, pb.ReadResponse(envelope=sealed(4), revision=4)]) as vault:
        with pytest.raises(Denied):
            await create(vault)
        with pytest.raises(RolledBack):
            await read(vault)


# Errors.


@pytest.mark.parametrize("number", ["9" * 5_000, "-1", "1e9", "", " 1", "\u0661", "0x1", str(MAX_REVISION + 1), FORGED])
@pytest.mark.parametrize("field", ["current_revision", "remembered_since"])
@pytest.mark.parametrize(("reason", "kind"), [("RECORD_EXISTS", AlreadyExists), ("STALE_REVISION", Conflict)])
async def test_a_number_that_is_none_says_nothing(
    number: str, field: str, reason: str, kind: type[AlreadyExists | Conflict]
) -> None:
    refused = Refused(grpc.StatusCode.ABORTED, "no", reason, {"request_id": "r", field: number})
    error = await failure(update, Update=refused)
    assert isinstance(error, kind)
    assert (error.current_revision, error.remembered_since) == (0, None)


async def test_a_message_over_the_contracts_limit_is_not_taken() -> None:
    """An answer has a limit of its own, for the sake of BatchRead."""
    longest = pb.ReadResponse(envelope=bytes(MAX_REPLY - 100), revision=1)
    assert isinstance(await failure(read, Read=longest), RecordDamaged)
    longer = pb.ReadResponse(envelope=bytes(MAX_REPLY), revision=1)
    assert "larger than max" in str(await failure(read, Read=longer))


Code = grpc.StatusCode
REASONS = [
    (Code.INVALID_ARGUMENT, "WRONG_SCOPE", InvalidRequest),
    (Code.NOT_FOUND, "RECORD_NOT_FOUND", NotFound),
    (Code.NOT_FOUND, "REVISION_NOT_FOUND", RevisionNotFound),
    (Code.INVALID_ARGUMENT, "BAD_PAGE_TOKEN", BadPageToken),
    (Code.ALREADY_EXISTS, "RECORD_EXISTS", AlreadyExists),
    (Code.ABORTED, "STALE_REVISION", Conflict),
    (Code.PERMISSION_DENIED, "NOT_AUTHORIZED", NotAuthorized),
    (Code.PERMISSION_DENIED, "POLICY_DENIED", Denied),
    (Code.UNAUTHENTICATED, "UNAUTHENTICATED", Denied),
    (Code.RESOURCE_EXHAUSTED, "STORE_FULL", Busy),
    (Code.FAILED_PRECONDITION, "MASTER_KEY_UNUSABLE", MasterKeyUnusable),
    (Code.DATA_LOSS, "RECORD_CORRUPT", RecordDamaged),
    (Code.INTERNAL, "INTERNAL", ServerFailure),
    (Code.UNIMPLEMENTED, "A_LATER_REASON", ServerFailure),
]


@pytest.mark.parametrize(("code", "reason", "kind"), REASONS)
async def test_each_reason_has_its_exception(code: grpc.StatusCode, reason: str, kind: type[KeyVaultError]) -> None:
    error = await failure(read, Read=Refused(code, "said", reason, {"request_id": "r-9"}))
    assert type(error) is kind
    assert (str(error), error.reason, error.request_id) == ("said", reason, "r-9")


async def test_what_a_server_says_moves_no_cursor() -> None:
    refused = Refused(grpc.StatusCode.NOT_FOUND, FORGED, "RECORD_NOT_FOUND" + FORGED, {"request_id": FORGED})
    error = await failure(read, Read=refused)
    assert "x\\x1b[2K" in str(error)
    assert error.reason.isprintable()
    assert error.request_id.isprintable()


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\x01\xff", b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"])
async def test_an_answer_that_does_not_decode_is_a_failure(garbage: bytes) -> None:
    assert isinstance(await failure(read, Read=garbage), ServerFailure)
    assert isinstance(await failure(update, Update=garbage), OutcomeUnknown)
    assert isinstance(await failure(lambda vault: vault.generate_key(SCOPE), GenerateKey=garbage), ServerFailure)


async def test_a_record_that_was_not_asked_about_is_refused() -> None:
    """Not modified, at another revision than the caller has."""
    answer = pb.ReadResponse(revision=7, not_modified=True)
    error = await failure(lambda vault: vault.read_if_changed(NAME, key=KEY, known_revision=3), Read=answer)
    assert isinstance(error, ServerFailure)


# The command.


async def ran(line: str, folder: Path, **answers: Answer) -> tuple[int, bytes, str]:
    """Run the command against a server that says this; return exit status, output and the one line of the error."""
    async with lying_server(answers) as address:
        command: list[str | Path] = [BIN / "keyvault", *line.split()]
        environment = os.environ | {"KEYVAULT_ADDRESS": address}
        done = await asyncio.to_thread(run_forked, command, environment=environment, folder=folder, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode().removesuffix("\n")


@pytest.mark.process
async def test_the_command_shows_a_lie_on_one_line(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key")
    refused = Refused(grpc.StatusCode.NOT_FOUND, FORGED, "RECORD_NOT_FOUND" + FORGED, {"request_id": FORGED})
    status, out, error = await ran(f"read {NAME} --key key", tmp_path, Read=refused)
    assert (status, out, error.isprintable()) == (3, b"", True)
    assert error.count("x\\x1b[2K") == 3


@pytest.mark.process
@pytest.mark.slow
async def test_the_command_saves_no_key_that_was_not_asked_for(tmp_path: Path) -> None:
    status, _, error = await ran(f"generate-key {NAME} --save new", tmp_path, GenerateKey=generated())
    assert (status, "scope 'prod/' instead of 'prod/db'" in error) == (1, True)
    assert not (tmp_path / "new").exists()
    KEY.save(tmp_path / "key")
    lie = pb.RewrapKeyResponse(wrapped_key=bytes(20_000))
    status, _, error = await ran("rewrap-key --key key --in-place", tmp_path, RewrapKey=lie)
    assert (status, "20000 bytes" in error) == (1, True)
    assert DataKey.load(tmp_path / "key") == KEY
