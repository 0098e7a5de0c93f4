"""The priorities of a server's threads: gRPC's are below the event loop's, and no other is."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

SERVER = """
import asyncio, os, threading
from concurrent.futures import ThreadPoolExecutor
import grpc
from keyvault_server.operations.threads import lower_grpc_threads

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ours = ThreadPoolExecutor(1, "keyvault-commit")
    ids = {threading.get_native_id(), ours.submit(threading.get_native_id).result()}
    print(lower_grpc_threads())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
    others = {int(one) for one in os.listdir("/proc/self/task")} - ids
    for threads in (ids, others):
        print(*sorted({os.getpriority(os.PRIO_PROCESS, one) for one in threads}))
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_only_threads_of_grpc_are_below_the_event_loop() -> None:
    """Threads that they start later are too."""
    at_first = os.getpriority(os.PRIO_PROCESS, 0)
    shown = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, check=True, timeout=60)
    lowered, ours, theirs = shown.stdout.splitlines()
    assert int(lowered) >= 2
    assert ours == str(at_first)
    assert theirs == str(max(10, at_first))
