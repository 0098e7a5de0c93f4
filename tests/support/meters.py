"""A Meter that keeps what it is given, for tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keyvault_server.core.meter import Across


@dataclass
class RecordedMeter:
    """Every reading in order, and the gauges and counters by name."""

    readings: list[tuple[str, bool]] = field(default_factory=list)
    gauges: dict[str, Callable[[], float]] = field(default_factory=dict)
    counts: dict[str, Mapping[str, int]] = field(default_factory=dict)

    def count_reading(self, source: str, good: bool) -> None:
        self.readings.append((source, good))

    def gauge(self, name: str, description: str, value: Callable[[], float], across: Across = "max") -> None:
        self.gauges[name] = value

    def counters(self, name: str, description: str, label: str, counts: Mapping[str, int]) -> None:
        self.counts[name] = counts
