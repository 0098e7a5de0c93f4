"""Changes of the caller's files: what counts as one, when it counts, and what a writer in the middle of it does."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keyvault_client.file_changes import LOOK_SECONDS, UNSETTLED_SECONDS, FileChanges
from tests.support.certificates import replace
from tests.support.clock import LONG_AGO, Clock


@dataclass
class Watch:
    """A file, and what watches it."""

    path: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.path.write_text("1")
        self.changes = FileChanges([self.path], self.clock, LONG_AGO)

    def later(self, seconds: float = LOOK_SECONDS) -> bool:
        self.clock.now += seconds
        return self.changes.detected()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "file")


def test_changes_are_looked_for_once_a_second_and_seen_once(watch: Watch) -> None:
    assert not watch.changes.detected()
    replace(watch.path, b"2")
    assert not watch.later(LOOK_SECONDS * 0.9)
    assert not watch.later(LOOK_SECONDS * 0.1)
    assert not watch.later(LOOK_SECONDS * 0.9)
    assert [watch.later(LOOK_SECONDS * 0.2), watch.changes.detected(), watch.later()] == [True, False, False]


def test_every_way_of_changing_a_file_is_seen(tmp_path: Path) -> None:
    path, clock = tmp_path / "file", Clock()
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "file").write_text(version)
    (tmp_path / "..data").symlink_to("..1")
    path.symlink_to("..data/file")
    changes = FileChanges([path, tmp_path / "late"], clock, LONG_AGO)

    def write_in_place() -> None:
        before = path.stat()
        path.write_text("3")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def swap() -> None:
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")

    for change in (
        write_in_place,
        swap,
        lambda: replace(path, b"4"),
        path.unlink,
        lambda: path.write_text("5"),
        lambda: path.chmod(0o400),
        (tmp_path / "late").touch,
    ):
        change()
        seen = []
        for _ in range(3):
            clock.now += LOOK_SECONDS
            seen.append(changes.detected())
        assert seen == [False, True, False]


def test_a_change_that_could_not_be_used_is_detected_again(watch: Watch) -> None:
    """Such as a certificate that begins in a second."""
    watch.path.write_text("22")
    assert not watch.later()
    for unusable in (True, True, False):
        assert [watch.later(), watch.changes.detected()] == [True, False]
        if unusable:
            watch.changes.forget()
    assert not watch.later()


def test_a_file_that_is_being_written_is_not_yet_a_change(watch: Watch) -> None:
    with watch.path.open("wb", buffering=0) as file:
        for _ in range(5):
            file.write(b"1")
            assert not watch.later()
    assert [watch.later(), watch.later()] == [True, False]


def test_a_file_that_was_written_long_ago_needs_one_look(tmp_path: Path) -> None:
    """A program that calls once an hour does not send its old token."""
    path, clock, file_clock = tmp_path / "token", Clock(), Clock()
    path.write_text("1")
    changes = FileChanges([path, tmp_path / "nothing"], clock, file_clock)
    for age, detected in ((0.9, False), (1.1, True)):
        replace(path, b"2")
        file_clock.now = path.stat().st_ctime + age
        clock.now += 3600
        assert changes.detected() is detected


def test_a_file_that_is_gone_needs_two_looks(tmp_path: Path) -> None:
    """Some programs remove a file before they write the new one."""
    path, clock = tmp_path / "token", Clock()
    path.write_text("1")
    changes = FileChanges([path], clock)
    path.unlink()
    seen = []
    for _ in range(2):
        clock.now += LOOK_SECONDS
        seen.append(changes.detected())
    assert seen == [False, True]


def test_what_changes_while_it_is_read_is_detected_later(watch: Watch) -> None:
    replace(watch.path, b"2")
    assert [watch.later(), watch.later(), watch.changes.unchanged()] == [False, True, True]
    replace(watch.path, b"3")
    assert not watch.changes.unchanged()
    assert [watch.later(), watch.later(), watch.changes.unchanged()] == [False, True, True]


def test_a_file_that_never_settles_is_reported_once(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    for rounds in (1, 2):
        for number in range(2 * int(UNSETTLED_SECONDS / LOOK_SECONDS)):
            assert len(caplog.records) == (rounds if number > UNSETTLED_SECONDS / LOOK_SECONDS else rounds - 1)
            replace(watch.path, str(number).encode())
            assert not watch.later()
        assert watch.later()
    assert caplog.records[0].getMessage() == (
        f"reload failed: {watch.path}: changed again and again for 30 s: "
        "write a new file and rename it over the old one; keeping the previous version"
    )
