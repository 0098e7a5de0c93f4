"""The priorities of a server's threads: gRPC's are below the event loop's, and no other is."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

SERVER = """
import asyncio, ctypes, os, threading, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from keyvault_server.core.background import in_background
from keyvault_server.operations.threads import keep_lowered

def priorities(threads):
    return {os.getpriority(os.PRIO_PROCESS, one) for one in threads}

def named_late():
    time.sleep(0.3)
    ctypes.CDLL(None).prctl(15, b"event_engine")  # PR_SET_NAME
    time.sleep(60)

async def main():
    first = priorities([0])
    threading.Thread(target=named_late, daemon=True).start()
    lower = {min(19, 10 + one) for one in first}
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ours = ThreadPoolExecutor(1, "keyvault-commit")
    ids = {threading.get_native_id(), ours.submit(threading.get_native_id).result()}
    address = f"127.0.0.1:{port}"
    async with in_background(keep_lowered()), grpc.aio.insecure_channel(address) as channel, asyncio.timeout(30):
        await channel.channel_ready()
        while priorities({int(one) for one in os.listdir("/proc/self/task")} - ids) != lower:
            await asyncio.sleep(0.01)
    assert priorities(ids) == first
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_only_threads_of_grpc_are_below_the_event_loop() -> None:
    """Those that have no name yet when they are first looked for, too."""
    shown = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 0, shown.stderr
