"""What the other packages measure of themselves, without knowing who collects it."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

Across = Literal["min", "max", "sum"]
"""What the numbers of several processes are together."""


class Meter(Protocol):
    """Collects numbers about one server; every method may be called from any thread."""

    def count_reading(self, source: str, good: bool) -> None:
        """Count a reading of a followed source ("tls", "policy", "token keys") that succeeded or failed."""

    def gauge(self, name: str, description: str, value: Callable[[], float], across: Across = "max") -> None:
        """Show a number that `value` returns whenever somebody asks; that of several processes is their `across`."""

    def counters(self, name: str, description: str, label: str, counts: Mapping[str, int]) -> None:
        """Show these numbers, which only grow, each under its value of the label."""
