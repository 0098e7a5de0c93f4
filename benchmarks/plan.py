"""How long the sections of a report measure, and the servers that they share.

The rule of this file: a server of ours is started once for each shape and size, and serves until the report is made.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.calls import KIB, Requests
from benchmarks.contestant import Contestant
from benchmarks.servers import vault

if TYPE_CHECKING:
    from benchmarks.others import Load


@dataclass
class Plan:
    """How much is measured, and where."""

    stack: ExitStack
    """Ends the servers."""
    folder: Path
    """Of the servers' data."""
    rounds: int
    seconds: float
    """Of one round."""
    names: int
    """Records that Reads are spread over."""
    loads: "dict[str, dict[str, Load]]" = field(default_factory=dict)
    """Those of servers that are not ours, by the server's name; see others.py."""
    _ours: dict[tuple[str, int], Contestant] = field(default_factory=dict)

    async def contestant(self, shape: str, size: int = KIB, per_second: float = 1_000.0) -> Contestant:
        """Return the server of ours in a shape, with records to read. `per_second` is a first guess at its calls."""
        if (shape, size) not in self._ours:
            server = self.stack.enter_context(vault(shape, self.folder / f"{shape}-{size}"))
            one = Contestant(shape, server, Requests(server, size), self.seconds, per_second)
            await one.requests.prepare(max(64, min(self.names, 10_000_000 // size)))
            self._ours[shape, size] = one
        return self._ours[shape, size]
