"""A short version of the figure of `replicas.py`, and proof that with faults before AWS, too, a bug is caught."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.core.errors import BackendUnavailable
from tests.reliability.replicas import replicas, rounds
from tests.server.backends.aws.site import Site
from tests.server.backends.aws.standins.dynamodb import StandInDynamoDb
from tests.server.backends.aws.standins.service import Parameters

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_identity")]

SEED = 7
HISTORIES = 25
MOST = 20
"""Most times that so many are played until a bug is caught."""


async def one_is_wrong(sites: Sequence[Site]) -> bool:
    """Play histories until one is wrong. Which write a fault hits is a matter of timing: a busy machine needs more."""
    for first in range(SEED, SEED + MOST * HISTORIES, HISTORIES):
        if (await rounds(sites, HISTORIES, first)).wrong:
            return True
    return False


async def test_histories_of_two_replicas_over_a_faulty_aws_are_right() -> None:
    async with replicas(SEED) as sites:
        figure = await rounds(sites, HISTORIES, SEED)
        assert sum(site.hits for site in sites) > 100, "hardly anything was disturbed"
    assert figure.histories == HISTORIES
    assert figure.unknown > HISTORIES, "hardly anybody was disturbed"
    assert not figure.wrong, figure.wrong[0]


class BlindRetries(DynamoRecordStore):
    """Sends a conditional write again, without a look at what the first one did."""

    async def _put(self, item: Mapping[str, Any], **condition: Any) -> None:
        try:
            await super()._put(item, **condition)
        except BackendUnavailable:
            await super()._put(item, **condition)


async def test_a_blind_retry_of_a_conditional_write_is_caught() -> None:
    async with replicas(SEED, store=BlindRetries) as sites:
        assert await one_is_wrong(sites)


class StaleReads(StandInDynamoDb):
    """Answers as to a server that never asks for a consistent read."""

    def _get_item(self, given: Parameters) -> dict[str, Any]:
        return super()._get_item({**given, "ConsistentRead": False})


async def test_an_eventually_consistent_read_is_caught() -> None:
    async with replicas(SEED, StaleReads(stale=True)) as sites:
        assert await one_is_wrong(sites)
