"""A thread for work that waits for a disk.

The rule of this file: no exit waits for the thread, since a disk that hangs may hold it for ever. So it is a daemon,
which a thread of concurrent.futures is not.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from keyvault_server.disk.stepping_back import SteppingBack

_T = TypeVar("_T")


class DiskThread:
    """Runs one piece of work after another, in the order of the calls."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._stepping_back = SteppingBack()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run `work` on the thread; return or raise its outcome.

        If the caller is cancelled, work that has begun is completed, and work that has not is dropped.
        """
        done: Future[_T] = Future()

        def do() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._work.put(do)
        self._stepping_back.watch(done)
        return await asyncio.wrap_future(done)

    def end(self) -> None:
        """Wait for the work in the queue, then end the thread. Do not call it while the disk may hang."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while do := self._work.get():
            do()
