"""The thread whose event loop runs the calls of every synchronous client in this process.

The rules of this file:

* One event loop serves all clients, so that threads stay few. The first call starts it.
* A caller waits for its timeout and GRACE_SECONDS, whatever the loop does. Ctrl-C ends the wait at once.
* Threads do not survive a fork: the child makes its own, and leaves alone what it inherited.
"""

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

from keyvault_client.errors import KeyVaultError, OutcomeUnknown, Unavailable, WrongEventLoop

GRACE_SECONDS = 1.0
"""Seconds that a caller waits for the event loop beyond its timeout, and an exiting process for its calls to end."""

_Result = TypeVar("_Result")


class Closable(Protocol):
    """What is closed on the event loop: a client."""

    async def close(self) -> None:
        """Close it."""


class LoopThread:
    """A daemon thread that runs an event loop until `stop`."""

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        """Start it. Raises OSError and RuntimeError if the process has no room for it."""
        self._grace = grace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="keyvault-client", daemon=True)
        self._stopped = False
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def run(self, call: Coroutine[Any, Any, _Result], seconds: float, *, mutates: bool = False) -> _Result:
        """Run a call and return its result; wait `seconds` and the grace at most.

        Raises what the call raises; for one that does not end, OutcomeUnknown if it `mutates`, else Unavailable.
        """
        if threading.get_ident() == self._thread.ident:
            call.close()
            raise WrongEventLoop("this call would wait for itself: make it from another thread than the client's own")
        future = self._submit(call)
        try:
            return future.result(seconds + self._grace)
        except TimeoutError:
            if not future.cancel():  # it has ended just now
                return future.result(0)
            raise _given_up("the call did not end in time", mutates=mutates) from None
        except CancelledError:
            raise _given_up("this process is exiting", mutates=mutates) from None
        except BaseException:  # KeyboardInterrupt, and what a signal's handler raises; if the call has ended, no effect
            future.cancel()
            raise
        finally:
            del future  # it has the error, whose traceback has this frame, whose callers have secrets

    def start(self, call: Coroutine[Any, Any, object]) -> None:
        """Run a call that nobody waits for."""
        with contextlib.suppress(Unavailable):
            self._submit(call)

    def stop(self) -> None:
        """End the calls and the thread; go on after the grace for each of the two."""
        with contextlib.suppress(KeyVaultError):
            self.run(_end_calls(), 0)
        self._stopped = True
        with contextlib.suppress(RuntimeError):  # it is closed: stopped twice
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._grace)

    def _submit(self, call: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:  # the loop is closed
            call.close()
            raise Unavailable("this process is exiting; the request was not sent") from None

    def _run(self) -> None:
        while not self._stopped:
            with contextlib.suppress(BaseException):  # SystemExit of a callback ends the loop; its caller gets it
                self._loop.run_forever()
        self._loop.close()


async def _end_calls() -> None:
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _given_up(cause: str, *, mutates: bool) -> KeyVaultError:
    if mutates:
        return OutcomeUnknown(f"{cause}, and the outcome of the change is unknown: read the record to see")
    return Unavailable(f"{cause}: nothing was written")


class _Process:
    """What this process has of the above."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leave the parent's thread to the parent. Another thread of the parent may have held the lock at the fork."""
        self.lock = threading.Lock()
        self.thread: LoopThread | None = None

    def stop(self) -> None:
        """End calls, because Python exits. Later ones are refused: the thread stays, stopped."""
        if self.thread is not None:
            self.thread.stop()


_process = _Process()
atexit.register(_process.stop)
os.register_at_fork(after_in_child=_process.forget)


def loop_thread() -> LoopThread:
    """Return the thread of this process, which starts at the first call. Raises Unavailable if it cannot start."""
    with _process.lock:
        if _process.thread is None:
            try:
                _process.thread = LoopThread()
            except (OSError, RuntimeError) as error:
                raise Unavailable(f"cannot start the client's thread ({error}); the request was not sent") from error
        return _process.thread


def close_later(client: Closable) -> None:
    """Close a client, without a wait; for a finalizer, which may run anywhere. Hence no lock is taken."""
    if _process.thread is not None:
        _process.thread.start(client.close())
