"""Callers who list names, and what a page says of each name that it covers.

The rule of this file: a page is a look at every name between the place where it begins and the place where the next one
does, at some moment of the call, or at most so long before it as the index may lag. So a name that is live during the
whole listing is on a page, one that is never live is on none, and none is on two.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from tests.reliability.history import Answer, Look, OperatorError, Recorder, Seen, Unknown

PATIENCE = 4
"""Attempts at a page; then the rest of the listing is left."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a List asks for."""

    prefix: str
    size: int
    token: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class Page:
    """What it is answered."""

    names: Sequence[str]
    token: str


ListPage: TypeAlias = Callable[[Asked], Awaitable[Page | OperatorError | Unknown]]


def misplaced(page: Page, asked: Asked, after: str) -> str:
    """What is wrong with a page that begins after this name, "" if nothing."""
    if len(page.names) > asked.size:
        return f"a page of {asked.size} has {len(page.names)} names"
    if any(one >= other for one, other in pairwise([after, *page.names])):
        return f"the names are not in order, or not for the first time: {after}, {', '.join(page.names)}"
    if not all(name.startswith(asked.prefix) for name in page.names):
        return f"a name does not begin with {asked.prefix}"
    return ""


class Lister:
    """Lists live and deleted names, page by page."""

    def __init__(
        self,
        name: str,
        rng: random.Random,
        recorders: Mapping[str, Recorder],
        servers: Sequence[ListPage],
        prefixes: Sequence[str],
        lag: float = 0.0,
    ) -> None:
        """`recorders` has one for each record; each prefix is one of some of them. `lag` is in seconds."""
        self._name = name
        self._rng = rng
        self._recorders = recorders
        self._servers = servers
        self._prefixes = prefixes
        self._lag = lag

    async def run(self, listings: int, think: float, sizes: Sequence[int]) -> None:
        """So many listings in pages of these sizes; `think` mean seconds before each page."""
        for _ in range(listings):
            asked = Asked(self._rng.choice(self._prefixes), self._rng.choice(sizes), "", self._rng.random() < 0.3)
            await self.list(asked, think)

    async def list(self, asked: Asked, think: float) -> None:
        """One listing, page by page."""
        place, since = "", None
        while True:
            called, page = await self._turn(asked, think)
            if page is None:
                return
            since = called if since is None else since
            if wrong := misplaced(page, asked, place):
                self._note(next(iter(self._recorders)), asked, OperatorError(f"MISPLACED {wrong}"), since)
                return
            if page.names or not page.token:  # else the next page says where this one ends
                self._look(page, asked, place, since)
                place, since = page.names[-1] if page.names else place, None
            if not page.token:
                return
            asked = replace(asked, token=page.token)

    async def _turn(self, asked: Asked, think: float) -> tuple[float, Page | None]:
        """The next page, and when the attempt that brought it began; None if nobody brings it."""
        called = 0.0
        for _ in range(PATIENCE):
            await asyncio.sleep(self._rng.expovariate(1 / think))
            called = next(iter(self._recorders.values())).now()
            page = await self._rng.choice(self._servers)(asked)
            if isinstance(page, Page):
                return called, page
            if isinstance(page, OperatorError):
                self._note(next(iter(self._recorders)), asked, page, called)
        return called, None

    def _look(self, page: Page, asked: Asked, place: str, since: float) -> None:
        """Notes what the page says of each name up to its end."""
        last = page.names[-1] if page.token else None
        for record in self._recorders:
            if record.startswith(asked.prefix) and place < record and (last is None or record <= last):
                self._note(record, asked, Seen(record in page.names), since)

    def _note(self, record: str, asked: Asked, answer: Answer, called: float) -> None:
        self._recorders[record].note(self._name, record, Look(asked.deleted), answer, called - self._lag)
