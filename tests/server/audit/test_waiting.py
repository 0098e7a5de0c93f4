"""How many lines wait for the disk, and how many of them share an fsync."""

import asyncio
from pathlib import Path

import pytest

from keyvault_server.core.errors import AuditUnavailable
from tests.support.audit_server import Disk
from tests.support.trails import CALL, Trail


@pytest.mark.slow
async def test_four_thousand_lines_wait_and_a_thousand_share_an_fsync(tmp_path: Path) -> None:
    """So memory is bounded while a disk hangs, and so is the time until the first of them is answered."""
    trail, disk, synced = Trail(tmp_path), Disk(), [0]

    def sync(file: int) -> None:
        disk(file)
        synced[0] += 1

    async with asyncio.timeout(60), trail.open(sync=sync, patience=30.0) as audit:
        disk.hang()
        first = asyncio.create_task(audit.outcome(CALL, "OK"))
        await asyncio.to_thread(disk.reached.wait, 10)
        waiting = [asyncio.create_task(audit.outcome(CALL, "OK")) for _ in range(4_000)]
        await asyncio.sleep(0)
        with pytest.raises(AuditUnavailable):
            await audit.outcome(CALL, "OK")
        before = synced[0]
        disk.heal()
        await asyncio.gather(first, *waiting)
        # The first line has one, and each batch one and one for the checkpoint after its 1,000 lines.
        assert synced[0] - before == 1 + 4 * 2
    assert len([line for line in trail.lines() if line["phase"] == "outcome"]) == 4_001
