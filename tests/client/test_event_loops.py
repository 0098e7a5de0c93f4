"""A client and event loops: made before any of them, used in one, refused in another, and never a hang."""

import asyncio
import subprocess
import sys

import pytest

from keyvault_client import KeyVault, WrongEventLoop

FORKED = """
import asyncio, os, sys
from keyvault_client import KeyVault, WrongEventLoop

used = sys.argv[2] == "used"
vault = KeyVault(sys.argv[1])
if used:
    asyncio.run(vault.generate_key("prod/"))
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    asyncio.run(vault.generate_key("prod/"))
except WrongEventLoop:
    os._exit(0 if used else 1)
os._exit(1 if used else 0)
"""


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


@pytest.mark.slow
@pytest.mark.parametrize("state", ["used", "unused"])
def test_a_forked_process_never_hangs(address: str, state: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, address, state], timeout=60, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
