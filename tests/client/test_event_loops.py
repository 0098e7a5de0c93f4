"""A client and event loops: made before any of them, used in one, and refused in another."""

import asyncio

import pytest

from keyvault_client import KeyVault, WrongEventLoop


def test_a_client_made_before_any_loop_works_in_the_first(address: str) -> None:
    vault = KeyVault(address)

    async def use() -> None:
        async with vault:
            await asyncio.gather(vault.generate_key("prod/"), vault.generate_key("prod/"))

    asyncio.run(use())


def test_a_second_event_loop_is_one_sentence(address: str) -> None:
    vault = KeyVault(address)
    asyncio.run(vault.generate_key("prod/"))
    with pytest.raises(WrongEventLoop, match="another event loop or process: make one for each"):
        asyncio.run(vault.generate_key("prod/"))
    asyncio.run(vault.close())
    asyncio.run(KeyVault(address).generate_key("prod/"))
