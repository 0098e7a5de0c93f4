"""The numbers of several workers in one scrape. Workers are objects of this process here, one after the other."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import values

from keyvault_server.core.meter import Across
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.shared_metrics import AllWorkers, SharedMetrics, forget_gauges

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the parent, which sets the variable of a new process."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # restored afterwards
    return tmp_path


def scrape(folder: Path) -> Samples:
    found = AllWorkers(folder, lambda: 2, lambda: 1).collect()
    return {(one.name, tuple(one.labels.values())): one.value for metric in found for one in metric.samples}


def count_in(metrics: Metrics) -> None:
    """Count some of everything; the first number of each counter is not the last."""
    metrics.count("Read", "OK", 0.002)
    metrics.count("Read", "NOT_FOUND", 0.2)
    metrics.count_reading("policy", False)
    cuts = Counter(all=1)
    metrics.counters("connections_cut", "Cut.", "reason", cuts)
    metrics.publish()
    cuts["all"] += 2
    metrics.publish()


def test_counters_of_all_workers_are_added_up(folder: Path) -> None:
    for number in (1, 2):
        count_in(SharedMetrics(number))
    found = scrape(folder)
    assert found["keyvault_calls_total", ("Read", "OK")] == 2
    assert found["keyvault_call_seconds_count", ("Read",)] == 4
    assert found["keyvault_call_seconds_bucket", ("Read", "0.0025")] == 2
    assert found["keyvault_connections_cut_total", ("all",)] == 6
    assert found["keyvault_reload_failures_total", ("policy",)] == 2
    assert (found["keyvault_workers", ()], found["keyvault_workers_ended_total", ()]) == (2, 1)


def test_several_workers_have_the_metrics_that_one_process_has(folder: Path) -> None:
    alone, shared = Metrics(), SharedMetrics(1)
    for metrics in (alone, shared):
        metrics.gauge("ready", "Ready.", lambda: 1.0, "min")
        count_in(metrics)
    expected = {
        (one.name, tuple(one.labels.values())): one.value for metric in alone.collect() for one in metric.samples
    }
    found = scrape(folder)
    del found["keyvault_workers", ()], found["keyvault_workers_ended_total", ()]
    assert found == expected


@pytest.mark.parametrize(("across", "value"), [("min", 2), ("max", 3), ("sum", 5)])
def test_a_gauge_is_what_it_is_across_workers(folder: Path, across: Across, value: float) -> None:
    for number, own in ((1, 2.0), (2, 3.0)):
        metrics = SharedMetrics(number)
        metrics.gauge("x", "A number.", returns(own), across)
        assert ("keyvault_x", ()) not in scrape(folder) or number == 2, "not 0 before it is known"
        metrics.publish()
    assert scrape(folder)["keyvault_x", ()] == value
    forget_gauges(folder, 1)
    assert scrape(folder)["keyvault_x", ()] == 3


def test_a_new_worker_continues_the_counters_of_a_dead_one(folder: Path) -> None:
    """So no counter falls, and the files are as many as the workers."""
    count_in(SharedMetrics(1))
    files = sorted(folder.iterdir())
    forget_gauges(folder, 1)
    count_in(SharedMetrics(1))
    assert sorted(folder.iterdir()) == files
    assert scrape(folder)["keyvault_calls_total", ("Read", "OK")] == 2
    assert scrape(folder)["keyvault_connections_cut_total", ("all",)] == 6


def returns(value: float) -> Callable[[], float]:
    return lambda: value
