"""A clock for tests of what waits."""

from dataclasses import dataclass


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: float = 1_000.0

    def __call__(self) -> float:
        """Return the seconds since no matter when."""
        return self.now


LONG_AGO = Clock(0.0)
"""A clock by which no file has settled, so that only looks show that one has."""
