"""Histories of two replicas on one DynamoDB, with faults on the way from each of them to each service of AWS.

    python -m tests.reliability.replicas --histories 1000 --seed 0

Client, replicas, fault proxies and stand-ins are in this process. The stand-in answers reads stale wherever AWS may.
The clients are those of `wire.py`; the faults change every moment and are gone at the end of a round. Chance is
seeded, what the machine does is not.
"""

# ruff: noqa: T201 - a command prints

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from tests.reliability.wire import ROUND, Disturb, Figure, play
from tests.server.backends.aws.fault_proxy import FAULTS, FaultProxy
from tests.server.backends.aws.site import Site, master_key, server_on
from tests.server.backends.aws.standins.account import account
from tests.server.backends.aws.standins.dynamodb import StandInDynamoDb
from tests.support.engines import stand_in_identity

HISTORIES = 10, 1
"""How many earlier revisions each replica keeps readable."""
CALL_SECONDS = 1.5
CONNECTIONS = 32
MOMENTS = 16
"""Of a round, each with faults of its own."""
MOMENT = 2
"""Requests, times the records of the round."""
QUIET = 0.3
"""The share of moments in which the way to a service is undisturbed."""


@asynccontextmanager
async def replicas(
    seed: int,
    dynamodb: StandInDynamoDb | None = None,
    store: type[DynamoRecordStore] = DynamoRecordStore,
) -> AsyncIterator[Sequence[Site]]:
    """Two, open while the body runs. A bug that is to be caught comes in by `dynamodb` or `store`."""
    async with account(dynamodb or StandInDynamoDb(stale=True)) as made:
        arn = await master_key(made)
        async with (
            server_on(made, arn, CALL_SECONDS, CONNECTIONS, seed, store, history=HISTORIES[0]) as one,
            server_on(made, arn, CALL_SECONDS, CONNECTIONS, seed + 2, store, history=HISTORIES[1]) as two,
        ):
            yield one, two


def trouble(sites: Sequence[Site], rng: random.Random, records: int) -> Disturb:
    """A disturbance: for some moments, each way to a service has faults of its own, or none."""
    proxies = [proxy for site in sites for proxy in site.proxies]

    async def run() -> None:
        try:
            for _ in range(MOMENTS):
                for proxy in proxies:
                    _change(proxy, rng)
                await _requests(proxies, MOMENT * records)
        finally:
            for proxy in proxies:
                proxy.heal()

    return run


async def _requests(proxies: Sequence[FaultProxy], number: int) -> None:
    """Returns when so many more have come, however busy the machine is; or when they seem to be over."""
    until = number + sum(proxy.requests.total() for proxy in proxies)
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while sum(proxy.requests.total() for proxy in proxies) < until:
                await asyncio.sleep(0.01)


def _change(proxy: FaultProxy, rng: random.Random) -> None:
    proxy.heal()
    if rng.random() < QUIET:
        return
    for name in rng.sample(list(FAULTS), rng.randint(1, 3)):
        proxy.break_with(FAULTS[name], chance=rng.choice((0.02, 0.1, 0.3, 0.6)))


async def rounds(sites: Sequence[Site], histories: int, seed: int) -> Figure:
    """So many histories."""
    figure, rng = Figure(), random.Random(seed)
    addresses = [(site.address, history) for site, history in zip(sites, HISTORIES, strict=True)]
    while figure.histories < histories:
        records = min(ROUND, histories - figure.histories)
        disturb = trouble(sites, rng, records)
        figure.judge(await play(addresses, disturb, seed=seed + figure.histories, records=records))
        for site in sites:
            await site.recovered()  # a round begins with data keys, which it asks for once
    return figure


async def outcome(histories: int, seed: int) -> tuple[Figure, str]:
    """What so many came to, and the same in words."""
    started = time.monotonic()
    async with replicas(seed) as sites:
        figure = await rounds(sites, histories, seed)
        proxies = [proxy for site in sites for proxy in site.proxies]
    hits, requests = sum(proxy.hits for proxy in proxies), sum(proxy.requests.total() for proxy in proxies)
    return (
        figure,
        f"""\
histories of two replicas with faults before AWS: {figure.histories:,} from seed {seed}
attempts: {figure.attempts:,}, {figure.unknown:,} of unknown outcome
requests to AWS: {requests:,}, {hits:,} hit by a fault
not linearizable: {len(figure.wrong)}
seconds: {time.monotonic() - started:.0f}""",
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 if a history is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    with stand_in_identity():
        figure, told = asyncio.run(outcome(chosen.histories, chosen.seed))
    print(told, *figure.wrong[:3], sep="\n")
    return 1 if figure.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
