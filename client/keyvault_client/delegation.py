"""What the generated synchronous client does with each call: it runs the asynchronous client on the loop thread."""

import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from keyvault_client import cache
from keyvault_client.errors import Unavailable
from keyvault_client.keys import DataKey
from keyvault_client.loop_thread import close_later, loop_thread
from keyvault_client.records import Record
from keyvault_client.sync_cache import Secrets
from keyvault_client.vault import MAX_TIMEOUT, KeyVault

PlainTokenSource: TypeAlias = Callable[[], str]
"""Returns the token for the next attempt; called before each one, in a thread of its own."""
PlainOnChange: TypeAlias = Callable[[str, Record], object]
"""Takes the name of a record and the record as it became; called in a thread of its own."""
PlainNewKey: TypeAlias = Callable[[str], "DataKey | None"]
"""Returns the new key of a record that was rotated, None if there is none yet; called in a thread of its own."""

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Delegating:
    """A client whose calls another one makes, on the event loop of this process's loop thread."""

    def __init__(self, vault: KeyVault, timeout: float) -> None:
        self._vault = vault
        self._timeout = timeout
        weakref.finalize(self, close_later, vault).atexit = False

    def _call(self, call: Coroutine[Any, Any, _Result], timeout: float | None, *, mutates: bool = False) -> _Result:
        """Run a call and return its result. `mutates` is for one that may have changed a record when it is given up."""
        try:
            thread, seconds = loop_thread(), self._seconds(timeout)
        except BaseException:
            call.close()
            raise
        return thread.run(call, seconds, mutates=mutates)

    def _iterate(self, pages: AsyncIterator[Sequence[_Item]], timeout: float | None) -> Iterator[_Item]:
        """Yield what is on the pages; each page is a call."""
        while (page := self._call(_next(pages), timeout)) is not None:
            yield from page

    def _cache(self, secrets: cache.Secrets, timeout: float | None) -> Secrets:
        def call(one: Coroutine[Any, Any, _Result]) -> _Result:
            return self._call(one, min(2 * self._seconds(timeout), MAX_TIMEOUT))  # it reads and writes its file, too

        return Secrets(secrets, call)

    def _close(self) -> None:
        """Close the client, which takes a moment. When Python exits there is nothing left to end."""
        with contextlib.suppress(Unavailable):
            self._call(self._vault.close(), 0)

    def _seconds(self, timeout: float | None) -> float:
        """Return how long to wait; no time for an invalid timeout, which the call refuses."""
        seconds = self._timeout if timeout is None else timeout
        return seconds if 0 <= seconds <= MAX_TIMEOUT else 0


async def _next(pages: AsyncIterator[Sequence[_Item]]) -> Sequence[_Item] | None:
    return await anext(pages, None)
