"""Half a minute of the soak, which is too short to see a slow leak; and that the soak would see one."""

import asyncio
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.soak.__main__ import both
from tests.soak.watch import Sample, Watched, growth
from tests.support.production_server import production_server

MINUTES = 0.4


@pytest.mark.process
@pytest.mark.slow
async def test_servers_under_mixed_load_answer_right_and_do_not_grow(tmp_path: Path) -> None:
    steady, hasty = await both(tmp_path, MINUTES, seed=1)
    assert (steady.wrong, hasty.wrong) == ([], [])
    assert set(steady.calls) == {"answered", "round of refusals", "connected", "rejected"}
    assert set(hasty.calls) == {"answered", "given up", "left", "abandoned"}
    assert hasty.given_up > 0 == steady.given_up


@pytest.mark.process
@pytest.mark.slow
async def test_the_tasks_of_a_server_are_counted_from_outside(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    program = (sys.executable, "-m", "tests.soak.counted")
    with production_server(tmp_path, program, SOAK_COUNTS=str(counts)) as server:
        watched = Watched(server.server.process.pid, counts)
        looks = [await watched.look() for _ in range(3)]
        before = min(looks, key=lambda look: look.descriptors)  # one more is open while the server looks at its own
        async with server.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            streams = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(10)]
            await asyncio.gather(*(anext(aiter(stream)) for stream in streams))
            during = await watched.look()
            for stream in streams:
                stream.cancel()
    assert during.tasks >= before.tasks + 10
    assert during.descriptors > before.descriptors


def flat(minutes: float) -> list[Sample]:
    """What a server looks like that does not grow."""
    return [
        Sample(second, 100 + second % 3, 40 + second % 5, 11, 50 + second % 9) for second in range(int(minutes * 60))
    ]


def test_a_flat_server_is_good_and_its_slope_is_small() -> None:
    found = {each.name: each for each in growth(flat(60))}
    assert all(each.good for each in found.values())
    assert abs(found["memory"].per_hour) < 0.1


def test_what_grpc_loses_with_abandoned_calls_is_not_ours() -> None:
    """It is no growth of ours."""
    samples = [Sample(each.time, each.memory + each.time / 3600 * 16, 1, 1, 1) for each in flat(60)]
    assert [each.good for each in growth(samples, given_up=100_000)] == [True] * 4
    assert [each.good for each in growth(samples, given_up=10_000)] == [False, True, True, True]


@pytest.mark.slow
def test_the_warm_up_does_not_count() -> None:
    samples = [Sample(each.time, each.memory - (50 if each.time < 300 else 0), 1, 1, 1) for each in flat(60)]
    assert all(each.good for each in growth(samples))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "per_hour"), [("memory", 8), ("descriptors", 16), ("threads", 16), ("tasks", 60)]
)  # fmt: skip
def test_what_grows_is_reported(name: str, per_hour: float) -> None:
    rows = [
        {field: getattr(each, field) for field in Sample.__slots__}
        | {name: getattr(each, name) + each.time / 3600 * per_hour}
        for each in flat(60)
    ]
    found = {each.name: each for each in growth([Sample(**row) for row in rows])}
    assert [each for each in found if not found[each].good] == [name]
    assert found[name].per_hour == pytest.approx(per_hour, rel=0.1)
