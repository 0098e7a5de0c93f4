"""Metrics of several worker processes in one scrape, by the multiprocess mode of prometheus_client.

Each worker keeps its numbers in files of one folder, and the process that is scraped adds them up. The variable
PROMETHEUS_MULTIPROC_DIR names the folder; it must be set before prometheus_client is imported.

The rule of this file: the files have the worker's number in their names, not its process id. A worker that replaces a
dead one continues its counters, so no counter ever falls and the number of files is bounded.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from keyvault_server.core.meter import Across
from keyvault_server.rpc.metrics import BUCKETS, Metrics


class SharedMetrics(Metrics):
    """Metrics of one worker; calls are counted at once, everything else by `publish`."""

    def __init__(self, worker: int) -> None:
        values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
        super().__init__()
        calls = Counter("keyvault_calls", "Calls that ended.", ("method", "status"), registry=None)
        durations = Histogram(
            "keyvault_call_seconds", "How long calls took.", ("method",), registry=None, buckets=BUCKETS
        )
        self._shared_calls, self._shared_durations = calls, durations
        self._shared_failing = _gauge("reload_failing", "1: the last good version is in use.", "max", "what")
        self._shared_failures = _counter("reload_failures", "Changes that failed to load.", "what")
        self._across: dict[str, Across] = {}
        self._shared_gauges: dict[str, Gauge] = {}
        self._shared_counters: dict[str, Counter] = {}
        self._published: dict[str, Counts[str]] = {}

    def count(self, method: str, status: str, seconds: float) -> None:
        """Count a call that has ended."""
        self._shared_calls.labels(method, status).inc()
        self._shared_durations.labels(method).observe(seconds)

    def count_reading(self, source: str, good: bool) -> None:
        """See Meter."""
        self._shared_failing.labels(source).set(not good)
        self._shared_failures.labels(source).inc(not good)

    def gauge(self, name: str, description: str, value: Callable[[], float], across: Across = "max") -> None:
        """See Meter."""
        super().gauge(name, description, value, across)
        self._across[name] = across

    def counters(self, name: str, description: str, label: str, counts: Mapping[str, int]) -> None:
        """See Meter."""
        super().counters(name, description, label, counts)
        self._shared_counters[name] = _counter(name, description, label)
        self._published[name] = Counts()

    def publish(self) -> None:
        """Write the numbers that are not written when they change."""
        for name, (description, value) in self._gauges.items():
            if name not in self._shared_gauges:  # made only now: it is 0 from then on, and 0 may be an alarm
                self._shared_gauges[name] = _gauge(name, description, self._across[name])
            self._shared_gauges[name].set(value())
        for name, (_, _, counts) in self._counters.items():
            published = self._published[name]
            for value_of_label, number in list(counts.items()):
                self._shared_counters[name].labels(value_of_label).inc(number - published[value_of_label])
                published[value_of_label] = number


class AllWorkers(Collector):
    """What all workers count, and how many there are."""

    def __init__(self, folder: Path, serving: Callable[[], int], ended: Callable[[], int]) -> None:
        """`serving` returns how many workers serve now, `ended` how many ended without being asked to."""
        self._workers = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        self._serving = serving
        self._ended = ended

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield GaugeMetricFamily("keyvault_workers", "Workers that serve.", value=self._serving())
        yield CounterMetricFamily(
            "keyvault_workers_ended", "Workers that ended and were replaced.", value=self._ended()
        )
        yield from self._workers.collect()  # type: ignore[no-untyped-call]


def forget_gauges(folder: Path, worker: int) -> None:
    """Let the gauges of a worker that ended count no longer."""
    mark_process_dead(worker, str(folder))  # type: ignore[no-untyped-call]


def _gauge(name: str, description: str, across: Across, *labels: str) -> Gauge:
    modes: Mapping[Across, str] = {"min": "livemin", "max": "livemax", "sum": "livesum"}
    mode: Any = modes[across]
    return Gauge(f"keyvault_{name}", description, labels, registry=None, multiprocess_mode=mode)


def _counter(name: str, description: str, label: str) -> Counter:
    return Counter(f"keyvault_{name}", description, (label,), registry=None)
