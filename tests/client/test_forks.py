"""Clients and forks: an unused one works in the child, a used one is refused there at once, and nothing ever hangs.

Each test is a process that forks. Every child has to end by itself, and calls of the parent have to work afterwards.
A fork during a call may crash the child within gRPC, unless gRPC's handlers of forks are off.
"""

import os
import socket
import subprocess
import sys

import pytest

START = """
import asyncio, gc, multiprocessing, os, sys, threading, time, traceback
from keyvault_client import KeyVault, Unavailable, WrongProcess, sync

def child(what, leave):
    # Run it in a fork that leaves so; fail unless it succeeds within 20 seconds.
    if (pid := os.fork()) == 0:
        status = 1
        try:
            what()
            status = 0
        except BaseException:
            traceback.print_exc()
        leave(status)
    end = time.monotonic() + 20
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise AssertionError(f"{what.__name__} hangs")
        time.sleep(0.01)
    assert ended[1] == 0, f"{what.__name__}: {os.waitstatus_to_exitcode(ended[1])}"

def children(*whats):
    for what in whats:
        child(what, os._exit)
        child(what, sys.exit)
"""
SYNCHRONOUS = """
address, nothing = sys.argv[1:]
use = sync.KeyVault.generate_key
unused, used, waiting = sync.KeyVault(address), sync.KeyVault(address), sync.KeyVault(nothing)

def wait():
    try:
        use(waiting)
    except Unavailable:
        pass

def use_unused():
    use(unused)

def refuse(vault=used):
    began = time.monotonic()
    try:
        use(vault)
    except WrongProcess as error:
        assert "close the parent's clients before the fork" in str(error)
        assert time.monotonic() - began < 5
        return
    raise AssertionError("not refused")

def refuse_unused():
    refuse(unused)

def close_and_collect():
    global used
    used.close()
    del used
    gc.collect()

def refuse_closed():
    try:
        use(used)
    except Unavailable as error:
        assert "this client is closed" in str(error)
        return
    raise AssertionError("not refused")

children(use_unused)
use(used)
thread = threading.Thread(target=wait)
if os.environ.get("GRPC_ENABLE_FORK_SUPPORT") == "0":
    thread.start()
children(refuse, refuse_unused, close_and_collect)
with used.cache({}) as secrets:
    child(lambda: secrets.__exit__(None, None, None), sys.exit)
process = multiprocessing.get_context("fork").Process(target=refuse)
process.start()
process.join(20)
assert process.exitcode == 0
use(used)
for each in (waiting, used):
    each.close()
if thread.ident:
    thread.join()
children(use_unused, refuse_closed)
use_unused()
"""
ASYNCHRONOUS = """
address, _ = sys.argv[1:]
async def never():
    await asyncio.sleep(60)

unused, used, slow = KeyVault(address), KeyVault(address), KeyVault(address, token=never)

def use(vault):
    asyncio.run(vault.generate_key())

def use_unused():
    use(unused)

async def fail():  # refused: frames of the error have the connection, in a cycle
    async with KeyVault("127.0.0.1:1", timeout=0.1) as vault:
        try:
            await vault.generate_key()
        except Unavailable:
            pass

def refuse():
    for vault in (used, unused, slow):
        began = time.monotonic()
        try:
            use(vault)
        except WrongProcess:
            assert time.monotonic() - began < 5
        else:
            raise AssertionError("not refused")

def close_and_collect():
    global used
    asyncio.run(used.close())
    del used
    gc.collect()

children(use_unused)
loop = asyncio.new_event_loop()
loop.run_until_complete(used.generate_key())
children(refuse, close_and_collect)
loop.run_until_complete(used.generate_key())
loop.run_until_complete(used.close())
gc.disable()
asyncio.run(fail())
children(use_unused)
use_unused()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "settings"),
    [(SYNCHRONOUS, {}), (SYNCHRONOUS, {"GRPC_ENABLE_FORK_SUPPORT": "0"}), (ASYNCHRONOUS, {})],
    ids=["sync", "sync, during a call", "async"],
)
def test_a_forked_process_never_hangs(address: str, client: str, settings: dict[str, str]) -> None:
    environment = os.environ | settings | {"GRPC_VERBOSITY": "ERROR"}  # gRPC notes at a fork that it does nothing
    with socket.create_server(("127.0.0.1", 0)) as nothing:
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                START + client,
                address,
                f"127.0.0.1:{nothing.getsockname()[1]}",
            ],
            timeout=150,
            check=False,
            capture_output=True,
            env=environment,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "")
