"""A log of several files: FILE, and what it was before. Nothing is lost between them, and no file goes unmissed."""

import asyncio
import errno
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.audit.file import UnusableAuditFile
from keyvault_server.audit.key import AuditKey, load_key
from keyvault_server.audit.reading import open_logs
from keyvault_server.audit.replay import against_store
from keyvault_server.audit.rotation import files_of, live_name
from keyvault_server.audit.verify import Report, verify
from keyvault_server.backends.embedded.sqlite import open_store
from tests.support.properties import trials
from tests.support.servers import embedded
from tests.support.trails import CALL, Trail, note, some_change

SEED = 20_251_125
TAMPERINGS = trials(2_200)
SMALL = 4_000
"""Bytes of a file, for tests: some eight lines."""


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path)


async def write(trail: Trail, lines: int = 60, prefix: str = "r") -> None:
    """One line after another, so that each file has a few."""
    async with trail.open(file_bytes=SMALL, checkpoint_lines=5) as audit:
        for number in range(lines):
            await audit.outcome(CALL._replace(request=f"{prefix}{number}"), "OK")


async def test_a_large_file_is_kept_and_the_log_goes_on_in_a_new_one(trail: Trail) -> None:
    await write(trail)
    files = [*trail.archives(), trail.path]
    assert len(files) > 4
    for path in files:
        first = json.loads(path.read_bytes().splitlines()[0])
        assert path == trail.path or path.name == f"audit.jsonl.{first['seq']:012}"
        assert path.stat().st_size < 2 * SMALL
    lines = trail.lines_of_all_files()
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["request"] for line in lines if "request" in line] == [f"r{number}" for number in range(60)]
    checkpoints = [line for line in lines if line["phase"] == "checkpoint"]
    assert [json.loads(line) for line in trail.checkpoints.read_bytes().splitlines()] == checkpoints
    (trail.folder / "public.pem").write_text(trail.key.pem)
    for key in (trail.key, load_key(trail.folder / "public.pem")):
        report = verify([trail.path], key, patience=0)
        assert report.whole, report.bad
        assert (report.lines, report.checkpoints, report.starts) == (len(lines), len(checkpoints), 1)


@pytest.mark.medium
async def test_every_start_goes_on_however_young_the_file_is(trail: Trail) -> None:
    for lines in range(12):
        await write(trail, lines, f"{lines}-")
    assert trail.archives()
    seqs = [line["seq"] for line in trail.lines_of_all_files()]
    assert seqs == list(range(1, len(seqs) + 1))
    report = trail.verified()
    assert (report.starts, report.crashes) == (12, 0)


async def test_a_new_file_has_the_mode_of_the_old_one(trail: Trail) -> None:
    async with trail.open():
        pass
    trail.path.chmod(0o644)
    await write(trail)
    assert {path.stat().st_mode & 0o777 for path in (trail.path, *trail.archives())} == {0o644}


def open_below(folder: Path) -> set[str]:
    """The names of the files in a folder that this process has open."""
    paths = [Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir()]
    return {path.name for path in paths if path.parent == folder}


async def test_a_file_that_is_kept_is_not_kept_open(trail: Trail) -> None:
    async with trail.open(file_bytes=SMALL, checkpoint_lines=5) as audit:
        await note(audit, 60)
        await note(audit, 60)
        assert open_below(trail.folder) == {trail.path.name, trail.checkpoints.name}
    assert len(trail.archives()) >= 2


async def test_no_file_is_replaced_before_its_checkpoint_is_copied(trail: Trail) -> None:
    """Or a crash in between would leave a FILE without the last copied checkpoint, which stops every start."""
    await write(trail, 20)
    lines, copies = trail.archives()[0].read_bytes(), trail.checkpoints.read_bytes()
    for path in trail.archives():
        path.unlink()
    trail.path.write_bytes(lines)
    without_the_last = copies[: copies.index(lines.splitlines(True)[-1])]
    trail.checkpoints.write_bytes(without_the_last)
    syncs = []

    def fail_to_copy(file: int) -> None:
        syncs.append(os.path.realpath(f"/proc/self/fd/{file}"))
        if syncs.count(str(trail.checkpoints)) == 2:  # the first one is of what was found
            raise OSError(errno.EIO, "failed")

    with pytest.raises(UnusableAuditFile, match="cannot be written"):
        async with trail.open(sync=fail_to_copy):
            pass
    trail.checkpoints.write_bytes(without_the_last)
    async with trail.open() as audit:
        await audit.outcome(CALL, "OK")
    assert [path.name for path in trail.archives()] == ["audit.jsonl.000000000001"]
    trail.verified()


def test_the_files_of_another_log_are_not_ours(tmp_path: Path) -> None:
    names = ("audit.jsonl", "audit.jsonl.000000000001", "audit.jsonl.000000000009")
    for name in (
        *names,
        "other.jsonl.000000000001",
        "audit.jsonl.checkpoints",
        "audit.jsonl.00001",
        "audit.jsonl.next",
    ):
        (tmp_path / name).touch()
    assert [file.name for file in files_of(tmp_path / "audit.jsonl")] == list(names)
    assert [live_name(tmp_path / name).name for name in names] == ["audit.jsonl"] * 3


async def test_a_link_to_the_log_is_rotated_where_it_is(trail: Trail) -> None:
    trail.path.symlink_to(trail.folder / "elsewhere")
    await write(trail)
    assert (trail.folder / "elsewhere").samefile(trail.archives()[0])
    assert not trail.path.is_symlink()
    assert trail.verified().lines == len(trail.lines_of_all_files())


@pytest.mark.slow
async def test_a_server_rotates_at_the_size_that_its_settings_say(trail: Trail) -> None:
    async with embedded(trail.folder / "data", audit_file=trail.path, audit_file_bytes=65_536) as server:
        for _ in range(250):
            await server.stub.GenerateKey(pb.GenerateKeyRequest(scope="a/"))
    assert len(trail.archives()) == 1
    assert verify([trail.path], AuditKey.load(Path(f"{trail.path}.key")), patience=0).whole


async def test_a_file_that_cannot_be_kept_grows_on_and_is_tried_again(
    trail: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = trail.folder / "audit.jsonl.000000000001"
    in_the_way.write_bytes(b"somebody else's")
    async with trail.open(file_bytes=SMALL) as audit:
        while not caplog.records:
            await note(audit, 1)
        in_the_way.unlink()
        await note(audit, 4)
        assert not trail.archives(), "not at every line"
        while not trail.archives():
            await note(audit, 1)
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "the audit log was not rotated")
    trail.verified()
    seqs = [line["seq"] for line in trail.lines_of_all_files()]
    assert seqs == list(range(1, len(seqs) + 1))


# What is missed


class Files:
    """A log of several files, as lines, and another one of the same key; spoilt in copies."""

    def __init__(self, trail: Trail, other: Trail) -> None:
        self.folder = trail.folder
        self.key = trail.key
        self.whole = [path.read_bytes().splitlines(True) for path in (*trail.archives(), trail.path)]
        self.other = [path.read_bytes().splitlines(True) for path in (*other.archives(), other.path)]
        self.shipped = trail.checkpoints

    def verified(self, files: list[list[bytes]], dice: random.Random, since: int = 1) -> Report:
        """Verify the files in any order, under names that say nothing."""
        folder = self.folder / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, lines in enumerate(dice.sample(files, len(files))):
            (folder / f"file {number}").write_bytes(b"".join(lines))
        return verify(sorted(folder.iterdir()), self.key, [self.shipped], since=[since], patience=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    one, other = Trail(tmp_path_factory.mktemp("one")), Trail(tmp_path_factory.mktemp("other"))
    AuditKey.create(one.key_path)
    shutil.copy(one.key_path, other.key_path)
    for trail in (one, other):
        asyncio.run(write(trail, 40))
    return Files(one, other)


def drop_files(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    for _ in range(dice.randint(1, len(files) - 1)):
        del files[dice.randrange(len(files))]


def cut_the_end(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    lines = dice.choice(files)
    del lines[dice.randrange(len(lines)) :]


def tear_the_end(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    lines = dice.choice(files)
    lines[-1] = lines[-1][: dice.randrange(1, len(lines[-1]))]


def cut_the_beginning(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    lines = dice.choice(files)
    del lines[: dice.randint(1, len(lines) - 1)]


def swap_lines_between_files(
    files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random
) -> None:
    one, other = dice.sample(files, 2)
    at, there = dice.randrange(len(one)), dice.randrange(len(other))
    one[at], other[there] = other[there], one[at]


def move_lines_to_another_file(
    files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random
) -> None:
    one, other = dice.sample(files, 2)
    other.append(one.pop(dice.randrange(len(one))))


def replace_by_a_file_of_another_log(
    files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random
) -> None:
    files[dice.randrange(len(files))] = list(dice.choice(files_of_another))


def double_a_file(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    files.append(list(dice.choice(files)))


def join_files(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    at = dice.randrange(len(files) - 1)
    files[at] += files.pop(at + 1)


def split_a_file(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    lines = dice.choice(files)
    at = dice.randint(1, len(lines) - 1)
    files.append(lines[at:])
    del lines[at:]


def edit_a_line(files: list[list[bytes]], files_of_another: list[list[bytes]], dice: random.Random) -> None:
    lines = dice.choice(files)
    at = dice.randrange(len(lines))
    line = bytearray(lines[at])
    line[dice.randrange(len(line))] ^= 1 << dice.randrange(8)
    lines[at] = bytes(line)


TAMPER: tuple[Callable[[list[list[bytes]], list[list[bytes]], random.Random], None], ...] = (
    drop_files,
    cut_the_end,
    tear_the_end,
    cut_the_beginning,
    swap_lines_between_files,
    move_lines_to_another_file,
    replace_by_a_file_of_another_log,
    double_a_file,
    join_files,
    split_a_file,
    edit_a_line,
)


@pytest.mark.slow
@pytest.mark.sampled
def test_no_random_tampering_with_several_files_goes_undetected(files: Files) -> None:
    print(f"seed {SEED}")  # noqa: T201
    dice = random.Random(SEED)
    assert files.verified(files.whole, dice).whole, "in any order"
    undetected, done = [], 0
    while done < TAMPERINGS:
        tamper = TAMPER[done % len(TAMPER)]
        spoilt = [list(lines) for lines in files.whole]
        tamper(spoilt, files.other, dice)
        if sorted(spoilt) == sorted(files.whole):  # lines that files have in common changed places
            continue
        done += 1
        if files.verified(spoilt, dice).whole:
            undetected.append(f"{tamper.__name__} {done}")
    assert undetected == []


def test_older_files_may_be_elsewhere_if_the_operator_says(files: Files) -> None:
    """The operator says where the others begin."""
    dice = random.Random(SEED)
    for count in range(1, len(files.whole)):
        left = files.whole[count:]
        begins = json.loads(left[0][0])["seq"]
        report = files.verified(left, dice, since=begins)
        assert report.whole, report.bad
        assert report.lines == 1 + sum(len(lines) - 1 for lines in left)
        for other in (1, begins - 1, begins + 1):
            assert f"pass --since {begins}" in str(files.verified(left, dice, since=other).bad)
        assert not files.verified([*left[:-1], left[-1][:-1]], dice, since=begins).whole
        assert not files.verified([left[0][1:], *left[1:]], dice, since=begins).whole


def test_a_file_that_is_missing_is_named_by_those_around_it(trail: Trail) -> None:
    asyncio.run(write(trail))
    gone = trail.archives()[2]
    after = trail.archives()[3]
    gone.unlink()
    bad = verify([trail.path], trail.key, patience=0).bad
    assert str(bad).startswith(f"{after} line 1: no file ends with it: the file before is missing")
    assert str(trail.archives()[1]) in str(bad)


async def test_the_oldest_file_is_missed_unless_the_operator_says_so(trail: Trail) -> None:
    await write(trail)
    trail.archives()[0].unlink()
    begins = int(trail.archives()[0].suffix[1:])
    assert f"pass --since {begins}" in str(verify([trail.path], trail.key, patience=0).bad)
    assert verify([trail.path], trail.key, since=[begins], patience=0).whole


async def test_moved_files_are_named_and_found_with_the_others(trail: Trail) -> None:
    await write(trail)
    archive = trail.folder / "archive"
    archive.mkdir()
    moved = [path.rename(archive / path.name) for path in trail.archives()[:3]]
    for paths in ([trail.path, *moved], [*moved[::-1], trail.path]):
        report = verify(paths, trail.key, patience=0)
        assert report.whole, report.bad


@pytest.mark.slow
async def test_a_log_can_be_verified_while_it_is_rotated(trail: Trail) -> None:
    async with trail.open(file_bytes=SMALL) as audit:
        key, stop = trail.key, asyncio.Event()

        async def keep_writing() -> None:
            while not stop.is_set():
                await note(audit, 3)

        writing = asyncio.create_task(keep_writing())
        while len(trail.archives()) < 20:
            report = await asyncio.to_thread(verify, [trail.path], key)
            assert report.whole, report.bad
        stop.set()
        await writing


@pytest.mark.medium
async def test_who_reads_on_follows_every_rotation(trail: Trail) -> None:
    async with trail.open(file_bytes=SMALL) as audit:
        with open_logs([trail.path], trail.key, patience=0) as (log,):
            read = []
            for number in range(5):
                for _ in range(10 * number):
                    await note(audit, 1)
                read += [fields["seq"] for _, fields in log.read_on()]
    assert len(trail.archives()) > 5
    assert read == list(range(1, len(read) + 1))
    assert read[-1] == len(trail.lines_of_all_files()) - 1, "all but the last checkpoint"


async def test_the_store_is_held_against_all_files(trail: Trail) -> None:
    names = [f"prod/{number}" for number in range(30)]
    async with open_store(trail.folder / "records.sqlite3") as records:
        async with trail.open(file_bytes=SMALL) as audit:
            for name in names:
                call, (change, record) = CALL._replace(key_id=name), some_change()
                seq = await audit.intent(call, change, expected=None)
                await records.put_if(call.tenant, name, record, None)
                await audit.outcome(call, "OK", change=change, intent=seq)
        assert len(trail.archives()) > 3
        report = await against_store([trail.path], trail.key, records, patience=0)
    assert (report.records, report.findings) == (len(names), [])
