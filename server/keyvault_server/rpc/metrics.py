"""The server's metrics, which `metrics_port` serves to Prometheus if the settings say so.

The rule of this file: counting costs the call next to nothing (two dictionary entries), so the numbers are kept here
and become metrics only when somebody asks. No label holds a name, an identity or anything else that a caller chose.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from keyvault_server.core.meter import Across

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of call durations, in seconds."""


class Metrics(Collector):
    """Metrics of one server."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._failing: dict[str, bool] = {}
        self._failures: Counter[str] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._counters: dict[str, tuple[str, str, Mapping[str, int]]] = {}

    def count(self, method: str, status: str, seconds: float) -> None:
        """Count a call that has ended."""
        self._calls[method, status] += 1
        durations = self._durations.get(method)
        if durations is None:
            durations = self._durations[method] = [0] * (len(BUCKETS) + 1)
        durations[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[method] += seconds

    def count_reading(self, source: str, good: bool) -> None:
        """See Meter."""
        self._failing[source] = not good
        self._failures[source] += not good

    def gauge(self, name: str, description: str, value: Callable[[], float], across: Across = "max") -> None:
        """See Meter; `value` is called on another thread."""
        self._gauges[name] = (description, value)

    def counters(self, name: str, description: str, label: str, counts: Mapping[str, int]) -> None:
        """See Meter."""
        self._counters[name] = (description, label, counts)

    def publish(self) -> None:
        """Make the numbers visible to a scrape in another process; here there is none."""

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        calls = CounterMetricFamily("keyvault_calls", "Calls that ended.", labels=("method", "status"))
        for (method, status), number in list(self._calls.items()):
            calls.add_metric((method, status), number)
        yield calls
        durations = HistogramMetricFamily("keyvault_call_seconds", "How long calls took.", labels=("method",))
        for method, counts in list(self._durations.items()):
            durations.add_metric((method,), _cumulative(counts), self._seconds[method])
        yield durations
        failing = GaugeMetricFamily("keyvault_reload_failing", "1: the last good version is in use.", labels=("what",))
        failures = CounterMetricFamily("keyvault_reload_failures", "Changes that failed to load.", labels=("what",))
        for what, fails in list(self._failing.items()):
            failing.add_metric((what,), int(fails))
            failures.add_metric((what,), self._failures[what])
        yield failing
        yield failures
        for name, (help_, value) in list(self._gauges.items()):
            yield GaugeMetricFamily(f"keyvault_{name}", help_, value=value())
        for name, (help_, label, by_value) in list(self._counters.items()):
            counter = CounterMetricFamily(f"keyvault_{name}", help_, labels=(label,))
            for value_of_label, number in list(by_value.items()):
                counter.add_metric((value_of_label,), number)
            yield counter


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    """Return cumulative buckets: Prometheus counts in each what is in the smaller ones too."""
    bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
