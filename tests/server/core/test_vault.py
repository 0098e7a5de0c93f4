"""The one rule through fakes of the two ports: order of checks, replays, the ring, lost replies and races."""

import hashlib
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from keyvault_api.envelope import Kind
from keyvault_server.core.errors import (
    BackendUnavailable,
    EnvelopeNotUnderKey,
    InvalidKeyId,
    InvalidRequest,
    MalformedEnvelope,
    MalformedWrappedKey,
    MasterKeyUnusable,
    NotAuthorized,
    PolicyDenied,
    RateLimited,
    RecordCorrupt,
    RecordExists,
    RecordNotFound,
    SameDataKey,
    StaleRevision,
    TooLarge,
    VaultError,
    WrongKind,
    WrongScope,
)
from keyvault_server.core.purge import purge
from keyvault_server.core.records import Record
from keyvault_server.core.vault import Vault, Written
from tests.support.callers import Unrestricted
from tests.support.refusals import refused
from tests.support.requests import Key
from tests.support.world import CALLER, NAME, TENANT, World


@pytest.fixture
def world() -> World:
    return World()


async def test_times_are_kept_until_a_create_after_a_delete(world: World) -> None:
    """A create after a delete resets them."""
    key = await world.mint()
    await world.create(key)
    second = await world.update(key, 2)
    assert second.created < second.updated
    await world.delete(key, 3)
    await world.create(key, 4)
    found = await world.vault.read(CALLER, NAME)
    assert found.created == found.updated > second.updated


async def test_garbage_reaches_neither_the_store_nor_the_key_service(world: World) -> None:
    key, narrow = await world.mint("prod/"), await world.mint("prod/x")
    world.keys.calls.clear()
    good = key.seal(NAME, 1)
    vault = world.vault
    cases: list[tuple[type[VaultError], Awaitable[object]]] = [
        (InvalidKeyId, vault.create(CALLER, "prod/", key.wrapped, good)),
        (InvalidKeyId, vault.read(CALLER, "a b")),
        (InvalidKeyId, vault.generate_key(CALLER, "ä")),
        (InvalidRequest, vault.read(CALLER, NAME, -1)),
        (MalformedWrappedKey, vault.create(CALLER, NAME, b"", good)),
        (TooLarge, vault.create(CALLER, NAME, bytes(8_193), good)),
        (WrongScope, vault.create(CALLER, NAME, narrow.wrapped, good)),
        (MalformedEnvelope, vault.create(CALLER, NAME, key.wrapped, good[:87])),
        (TooLarge, vault.create(CALLER, NAME, key.wrapped, good + bytes(400_000))),
        (WrongKind, vault.create(CALLER, NAME, key.wrapped, key.seal(NAME, 1, b"", Kind.TOMBSTONE))),
        (WrongKind, vault.delete(CALLER, NAME, key.wrapped, good)),
        (WrongKind, vault.update(CALLER, NAME, key.wrapped, key.seal(NAME, 2, bytes(32), Kind.REKEY))),
        (WrongKind, vault.rotate_key(CALLER, NAME, key.wrapped, good, key.wrapped, good)),
        (MalformedWrappedKey, vault.rewrap_key(CALLER, b"\x01")),
    ]
    for expected, call in cases:
        assert type(await refused(call)) is expected
    assert world.keys.calls.total() == world.records.calls.total() == 0


async def test_a_stale_request_costs_no_call_to_the_key_service(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    world.keys.calls.clear()
    stale = await refused(world.update(key, 3))
    assert isinstance(stale, StaleRevision)
    assert stale.metadata == {"current_revision": "1", "remembered_since": "1"}
    assert isinstance(await refused(world.update(key, 1, b"other")), StaleRevision)
    assert isinstance(await refused(world.create(key, 1, b"other")), RecordExists)
    assert isinstance(await refused(world.create(key, 2, b"other", "prod/db")), RecordExists)
    assert world.keys.calls.total() == 0


async def test_a_first_create_needs_revision_1(world: World) -> None:
    key = await world.mint()
    stale = await refused(world.create(key, 2))
    assert (stale.reason, stale.metadata) == ("STALE_REVISION", {"current_revision": "0", "remembered_since": "1"})


@pytest.mark.parametrize("mutation", ["update", "delete"])
async def test_what_is_absent_or_deleted_cannot_be_mutated(world: World, mutation: str) -> None:
    key = await world.mint()
    mutate = getattr(world, mutation)
    assert isinstance(await refused(mutate(key, 1)), RecordNotFound)
    await world.create(key)
    await world.delete(key, 2)
    assert isinstance(await refused(mutate(key, 3)), RecordNotFound)
    assert isinstance(await refused(world.rotation(key, await world.mint(), 3)()), RecordNotFound)


async def test_an_envelope_is_sealed_for_one_place_and_key(world: World) -> None:
    """It is sealed for a tenant, a name, a revision and a key."""
    key = await world.mint("prod/")
    other = await world.mint("prod/")
    for envelope in (
        Key(key.plaintext, b"", "other").seal(NAME, 1),
        key.seal("prod/other", 1),
        other.seal(NAME, 1),
        key.seal(NAME, 2)[:8] + (1).to_bytes(8, "big") + key.seal(NAME, 2)[16:],
    ):
        error = await refused(world.vault.create(CALLER, NAME, key.wrapped, envelope))
        assert isinstance(error, EnvelopeNotUnderKey)
    assert not world.records.records


async def test_a_retried_envelope_is_answered_and_written_once(world: World) -> None:
    key = await world.mint()
    envelope = await world.create(key)
    again = await world.vault.create(CALLER, NAME, key.wrapped, envelope)
    assert (again.revision, again.replayed) == (1, True)
    assert world.records.calls["put_if"] == 1


async def test_a_replay_is_known_for_sixteen_revisions(world: World) -> None:
    """After that it is refused like any other envelope."""
    key = await world.mint()
    envelope = await world.create(key)
    for revision in range(2, 17):
        await world.update(key, revision)
    replay = await world.vault.create(CALLER, NAME, key.wrapped, envelope)
    assert (replay.revision, replay.replayed) == (1, True)
    await world.update(key, 17)
    exists = await refused(world.vault.create(CALLER, NAME, key.wrapped, envelope))
    assert (exists.reason, exists.metadata) == ("RECORD_EXISTS", {"current_revision": "17", "remembered_since": "2"})


async def test_a_replay_has_to_be_proved_by_its_key(world: World) -> None:
    key, stranger = await world.mint(), await world.mint()
    envelope = await world.create(key)
    assert isinstance(await refused(world.vault.create(CALLER, NAME, stranger.wrapped, envelope)), NotAuthorized)


async def test_an_updates_replay_is_answered_after_a_delete(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    envelope = key.seal(NAME, 2)
    await world.vault.update(CALLER, NAME, key.wrapped, envelope)
    await world.delete(key, 3)
    replay = await world.vault.update(CALLER, NAME, key.wrapped, envelope)
    assert (replay.revision, replay.replayed) == (2, True)


async def test_a_retry_after_a_lost_reply_is_answered_as_done(world: World) -> None:
    """The write is retried with the same bytes."""
    key = await world.mint()
    world.records.fail_after("put_if", BackendUnavailable())
    envelope = key.seal(NAME, 1)
    assert isinstance(await refused(world.vault.create(CALLER, NAME, key.wrapped, envelope)), BackendUnavailable)
    done = await world.vault.create(CALLER, NAME, key.wrapped, envelope)
    assert (done.revision, done.replayed) == (1, True)


async def test_a_lost_write_is_done_when_it_is_retried(world: World) -> None:
    key = await world.mint()
    world.records.fail_before("put_if", BackendUnavailable())
    envelope = key.seal(NAME, 1)
    assert isinstance(await refused(world.vault.create(CALLER, NAME, key.wrapped, envelope)), BackendUnavailable)
    assert not (await world.vault.create(CALLER, NAME, key.wrapped, envelope)).replayed


async def test_the_loser_of_a_race_learns_the_winning_revision(world: World) -> None:
    key = await world.mint()
    await world.create(key)

    async def somebody_is_faster() -> None:
        await world.update(key, 2, b"theirs")

    world.records.before("put_if", somebody_is_faster)
    lost = await refused(world.update(key, 2, b"ours"))
    assert (lost.reason, lost.metadata) == ("STALE_REVISION", {"current_revision": "2", "remembered_since": "1"})
    assert await world.opened(key) == b"theirs"


async def test_an_envelope_racing_with_itself_is_done_once(world: World) -> None:
    """It is answered twice."""
    key = await world.mint()
    await world.create(key)
    envelope = key.seal(NAME, 2)
    first: list[Written] = []

    async def the_first_copy() -> None:
        first.append(await world.vault.update(CALLER, NAME, key.wrapped, envelope))

    world.records.before("put_if", the_first_copy)
    second = await world.vault.update(CALLER, NAME, key.wrapped, envelope)
    assert (first[0].replayed, second.replayed) == (False, True)
    assert first[0].revision == second.revision == 2


async def test_two_creates_race_and_one_of_them_wins(world: World) -> None:
    key, other = await world.mint(), await world.mint()

    async def somebody_is_faster() -> None:
        await world.create(other, 1, b"theirs")

    world.records.before("put_if", somebody_is_faster)
    assert isinstance(await refused(world.create(key)), RecordExists)
    assert await world.opened(other) == b"theirs"


async def test_a_condition_failing_without_reason_is_not_definite(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    stored = world.records.records[TENANT, NAME]

    async def somebody_edits_the_table() -> None:
        head = Key(bytes(32), b"", TENANT).seal(NAME, 1)[:72]
        world.records.records[TENANT, NAME] = replace(stored, head=head)

    world.records.before("put_if", somebody_edits_the_table)
    assert isinstance(await refused(world.update(key, 2)), BackendUnavailable)


async def test_a_rotation_hands_the_record_over(world: World) -> None:
    key, new = await world.mint(), await world.mint()
    await world.create(key)
    assert (await world.rotation(key, new, 2, b"rotated")()).revision == 2
    assert await world.opened(new) == b"rotated"
    assert isinstance(await refused(world.update(key, 3)), NotAuthorized)
    assert (await world.update(new, 3)).revision == 3


async def test_a_rotation_needs_both_keys_and_its_own_permit(world: World) -> None:
    key, new, stranger = await world.mint(), await world.mint(), await world.mint()
    await world.create(key)
    sealed, other = new.seal(NAME, 2), new.seal(NAME, 2)
    permit = key.seal(NAME, 2, hashlib.sha256(sealed).digest(), Kind.REKEY)
    rotate = world.vault.rotate_key
    wrong_envelope = await refused(rotate(CALLER, NAME, key.wrapped, permit, new.wrapped, other))
    assert (wrong_envelope.reason, wrong_envelope.field) == ("ENVELOPE_NOT_UNDER_KEY", "authorization")
    not_under_new = await refused(rotate(CALLER, NAME, key.wrapped, permit, stranger.wrapped, sealed))
    assert (not_under_new.reason, not_under_new.field) == ("ENVELOPE_NOT_UNDER_KEY", "envelope")
    by_stranger = stranger.seal(NAME, 2, hashlib.sha256(sealed).digest(), Kind.REKEY)
    assert isinstance(
        await refused(rotate(CALLER, NAME, stranger.wrapped, by_stranger, new.wrapped, sealed)), NotAuthorized
    )
    late = key.seal(NAME, 3, hashlib.sha256(sealed).digest(), Kind.REKEY)
    revisions_differ = await refused(rotate(CALLER, NAME, key.wrapped, late, new.wrapped, sealed))
    assert (revisions_differ.reason, revisions_differ.field) == ("ENVELOPE_NOT_UNDER_KEY", "authorization")
    assert await world.opened(key) == b"data"


async def test_a_rotation_to_the_same_data_key_is_refused(world: World) -> None:
    """It is refused even if the data key is wrapped a second time."""
    key = await world.mint()
    await world.create(key)
    moved = Key(key.plaintext, await world.vault.rewrap_key(CALLER, key.wrapped), TENANT)
    assert isinstance(await refused(world.rotation(key, moved, 2)()), SameDataKey)


async def test_a_retried_rotation_is_answered_as_done(world: World) -> None:
    """Its reply was lost the first time."""
    key, new = await world.mint(), await world.mint()
    await world.create(key)
    rotation = world.rotation(key, new, 2)
    world.records.fail_after("put_if", BackendUnavailable())
    assert isinstance(await refused(rotation()), BackendUnavailable)
    done = await rotation()
    assert (done.revision, done.replayed) == (2, True)
    await world.update(new, 3)
    assert (await rotation()).replayed


async def test_an_update_retried_after_a_rotation_is_done(world: World) -> None:
    """The rotation is another caller's."""
    key, new = await world.mint(), await world.mint()
    await world.create(key)
    envelope = key.seal(NAME, 2)
    world.records.fail_after("put_if", BackendUnavailable())
    await refused(world.vault.update(CALLER, NAME, key.wrapped, envelope))
    await world.rotation(key, new, 3)()
    done = await world.vault.update(CALLER, NAME, key.wrapped, envelope)
    assert (done.revision, done.replayed) == (2, True)


async def test_a_disabled_master_key_stops_mutations_and_not_reads(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    world.keys.disable("1")
    assert isinstance(await refused(world.update(key, 2)), MasterKeyUnusable)
    assert isinstance(await refused(world.vault.generate_key(CALLER, "")), MasterKeyUnusable)
    assert await world.opened(key) == b"data"


async def test_a_rotten_body_is_not_read_and_its_owner_repairs_it(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    stored = world.records.records[TENANT, NAME]
    rotten = bytes([stored.body[0] ^ 1]) + stored.body[1:]
    world.records.records[TENANT, NAME] = replace(stored, body=rotten)
    assert isinstance(await refused(world.vault.read(CALLER, NAME)), RecordCorrupt)
    await world.update(key, 2, b"repaired")
    assert await world.opened(key) == b"repaired"


@pytest.mark.parametrize("head", [b"", b"KVE", bytes(72), b"\x00" * 8], ids=["none", "short", "zeroes", "revision 0"])
async def test_an_invalid_record_is_corrupt_and_only_a_purge_helps(world: World, head: bytes) -> None:
    key = await world.mint()
    world.records.records[TENANT, NAME] = Record(head, b"", 1, 1, b"")
    assert isinstance(await refused(world.vault.read(CALLER, NAME)), RecordCorrupt)
    for mutation in (world.create(key), world.update(key, 2), world.delete(key, 2)):
        assert isinstance(await refused(mutation), RecordCorrupt)
    assert isinstance(await refused(purge(world.records, CALLER, NAME)), RecordCorrupt)
    assert await purge(world.records, CALLER, NAME, last_revision=7) == 7
    await world.create(key, 8)


async def test_a_name_without_a_record_cannot_be_purged(world: World) -> None:
    assert isinstance(await refused(purge(world.records, CALLER, NAME)), RecordNotFound)
    assert world.records.calls["put_if"] == 0


async def test_a_purged_name_is_free_for_anyone_at_the_next_revision(world: World) -> None:
    key, other = await world.mint(), await world.mint()
    old = await world.create(key)
    await world.update(key, 2)
    assert await purge(world.records, CALLER, NAME) == 2
    assert isinstance(await refused(world.vault.read(CALLER, NAME, include_deleted=True)), RecordNotFound)
    assert isinstance(await refused(world.update(key, 3)), RecordNotFound)
    assert isinstance(await refused(world.create(other, 1)), StaleRevision)
    assert isinstance(await refused(world.vault.create(CALLER, NAME, key.wrapped, old)), StaleRevision)
    await world.create(other, 3, b"theirs")
    assert await world.opened(other) == b"theirs"
    assert isinstance(await refused(world.update(key, 4)), NotAuthorized)


async def test_tenants_do_not_share_names_or_keys(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    assert isinstance(await refused(world.vault.read(Unrestricted("other"), NAME)), RecordNotFound)
    envelope = Key(key.plaintext, b"", "other").seal(NAME, 1)
    other = Unrestricted("other")
    assert isinstance(await refused(world.vault.create(other, NAME, key.wrapped, envelope)), NotAuthorized)


async def test_a_vacancy_is_marked_and_remembers_nothing(world: World) -> None:
    """An envelope from before the purge is refused with the proof that the server would not recognize it."""
    key = await world.mint()
    first = await world.create(key)
    await world.update(key, 2)
    await purge(world.records, CALLER, NAME)
    stale = await refused(world.vault.create(CALLER, NAME, key.wrapped, first))
    assert stale.reason == "STALE_REVISION"
    assert stale.metadata == {"current_revision": "2", "remembered_since": "3", "vacant": "true"}
    await world.create(key, 3)
    exists = await refused(world.vault.create(CALLER, NAME, key.wrapped, first))
    assert exists.metadata == {"current_revision": "3", "remembered_since": "3"}


async def test_a_corrupt_body_is_answered_with_the_revision(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    await world.update(key, 2)
    stored = await world.records.get(TENANT, NAME)
    assert stored is not None
    rotten = replace(stored, body=stored.body[:-1] + bytes([stored.body[-1] ^ 1]))
    await world.records.put_if(TENANT, NAME, rotten, stored.head)
    corrupt = await refused(world.vault.read(CALLER, NAME))
    assert (corrupt.reason, corrupt.metadata) == ("RECORD_CORRUPT", {"current_revision": "2"})


async def test_a_new_data_key_does_not_show_itself(world: World) -> None:
    made = await world.vault.generate_key(CALLER, "prod/")
    shown = repr(made)
    for secret in (made.plaintext, made.wrapped_key):
        assert repr(secret) not in shown
        assert secret.hex() not in shown


class Refusing(Unrestricted):
    """A caller that the policy permits nothing, and that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(TENANT)
        self.asked: list[str] = []

    def permit(self, name: str) -> None:
        self.asked.append(name)
        raise PolicyDenied


class Spent(Refusing):
    """A caller that may do everything, and has no tokens left."""

    def permit(self, name: str) -> None:
        self.asked.append(name)

    def spend(self) -> None:
        raise RateLimited


@pytest.mark.parametrize(("caller", "refusal"), [(Refusing(), PolicyDenied), (Spent(), RateLimited)])
async def test_each_method_asks_for_its_caller_before_it_acts(
    world: World, caller: Refusing, refusal: type[VaultError]
) -> None:
    key, new = await world.mint("prod/"), await world.mint("prod/")
    sealed, gone = key.seal(NAME, 1, b"x"), key.seal(NAME, 1, b"", Kind.TOMBSTONE)
    permit, moved = key.seal(NAME, 1, bytes(32), Kind.REKEY), new.seal(NAME, 1, b"x")
    vault = Vault(world.keys, world.records, unwrap_scopes=["prod/"])
    before = world.keys.calls.copy()
    for name, call in (
        ("prod/", vault.generate_key(caller, "prod/")),
        ("prod/", vault.rewrap_key(caller, key.wrapped)),
        ("prod/", vault.unwrap_key(caller, key.wrapped)),
        (NAME, vault.read(caller, NAME)),
        (NAME, vault.create(caller, NAME, key.wrapped, sealed)),
        (NAME, vault.update(caller, NAME, key.wrapped, sealed)),
        (NAME, vault.delete(caller, NAME, key.wrapped, gone)),
        (NAME, vault.rotate_key(caller, NAME, key.wrapped, permit, new.wrapped, moved)),
    ):
        caller.asked.clear()
        assert isinstance(await refused(call), refusal)
        assert set(caller.asked) == {name}
    assert world.keys.calls == before
    assert not world.records.calls


async def test_what_is_stored_is_not_marked_as_a_vacancy(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    stale = await refused(world.update(key, 5))
    assert isinstance(stale, StaleRevision)
    assert "vacant" not in stale.metadata


async def test_times_are_microseconds_of_the_clock(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    stored = world.records.records[TENANT, NAME]
    assert (stored.created, stored.updated) == (int(world.now) * 1_000_000,) * 2
