"""The cache of a synchronous client: look-ups are those of cache.py, and an event loop elsewhere does the rest.

The rule of this file: a user's function runs in a thread of its own. On the event loop it could not use the client.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from keyvault_client import cache
from keyvault_client.errors import InvalidRequest, KeyVaultError
from keyvault_client.records import Record

_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")


class Call(Protocol):
    """Runs a coroutine on the event loop, and returns its result."""

    def __call__(self, call: Coroutine[Any, Any, _Result], /) -> _Result:
        """Run it; raise what it raises."""


class Secrets(Mapping[str, bytes]):
    """The secrets of a cache by name: `secrets["prod/db"]` is the data of the record, from memory.

    Use it as a context manager, once: `KeyVault.cache` makes it. Iteration gives the names that have a value.
    """

    def __init__(self, secrets: cache.Secrets, call: Call) -> None:
        self._secrets = secrets
        self._call = call

    def __getitem__(self, name: str) -> bytes:
        return self._secrets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._secrets)

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return repr(self._secrets)

    def record(self, name: str) -> Record:
        """Return the whole record. Raises NotCached."""
        return self._secrets.record(name)

    def age(self, name: str) -> float:
        """Return the seconds since the server last confirmed this value, also one beyond `max_age`. Raises NotCached.

        They count from the request that was answered, and go on while the machine sleeps.
        """
        return self._secrets.age(name)

    def failure(self, name: str) -> KeyVaultError | None:
        """Return why the last refresh of this name failed; None if it did not. Raises NotCached for another name."""
        return self._secrets.failure(name)

    def refresh(self) -> None:
        """Ask the server now; what it says is in memory when this returns.

        Raises NotRefreshed, which names what failed; the others are refreshed then, and no value is lost.
        """
        self._call(self._secrets.refresh())

    def __enter__(self) -> Self:
        self._call(self._secrets.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._secrets.__aexit__(kind, error, trace))


def in_thread(
    function: Callable[_Parameters, _Result] | None,
) -> Callable[_Parameters, Awaitable[_Result]] | None:
    """Return an async function that calls this one in a thread. Raises InvalidRequest for an async function."""
    if function is None:
        return None
    if inspect.iscoroutinefunction(function):
        name = getattr(function, "__name__", "a callback")
        raise InvalidRequest(f"{name} is an async function: give one that is not, or use keyvault_client.KeyVault")
    plain = function

    async def call(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
        return await asyncio.to_thread(plain, *arguments, **named)

    return call
