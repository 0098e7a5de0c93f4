"""A log that is rotated all the time is killed, or its power cut, between any two things that it does to its files."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.power import Disk, Recorder, recording
from tests.support.repository import ROOT
from tests.support.trails import CALL, Trail

pytestmark = [pytest.mark.process, pytest.mark.slow]

LINES = 40
WRITER = f"""
import asyncio, sys
from pathlib import Path
from tests.support.trails import CALL, Trail

async def main(folder):
    async with Trail(folder).open(file_bytes=4_000, checkpoint_lines=5) as audit:
        for number in range({LINES}):
            await audit.outcome(CALL._replace(request=f"r{{number}}"), "OK")
            with (folder / "acknowledged").open("a") as acknowledged:
                acknowledged.write(f"r{{number}}\\n")

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def recorded(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a log, and the recording of all that was done in it."""
    folder, log = tmp_path_factory.mktemp("trail"), tmp_path_factory.mktemp("recording") / "log"
    environment = os.environ | recorder.environment(folder, log)
    subprocess.run([sys.executable, "-c", WRITER, folder], env=environment, cwd=ROOT, check=True)
    assert len(Trail(folder).archives()) > 3
    return folder, log


@pytest.mark.parametrize(("end", "seed"), [("kill", 0), ("power cut", 0), *(("names torn", seed) for seed in range(4))])
async def test_a_start_completes_a_rotation_that_a_crash_ended(
    recorded: tuple[Path, Path], tmp_path: Path, end: str, seed: int
) -> None:
    """The crash may come between any two steps."""
    folder, log = recorded
    disk, left, told, moments = Disk(folder), Trail(tmp_path / "left"), "", 0
    dice = random.Random(seed) if end == "names torn" else None
    for entry in recording(log):
        disk.apply(entry)
        if Path(entry.path).name == "acknowledged":
            told += entry.data.decode() if entry.what == "W" else ""
            continue
        if dice and entry.what in "WT":  # what is in the files then is for test_disk.py
            continue
        moments += 1
        if end == "kill":
            disk.kill(left.folder)
        else:
            disk.cut(left.folder, dice)
        async with left.open() as audit:  # whatever size it says now
            await audit.outcome(CALL._replace(request="after"), "OK")
        report = left.verified()
        requests = [line["request"] for line in left.lines_of_all_files() if "request" in line]
        assert requests[-1] == "after"
        written = requests[:-1]
        assert written == [f"r{number}" for number in range(len(written))]
        assert told.split() == written[: len(told.split())], "what was acknowledged is there"
        assert report.starts == 2 or not written
        assert not any(path.samefile(left.path) for path in left.archives())
        shutil.rmtree(left.folder)
    assert moments > LINES
