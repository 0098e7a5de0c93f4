"""A server that has one core, and more Reads than it can serve: writes go on, and overload does not collapse.

What it takes is shown by `python -m benchmarks.compare --loads mixed,2x,4x`; here are only the orders of magnitude.
"""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.calls import IN_FLIGHT, Requests
from benchmarks.contestant import Contestant
from benchmarks.generator import STREAMS, Round, closed_loop
from benchmarks.servers import vault

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="the load needs a core that the server has not"
    ),
]


MANY = 1_600
"""Calls in flight: seven times what the server takes on at once."""


@pytest.mark.parametrize("shape", ["plain", "production"])
async def test_writes_and_overload_on_one_core(shape: str, tmp_path: Path) -> None:
    """Before the event loop stepped back, a Create lasted as long as the Reads did, and 4 % of calls were served."""
    with vault(shape, tmp_path / "server") as server:
        one = Contestant(shape, server, Requests(server), seconds=2.0)
        await one.requests.prepare(names=100)
        creates, reads = await one.mixed(IN_FLIGHT)
        assert creates.good >= 5, creates.statuses
        assert creates.quantile(0.5) < 500
        assert reads.good > 100
        for kind in ("Read", "Create"):
            enough, too_much = await one.full(kind), await crowded(one, kind)
            assert too_much.per_second > enough.per_second / 4, (kind, enough.statuses, too_much.statuses)


async def crowded(one: Contestant, kind: str) -> Round:
    """Keep so many calls in flight that most are refused, each of which is then replaced at once."""
    links = [await one.server.connect(kind) for _ in range(MANY // STREAMS)]
    try:
        source, cpu = one.requests.source(kind), one.server.cpu_seconds
        return await closed_loop(links, source, in_flight=MANY, seconds=one.seconds, cpu=cpu)
    finally:
        for link in links:
            link.close()
