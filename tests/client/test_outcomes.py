"""Outcomes and revisions as docs/clients.md has them: what settles a mutation, and which revision is sealed for.

A misbehaving peer stands between the client and a real server, or the store is changed behind the server's back.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import grpc
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_REVISION
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    Conflict,
    DataKey,
    Denied,
    InvalidRequest,
    KeyVault,
    KeyVaultError,
    OutcomeUnknown,
    RecordDamaged,
    ServerFailure,
    Unavailable,
)
from keyvault_client.transport import LEAST_ATTEMPT, LONGEST_WAIT, Backoff
from keyvault_server.core.records import Record as StoredRecord
from keyvault_server.core.records import successor
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.misbehaving import Call, Cut, Misbehaving, Step, answers, claims, cuts, hangs, honest, misbehaving
from tests.support.properties import examples
from tests.support.servers import Served, grpc_server, on_ports

pytestmark = pytest.mark.slow

NAME = "prod/db-password"
SCOPE = "prod/"
Code = grpc.StatusCode
Change = Callable[[KeyVault, DataKey], Awaitable[object]]
Script = dict[str, Iterable[Step]]


async def create(vault: KeyVault, key: DataKey) -> object:
    return await vault.create(NAME, b"ours", key=key)


async def update(vault: KeyVault, key: DataKey) -> object:
    return await vault.update(NAME, b"ours", key=key)


async def delete(vault: KeyVault, key: DataKey) -> object:
    return await vault.delete(NAME, key=key)


async def rotate(vault: KeyVault, key: DataKey) -> object:
    return await vault.rotate_key(NAME, key=key, new_key=await vault.generate_key(SCOPE))


@asynccontextmanager
async def peer(server: Served, script: Script, seconds: float = 20) -> AsyncIterator[tuple[Misbehaving, KeyVault]]:
    """A peer with this script before the server, and a client of the peer."""
    async with misbehaving(server, script) as between, KeyVault(between.address, timeout=seconds) as vault:
        yield between, vault


async def stored(server: Served, key: DataKey) -> tuple[int, bytes]:
    """What an honest reader finds."""
    async with KeyVault(server.address) as reader:
        record = await reader.read(NAME, key=key)
    return record.revision, record.plaintext


def stale(current: object, remembered_since: object, vacant: str = "") -> Step:
    """Answer that the record is at another revision."""
    return answers(
        Code.ABORTED, "STALE_REVISION", current_revision=current, remembered_since=remembered_since, vacant=vacant
    )


# What settles a mutation.

RETRIED = [
    (Code.UNKNOWN, "", True),
    (Code.INTERNAL, "", True),
    (Code.UNAVAILABLE, "", True),
    (Code.CANCELLED, "", True),
    (Code.DEADLINE_EXCEEDED, "", True),
    (Code.UNAVAILABLE, "BACKEND_UNAVAILABLE", True),
    (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", True),
    (Code.UNAVAILABLE, "SERVER_STOPPING", False),
]


@pytest.mark.parametrize(("code", "reason", "commit"), RETRIED)
async def test_a_lost_answer_is_asked_for_with_the_same_bytes(
    server: Served, code: grpc.StatusCode, reason: str, *, commit: bool
) -> None:
    async with peer(server, {"Create": [answers(code, reason, commit=commit)]}) as (between, vault):
        key = await vault.generate_key(SCOPE)
        assert (await vault.create(NAME, b"ours", key=key)).revision == 1
        assert between.calls.count("Create") == 2
        assert between.sealed == [1]
    assert await stored(server, key) == (1, b"ours")


@pytest.mark.parametrize("how", ["RST", "FIN"])
async def test_a_cut_connection_is_no_failed_change(server: Served, how: Cut) -> None:
    async with peer(server, {"Create": [cuts(how)]}) as (between, vault):
        key = await vault.generate_key(SCOPE)
        done = await vault.create(NAME, b"ours", key=key)
        assert (done.revision, done.replayed, between.sealed) == (1, True, [1])


FINAL = [
    (Code.INTERNAL, "INTERNAL"),
    (Code.UNIMPLEMENTED, ""),
    (Code.PERMISSION_DENIED, ""),
    (Code.UNAUTHENTICATED, ""),
    (Code.RESOURCE_EXHAUSTED, ""),
    (Code.NOT_FOUND, ""),
    (Code.ABORTED, ""),
]


@pytest.mark.parametrize(("code", "reason"), FINAL)
async def test_an_answer_that_settles_nothing_is_unknown(server: Served, code: grpc.StatusCode, reason: str) -> None:
    """It is not retried, and the cause is named; a call that changes nothing gets the cause itself."""
    script: Script = {"Create": [answers(code, reason, commit=True)], "Read": [answers(code, reason)]}
    async with peer(server, script) as (between, vault):
        key = await vault.generate_key(SCOPE)
        cause = "does not know (Create|Read):" if code is Code.UNIMPLEMENTED else "played by the peer"
        with pytest.raises(OutcomeUnknown, match=cause):
            await vault.create(NAME, b"ours", key=key)
        with pytest.raises(KeyVaultError, match=cause) as failed:
            await vault.read(NAME, key=key)
        assert not isinstance(failed.value, OutcomeUnknown)
        assert between.calls.count("Create") == between.calls.count("Read") == 1
    assert await stored(server, key) == (1, b"ours")


LATER: dict[str, Step] = {
    "rate limited": answers(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=60),
    "unauthenticated": answers(Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    "denied": answers(Code.PERMISSION_DENIED, "POLICY_DENIED"),
    "not the owner": answers(Code.PERMISSION_DENIED, "NOT_AUTHORIZED"),
    "not found": answers(Code.NOT_FOUND, "RECORD_NOT_FOUND"),
    "malformed": answers(Code.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
    "full": answers(Code.RESOURCE_EXHAUSTED, "STORE_FULL"),
    "older server": answers(Code.ALREADY_EXISTS, "RECORD_EXISTS", current_revision=1),
    "forgotten": answers(Code.ALREADY_EXISTS, "RECORD_EXISTS", current_revision=2, remembered_since=2),
    "not there yet": stale(0, remembered_since=1),
    "purged": stale(1, remembered_since=2, vacant="true"),
    "long numbers": stale("9" * 5000, remembered_since="1"),
    "negative": stale("5", remembered_since="-1"),
    "too large": stale(2**63, remembered_since=1),
    "other digits": stale("\u0665", remembered_since="\u0661"),
}


@pytest.mark.parametrize("step", LATER.values(), ids=LATER)
async def test_no_later_refusal_settles_an_unknown_attempt(server: Served, step: Step) -> None:
    async with peer(server, {"Create": [answers(Code.UNKNOWN, commit=True), step]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        with pytest.raises(OutcomeUnknown, match="played by the peer"):
            await vault.create(NAME, b"ours", key=key)
    assert await stored(server, key) == (1, b"ours")


@pytest.mark.parametrize("reason", ["", "BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED"])
async def test_a_failure_of_the_backend_settles_nothing(server: Served, reason: str) -> None:
    lost = answers(Code.DEADLINE_EXCEEDED if reason == "DEADLINE_EXCEEDED" else Code.UNAVAILABLE, reason, commit=True)
    denied = answers(Code.PERMISSION_DENIED, "POLICY_DENIED")
    async with peer(server, {"Create": [lost, denied]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        with pytest.raises(OutcomeUnknown):
            await vault.create(NAME, b"ours", key=key)


@pytest.mark.parametrize("reason", ["RATE_LIMITED", "BACKEND_THROTTLED", "SERVER_STOPPING"])
async def test_a_settled_refusal_is_retried_and_known(server: Served, reason: str) -> None:
    refused = answers(Code.UNAVAILABLE if reason == "SERVER_STOPPING" else Code.RESOURCE_EXHAUSTED, reason)
    async with peer(server, {"Create": [refused, answers(Code.PERMISSION_DENIED, "POLICY_DENIED")]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        with pytest.raises(Denied):
            await vault.create(NAME, b"ours", key=key)


@pytest.mark.parametrize(("current", "since"), [(5, 2), (2, 2), (2, 1)])
async def test_a_remembered_revision_settles_an_unknown_attempt(server: Served, current: int, since: int) -> None:
    """The attempt was for revision 2, so another envelope has it."""
    async with peer(server, {"Update": [answers(Code.UNKNOWN), stale(current, remembered_since=since)]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        await vault.create(NAME, b"0", key=key)
        with pytest.raises(Conflict) as conflict:
            await vault.update(NAME, b"ours", key=key, revision=1)
    assert (conflict.value.current_revision, conflict.value.remembered_since) == (current, since)


async def test_a_purge_between_two_attempts_leaves_it_unknown() -> None:
    """The lost attempt was stored, purged, and the name taken again: nothing remembers it."""
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as other:
        key = await other.generate_key(SCOPE)

        async def purged() -> None:
            records.records["default", NAME] = vacancy(1)
            await other.create(NAME, b"theirs", key=key, revision=1)

        async def lost_in_a_purge(call: Call) -> bytes:
            await honest(call)
            await purged()
            return await answers(Code.UNKNOWN)(call)

        async with peer(server, {"Create": [lost_in_a_purge]}) as (_, vault):
            with pytest.raises(OutcomeUnknown):
                await vault.create(NAME, b"ours", key=key)
        assert await stored(server, key) == (2, b"theirs")


async def test_a_connection_that_never_stood_is_known_to_fail() -> None:
    key = DataKey("default", SCOPE, b"w", bytes(32))
    async with KeyVault("127.0.0.1:1", timeout=0.5) as vault:
        with pytest.raises(Unavailable, match="connection refused"):
            await vault.create(NAME, b"x", key=key)


@pytest.mark.slow
async def test_an_answer_that_never_comes_is_unknown(server: Served) -> None:
    async with peer(server, {"Create": [hangs]}, seconds=1) as (_, vault):
        key = await vault.generate_key(SCOPE)
        with pytest.raises(OutcomeUnknown):
            await vault.create(NAME, b"ours", key=key)


async def test_a_client_closed_in_a_change_leaves_it_unknown(server: Served) -> None:
    async with peer(server, {"Create": [hangs]}) as (between, vault):
        key = await vault.generate_key(SCOPE)
        changing = asyncio.create_task(create(vault, key))
        while "Create" not in between.calls:
            await asyncio.sleep(0.01)
        await vault.close()
        with pytest.raises(OutcomeUnknown, match="this client was closed"):
            await changing


async def test_a_cancelled_change_is_cancelled(server: Served) -> None:
    async with peer(server, {"Create": [hangs]}) as (between, vault):
        key = await vault.generate_key(SCOPE)
        changing = asyncio.create_task(create(vault, key))
        while "Create" not in between.calls:
            await asyncio.sleep(0.01)
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing


@pytest.mark.parametrize("change", [create, update, delete, rotate])
async def test_an_answer_for_another_revision_is_unknown(server: Served, change: Change) -> None:
    lies: Script = {method: [claims(7)] for method in ("Update", "Delete", "RotateKey")}
    if change is create:
        lies["Create"] = [claims(7)]
    async with peer(server, lies) as (_, vault):
        key = await vault.generate_key(SCOPE)
        if change is not create:
            await vault.create(NAME, b"0", key=key)
        with pytest.raises(OutcomeUnknown, match="answered for revision 7"):
            await change(vault, key)


async def test_not_modified_of_another_revision_is_refused(server: Served) -> None:
    async with peer(server, {"Read": [claims(7)]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        await vault.create(NAME, b"0", key=key)
        with pytest.raises(ServerFailure, match="contradicts"):
            await vault.read_if_changed(NAME, key=key, known_revision=1)


# Which revision is sealed for.


def vacancy(revision: int) -> StoredRecord:
    """What a purge leaves, and what anyone who can write the table can put there."""
    return StoredRecord(revision.to_bytes(8, "big"), b"", 1, 1, b"", since=revision)


CLAIMED = [9000, MAX_REVISION - 1, MAX_REVISION]


@pytest.mark.parametrize("claimed", CLAIMED)
@pytest.mark.parametrize("change", [create, update, delete, rotate])
async def test_a_claimed_revision_is_not_sealed_for(server: Served, change: Change, claimed: int) -> None:
    script: Script = {
        "Create": [honest] if change is not create else itertools.repeat(stale(claimed, remembered_since=1)),
        "Update": itertools.repeat(stale(claimed, remembered_since=1)),
        "Delete": itertools.repeat(stale(claimed, remembered_since=1)),
        "RotateKey": itertools.repeat(stale(claimed, remembered_since=1)),
    }
    async with peer(server, script) as (between, vault):
        key = await vault.generate_key(SCOPE)
        if change is not create:
            await vault.create(NAME, b"0", key=key)
        with pytest.raises(Conflict):
            await change(vault, key)
    assert max(between.sealed) <= 2


@pytest.mark.parametrize("change", [update, delete, rotate])
async def test_a_read_that_does_not_open_is_not_sealed_for(server: Served, change: Change) -> None:
    """A fresh client has no revision yet: it reads one, and it was made up."""
    async with peer(server, {"Read": itertools.repeat(claims(9000))}) as (between, vault):
        async with KeyVault(server.address) as owner:
            key = await owner.generate_key(SCOPE)
            await owner.create(NAME, b"0", key=key)
        with pytest.raises(RecordDamaged):
            await change(vault, key)
    assert between.sealed == []


async def test_a_vacancy_is_not_gone_over_unless_named() -> None:
    """The attack: a planted vacancy lifts a writer to revision 9001, whose row is kept and planted later."""
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as writer:
        key = await writer.generate_key(SCOPE)
        await writer.create(NAME, b"secret", key=key)
        row = records.records["default", NAME]
        for claimed in (5, *CLAIMED[:2]):
            records.records["default", NAME] = vacancy(claimed)
            for vault in (writer, KeyVault(server.address)):
                with pytest.raises(KeyVaultError):
                    await vault.update(NAME, b"again", key=key)
                with pytest.raises(Conflict, match="purged") as purged:
                    await vault.create(NAME, b"again", key=key)
                assert (purged.value.vacant, purged.value.current_revision) == (True, claimed)
            assert len(records.records["default", NAME].head) == 8
        records.records["default", NAME] = row
        assert (await writer.update(NAME, b"newer", key=key)).revision == 2
        records.records["default", NAME] = vacancy(2)
        assert (await writer.create(NAME, b"named", key=key, revision=2)).revision == 3


async def test_a_tombstone_is_opened_before_it_is_gone_over() -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as vault:
        key, other = await vault.generate_key(SCOPE), await vault.generate_key(SCOPE)
        await vault.create(NAME, b"0", key=key)
        await vault.delete(NAME, key=key)
        tombstone = records.records["default", NAME]
        forged = kve1.seal(other.secret(), other.tenant, NAME, 9000, b"", kve1.Kind.TOMBSTONE)
        records.records["default", NAME] = successor(None, forged, 1, fresh=True)
        with pytest.raises(RecordDamaged):
            await vault.create(NAME, b"again", key=key)
        records.records["default", NAME] = tombstone
        assert (await vault.create(NAME, b"again", key=key)).revision == 3


async def test_a_claimed_revision_is_not_remembered(server: Served) -> None:
    """It would be a false RolledBack afterwards."""
    exists = answers(Code.ALREADY_EXISTS, "RECORD_EXISTS", current_revision=9000, remembered_since=1)
    async with peer(server, {"Create": [honest, exists]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        await vault.create(NAME, b"0", key=key)
        with pytest.raises(KeyVaultError):
            await vault.create(NAME, b"1", key=key)
        assert (await vault.read(NAME, key=key)).revision == 1


async def test_writers_without_a_revision_take_turns(server: Served) -> None:
    async with KeyVault(server.address) as one, KeyVault(server.address) as other:
        key = await one.generate_key(SCOPE)
        await one.create(NAME, b"0", key=key)
        await asyncio.gather(*(writer.update(NAME, b"x", key=key) for writer in (one, other) * 5))
        assert (await one.read(NAME, key=key)).revision == 11


# The deadline is the only bound.


@pytest.mark.slow
async def test_a_restart_within_the_timeout_is_no_error(server: Served) -> None:
    """The peer answers nothing for longer than six attempts take."""
    async with peer(server, {}, seconds=60) as (between, vault):
        key = await vault.generate_key(SCOPE)
        down = asyncio.get_running_loop().time() + 6

        async def stopping(call: Call) -> bytes:
            if asyncio.get_running_loop().time() < down:
                return await answers(Code.UNAVAILABLE, "SERVER_STOPPING")(call)
            return await honest(call)

        between.script["Create"] = iter(itertools.repeat(stopping))
        assert not (await vault.create(NAME, b"x", key=key)).replayed


def test_waits_stay_bounded_after_many_attempts() -> None:
    backoff = Backoff()
    for _ in range(5000):
        assert 0 <= (backoff.wait(3600) or 0) <= LONGEST_WAIT


def test_the_last_wait_leaves_time_for_an_attempt() -> None:
    for _ in range(100):
        assert (Backoff().wait(0.15) or 0) <= 0.15 - LEAST_ATTEMPT
        assert 3 <= (Backoff().wait(3.2, retry_after=3) or 0) <= 3.2 - LEAST_ATTEMPT
    assert Backoff().wait(LEAST_ATTEMPT) is None
    assert Backoff().wait(10, retry_after=10) is None


async def test_an_impossible_time_of_the_server_is_the_epoch(server: Served) -> None:
    async def timeless(call: Call) -> bytes:
        answer = pb.CreateResponse.FromString(await call.forward())
        answer.create_time.seconds = 2**62
        return answer.SerializeToString()

    async with peer(server, {"Create": [timeless]}) as (_, vault):
        key = await vault.generate_key(SCOPE)
        done = await vault.create(NAME, b"ours", key=key)
        assert (done.revision, done.created.timestamp()) == (1, 0)


# All of it, in any order.


class Event(NamedTuple):
    """What happens to one attempt, and what others do before and after the server gets it."""

    before: str
    commit: bool
    after: str
    reply: tuple[grpc.StatusCode, str] | None
    """None: the server's own."""


class LoggingStore(FakeRecordStore):
    """Knows every head that was ever stored."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[bytes] = []

    async def put_if(self, tenant: str, key_id: str, record: StoredRecord, expected: bytes | None) -> None:
        await super().put_if(tenant, key_id, record, expected)
        self.accepted.append(record.head)


OTHERS = st.sampled_from(["nothing", "nothing", "nothing", "1 update", "17 updates", "purge and create", "delete"])
LOST = [(Code.UNKNOWN, ""), (Code.INTERNAL, ""), (Code.UNAVAILABLE, "BACKEND_UNAVAILABLE"), (Code.UNIMPLEMENTED, "")]
REFUSED = [(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"), (Code.PERMISSION_DENIED, "POLICY_DENIED")]
EVENTS = st.one_of(
    st.builds(Event, OTHERS, st.just(True), OTHERS, st.none()),
    st.builds(Event, OTHERS, st.just(False), OTHERS, st.sampled_from(LOST)),
    st.builds(Event, st.just("nothing"), st.just(True), OTHERS, st.sampled_from(LOST)),
    st.builds(Event, OTHERS, st.just(False), OTHERS, st.sampled_from(REFUSED)),
)


async def others_do(what: str, other: KeyVault, key: DataKey, records: FakeRecordStore) -> None:
    stored = records.records.get(("default", NAME))
    if what == "purge and create" and stored is not None:
        revision = kve1.parse_head(stored.head).revision
        records.records["default", NAME] = vacancy(revision)
        await other.create(NAME, b"theirs", key=key, revision=revision)
    elif "update" in what or what == "delete":
        with suppress(KeyVaultError):
            for _ in range(17 if what == "17 updates" else 1):
                await (other.delete(NAME, key=key) if what == "delete" else other.update(NAME, b"theirs", key=key))


async def play(events: list[Event], change: Change, revision: int | None) -> None:
    records = LoggingStore()
    async with on_ports(FakeKeyService(), records) as server, KeyVault(server.address) as other:
        key = await other.generate_key(SCOPE)
        if change is not create:
            await other.create(NAME, b"0", key=key)

        def step(event: Event) -> Step:
            async def happen(call: Call) -> bytes:
                await others_do(event.before, other, key, records)
                if event.reply is None:
                    return await call.forward()
                if event.commit:
                    send: Any = server.channel.unary_unary(f"/keyvault.v1.KeyVault/{call.method}")
                    with suppress(grpc.aio.AioRpcError):
                        await send(call.request)
                await others_do(event.after, other, key, records)
                return await answers(*event.reply)(call)

            return happen

        steps = [step(event) for event in events]
        async with peer(server, {"Create": steps, "Update": steps}, seconds=5) as (between, vault):
            try:
                written = await (
                    vault.update(NAME, b"ours", key=key, revision=revision)
                    if change is update
                    else vault.create(NAME, b"ours", key=key, revision=revision)
                )
                outcome = "done"
            except OutcomeUnknown:
                outcome = "unknown"
            except KeyVaultError as error:
                outcome = f"failed: {error!r}"
            ours = [head for head in records.accepted if head in {envelope[:72] for envelope in between.envelopes}]
        note(outcome)
        if outcome == "done":
            assert [kve1.parse_head(head).revision for head in ours] == [written.revision]
        elif outcome != "unknown":
            assert ours == []


@examples(120)
@given(
    events=st.lists(EVENTS, min_size=1, max_size=4),
    change=st.sampled_from([create, update]),
    revision=st.sampled_from([None, None, 0, 1]),
)
@pytest.mark.slow
def test_no_report_contradicts_what_was_stored(events: list[Event], change: Change, revision: int | None) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("keyvault_client.transport.FIRST_WAIT", 0.01)
        patched.setattr("keyvault_client.transport.LONGEST_WAIT", 0.01)
        asyncio.run(play(events, change, revision if change is create else revision or None))


async def test_an_answer_that_does_not_decode_is_unknown() -> None:
    """An OK was sent, so something may have been stored; the next answer of that server would be no better."""
    answers = 0

    async def garbage(request: bytes, context: Any) -> bytes:
        nonlocal answers
        answers += 1
        return b"\xff\xff"

    def register(peer: grpc.aio.Server) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(garbage)
        service = grpc.method_handlers_generic_handler("keyvault.v1.KeyVault", {"Create": handler, "Read": handler})
        peer.add_generic_rpc_handlers((service,))

    key = DataKey("default", SCOPE, b"wrapped", bytes(32))
    async with grpc_server(register) as port, KeyVault(f"127.0.0.1:{port}", timeout=10) as vault:
        with pytest.raises(OutcomeUnknown, match="does not decode"):
            await vault.create(NAME, b"ours", key=key)
        with pytest.raises(ServerFailure, match="does not decode"):
            await vault.read(NAME, key=key)
        assert answers == 2


@pytest.mark.parametrize("name", ["elsewhere", "prod/", "prod/\ud800"], ids=ascii)
async def test_a_rotation_checks_the_name_before_it_sends(server: Served, name: str) -> None:
    async with peer(server, {}) as (between, vault):
        key, new = await vault.generate_key(SCOPE), await vault.generate_key(SCOPE)
        with pytest.raises(InvalidRequest):
            await vault.rotate_key(name, key=key, new_key=new)
        assert "Read" not in between.calls
