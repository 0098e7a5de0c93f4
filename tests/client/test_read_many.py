"""`read_many`: many records, each opened and checked as if it had been read alone."""

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from keyvault_api.files import stamp_of
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    Busy,
    DataKey,
    InvalidRequest,
    KeyVault,
    KeyVaultError,
    NotFound,
    Record,
    RecordDamaged,
    RolledBack,
    ServerFailure,
)
from keyvault_client.revision_file import RevisionFile
from tests.support.lying import Refused, lying_server
from tests.support.servers import Served

SIZE = 200_000
FULL = pb.BatchReadResponse.Error(code=8, reason="BATCH_FULL", message="no room")
BUSY = pb.BatchReadResponse.Error(code=8, reason="RATE_LIMITED", message="too many requests")
GONE = pb.BatchReadResponse.Error(code=grpc.StatusCode.NOT_FOUND.value[0], reason="RECORD_NOT_FOUND")


def answer(*errors: pb.BatchReadResponse.Error) -> bytes:
    return pb.BatchReadResponse(
        results=[pb.BatchReadResponse.Result(error=error) for error in errors]
    ).SerializeToString()


async def test_each_name_has_its_record_or_its_error(vault: KeyVault) -> None:
    key, other = await vault.generate_key("many/"), await vault.generate_key("many/b")
    for name, owner in (("many/a", key), ("many/b", other), ("many/c", key)):
        await vault.create(name, name.encode(), key=owner)
    found = await vault.read_many({"many/c": key, "many/none": key, "many/b": key, "else/a": key, "many/a": key})
    assert list(found) == ["many/c", "many/none", "many/b", "else/a", "many/a"]
    kinds = [type(result) for result in found.values()]
    assert kinds == [Record, NotFound, RecordDamaged, InvalidRequest, Record]
    record = found["many/a"]
    assert isinstance(record, Record)
    assert (record.plaintext, record.revision) == (b"many/a", 1)
    assert await vault.read_many({}) == {}


@pytest.mark.medium
async def test_more_than_one_answer_holds_is_read(vault: KeyVault) -> None:
    """More names, and more bytes."""
    key = await vault.generate_key("large/")
    names = [f"large/{number}" for number in range(120)]
    await asyncio.gather(*(vault.create(name, bytes(SIZE if name < "large/2" else 1), key=key) for name in names))
    found = await vault.read_many(dict.fromkeys(names, key), timeout=60)
    assert [record.key_id for record in found.values() if isinstance(record, Record)] == names


async def test_a_rolled_back_record_is_noticed_in_a_batch(vault: KeyVault) -> None:
    key = await vault.generate_key("old/")
    await vault.create("old/a", b"one", key=key)
    stored = pb.BatchReadResponse(
        results=[pb.BatchReadResponse.Result(record=pb.ReadResponse(revision=1, tenant=key.tenant))]
    )
    async with lying_server({"BatchRead": stored.SerializeToString()}) as address, KeyVault(address) as liar:
        liar._seen.note(key, "old/a", 2)
        found = await liar.read_many({"old/a": key})
    assert isinstance(found["old/a"], RolledBack)


@pytest.mark.parametrize(
    "lie", [answer(), answer(FULL, FULL), answer(FULL)], ids=["too few", "too many", "never any room"]
)
async def test_an_answer_that_cannot_be_is_refused(lie: bytes) -> None:
    key = DataKey("default", "a", b"wrapped", bytes(32))
    async with lying_server({"BatchRead": lie}) as address, KeyVault(address) as vault:
        with pytest.raises(ServerFailure):
            await vault.read_many({"a": key})


@pytest.mark.medium
async def test_a_busy_item_is_asked_for_until_the_deadline() -> None:
    key = DataKey("default", "a/", b"wrapped", bytes(32))
    async with lying_server({"BatchRead": [answer(BUSY, GONE), answer(GONE)]}) as address, KeyVault(address) as vault:
        found = await vault.read_many({"a/1": key, "a/2": key})
    assert [type(result) for result in found.values()] == [NotFound, NotFound]
    async with lying_server({"BatchRead": answer(BUSY)}) as address, KeyVault(address) as vault:
        with pytest.raises(KeyVaultError):
            await vault.whoami()  # connects: on a busy machine that may take more than a second
        assert isinstance((await vault.read_many({"a/1": key}, timeout=1.0))["a/1"], Busy)


@pytest.mark.slow
async def test_a_busy_item_stays_one_when_the_deadline_passes() -> None:
    key = DataKey("default", "a/", b"wrapped", bytes(32))

    away = Refused(grpc.StatusCode.UNAVAILABLE, "the server is stopping", "SERVER_STOPPING")
    async with lying_server({"BatchRead": [answer(BUSY), away]}) as address, KeyVault(address) as vault:
        assert isinstance((await vault.read_many({"a/1": key}, timeout=1.0))["a/1"], Busy)


@pytest.mark.medium
async def test_a_busy_item_is_asked_for_after_the_time_it_names() -> None:
    key, loop = DataKey("default", "a/", b"wrapped", bytes(32)), asyncio.get_running_loop()
    later = pb.BatchReadResponse.Error(code=8, reason="RATE_LIMITED", retry_delay=Duration(nanos=200_000_000))
    async with lying_server({"BatchRead": [answer(later), answer(GONE)]}) as address, KeyVault(address) as vault:
        began = loop.time()
        assert isinstance((await vault.read_many({"a/1": key}))["a/1"], NotFound)
    assert loop.time() - began >= 0.2


async def test_what_had_no_room_is_asked_for_at_once() -> None:
    """Or each answer that is full would cost a wait: this timeout has no room for six."""
    key, names = DataKey("default", "a/", b"wrapped", bytes(32)), [f"a/{number}" for number in range(7)]
    answers = [answer(GONE, *[FULL] * left) for left in reversed(range(len(names)))]
    async with lying_server({"BatchRead": answers}) as address, KeyVault(address) as vault:
        found = await vault.read_many(dict.fromkeys(names, key), timeout=5)
    assert {type(result) for result in found.values()} == {NotFound}


async def test_a_batch_writes_the_file_of_revisions_once(server: Served, tmp_path: Path) -> None:
    """A write for each record would block the event loop for seconds."""
    path, stamps = tmp_path / "revisions.json", set()
    async with KeyVault(server.address, state_file=path) as vault, KeyVault(server.address) as writer:
        key = await writer.generate_key("many/")
        names = [f"many/{number}" for number in range(20)]
        for name in names:
            await writer.create(name, b"", key=key)

        class Watched(dict[str, DataKey]):
            """The keys, which look at the file whenever one is asked for."""

            def __getitem__(self, name: str) -> DataKey:
                stamps.add(stamp_of(path))
                return super().__getitem__(name)

        await vault.read_many(Watched.fromkeys(names, key))
        stamps.add(stamp_of(path))
        assert len(stamps) == 2, "none, and the one at the end"
        known = RevisionFile(path, server.address)
        assert [known.get(key, name) for name in names] == [1] * len(names)
