"""The fakes beyond their ports: key states, and the hooks with which a test makes them fail."""

import pytest

from keyvault_server.core.errors import BackendUnavailable, MasterKeyUnusable, NotAuthorized
from keyvault_server.core.ports import HeadChanged
from keyvault_server.core.records import vacancy
from tests.support.fakes import FakeKeyService, FakeRecordStore

ONE, TWO, THREE = (vacancy(revision, 1) for revision in (1, 2, 3))


async def test_a_disabled_master_key_is_unusable_until_it_is_enabled() -> None:
    keys = FakeKeyService("1")
    made = await keys.generate("acme", "prod/")
    keys.disable("1")
    for attempt in (
        keys.generate("acme", "prod/"),
        keys.unwrap("acme", "prod/", made.wrapped),
        keys.rewrap("acme", "prod/", made.wrapped),
        keys.check(),
    ):
        with pytest.raises(MasterKeyUnusable):
            await attempt
    keys.enable("1")
    assert await keys.unwrap("acme", "prod/", made.wrapped) == made.plaintext


async def test_a_disabled_old_master_key_stops_only_what_needs_it() -> None:
    keys = FakeKeyService("1")
    old = await keys.generate("acme", "prod/")
    keys.add("2")
    keys.disable("1")
    await keys.check()
    assert (await keys.generate("acme", "prod/")).wrapped.label == "2"
    with pytest.raises(MasterKeyUnusable):
        await keys.rewrap("acme", "prod/", old.wrapped)


async def test_a_removed_label_is_refused_without_a_call() -> None:
    keys = FakeKeyService("1", "2")
    made = await keys.generate("acme", "prod/")
    keys.remove("1")
    with pytest.raises(NotAuthorized):
        await keys.unwrap("acme", "prod/", made.wrapped)
    assert keys.calls == {"generate": 1}


async def test_a_wrapped_key_that_is_not_of_32_bytes_is_refused() -> None:
    """Anyone who may encrypt can wrap bytes of any length; only 32 are a data key."""
    keys = FakeKeyService()
    for size in (0, 31, 33):
        with pytest.raises(NotAuthorized):
            await keys.unwrap("acme", "prod/", keys.wrap("acme", "prod/", bytes(size)))
    assert await keys.unwrap("acme", "prod/", keys.wrap("acme", "prod/", bytes(32))) == bytes(32)


async def test_a_lost_request_does_nothing_a_lost_reply_all() -> None:
    store = FakeRecordStore()
    store.fail_before("put_if", BackendUnavailable())
    store.fail_after("put_if", BackendUnavailable())
    with pytest.raises(BackendUnavailable):
        await store.put_if("acme", "k", ONE, None)
    assert store.records == {}
    with pytest.raises(BackendUnavailable):
        await store.put_if("acme", "k", ONE, None)
    assert store.records == {("acme", "k"): ONE}
    await store.put_if("acme", "k", TWO, ONE.head)
    assert store.calls == {"put_if": 3}


async def test_another_writer_can_come_right_before_a_put() -> None:
    store = FakeRecordStore()
    await store.put_if("acme", "k", ONE, None)

    async def other_writer() -> None:
        await store.put_if("acme", "k", TWO, ONE.head)

    store.before("put_if", other_writer)
    with pytest.raises(HeadChanged) as refused:
        await store.put_if("acme", "k", THREE, ONE.head)
    assert refused.value.stored is not None
    assert refused.value.stored.head == TWO.head
