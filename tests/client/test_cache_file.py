"""The file of a cache: what it shows, what it is worth, and what of it counts."""

import asyncio
import base64
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.envelope import MAX_PLAINTEXT, Kind
from keyvault_api.files import stamp_of
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    DataKey,
    InvalidRequest,
    KeyVault,
    NotRefreshed,
    Record,
    RecordDamaged,
    SealedRecord,
    Secrets,
    Unavailable,
    read_cache_file,
)
from keyvault_client import cache as cache_module
from keyvault_client.cache_file import MAX_FILE, write_cache_file
from keyvault_client.cache_store import CacheStore, Held
from keyvault_client.records import seal
from tests.support.lying import lying_server
from tests.support.servers import Served

NOWHERE = "127.0.0.1:1"
NEVER = 86_400.0
SECRET = b"correct horse battery staple"
KEY = DataKey("default", "prod/", b"wrapped key in clear", bytes(range(32)))
OTHER = DataKey("default", "prod/", b"wrapped", bytes(32))
NOW = datetime.now(UTC)


def sealed(
    name: str = "prod/db", data: bytes = SECRET, *, revision: int = 3, age: float = 0.0, key: DataKey = KEY
) -> SealedRecord:
    """A record as a cache keeps it, confirmed so many seconds ago."""
    record = Record(name, data, revision, NOW, NOW)
    return SealedRecord.of(record, seal(key, name, revision, data), datetime.now(UTC) - timedelta(seconds=age), key)


@contextlib.asynccontextmanager
async def offline(file: Path, keys: dict[str, DataKey] | None = None, **options: Any) -> Any:
    """A cache that is opened without a server."""
    state = options.pop("state_file", None)
    async with (
        KeyVault(NOWHERE, timeout=0.15, state_file=state) as vault,
        vault.cache(keys or {"prod/db": KEY}, file=file, refresh=NEVER, **options) as secrets,
    ):
        yield secrets


@contextlib.asynccontextmanager
async def online(file: Path, revision: int = 3, data: bytes = SECRET) -> AsyncIterator[Secrets]:
    """A cache that is opened with a server that has this record."""
    found = pb.BatchReadResponse()
    found.results.add(record=pb.ReadResponse(revision=revision, envelope=seal(KEY, "prod/db", revision, data)))
    async with (
        lying_server({"BatchRead": found}) as address,
        KeyVault(address, timeout=60) as vault,
        vault.cache({"prod/db": KEY}, file=file) as secrets,
    ):
        yield secrets


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about the file."""
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [message for message in messages if not message.startswith("refresh failed")]


def content_of(file: Path) -> bytes:
    return file.read_bytes()


def mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o7777


def replace_content(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def make_writable(file: Path) -> None:
    file.chmod(0o602)


def make_foreign(file: Path, kind: str) -> None:
    """Put there what is not the file of a cache."""
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        contents = {"text": b"my notes", "JSON": b'{"records": {}}', "binary": bytes(range(256))}
        file.write_bytes(contents[kind])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secrets.cache"


async def test_the_file_shows_neither_data_nor_keys(vault: KeyVault, file: Path) -> None:
    key = await vault.generate_key("prod/")
    await vault.create("prod/db", SECRET, key=key)
    async with vault.cache({"prod/db": key}, file=file):
        content = content_of(file)
    assert mode_of(file) == 0o600
    assert b"prod/db" in content
    for secret in (SECRET, SECRET[:8], key.secret(), key.secret()[:8], key.wrapped_key, key.wrapped_key[:12]):
        for written in (
            secret,
            secret.hex().encode(),
            *(base64.b64encode(pad + secret)[4:-4] for pad in (b"", b"aaa")),
        ):
            assert written not in content
    assert SECRET.decode() not in repr(read_cache_file(file))
    with pytest.raises(RecordDamaged):
        read_cache_file(file)["prod/db"].open(OTHER)


@pytest.mark.medium
async def test_a_program_starts_from_the_file_while_the_server_is_away(vault: KeyVault, file: Path) -> None:
    key = await vault.generate_key("prod/")
    await vault.create("prod/db", SECRET, key=key)
    async with vault.cache({"prod/db": key}, file=file) as secrets:
        before = secrets.record("prod/db")
    await asyncio.sleep(0.05)
    written = stamp_of(file)
    async with offline(file, {"prod/db": key}) as secrets:
        assert stamp_of(file) == written
        assert secrets.record("prod/db") == before
        assert 0.05 < secrets.age("prod/db") < 60
        assert isinstance(secrets.failure("prod/db"), Unavailable)


async def test_a_start_from_the_file_ends_in_what_the_server_has(vault: KeyVault, file: Path) -> None:
    key = await vault.generate_key("prod/")
    await vault.create("prod/db", b"one", key=key)
    async with vault.cache({"prod/db": key}, file=file):
        pass
    await vault.update("prod/db", b"two", key=key)
    changes: list[str] = []
    async with vault.cache({"prod/db": key}, file=file, on_change=lambda name, _: changes.append(name)) as secrets:
        assert secrets["prod/db"] == b"two"
        await asyncio.sleep(0.01)
        assert not changes, "the program began with it"
        assert read_cache_file(file)["prod/db"].open(key).plaintext == b"two"


@pytest.mark.slow
async def test_a_start_with_a_file_waits_two_seconds_for_a_server(file: Path) -> None:
    write_cache_file(file, [sealed()])
    began = time.monotonic()
    async with KeyVault(NOWHERE, timeout=60) as vault, vault.cache({"prod/db": KEY}, file=file) as secrets:
        assert secrets["prod/db"] == SECRET
        assert cache_module.START_SECONDS <= time.monotonic() - began < 10
        assert secrets.failure("prod/db") is None, "the refresh of the start goes on"


async def test_a_file_that_lacks_a_name_does_not_start_alone(file: Path) -> None:
    write_cache_file(file, [sealed()])
    with pytest.raises(NotRefreshed, match="1 of 2 names were not refreshed: prod/new: "):
        async with offline(file, {"prod/db": KEY, "prod/new": KEY}):
            raise AssertionError


def damaged(content: bytes) -> dict[str, bytes]:
    """Contents that are not a whole file of a cache, each by its name."""
    fields = json.loads(content)
    record = fields["records"]["prod/db"]
    changes: dict[str, Any] = {
        "mac": "AAAA",
        "envelope": record["envelope"][:-8],
        "confirm_time": "yesterday",
        "create_time": 5,
        "update_time": None,
    }
    broken = {name: fields | {"records": {"prod/db": record | {name: value}}} for name, value in changes.items()}
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "all but the end": content[:-2],
        "zeros at the end": content[:-20] + bytes(20),
        "another version": content.replace(b'"keyvault_cache": 1', b'"keyvault_cache": 2'),
        "a list": content.replace(b'"records": {', b'"records": [{').replace(b"}\n}", b"}]\n}"),
        "deep": content[:22] + b"[" * 100_000,
        "an invalid name": content.replace(b"prod/db", b"prod/ db"),
        "no field": json.dumps(fields | {"records": {"prod/db": {}}}, indent=1).encode(),
        "no record": json.dumps(fields | {"records": {"prod/db": None}}, indent=1).encode(),
        **{f"broken {name}": json.dumps(one, indent=1).encode() for name, one in broken.items()},
    }


@pytest.mark.parametrize("how", [*damaged(b'{\n "keyvault_cache": 1, "records": {"prod/db": {"envelope": ""}}}')])
async def test_a_damaged_file_is_one_warning_and_replaced(
    how: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cache_file(file, [sealed()])
    replace_content(file, damaged(content_of(file))[how])
    async with online(file) as secrets:
        assert secrets["prod/db"] == SECRET
    (line,) = warnings(caplog)
    assert str(file) in line
    assert line.isprintable()
    assert read_cache_file(file)["prod/db"].open(KEY).plaintext == SECRET


@pytest.mark.parametrize("kind", ["text", "JSON", "binary", "folder", "pipe"])
async def test_a_file_of_something_else_is_left_alone(kind: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_foreign(file, kind)
    before = stamp_of(file)
    async with online(file) as secrets:
        assert secrets["prod/db"] == SECRET
    (line,) = warnings(caplog)
    assert line.startswith(f"the file of the cache is ignored: {file}: ")
    assert stamp_of(file) == before


async def test_a_file_that_others_may_write_is_ignored(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_cache_file(file, [sealed()])
    make_writable(file)
    with pytest.raises(NotRefreshed):
        async with offline(file):
            raise AssertionError
    (line,) = warnings(caplog)
    assert "mode 0602" in line


async def test_a_record_of_the_file_counts_only_if_it_opens(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A swapped name, another key, a changed time: none of them is used, and one line says so."""
    good, tombstone = sealed("prod/good"), seal(KEY, "prod/gone", 3, b"", Kind.TOMBSTONE)
    write_cache_file(
        file,
        [
            good,
            replace(sealed("prod/a"), key_id="prod/swapped"),
            sealed("prod/other", key=OTHER),
            replace(sealed("prod/old", age=1e6), confirmed=NOW),
            replace(sealed("prod/time"), created=NOW - timedelta(days=1)),
            replace(sealed("prod/mac"), mac=bytes(32)),
            SealedRecord.of(Record("prod/gone", b"", 3, NOW, NOW), tombstone, NOW, KEY),
            sealed("prod/foreign"),
        ],
    )
    names = ["prod/good", "prod/gone", "prod/swapped", "prod/other", "prod/old", "prod/time", "prod/mac"]
    async with offline(file, dict.fromkeys(names, KEY), allow_missing=True) as secrets:
        assert list(secrets) == ["prod/good"]
    (line,) = warnings(caplog)
    assert all(name in line for name in names[1:])


@pytest.mark.medium
async def test_the_file_does_not_go_below_a_revision_that_was_seen(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cache_file(file, [sealed(revision=5)])
    state = tmp_path / "revisions.json"
    async with offline(file, state_file=state) as secrets:
        assert secrets.record("prod/db").revision == 5
    write_cache_file(file, [sealed(revision=4)])
    async with offline(file) as secrets:
        assert secrets.record("prod/db").revision == 4
    with pytest.raises(NotRefreshed):
        async with offline(file, state_file=state):
            raise AssertionError
    assert "prod/db: the file has revision 4, and revision 5 was seen since" in caplog.text
    assert "rolled back" not in caplog.text, "a change since then is not the server's fault"


async def test_what_the_file_proved_refuses_an_older_server(file: Path) -> None:
    write_cache_file(file, [sealed(revision=5)])
    async with online(file, revision=4, data=b"old") as secrets:
        with pytest.raises(NotRefreshed, match="rolled back"):
            await secrets.refresh()
        assert secrets["prod/db"] == SECRET


async def test_age_counts_from_the_confirmation_before_the_restart(file: Path) -> None:
    write_cache_file(file, [sealed("prod/a", age=5_000), sealed("prod/b", age=-30), sealed("prod/c", age=-3_600)])
    async with offline(file, dict.fromkeys(("prod/a", "prod/b", "prod/c"), KEY)) as secrets:
        assert 5_000 <= secrets.age("prod/a") < 5_060
        assert 0 <= secrets.age("prod/b") < 60
        assert secrets.age("prod/c") > 1e9, "ahead of the clock: its age is unknown"


@pytest.mark.medium
async def test_a_value_of_the_file_beyond_max_age_is_not_served(file: Path) -> None:
    write_cache_file(file, [sealed(age=5_000)])
    async with offline(file, max_age=6_000) as secrets:
        assert secrets["prod/db"] == SECRET
    with pytest.raises(NotRefreshed):
        async with offline(file, max_age=4_000):
            raise AssertionError


async def test_a_deleted_record_leaves_the_file(vault: KeyVault, file: Path) -> None:
    key = await vault.generate_key("prod/")
    for name in ("prod/a", "prod/b"):
        await vault.create(name, SECRET, key=key)
    async with vault.cache({"prod/a": key, "prod/b": key}, file=file) as secrets:
        await vault.delete("prod/a", key=key)
        with pytest.raises(NotRefreshed):
            await secrets.refresh()
        assert list(read_cache_file(file)) == ["prod/b"]


async def test_a_rotated_record_of_the_file_asks_for_its_new_key(file: Path) -> None:
    write_cache_file(file, [sealed(key=OTHER)])
    async with offline(file, new_key=lambda _: OTHER) as secrets:
        assert secrets["prod/db"] == SECRET


@pytest.mark.medium
async def test_a_new_key_that_hangs_holds_up_a_start_once(file: Path) -> None:
    """And not once for each name."""
    names = [f"prod/{number}" for number in range(20)]
    write_cache_file(file, [sealed(name, key=OTHER) for name in names])
    began = time.monotonic()
    with pytest.raises(NotRefreshed):
        async with offline(file, dict.fromkeys(names, KEY), new_key=lambda _: asyncio.sleep(60)):
            raise AssertionError
    assert time.monotonic() - began < 2, "twenty times 0.15 s is more"


async def test_a_file_that_cannot_be_written_is_one_warning(
    server: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with KeyVault(server.address) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/db", SECRET, key=key)
        folder = tmp_path / "later"
        async with vault.cache({"prod/db": key}, file=folder / "secrets.cache") as secrets:
            await secrets.refresh()
            (line,) = warnings(caplog)
            assert line == f"the file of the cache is not written: {folder}/secrets.cache: No such file or directory"
            folder.mkdir()
            await secrets.refresh()
            assert list(read_cache_file(folder / "secrets.cache")) == ["prod/db"]


async def test_the_file_is_written_when_it_is_worth_it(file: Path) -> None:
    """At once if a record changed, else if its times are old."""
    store, keys = CacheStore(file, max_age=100), {"prod/db": KEY}
    record = Record("prod/db", SECRET, 3, NOW, NOW)
    envelopes = [seal(KEY, "prod/db", 3, SECRET) for _ in range(2)]

    async def writes(envelope: bytes, confirmed: float) -> bool:
        before = stamp_of(file)
        await store.save({"prod/db": Held(record, envelope, confirmed)}, keys, confirmed)
        return stamp_of(file) != before

    assert await writes(envelopes[0], 0.0)
    assert not await writes(envelopes[0], 24.0)
    assert await writes(envelopes[0], 25.0)
    assert await writes(envelopes[1], 26.0)
    assert not await writes(envelopes[1], 27.0)


async def test_a_write_that_was_overtaken_writes_nothing(file: Path) -> None:
    """A refresh that is cancelled leaves its write to a thread, which may come late."""
    store, record = CacheStore(file), Record("prod/db", SECRET, 3, NOW, NOW)
    late = {"prod/db": Held(record, seal(KEY, "prod/db", 3, SECRET), 0.0)}
    store._last_save = 2
    store._write({}, {}, 0.0, 2)
    store._write(late, {"prod/db": KEY}, 0.0, 1)
    assert read_cache_file(file) == {}


@pytest.mark.slow
def test_what_would_be_too_large_is_not_written(file: Path) -> None:
    write_cache_file(file, [sealed()])
    large = sealed(data=bytes(MAX_PLAINTEXT))
    records = [replace(large, key_id=f"prod/{number}") for number in range(MAX_FILE // MAX_PLAINTEXT)]
    with pytest.raises(InvalidRequest, match="larger than"):
        write_cache_file(file, records)
    assert read_cache_file(file)["prod/db"].revision == 3


def test_writing_keeps_a_symbolic_link_and_takes_rights_away(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch(0o644)
    file.symlink_to(target)
    write_cache_file(file, [sealed()])
    assert file.is_symlink()
    assert target.stat().st_mode & 0o7777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secrets.cache", "target"]
