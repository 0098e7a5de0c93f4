"""Attacks that broke the design which this service replaces, and why each of them fails here."""

import hashlib
import os
import random

import pytest

from keyvault_api.envelope import Kind
from keyvault_server.core.errors import (
    EnvelopeNotUnderKey,
    MalformedEnvelope,
    MalformedWrappedKey,
    NotAuthorized,
    RecordExists,
    RecordNotFound,
    SameDataKey,
    StaleRevision,
    VaultError,
    WrongScope,
)
from keyvault_server.core.ports import WrappedBlob
from keyvault_server.core.purge import purge
from keyvault_server.core.wrapped_key import WrappedKey, parse_wrapped_key
from tests.support.fakes import FakeKeyService
from tests.support.refusals import refused
from tests.support.requests import Key
from tests.support.world import CALLER, NAME, TENANT, World


@pytest.fixture
async def attacked() -> tuple[World, Key]:
    """A victim's record, and its key."""
    world = World()
    victim = await world.mint("prod/")
    await world.create(victim, data=b"the victim's")
    return world, victim


async def unharmed(world: World, victim: Key) -> bool:
    return world.records.calls["put_if"] == 1 and await world.opened(victim) == b"the victim's"


@pytest.mark.slow
async def test_ten_thousand_own_keys_never_take_over_a_record(attacked: tuple[World, Key]) -> None:
    """Somebody else's record."""
    world, victim = attacked
    for _ in range(10_000):
        own = await world.mint(NAME)
        assert isinstance(await refused(world.update(own, 2, b"mine")), NotAuthorized)
    assert await unharmed(world, victim)


@pytest.mark.medium
async def test_own_keys_neither_delete_nor_rotate_anothers_record(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    for _ in range(500):
        own, other = await world.mint(NAME), await world.mint(NAME)
        assert isinstance(await refused(world.delete(own, 2)), NotAuthorized)
        assert isinstance(await refused(world.rotation(own, other, 2)()), NotAuthorized)
    assert await unharmed(world, victim)


@pytest.mark.slow
async def test_the_wrapped_key_without_the_data_key_changes_nothing(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    for _ in range(2_000):
        guess = Key(os.urandom(32), victim.wrapped, TENANT)
        assert isinstance(await refused(world.update(guess, 2)), EnvelopeNotUnderKey)
    assert isinstance(await refused(world.delete(guess, 2)), EnvelopeNotUnderKey)
    assert isinstance(await refused(world.rotation(guess, await world.mint(NAME), 2)()), EnvelopeNotUnderKey)
    assert await unharmed(world, victim)


async def test_the_data_key_without_its_wrapped_key_changes_nothing(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    own = await world.mint(NAME)
    thief = Key(victim.plaintext, own.wrapped, TENANT)
    assert isinstance(await refused(world.update(thief, 2)), NotAuthorized)
    assert await unharmed(world, victim)


async def test_chunks_of_an_envelope_cannot_be_rearranged(attacked: tuple[World, Key]) -> None:
    """Into a new one."""
    world, victim = attacked
    name = "prod/long"
    envelope = await world.create(victim, data=os.urandom(40_000), name=name)
    chunks = [envelope[at : at + 16_400] for at in range(72, len(envelope), 16_400)]
    fixed = envelope[:8] + (2).to_bytes(8, "big") + envelope[16:72]
    draw = random.Random("chunks")
    for _ in range(200):
        order = [draw.randrange(2) for _ in range(draw.randrange(3))]
        forged = fixed + b"".join(chunks[i] for i in order) + chunks[2]
        assert isinstance(
            await refused(world.vault.update(CALLER, name, victim.wrapped, forged)), NotAuthorized | EnvelopeNotUnderKey
        )


async def test_an_envelope_of_one_record_is_refused_for_another(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    moved = victim.seal("prod/limit", 2)
    assert isinstance(await refused(world.vault.update(CALLER, NAME, victim.wrapped, moved)), EnvelopeNotUnderKey)
    assert await unharmed(world, victim)


async def test_the_border_between_tenant_and_name_cannot_be_shifted(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    shifted = Key(victim.plaintext, victim.wrapped, TENANT + "p").seal("rod/db", 2)
    assert isinstance(await refused(world.vault.update(CALLER, NAME, victim.wrapped, shifted)), EnvelopeNotUnderKey)


async def test_a_replayed_envelope_neither_rolls_back_nor_writes(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    old = (await world.vault.read(CALLER, NAME)).envelope
    assert old is not None
    await world.update(victim, 2, b"newer")
    replay = await world.vault.create(CALLER, NAME, victim.wrapped, old)
    assert replay.replayed
    assert world.records.calls["put_if"] == 2
    assert isinstance(await refused(world.vault.update(CALLER, NAME, (await world.mint()).wrapped, old)), NotAuthorized)
    assert await world.opened(victim) == b"newer"


async def test_an_old_envelope_with_a_raised_revision_does_not_open(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    old = (await world.vault.read(CALLER, NAME)).envelope
    assert old is not None
    raised = old[:8] + (2).to_bytes(8, "big") + old[16:]
    assert isinstance(await refused(world.vault.update(CALLER, NAME, victim.wrapped, raised)), EnvelopeNotUnderKey)


async def test_tombstones_and_data_cannot_be_made_of_each_other(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    empty = victim.seal(NAME, 2, b"")
    turned = empty[:5] + bytes([Kind.TOMBSTONE]) + empty[6:]
    assert isinstance(await refused(world.vault.delete(CALLER, NAME, victim.wrapped, turned)), EnvelopeNotUnderKey)
    assert await unharmed(world, victim)


async def test_nothing_that_no_key_opens_can_be_stored(attacked: tuple[World, Key]) -> None:
    world, _ = attacked
    own = await world.mint("prod/squat")
    for poison in (b"", os.urandom(15), os.urandom(88)):
        error = await refused(world.vault.create(CALLER, "prod/squat", own.wrapped, poison))
        assert isinstance(error, MalformedEnvelope)
    shaped = own.seal("prod/squat", 1)[:72] + os.urandom(40)
    error = await refused(world.vault.create(CALLER, "prod/squat", own.wrapped, shaped))
    assert isinstance(error, EnvelopeNotUnderKey)
    assert len(world.records.records) == 1


async def test_a_deleted_name_is_not_taken_by_another_caller(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    await world.delete(victim, 2)
    for revision in (1, 2, 3):
        stranger = await world.mint(NAME)
        assert isinstance(await refused(world.create(stranger, revision)), NotAuthorized | StaleRevision)
    await world.create(victim, 3)


async def test_an_update_checked_before_a_delete_does_not_resurrect(attacked: tuple[World, Key]) -> None:
    world, victim = attacked

    async def the_owner_deletes() -> None:
        await world.delete(victim, 2)

    world.records.before("put_if", the_owner_deletes)
    assert isinstance(await refused(world.update(victim, 2)), RecordNotFound)
    assert isinstance(await refused(world.vault.read(CALLER, NAME)), RecordNotFound)


async def test_of_many_creates_at_once_one_is_acknowledged() -> None:
    world = World()
    contenders = [await world.mint() for _ in range(8)]
    outcomes: list[VaultError | None] = []

    async def contend(key: Key) -> None:
        try:
            await world.create(key)
            outcomes.append(None)
        except VaultError as error:
            outcomes.append(error)

    async def all_others() -> None:
        for key in contenders[1:]:
            await contend(key)

    world.records.before("put_if", all_others)
    await contend(contenders[0])
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, RecordExists) for outcome in outcomes) == 7


async def test_old_envelopes_are_of_no_use_after_a_purge(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    first = (await world.vault.read(CALLER, NAME)).envelope
    assert first is not None
    second = victim.seal(NAME, 2)
    await world.vault.update(CALLER, NAME, victim.wrapped, second)
    await purge(world.records, CALLER, NAME)
    assert isinstance(await refused(world.vault.create(CALLER, NAME, victim.wrapped, first)), StaleRevision)
    assert isinstance(await refused(world.vault.create(CALLER, NAME, victim.wrapped, second)), StaleRevision)
    assert isinstance(await refused(world.vault.update(CALLER, NAME, victim.wrapped, second)), RecordNotFound)


@pytest.mark.parametrize("name", ["prod/", "/", "prod/db/"])
async def test_a_name_that_ends_in_a_slash_is_refused_everywhere(name: str) -> None:
    world = World()
    key = await world.mint("prod/")
    envelope, tombstone = key.seal(name, 1), key.seal(name, 1, b"", Kind.TOMBSTONE)
    vault = world.vault
    for call in (
        vault.read(CALLER, name),
        vault.create(CALLER, name, key.wrapped, envelope),
        vault.update(CALLER, name, key.wrapped, envelope),
        vault.delete(CALLER, name, key.wrapped, tombstone),
        vault.rotate_key(CALLER, name, key.wrapped, envelope, key.wrapped, envelope),
    ):
        assert (await refused(call)).reason == "INVALID_KEY_ID"
    assert not world.records.calls


async def test_a_wrapped_key_with_a_rewritten_scope_does_not_unwrap(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    own = await world.mint("mine/")
    frame = parse_wrapped_key(own.wrapped)
    for scope in (NAME, "prod/"):
        widened = Key(own.plaintext, bytes(WrappedKey(scope, frame.wrapped)), TENANT)
        assert isinstance(await refused(world.update(widened, 2)), NotAuthorized)
        assert isinstance(await refused(world.vault.rewrap_key(CALLER, widened.wrapped)), NotAuthorized)
    assert isinstance(await refused(world.update(own, 2)), WrongScope)
    assert await unharmed(world, victim)


async def test_a_wrapped_key_with_a_rewritten_label_does_not_unwrap(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    world.keys.add("2")
    frame = parse_wrapped_key(victim.wrapped)
    calls = world.keys.calls["unwrap"]
    relabelled = bytes(WrappedKey(frame.scope, WrappedBlob("2", frame.wrapped.blob)))
    assert isinstance(await refused(world.update(Key(victim.plaintext, relabelled, TENANT), 2)), NotAuthorized)
    assert world.keys.calls["unwrap"] == calls + 1
    unknown = bytes(WrappedKey(frame.scope, WrappedBlob("none", frame.wrapped.blob)))
    assert isinstance(await refused(world.update(Key(victim.plaintext, unknown, TENANT), 2)), NotAuthorized)
    assert world.keys.calls["unwrap"] == calls + 1
    assert isinstance(await refused(world.vault.rewrap_key(CALLER, b"\x02" + victim.wrapped[1:])), MalformedWrappedKey)


async def test_a_blob_of_a_foreign_master_key_is_not_unwrapped(attacked: tuple[World, Key]) -> None:
    """The holder of a data key could else wrap it under a master key of their own and have it rewrapped into ours."""
    world, victim = attacked
    foreign = FakeKeyService("1")
    blob = foreign.wrap(TENANT, "prod/", victim.plaintext)
    forged = Key(victim.plaintext, bytes(WrappedKey("prod/", blob)), TENANT)
    assert isinstance(await refused(world.vault.rewrap_key(CALLER, forged.wrapped)), NotAuthorized)
    assert isinstance(await refused(world.update(forged, 2)), NotAuthorized)
    assert await unharmed(world, victim)


async def test_a_rotation_cannot_be_given_another_new_envelope(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    new, thief = await world.mint(NAME), await world.mint(NAME)
    sealed = new.seal(NAME, 2)
    permit = victim.seal(NAME, 2, hashlib.sha256(sealed).digest(), Kind.REKEY)
    stolen = thief.seal(NAME, 2)
    call = world.vault.rotate_key(CALLER, NAME, victim.wrapped, permit, thief.wrapped, stolen)
    assert isinstance(await refused(call), EnvelopeNotUnderKey)
    assert await unharmed(world, victim)


async def test_a_rotation_to_the_same_data_key_is_no_rotation(attacked: tuple[World, Key]) -> None:
    world, victim = attacked
    assert isinstance(await refused(world.rotation(victim, victim, 2)()), SameDataKey)
    assert await unharmed(world, victim)


async def test_a_wrong_key_looks_like_a_broken_key(attacked: tuple[World, Key]) -> None:
    world, _ = attacked
    own = await world.mint(NAME)
    broken = Key(own.plaintext, own.wrapped[:-1] + bytes([own.wrapped[-1] ^ 1]), TENANT)
    first, second = await refused(world.update(own, 2)), await refused(world.update(broken, 2))
    assert (type(first), str(first), first.metadata) == (type(second), str(second), second.metadata)
