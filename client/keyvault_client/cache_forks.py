"""Caches and forks.

The rule of this file: a forked child has no values of its parent's caches. Nothing refreshes them there, and an old one
would be found out too late.
"""

import os
import weakref
from typing import Protocol

INHERITED = "this cache is that of the parent process, and nothing refreshes it here: open one in this process"


class Endable(Protocol):
    """A cache."""

    def _end(self, why: str) -> None:
        """Serve nothing from now on."""


_open: "weakref.WeakValueDictionary[int, Endable]" = weakref.WeakValueDictionary()


def note_open(cache: Endable) -> None:
    """Note a cache that has values from now on."""
    _open[id(cache)] = cache


def _end_inherited() -> None:
    for cache in list(_open.values()):
        cache._end(INHERITED)


os.register_at_fork(after_in_child=_end_inherited)
