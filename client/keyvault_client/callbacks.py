"""Functions that a user gives us, plain or async; one that fails stops nothing.

The rule of this file: an exception of a user's function is logged with its type and place. Its message is not: it may
quote the secret that the function was given.
"""

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from keyvault_client.records import Record

OnChange: TypeAlias = Callable[[str, Record], object | Awaitable[object]]
"""Takes the name of a record and the record as it became."""

_log = logging.getLogger(__name__)


async def called(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a plain or an async function returns."""
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result


class Notifier:
    """Calls `on_change` for one change after the other, in a task of its own, so that a slow one delays no refresh."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._changed: dict[str, Record] = {}  # the latest of each name: a slow function does not fill memory
        self._wake = asyncio.Event()

    def add(self, name: str, record: Record) -> None:
        """Note a change. One of the same name that waits yet is skipped."""
        self._changed[name] = record
        self._wake.set()

    async def run(self) -> None:
        """Call the function for each change, until this is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._changed:
                name = next(iter(self._changed))
                await self._call(name, self._changed.pop(name))

    async def _call(self, name: str, record: Record) -> None:
        try:
            await called(self._on_change, name, record)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            _log.error("on_change failed for %s: %s", name, describe(error))


def is_cancelled(error: BaseException) -> bool:
    """Report whether the running task is being cancelled, and not only something that it waited for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def describe(error: BaseException) -> str:
    """Return the type of an exception and where it was raised, for a log line."""
    frames = traceback.extract_tb(error.__traceback__)
    places = ", called at ".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
