"""Work in the background has stopped when the body's block is left."""

import asyncio

from keyvault_server.core.background import in_background


async def test_work_has_stopped_when_the_block_is_left() -> None:
    """Its cleanup included, which may take a while: what it uses is closed next."""
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            done.append("stopped")

    async with in_background(work()):
        await asyncio.sleep(0)
        done.append("body")
    assert done == ["body", "stopped"]
