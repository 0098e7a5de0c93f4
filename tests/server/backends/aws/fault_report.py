"""Runs the matrix and the figures and prints them as a page.

    python -m tests.server.backends.aws.fault_report > docs/aws-faults.md

It takes about ten minutes. A status that is not allowed is marked, and the command then fails, as for a wrong history.
"""

import asyncio
import logging
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial

from tests.reliability.replicas import outcome
from tests.server.backends.aws import fault_figures as figures
from tests.server.backends.aws.fault_matrix import RPCS, UNKNOWN, Seen, allowed, hit_always, hit_once
from tests.server.backends.aws.fault_proxy import FAULTS, Fault
from tests.server.backends.aws.site import site
from tests.support.engines import stand_in_identity

HISTORIES = 1000
DEADLINE = 2.0
CALL_SECONDS = 2.0
IMPATIENCE = 0.2
SLOW = ("latency", "black hole before the effect", "black hole after the effect")
"""Faults that callers leave."""
MayBe = Callable[[Fault, str], frozenset[str]]
NOT_ALLOWED = "**not allowed**"
_INTRODUCTION = """\
# Faults of AWS

What callers see when something goes wrong between the server and AWS. This page is written by
`python -m tests.server.backends.aws.fault_report > docs/aws-faults.md`: a real server on our own
stand-ins for KMS and DynamoDB, with a proxy before each that breaks requests (`fault_proxy.py` in
`tests/server/backends/aws`). After each call the fault is removed and the record is checked: it is
in one of the two states that the status allows. A retry with the same bytes takes effect exactly once, and a
third attempt is recognised. The tests run the same matrix (`test_faults.py`).

"Before the effect" means that AWS never got the request; "after", that it did and its answer was lost. A black hole
takes the request and never answers. An RPC may need several operations of AWS, and each was hit alone: an operation
that led to another status than the others is named."""
_ONE = """
## One request is hit

Operations without effect are retried. The conditional write (`PutItem`) never is; the server looks at the record
instead. It keeps no earlier revisions here (`KEYVAULT_HISTORY=0`): the write of a copy is retried as a read is.
"""
_EVERY = """
## Every request to the operation is hit
"""
_LEAVE = """
## Every request to the operation is hit, and the caller leaves before it is answered
"""
_HISTORIES = """\
## Histories

Two replicas share one DynamoDB and serve clients at the same time, while the faults between each replica and each
service, all of those above, change every moment. How a history is judged is in [reliability.md](reliability.md).

    python -m tests.reliability.replicas --histories 1000
"""


def method(seconds: float) -> str:
    """Return the paragraph on how it was measured."""
    return f"""
The matrix ran with `KEYVAULT_AWS_CALL_SECONDS={CALL_SECONDS:g}` and deadlines of {DEADLINE:g} s ({IMPATIENCE:g} s where
callers leave); the figures with {figures.CALL_SECONDS:g} s, the default, and {figures.CONNECTIONS} connections to each
service. Callers who leave there: {figures.WAVES} waves of {figures.WAVE} Reads at a time, with a deadline of
{figures.IMPATIENCE:g} s; counted are those that ended in DEADLINE_EXCEEDED. Recovery: 24 callers who Read or RewrapKey
and retry after 0.05 s, and a fault of both services for 3 s. Unresponsive KMS: 64 concurrent calls and 16 connections,
a quarter of the defaults, for 8 s. Client, server, proxies and stand-ins shared one process of Python
{platform.python_version()} on {os.cpu_count()} cores, with a load average of {os.getloadavg()[0]:.0f}; it took
{seconds:.0f} s.
"""


async def page() -> str:
    """Measure everything and return the page in Markdown."""
    began, once, always, left = time.monotonic(), {}, {}, {}
    for name, fault in FAULTS.items():
        async with site(CALL_SECONDS, history=0) as opened:
            once[name] = await hit_once(opened, fault, DEADLINE)
            always[name] = await hit_always(opened, fault, DEADLINE)
            if name in SLOW:
                left[name] = await hit_always(opened, fault, IMPATIENCE)
    late = max(_latest(once, DEADLINE), _latest(always, DEADLINE), _latest(left, IMPATIENCE))
    number = sum(len(cells) for table in (once, always, left) for cells in table.values())
    lines = [
        _INTRODUCTION,
        _ONE,
        *_table(once, partial(allowed, once=True)),
        _EVERY,
        *_table(always, partial(allowed, once=False)),
        _LEAVE,
        *_table(left, lambda fault, operation: UNKNOWN),
        "\n## Figures\n",
        _row("what", "figure"),
        _row("---", "---"),
        _row(f"the latest of these {number} answers, from its deadline", f"{late:+.2f} s"),
        *[line async for line in _figures()],
        method(time.monotonic() - began),
        _HISTORIES,
        *await _histories(),
    ]
    return "\n".join(lines)


def _table(seen: Mapping[str, list[Seen]], may_be: MayBe) -> Iterator[str]:
    yield _row("fault", *RPCS)
    yield _row(*["---"] * (len(RPCS) + 1))
    for name, cells in seen.items():
        by_rpc = ([cell for cell in cells if cell.method == rpc] for rpc in RPCS)
        yield _row(name, *(_status_of(FAULTS[name], cells, may_be) for cells in by_rpc))


def _status_of(fault: Fault, cells: list[Seen], may_be: MayBe) -> str:
    """Return the statuses of one RPC: the most frequent, and each operation that led to another one."""
    statuses = [cell.status for cell in cells]
    common = max(statuses, key=statuses.count)
    shown = [common, *(f"{cell.operation} {cell.status}" for cell in cells if cell.status != common)]
    if any(cell.status not in may_be(fault, cell.operation) for cell in cells):
        shown.append(NOT_ALLOWED)
    return "; ".join(shown)


async def _histories() -> list[str]:
    figure, summary = await outcome(HISTORIES, seed=0)
    return ["```text", summary, "```", *[f"{NOT_ALLOWED}: {wrong}" for wrong in figure.wrong], ""]


def _latest(seen: Mapping[str, list[Seen]], deadline: float) -> float:
    return max(one.seconds for cells in seen.values() for one in cells) - deadline


async def _figures() -> AsyncIterator[str]:
    late, waited = await figures.longest_wait()
    yield _row(
        "100 Reads, 4 connections, a backend that takes 0.3 s: the longest, from its deadline of 1 s", f"{late:+.2f} s"
    )
    yield _row("what these got", _counted(waited))
    for name, fault in (("a slow backend", figures.SLOW), ("a black hole", figures.BLACK_HOLE)):
        ours, sdk = await figures.cancelled_calls(fault), await figures.cancelled_calls_of_the_sdk(fault)
        what = f"callers who leave {name} before it answers: connections opened per call, of {ours.calls}"
        yield _row(what, f"{ours.each:.2f} (cancelling the SDK's calls: {sdk.each:.2f})")
    for name in figures.RECOVERED_FROM:
        seconds = await figures.recovery(FAULTS[name])
        yield _row(f"{name}: from its end until every caller had an answer", f"{seconds:.2f} s")
    with figures.no_breaker():
        without = await figures.reads_during_a_hang_of_kms()
    reads = await figures.reads_during_a_hang_of_kms()
    yield _row("what Reads get next to 75 mutations a second that hang on an unresponsive KMS", _counted(reads))
    yield _row("the same without the breaker", _counted(without))


def _counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Print the page; return the exit status."""
    logging.disable(logging.CRITICAL)
    with stand_in_identity():
        text = asyncio.run(page())
    sys.stdout.write(text)
    return int(NOT_ALLOWED in text)


if __name__ == "__main__":
    sys.exit(main())
