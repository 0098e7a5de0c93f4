"""Files that are reloaded when they change: what is noticed, how often we look, and what a bad change does."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault_server.core.errors import OperatorError
from keyvault_server.disk.permissions import UnsafeFile
from keyvault_server.disk.watched import (
    LOOK_SECONDS,
    RETRY_SECONDS,
    UNSETTLED_SECONDS,
    Unreadable,
    Watched,
    read_file,
)
from tests.support.certificates import replace
from tests.support.clock import Clock
from tests.support.meters import RecordedMeter


class Reader:
    """Reads a number from a file; counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.readings = 0
        self.while_read: list[Callable[[], object]] = []
        self.meter = RecordedMeter()
        self.clock = Clock()
        self.watched = Watched("numbers", [path], self.read, self.meter, clock=self.clock, sleep=self.sleep)

    def read(self) -> int:
        self.readings += 1
        content = read_file(self.path, 100)
        if self.while_read:
            self.while_read.pop()()
        if not content.strip().isdigit():
            raise OperatorError(f"{self.path.name} holds no number")
        return int(content)

    async def sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def later(self, seconds: float = LOOK_SECONDS) -> int:
        self.clock.now += seconds
        return self.watched.get()

    def settled(self) -> int:
        """Return the value after the two looks that a change takes."""
        self.later()
        return self.later()


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    path = tmp_path / "number"
    path.write_bytes(b"1")
    return Reader(path)


def test_files_that_stay_are_read_once(reader: Reader) -> None:
    assert [reader.later() for _ in range(10)] == [1] * 10
    assert reader.readings == 1
    assert reader.meter.readings == [("numbers", True)]


def test_the_files_are_looked_at_once_a_second_at_most(reader: Reader) -> None:
    replace(reader.path, b"2")
    assert reader.later(LOOK_SECONDS * 0.9) == 1
    assert reader.later(LOOK_SECONDS * 0.1) == 1
    assert reader.later(LOOK_SECONDS * 0.9) == 1
    assert reader.later(LOOK_SECONDS * 0.1) == 2


PIECES = 7


def test_a_file_that_is_being_written_is_not_read(reader: Reader) -> None:
    """Each piece alone is a good number, but not the one that is meant."""
    with reader.path.open("wb", buffering=0) as file:
        for _ in range(PIECES):
            file.write(b"1")
            assert reader.later() == 1
    assert reader.readings == 1
    assert reader.later() == int("1" * PIECES)


def test_what_changes_while_it_is_read_is_not_used(reader: Reader) -> None:
    """A reading may end in the middle of a write."""
    replace(reader.path, b"22")
    reader.while_read = [lambda: reader.path.write_bytes(b"222")]
    assert reader.settled() == 1
    assert reader.readings == 2
    assert reader.later() == 222


def test_a_file_that_never_settles_is_reported_once(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2 * int(UNSETTLED_SECONDS / LOOK_SECONDS)):
        replace(reader.path, str(number).encode())
        assert reader.later() == 1
    (line,) = caplog.records
    assert line.__dict__["cause"] == (
        f"{reader.path}: changed again and again for 30 s: write a new file and rename it over the old one"
    )
    assert reader.watched.failed_since is not None
    assert reader.later() == number
    assert reader.watched.failed_since is None


def test_a_file_written_in_place_is_noticed(reader: Reader) -> None:
    """It is noticed even if size and time stay the same."""
    before = reader.path.stat()
    reader.path.write_bytes(b"2")
    os.utime(reader.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reader.settled() == 2


def test_a_file_replaced_by_rename_is_noticed(reader: Reader) -> None:
    """It is noticed even if size and time stay the same."""
    before = reader.path.stat()
    replace(reader.path, b"2")
    os.utime(reader.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reader.settled() == 2


def test_a_folder_swapped_by_a_symbolic_link_is_noticed(tmp_path: Path) -> None:
    """Kubernetes updates a mounted secret so: number -> ..data/number, ..data -> ..1, then ..data -> ..2."""
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "number").write_text(version)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "number").symlink_to("..data/number")
    reader = Reader(tmp_path / "number")
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert reader.settled() == 2


@pytest.mark.parametrize("damage", ["", "s3cret", "9" * 101, None])
def test_a_bad_change_keeps_the_last_good_value(
    reader: Reader, caplog: pytest.LogCaptureFixture, damage: str | None
) -> None:
    """It is logged once, without content."""
    if damage is None:
        reader.path.unlink()
    else:
        replace(reader.path, damage.encode())
    with caplog.at_level(logging.INFO, "keyvault_server"):
        assert [reader.later() for _ in range(20)] == [1] * 20
        (line,) = caplog.records
        assert line.levelname == "ERROR"
        assert str(reader.path) in line.__dict__["sources"]
        assert "number" in line.__dict__["cause"]
        assert "s3cret" not in str(line.__dict__)
        assert ("numbers", False) in reader.meter.readings
        assert reader.watched.failed_since is not None
        replace(reader.path, b"3")
        assert reader.settled() == 3
        assert reader.watched.failed_since is None
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        assert reader.meter.readings[-1] == ("numbers", True)


def test_another_bad_change_is_another_line(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"bad", b"worse"):
        replace(reader.path, content)
        assert reader.settled() == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_bad_state_is_tried_again_without_a_change(tmp_path: Path) -> None:
    """It is retried although the files look the same."""
    (tmp_path / "watched").write_bytes(b"x")
    good = [True, False, True]
    clock = Clock()

    def read() -> int:
        if not good.pop(0):
            raise OperatorError("not yet valid")
        return len(good)

    watched = Watched("w", [tmp_path / "watched"], read, RecordedMeter(), clock=clock)
    (tmp_path / "watched").write_bytes(b"yy")
    for _ in range(2):
        clock.now += LOOK_SECONDS
        watched.get()
    assert (watched.get(), len(good)) == (2, 1)
    clock.now += RETRY_SECONDS - LOOK_SECONDS
    assert (watched.get(), len(good)) == (2, 1)
    clock.now += LOOK_SECONDS
    assert (watched.get(), len(good)) == (0, 0)


def test_a_reader_that_breaks_leaves_the_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It raises another error than OperatorError."""
    path, clock = tmp_path / "x", Clock()
    path.write_text("1")
    watched = Watched("w", [path], lambda: int(path.read_text()), RecordedMeter(), clock=clock)
    path.write_text("s3cret")
    for _ in range(2):
        clock.now += LOOK_SECONDS
        assert watched.get() == 1
    assert [record.__dict__["cause"] for record in caplog.records] == ["ValueError"]


def test_files_that_change_during_a_reload_are_reloaded(tmp_path: Path) -> None:
    """They are replaced one by one while they are read."""
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_text("1")
    clock = Clock()
    written: list[str] = []

    def read() -> str:
        second = two.read_text()
        if written:
            two.write_text(written.pop())  # somebody finishes while we read
        if one.read_text() != second:
            raise OperatorError("they do not fit together")
        return second

    meter = RecordedMeter()
    watched = Watched("pair", [one, two], read, meter, clock=clock)
    one.write_text("22")
    written.append("22")
    for _ in range(3):
        assert meter.readings == [("pair", True)]
        clock.now += LOOK_SECONDS
        watched.get()
    assert watched.get() == "22"
    assert meter.readings == [("pair", True), ("pair", True)]


def test_what_cannot_be_read_at_first_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        Reader(tmp_path / "nothing")
    (tmp_path / "word").write_text("s3cret")
    with pytest.raises(OperatorError, match="holds no number"):
        Reader(tmp_path / "word")


async def test_watching_notices_without_a_reader(reader: Reader) -> None:
    async with reader.watched.watching(interval=0.01):
        assert reader.watched.last == 1
        replace(reader.path, b"2")
        async with asyncio.timeout(30):
            while reader.watched.last != 2:
                reader.clock.now += LOOK_SECONDS
                await asyncio.sleep(0.01)


def test_many_threads_see_only_good_values_of_a_changing_file(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_bytes(b"0")
    ticks = iter(range(10**9))
    watched = Watched("n", [path], lambda: int(read_file(path)), RecordedMeter(), clock=lambda: float(next(ticks)))
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(watched.get())

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 21):
        replace(path, str(number).encode())
        if number % 7 == 0:
            replace(path, b"bad")
    replace(path, b"21")
    done.set()
    for thread in threads:
        thread.join(10)
    assert set(seen) <= set(range(22))
    assert [watched.get() for _ in range(5)][-1] == 21


NOBODY = 54_321
"""Number of no user and no group."""


@pytest.mark.parametrize("mode", [0o646, 0o602, 0o666])
def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path, link = tmp_path / "f", tmp_path / "link"
    path.touch()
    path.chmod(mode)
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(UnsafeFile, match=rf"{name} has mode {mode:04o}.*`chmod go-w {name}`"):
            read_file(name)
    path.chmod(0o644)
    assert read_file(link) == b""


def test_a_file_that_the_servers_own_group_may_write_is_read(tmp_path: Path) -> None:
    """A umask of 002 makes such files, and so does Kubernetes on a writable volume."""
    path = tmp_path / "f"
    path.touch()
    for group in {os.getegid(), *os.getgroups()}:
        os.chown(path, -1, group)
        path.chmod(0o664)
        assert read_file(path) == b""


def test_a_configmap_is_read_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir(mode=0o755)
    (tmp_path / "..1" / "number").write_text("1")
    (tmp_path / "..1" / "number").chmod(0o644)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "number").symlink_to("..data/number")
    tmp_path.chmod(0o777)
    assert read_file(tmp_path / "number") == b"1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_another_user_or_group_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch(mode=0o644)
    os.chown(path, -1, NOBODY)
    assert read_file(path) == b"", "a group that may read it is no matter"
    path.chmod(0o664)
    with pytest.raises(UnsafeFile, match="others can write"):
        read_file(path)
    path.chmod(0o444)
    os.chown(path, NOBODY, -1)
    with pytest.raises(UnsafeFile, match=f"belongs to another user .uid {NOBODY}."):
        read_file(path)


def test_a_file_that_becomes_writable_is_not_reloaded(reader: Reader) -> None:
    """It is reloaded once its mode is fixed."""
    replace(reader.path, b"2")
    reader.path.chmod(0o666)
    assert reader.settled() == 1
    assert reader.meter.readings == [("numbers", True), ("numbers", False)]
    reader.path.chmod(0o644)
    assert reader.settled() == 2


async def test_a_reload_waits_for_a_file_that_is_being_written(reader: Reader) -> None:
    """Who asks may have renewed another file."""
    pieces = [b"1"] * PIECES

    async def sleep(seconds: float) -> None:
        reader.clock.now += seconds
        if pieces:
            with reader.path.open("ab") as file:
                file.write(pieces.pop())

    watched = Watched("numbers", [reader.path], reader.read, reader.meter, clock=reader.clock, sleep=sleep)
    with reader.path.open("ab") as file:
        file.write(b"1")
    await watched.reload()
    assert watched.last == int("11" + "1" * PIECES)
    assert reader.readings == 3


async def test_a_reload_of_a_file_that_never_settles_says_so(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    numbers = iter(range(1000))

    async def sleep(seconds: float) -> None:
        reader.clock.now += seconds
        replace(reader.path, str(next(numbers)).encode())

    watched = Watched("numbers", [reader.path], reader.read, reader.meter, clock=reader.clock, sleep=sleep)
    await sleep(0)
    for _ in range(2):
        await watched.reload()
    assert watched.last == 1
    assert ["again and again" in record.__dict__["cause"] for record in caplog.records] == [True, True]


async def test_a_reload_that_is_asked_for_reads_and_says_so(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """Also where no stamp has changed, and every time."""
    with caplog.at_level(logging.INFO, "keyvault_server"):
        await reader.watched.reload()
        assert reader.readings == 2
        replace(reader.path, b"none")
        for _ in range(2):
            await reader.watched.reload()
        assert reader.watched.last == 1
        replace(reader.path, b"2")
        await reader.watched.reload()
    assert reader.watched.last == 2
    assert [record.message for record in caplog.records] == [
        "reloaded",
        "reload failed; keeping the previous version",
        "reload failed; keeping the previous version",
        "reloaded",
    ]
