"""What a KeyService does, on every implementation, before and after a new master key was put first."""

import asyncio
import dataclasses

import pytest

from keyvault_server.core.errors import NotAuthorized
from keyvault_server.core.ports import KeyService, WrappedBlob

KeyServices = tuple[KeyService, KeyService]
TENANT, SCOPE = "acme", "prod/billing/"
MOTO_KEY_NAME = 36
"""Bytes of the key's name at the start of a blob of moto, which answers for another name as KMS does not."""


@pytest.fixture
def keys(key_services: KeyServices) -> KeyService:
    return key_services[0]


async def refuses(keys: KeyService, tenant: str, scope: str, wrapped: WrappedBlob) -> None:
    """Check that both methods that take a wrapped key refuse it."""
    with pytest.raises(NotAuthorized):
        await keys.unwrap(tenant, scope, wrapped)
    with pytest.raises(NotAuthorized):
        await keys.rewrap(tenant, scope, wrapped)


@pytest.mark.slow
async def test_every_data_key_is_fresh_and_of_32_bytes(keys: KeyService) -> None:
    made = await asyncio.gather(*(keys.generate(TENANT, SCOPE) for _ in range(8)))
    assert {len(key.plaintext) for key in made} == {32}
    assert len({key.plaintext for key in made}) == len({key.wrapped.blob for key in made}) == 8


@pytest.mark.slow
async def test_a_data_key_shows_itself_in_no_repr(keys: KeyService) -> None:
    made = await keys.generate(TENANT, SCOPE)
    assert repr(made.plaintext) not in repr(made)


async def test_a_wrapped_key_fits_its_frame(keys: KeyService) -> None:
    made = await keys.generate("a" * 63, "s" * 255)
    assert 1 <= len(made.wrapped.label.encode()) <= 255
    assert 1 <= len(made.wrapped.blob) <= 8_192 - 4 - 255 - 255


@pytest.mark.slow
async def test_a_wrapped_key_unwraps_to_its_data_key_however_often(keys: KeyService) -> None:
    made = await keys.generate(TENANT, SCOPE)
    assert [await keys.unwrap(TENANT, SCOPE, made.wrapped) for _ in range(2)] == [made.plaintext] * 2


@pytest.mark.parametrize(
    ("tenant", "scope"),
    [
        ("acme-2", SCOPE),
        ("acm", SCOPE),
        ("ACME", SCOPE),
        (TENANT, "prod/billing"),
        (TENANT, "prod/billing/x"),
        (TENANT, "prod/"),
        (SCOPE, TENANT),
        # moto binds names and values of the context in one string without lengths; the fixed names between tenant and
        # scope keep these apart even there. A real KMS also keeps apart what moves between a name and its value.
        (TENANT + "p", SCOPE[1:]),
        (TENANT[:-1], "e" + SCOPE),
    ],
)
async def test_another_tenant_or_scope_opens_nothing(keys: KeyService, tenant: str, scope: str) -> None:
    made = await keys.generate(TENANT, SCOPE)
    await refuses(keys, tenant, scope, made.wrapped)


async def test_a_label_that_nobody_configured_opens_nothing(keys: KeyService) -> None:
    made = await keys.generate(TENANT, SCOPE)
    for label in ("none", "", " 1", "ü" * 127):
        await refuses(keys, TENANT, SCOPE, WrappedBlob(label, made.wrapped.blob))


async def test_a_blob_with_any_part_changed_or_missing_opens_nothing(keys: KeyService) -> None:
    made = await keys.generate(TENANT, SCOPE)
    blob = made.wrapped.blob
    flipped = [blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :] for at in (MOTO_KEY_NAME, 50, len(blob) - 1)]
    for changed in (*flipped, blob[:-1], blob[:MOTO_KEY_NAME] + b"\0" * 40, blob + b"\0"):
        await refuses(keys, TENANT, SCOPE, dataclasses.replace(made.wrapped, blob=changed))


@pytest.mark.parametrize("blob", [b"", b"\0", b"\0" * 104, b"\xff" * 6_144, b"\xff" * 7_000])
async def test_garbage_opens_nothing(honest_key_services: KeyServices, blob: bytes) -> None:
    keys = honest_key_services[0]
    label = (await keys.generate(TENANT, SCOPE)).wrapped.label
    await refuses(keys, TENANT, SCOPE, WrappedBlob(label, blob))


async def test_rewrap_under_the_same_master_key_keeps_the_data_key(keys: KeyService) -> None:
    made = await keys.generate(TENANT, SCOPE)
    rewrapped = await keys.rewrap(TENANT, SCOPE, made.wrapped)
    assert rewrapped.blob != made.wrapped.blob
    assert await keys.unwrap(TENANT, SCOPE, rewrapped) == made.plaintext


async def test_a_rotation_keeps_old_wrapped_keys_and_rewrap_moves_them(key_services: KeyServices) -> None:
    before, after = key_services
    old = await before.generate(TENANT, SCOPE)
    new = await after.generate(TENANT, SCOPE)
    assert new.wrapped.label != old.wrapped.label
    assert await after.unwrap(TENANT, SCOPE, old.wrapped) == old.plaintext
    moved = await after.rewrap(TENANT, SCOPE, old.wrapped)
    assert moved.label == new.wrapped.label
    assert await after.unwrap(TENANT, SCOPE, moved) == old.plaintext


async def test_a_label_of_another_master_key_opens_nothing(honest_key_services: KeyServices) -> None:
    before, after = honest_key_services
    made = await after.generate(TENANT, SCOPE)
    old = await before.generate(TENANT, SCOPE)
    await refuses(after, TENANT, SCOPE, dataclasses.replace(old.wrapped, label=made.wrapped.label))


async def test_a_key_service_that_can_be_used_says_so(keys: KeyService) -> None:
    await keys.check()
