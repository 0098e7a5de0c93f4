"""A client with a key ring: no call needs a key, and a rotation interrupts nobody."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyvault_client import (
    AlreadyExists,
    DataKey,
    InvalidRequest,
    KeyNotFound,
    KeyRing,
    KeyVault,
    NotAuthorized,
    NotFound,
    Record,
    RecordDamaged,
)
from keyvault_client.key_folder import NEW_SUFFIX, save_key
from keyvault_server.core.ports import WrappedBlob
from keyvault_server.core.wrapped_key import WrappedKey
from tests.support.servers import Served


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    (tmp_path / "keys").mkdir(mode=0o700)
    return KeyRing(tmp_path / "keys")


@pytest.fixture
async def client(server: Served, ring: KeyRing) -> AsyncIterator[KeyVault]:
    async with KeyVault(server.address, keys=ring) as vault:
        ring.save(await vault.generate_key("prod/"))
        yield vault


async def plaintext_of(client: KeyVault, name: str) -> bytes:
    return (await client.read(name)).plaintext


async def test_no_call_needs_a_key(client: KeyVault, ring: KeyRing) -> None:
    await client.create("prod/db", b"one")
    await client.update("prod/db", b"two")
    assert await plaintext_of(client, "prod/db") == b"two"
    assert (await client.read("prod/db", revision=1)).plaintext == b"one"
    assert await client.read_if_changed("prod/db", known_revision=2) is None
    await client.restore("prod/db", revision=1)
    found = await client.read_many(["prod/db", "prod/none", "dev/x", "prod/db", "a b"])
    assert [type(result) for result in found.values()] == [Record, NotFound, KeyNotFound, InvalidRequest]
    new = await client.generate_key("prod/db")
    ring.save(new)
    await client.rotate_key("prod/db", new_key=new)
    assert await plaintext_of(client, "prod/db") == b"one"
    await client.delete("prod/db")
    assert (await client.create("prod/db", b"again")).revision == 6


async def test_without_a_key_and_a_ring_a_call_says_what_to_do(vault: KeyVault) -> None:
    for call in (
        vault.create("prod/db", b""),
        vault.read("prod/db"),
        vault.read("prod/db", revision=1),
        vault.read_if_changed("prod/db", known_revision=1),
        vault.update("prod/db", b""),
        vault.restore("prod/db", revision=1),
        vault.delete("prod/db"),
        vault.rotate_key("prod/db", new_key=DataKey("default", "prod/db", b"wrapped", bytes(32))),
        vault.read_many(["prod/db"]),
    ):
        with pytest.raises(InvalidRequest, match=r"^no key for prod/db: give key=, or .* keys=KeyRing\(folder\)$"):
            await call
    with pytest.raises(InvalidRequest, match="a list of names"):
        await vault.read_many("prod/db")


async def test_a_name_without_a_key_is_refused_before_it_is_sent(ring: KeyRing) -> None:
    async with KeyVault("127.0.0.1:1", keys=ring) as nowhere:
        for call in (nowhere.create("dev/x", b""), nowhere.read("dev/x"), nowhere.delete("dev/x")):
            with pytest.raises(KeyNotFound, match="no key for dev/x"):
                await call
        with pytest.raises(InvalidRequest, match="invalid key_id 'dev/'"):
            await nowhere.read("dev/")


async def test_a_key_that_is_given_is_the_only_one(client: KeyVault) -> None:
    await client.create("prod/db", b"one")
    with pytest.raises(RecordDamaged, match="another key"):
        await client.read("prod/db", key=await client.generate_key("prod/"))


async def test_a_rotation_interrupts_no_reader(client: KeyVault, ring: KeyRing) -> None:
    """The new key waits in a file of its own until the record is its own. Every call works before and after."""
    await client.create("prod/db", b"one")
    await client.create("prod/motd", b"hello")
    new = await client.generate_key("prod/db")
    waiting = save_key(ring.folder, new, NEW_SUFFIX)
    assert await plaintext_of(client, "prod/db") == b"one"
    await client.rotate_key("prod/db", new_key=new)
    assert await plaintext_of(client, "prod/db") == b"one"
    await client.update("prod/db", b"two")
    await client.update("prod/db", b"three", revision=3)
    found = await client.read_many(["prod/db", "prod/motd"])
    assert [result.plaintext for result in found.values() if isinstance(result, Record)] == [b"three", b"hello"]
    waiting.rename(waiting.with_suffix(""))
    assert await plaintext_of(client, "prod/db") == b"three"


async def test_a_record_is_not_created_under_a_key_that_waits(client: KeyVault, ring: KeyRing) -> None:
    save_key(ring.folder, await client.generate_key("dev/x"), NEW_SUFFIX)
    with pytest.raises(KeyNotFound):
        await client.create("dev/x", b"")


async def test_a_shorter_scope_does_not_open_a_record(client: KeyVault, ring: KeyRing) -> None:
    """Or the holder of a prefix's key could put a record back under it that was rotated to a key of its own."""
    await client.create("prod/db", b"one")
    path = ring.save(await client.generate_key("prod/db"))
    with pytest.raises(RecordDamaged, match=rf"another key's.*\(tried {path}\)"):
        await client.read("prod/db")
    with pytest.raises(NotAuthorized):
        await client.update("prod/db", b"two")
    found = await client.read_many(["prod/db"])
    assert isinstance(found["prod/db"], RecordDamaged)
    assert str(path) in str(found["prod/db"])
    with pytest.raises(NotAuthorized, match=f"tried {path}"):
        await client.delete("prod/db", revision=1)
    with pytest.raises(AlreadyExists):
        await client.create("prod/db", b"two")


async def test_keys_of_other_tenants_do_not_disturb(client: KeyVault, ring: KeyRing) -> None:
    """The server answers for them as for any key that is not the record's."""
    wrapped = bytes(WrappedKey("prod/", WrappedBlob("elsewhere", bytes(100))))
    DataKey("acme", "prod/", wrapped, bytes(32)).save(ring.folder / "acme.key")
    await client.create("prod/db", b"one")
    await client.update("prod/db", b"two")
    assert await plaintext_of(client, "prod/db") == b"two"
    found = await client.read_many(["prod/db"])
    assert isinstance(found["prod/db"], Record)
    await client.create("prod/other", b"", key=await client.generate_key("prod/other"))
    with pytest.raises(RecordDamaged, match=r"tried .*acme\.key"):  # the first of two
        await client.read("prod/other")
    assert "acme.key" in str((await client.read_many(["prod/other"]))["prod/other"])


async def test_a_key_file_overwritten_in_place_is_found(server: Served, ring: KeyRing) -> None:
    """Its folder does not change. The client looks at the files once its keys do not open the record."""
    async with KeyVault(server.address) as plain:
        old, new = [await plain.generate_key("prod/") for _ in "12"]
        await plain.create("prod/db", b"one", key=new)
    path = ring.save(old)
    settled = KeyRing(ring.folder, clock=iter(range(1000)).__next__, file_clock=lambda: 1e12)
    path.write_text(new.to_json())
    async with KeyVault(server.address, keys=settled) as client:
        assert await plaintext_of(client, "prod/db") == b"one"
