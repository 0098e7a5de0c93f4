"""A server over many records starts and serves; how fast, `python -m tests.lifecycle.starts` says."""

from pathlib import Path

import pytest

from tests.lifecycle.starts import filled, forget, start

pytestmark = [pytest.mark.process, pytest.mark.slow]

RECORDS = 50_000


async def test_a_server_over_many_records_starts_and_serves_any(tmp_path: Path) -> None:
    key = await filled(tmp_path / "data", RECORDS)
    forget(tmp_path / "data")
    for number in (0, RECORDS - 1):
        await start(tmp_path / "data", key, number)
