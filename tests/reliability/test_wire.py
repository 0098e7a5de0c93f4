"""Short versions of the figures of `wire.py`, and proof that over the wire, too, a bug is caught."""

import asyncio
from pathlib import Path

import pytest

from tests.reliability.bugs import BUGS, Lagging
from tests.reliability.deployment import Deployment
from tests.reliability.hosts import hosts
from tests.reliability.wire import Figure, play, rounds
from tests.support.fakes import FakeKeyService
from tests.support.servers import on_ports


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("deployment", "histories"), [("embedded", 40), pytest.param("replicas", 12, marks=pytest.mark.external)]
)
def test_histories_of_servers_that_are_killed_are_right(tmp_path: Path, deployment: str, histories: int) -> None:
    with hosts(deployment, tmp_path) as servers:
        figure = asyncio.run(rounds(servers, histories, seed=1, kills=1))
        assert sum(server.kills for server in servers) == 1
    assert figure.histories == histories
    assert figure.unknown > histories, "nobody was disturbed"
    assert figure.named > histories, "hardly a name was listed"
    assert figure.earlier > histories / 2, "hardly an earlier revision was read"
    assert not figure.wrong, figure.wrong[0]


class FarBehind(Lagging):
    """By more than a call takes on a busy machine."""

    seconds = 0.5


DEPLOYMENTS = {name: BUGS[name].deployment for name in ("no-ring", "page-boundary-lost", "one-copy-too-many")}
DEPLOYMENTS["eventually-consistent-read"] = Deployment(engine=FarBehind)


MOST = 10
"""Most rounds until a bug is caught: what meets what is a matter of timing."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DEPLOYMENTS, None])
async def test_a_bug_is_caught_over_the_wire(name: str | None) -> None:
    async def undisturbed() -> None:
        pass

    deployment = DEPLOYMENTS[name] if name else Deployment()
    records = deployment.store(deployment.engine())
    figure = Figure()
    async with on_ports(FakeKeyService(), records, history=3) as server:
        for seed in range(1, 1 + (MOST if name else 1)):
            figure.judge(await play([(server.address, 3)], undisturbed, seed=seed, records=20, lag=0.0))
            if figure.wrong:
                break
    assert bool(figure.wrong) is bool(name)
