"""A power cut in the middle of a batch: sectors of it are missing while later ones reached the disk.

No acknowledged line is lost, the log goes on, and its boot line says how many bytes were removed.
"""

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from keyvault_server.audit.file import UnusableAuditFile
from tests.support.trails import CALL, Trail

SECTOR = 512
LINES = 40


async def write_batches(folder: Path) -> tuple[Trail, int]:
    """A log that was not closed, and the offset at which its last batch begins; the lines before are acknowledged."""
    trail, copy = Trail(folder / "running"), Trail(folder / "crashed")
    trail.folder.mkdir()
    async with trail.open() as audit:
        for number in range(3):
            await audit.outcome(CALL._replace(request=f"acknowledged-{number}"), "OK")
        begins = trail.path.stat().st_size
        await asyncio.gather(*(audit.outcome(CALL._replace(request=f"r{number}"), "OK") for number in range(LINES)))
        shutil.copytree(trail.folder, copy.folder)
    return copy, begins


def tear(path: Path, begins: int, chance: random.Random) -> None:
    """Put zeros in place of some sectors of the last batch, as a strict disk leaves them."""
    content = bytearray(path.read_bytes())
    first = begins // SECTOR
    for sector in range(first, -(-len(content) // SECTOR)):
        start, end = max(sector * SECTOR, begins), min((sector + 1) * SECTOR, len(content))
        if chance.random() < 0.5:
            content[start:end] = bytes(end - start)
    if chance.random() < 0.3:
        del content[chance.randrange(begins, len(content) + 1) :]
    path.write_bytes(content)


@pytest.mark.slow
async def test_a_torn_batch_is_removed_and_nothing_acknowledged(tmp_path: Path) -> None:
    crashed, begins = await write_batches(tmp_path)
    whole = crashed.path.read_bytes()
    chance = random.Random(10)
    torn = 0
    for _ in range(40):
        crashed.path.write_bytes(whole)
        tear(crashed.path, begins, chance)
        again = Trail(tmp_path / "again")
        shutil.copytree(crashed.folder, again.folder)
        found = again.path.stat().st_size
        async with again.open() as audit:
            await audit.outcome(CALL._replace(request="after"), "OK")
        requests = [line.get("request") for line in again.lines()]
        assert [f"acknowledged-{number}" for number in range(3)] == [one for one in requests if "ack" in str(one)]
        assert "after" in requests
        boot = [line for line in again.lines() if line["phase"] == "boot"][-1]
        kept = len(b"".join(again.path.read_bytes().splitlines(True)[: again.lines().index(boot)]))
        assert boot.get("cut", 0) == found - kept
        torn += "cut" in boot
        assert again.verified().whole
        shutil.rmtree(again.folder)
    assert torn > 20


async def test_a_bad_line_before_a_later_batch_is_refused(tmp_path: Path) -> None:
    """Its batch had been synced, so no power cut did this."""
    crashed, _ = await write_batches(tmp_path)
    lines = crashed.path.read_bytes().splitlines(True)
    bad = next(at for at, line in enumerate(lines) if b"acknowledged-1" in line)
    lines[bad] = lines[bad][:100] + bytes(50) + lines[bad][150:]
    crashed.path.write_bytes(b"".join(lines))
    with pytest.raises(UnusableAuditFile, match="not a valid"):
        async with crashed.open():
            pass
    assert crashed.path.read_bytes() == b"".join(lines)


async def test_a_torn_copy_of_a_checkpoint_is_copied_again(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    async with trail.open() as audit:
        await audit.outcome(CALL, "OK")
    copies = trail.checkpoints.read_bytes()
    trail.checkpoints.write_bytes(copies[:-300] + bytes(299) + b"\n")
    async with trail.open():
        pass
    assert trail.checkpoints.read_bytes().startswith(copies)
    assert trail.verified().whole


async def test_many_copies_of_checkpoints_are_read_from_within_a_line(tmp_path: Path) -> None:
    """A start reads only the last MiB of them; the line at which that begins lacks its beginning."""
    trail = Trail(tmp_path)
    async with trail.open() as audit:
        await audit.outcome(CALL, "OK")
    copies = trail.checkpoints.read_bytes()
    (first, *_) = copies.splitlines(True)
    earlier = first * (1024 * 1024 // len(first))
    trail.checkpoints.write_bytes(earlier + copies)
    async with trail.open():
        pass
    assert trail.checkpoints.read_bytes().startswith(earlier + copies)


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


async def test_a_merged_line_does_not_hide_a_later_batch(tmp_path: Path) -> None:
    """Zeros between two batches of one line each: the second shows that the first was synced."""
    trail, crashed = Trail(tmp_path / "running"), Trail(tmp_path / "crashed")
    trail.folder.mkdir()
    async with trail.open() as audit:
        for number in range(4):
            await audit.outcome(CALL._replace(request=f"r{number}"), "OK")
        shutil.copytree(trail.folder, crashed.folder)
    content = bytearray(crashed.path.read_bytes())
    content[content.rindex(b"\n", 0, len(content) - 1)] = 0
    crashed.path.write_bytes(content)
    with pytest.raises(UnusableAuditFile, match="not a valid"):
        async with crashed.open():
            pass
    assert crashed.path.read_bytes() == content


async def test_a_change_without_zeros_is_no_torn_batch(tmp_path: Path) -> None:
    crashed, begins = await write_batches(tmp_path)
    flipped(crashed.path, begins + 5_000)
    with pytest.raises(UnusableAuditFile):
        async with crashed.open():
            pass


async def test_intact_copies_are_never_dropped_with_a_bad_one(tmp_path: Path) -> None:
    """They prove that FILE was truncated."""
    trail = Trail(tmp_path)
    for _ in range(4):
        async with trail.open() as audit:
            await audit.outcome(CALL, "OK")
    copies = trail.checkpoints.read_bytes().splitlines(True)
    lines = trail.path.read_bytes().splitlines(True)
    trail.path.write_bytes(b"".join(lines[: lines.index(copies[2]) + 1]))
    trail.checkpoints.write_bytes(b"".join([*copies[:3], bytes(40) + copies[3][40:], *copies[4:]]))
    before = trail.checkpoints.read_bytes()
    with pytest.raises(UnusableAuditFile, match="truncated or replaced"):
        async with trail.open():
            pass
    assert trail.checkpoints.read_bytes() == before


async def test_a_torn_first_batch_stops_no_start(tmp_path: Path) -> None:
    """Nothing was acknowledged yet."""
    trail, crashed = Trail(tmp_path / "running"), Trail(tmp_path / "crashed")
    trail.folder.mkdir()
    async with trail.open():
        shutil.copytree(trail.folder, crashed.folder)
    content = crashed.path.read_bytes()
    first = content.index(b"\n")
    crashed.path.write_bytes(bytes(first - 5) + content[first - 5 :])
    crashed.checkpoints.write_bytes(b"")
    async with crashed.open() as audit:
        await audit.outcome(CALL, "OK")
    assert crashed.verified().whole
