"""Group commit: items that come within a moment of each other share a batch, and no item waits for ever."""

import asyncio
from collections.abc import Sequence

import pytest

from keyvault_server.disk.group_commit import GroupCommit

Item = tuple[int, "asyncio.Future[None]"]


class Disk:
    """Keeps the batches that it was given, each of at most `most` items."""

    def __init__(self, most: int = 1_000) -> None:
        self.batches: list[list[int]] = []
        self.in_flight = 0
        self._most = most
        self.commits = GroupCommit[Item](self._batch_length, self._commit)

    async def write(self, number: int) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commits.add((number, done))
        await done

    def _batch_length(self, waiting: Sequence[Item]) -> int:
        return min(len(waiting), self._most)

    async def _commit(self, batch: list[Item]) -> None:
        self.in_flight += 1
        assert self.in_flight == 1, "one batch at a time"
        self.batches.append([number for number, _ in batch])
        await asyncio.sleep(0)
        self.in_flight -= 1
        for _, done in batch:
            if not done.done():
                done.set_result(None)


@pytest.mark.medium
async def test_writers_who_come_back_one_after_the_other_share_batches() -> None:
    disk = Disk()

    async def writer(number: int) -> None:
        for _ in range(20):
            await disk.write(number)
            await asyncio.sleep(number * 0.0004)  # as replies and requests take their time on a wire

    await asyncio.gather(*(writer(number) for number in range(8)))
    assert sum(map(len, disk.batches)) == 160
    assert len(disk.batches) < 45, "20 if all wait for each other, some 70 if nobody does"


async def test_what_came_first_goes_first_in_batches_that_fit() -> None:
    disk = Disk(most=3)
    await asyncio.gather(*(disk.write(number) for number in range(10)))
    assert disk.batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


async def test_what_waits_is_committed_before_the_end() -> None:
    """The item is committed even if its writer has left."""
    disk = Disk()
    gone = asyncio.create_task(disk.write(1))
    await asyncio.sleep(0)
    gone.cancel()
    await disk.commits.finish()
    assert disk.batches == [[1]]
    assert len(disk.commits) == 0
