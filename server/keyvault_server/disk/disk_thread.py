"""A thread for work that waits for a disk. A disk that hangs may hold it for ever, so no exit waits for it: it is a
daemon, which a thread of concurrent.futures is not."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


class DiskThread:
    """Does one thing after another."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Returns what it returns. Work whose caller is cancelled is done if it has begun, and else left out."""
        done: Future[_T] = Future()

        def do() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._work.put(do)
        return await asyncio.wrap_future(done)

    def end(self) -> None:
        """Waits for what is being done. Not for a thread that hangs."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while do := self._work.get():
            do()
