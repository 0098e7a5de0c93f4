"""What was acknowledged survives SIGKILL and a power cut, and these tests would notice if it did not."""

import random
from pathlib import Path

import pytest

from tests.crash.cycles import Verdict, cycle
from tests.crash.power import Disk, Entry, Recorder


async def lives(recorder: Recorder, *seeds: int, cuts: int, deaf: str = "") -> dict[str, Verdict]:
    total: dict[str, Verdict] = {}
    for seed in seeds:
        for kind, verdict in (await cycle(recorder, seed, cuts, deaf)).items():
            total.setdefault(kind, Verdict())
            total[kind] += verdict
    return total


@pytest.mark.process
@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_by_a_kill_or_a_power_cut(recorder: Recorder) -> None:
    for kind, verdict in (await lives(recorder, 11, 12, 13, cuts=4)).items():
        assert verdict.acknowledged, kind
        assert (verdict.lost, verdict.wrong) == (0, []), kind


@pytest.mark.process
@pytest.mark.slow
async def test_a_power_cut_costs_an_unsynced_log_writes(recorder: Recorder) -> None:
    """A log that is not synced loses writes in a power cut, and no kill shows it."""
    found = await lives(recorder, 21, 22, cuts=4, deaf="-wal")  # what synchronous=NORMAL leaves out
    assert found["kill -9"].lost == 0
    assert found["power cut"].lost > 0
    assert found["power cut, torn"].lost or found["power cut, torn"].wrong


def test_the_disk_keeps_what_was_synced_and_no_more(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "data")
    for what, name, offset, data in (
        ("C", "a", 0, b""),
        ("W", "a", 0, b"safe"),
        ("S", "a", 0, b""),
        ("S", "", 0, b""),
        ("W", "a", 2, b"lost"),
        ("C", "b", 0, b""),
        ("W", "b", 0, b"no name"),
        ("S", "b", 0, b""),
    ):
        disk.apply(Entry(what, f"{tmp_path}/data/{name}".rstrip("/"), offset, data, 0))
    disk.cut(tmp_path / "cut", None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()} == {"a": b"safe"}


def test_a_torn_write_leaves_any_part_of_itself(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "data")
    for what, path, data in (
        ("C", "data/a", b""),
        ("S", "data/a", b""),
        ("S", "data", b""),
        ("W", "data/a", b"x" * 2_048),
    ):
        disk.apply(Entry(what, f"{tmp_path}/{path}", 0, data, 0))
    left = set()
    for seed in range(64):
        disk.cut(tmp_path / str(seed), random.Random(seed))
        content = (tmp_path / str(seed) / "a").read_bytes()
        left.add(tuple(bool(content[at : at + 512].strip(b"\0")) for at in range(0, 2_048, 512)))
    assert len(left) == 16, "each of four sectors is there or not"
