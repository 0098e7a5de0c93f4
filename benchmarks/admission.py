"""What policy and quotas cost a call, as ratios taken in one run: `python -m benchmarks.admission [--quick]`.

The yardstick of each is the least that could do the job: a look-up in a dict of all identities or names. Rounds
alternate, and each figure is the median of the rounds. Memory is what tracemalloc counts after so many identities.
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable

from keyvault_server.access.policy import CallerEntry, Policy
from keyvault_server.access.quotas import READ_BYTES, Limits, Quotas, Rate

ENTRIES = 10_000
CALLER = """
[[caller]]
identity = "spiffe://example.org/team-{0}/*"
tenant = "tenant-{0}"
[[caller.allow]]
methods = ["GenerateKey", "Create", "Read", "Update", "Delete"]
names = ["prod/team-{0}/*", "shared/config"]
[caller.limits]
GenerateKey = {{ per_second = 1, burst = 10 }}
"""
PLENTY = Rate(per_second=1_000_000_000, burst=1_000_000_000)


def policy_of(entries: int) -> Policy:
    """So many callers, one rule each."""
    return Policy.parse("".join(CALLER.format(number) for number in range(entries)))


def workloads(count: int) -> list[str]:
    """So many identities, all different, spread over the entries."""
    return [f"spiffe://example.org/team-{number % ENTRIES}/web-{number}" for number in range(count)]


def microseconds(function: Callable[[str], object], texts: Iterable[str], count: int) -> float:
    """For one call, over all these texts."""
    began = time.perf_counter()
    for text in texts:
        function(text)
    return (time.perf_counter() - began) / count * 1e6


def compare(title: str, ours: Callable[[str], object], plain: Callable[[str], object], texts: list[str]) -> None:
    """One line: ours, the yardstick, and how many times the yardstick ours is."""
    pairs = [(microseconds(ours, texts, len(texts)), microseconds(plain, texts, len(texts))) for _ in range(7)]
    ratio = statistics.median(mine / least for mine, least in pairs)
    mine, least = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{title}: {ratio:.1f} times a dict look-up ({mine:.2f} us to {least:.2f} us)")


def policies(calls: int) -> None:
    """Finding an identity's entry among 10,000 and among 10, and asking it."""
    began = time.perf_counter()
    policy, few, identities = policy_of(ENTRIES), policy_of(10), workloads(calls)
    print(f"two files of 10 and {ENTRIES:,} callers parsed in {time.perf_counter() - began:.1f} s")
    table = dict.fromkeys(identities)
    compare(f"caller() by {calls:,} identities, {ENTRIES:,} entries", policy.caller, table.get, identities)
    compare(f"caller() by {calls:,} identities, 10 entries, that few match", few.caller, table.get, identities)
    entry = policy.caller(identities[7])
    assert isinstance(entry, CallerEntry)
    allows = entry.allows
    names = [f"prod/team-7/{number}" for number in range(calls)]
    compare("allows() by prefix", lambda name: allows("Read", name), dict.fromkeys(names).get, names)


def quotas(calls: int) -> None:
    """One identity again and again, and as many identities as there are calls."""
    spend = Quotas(time.monotonic).spend
    charge = Quotas(time.monotonic).charge
    everyone, few = workloads(calls), workloads(64) * (calls // 64)
    for title, identities in (("64 identities", few), (f"{calls:,} identities", everyone)):
        table = dict.fromkeys(identities)
        compare(f"spend() by {title}", lambda who: spend(who, "Read", PLENTY), table.get, identities)
        compare(f"charge() by {title}", lambda who: charge(who, READ_BYTES, PLENTY, 9), table.get, identities)


def memory(identities: int) -> None:
    """What remains of one RPC's buckets after so many identities called it once."""
    tracemalloc.start()
    bounded, rate = Quotas(time.monotonic), Limits()["Read"]
    for number in range(identities):
        bounded.spend(f"spiffe://example.org/team/web-{number}", "Read", rate)
        if number + 1 in {10_000, identities}:
            kept, _ = tracemalloc.get_traced_memory()
            print(f"after {number + 1:,} identities: {len(bounded):,} buckets, {kept / 2**20:.1f} MiB")
    tracemalloc.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admission", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls: shows that it runs, not the figures")
    quick = parser.parse_args().quick
    policies(2_000 if quick else 200_000)
    quotas(2_000 if quick else 200_000)
    memory(20_000 if quick else 1_000_000)
