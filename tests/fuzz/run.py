"""Fuzzing: `python -m tests.fuzz.run [--messages N] [--wire N] [--formats N] [--seed N]`.

--messages  to the guard, the service and the embedded backend in this process
--wire      to a server process over TLS, with a policy and an audit log
--formats   to the parsers of envelopes, wrapped keys and policies

Every answer is compared with the one that the rule asks for (rule.py). Lanes run at the same time; a lane is a function
of the seed and its own number, but for the keys, which are random.
"""

import argparse
import asyncio
import hashlib
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from keyvault_api.v1 import keyvault_pb2 as pb
from tests.fuzz.formats import checked
from tests.fuzz.lane import KNOWN_NAME, Report, minted, opened
from tests.fuzz.rule import Fate, Known
from tests.fuzz.targets import Target, in_process, wire
from tests.support import requests
from tests.support.production_server import production_server

LANES = 32
SHOWN = 20


def prefix(lane: int) -> str:
    """Of a lane's names: far from every other lane's, so that no edit leads from one to the other."""
    return f"{lane}-{hashlib.sha256(bytes([lane])).hexdigest()[:12]}"


async def fuzzed(target: Target, messages: int, seed: int, lanes: int = LANES) -> Report:
    """Sends so many messages over so many lanes; the known record and a new one are tried afterwards."""
    report = Report()
    owner = await minted(target, "alice", KNOWN_NAME)
    created = requests.create(owner.key, KNOWN_NAME, b"known")
    first = await target.send("Create", "alice", created.SerializeToString())
    assert first.status == "OK", first
    known = (owner, created.envelope)
    opened_lanes = [await opened(target, prefix(number), known, report) for number in range(lanes)]
    await asyncio.gather(
        *(
            lane.run(random.Random(f"{seed}/{number}"), messages // lanes + (number < messages % lanes))
            for number, lane in enumerate(opened_lanes)
        )
    )
    afterwards = await _afterwards(target, owner, created.envelope)
    report.wrong += afterwards
    report.intact = not afterwards
    return report


async def _afterwards(target: Target, owner: Known, envelope: bytes) -> list[str]:
    """The known record is as it was, its owner goes on, and a new record can be made."""
    wrong = []
    asked = pb.ReadRequest(key_id=KNOWN_NAME).SerializeToString()
    read = await target.send("Read", "alice", asked)
    found = pb.ReadResponse.FromString(read.body)
    if found.envelope != envelope or owner.key.open(KNOWN_NAME, found.envelope) != b"known":
        wrong.append(f"the known record is not intact: {read}")
    last = await target.send("Update", "alice", requests.update(owner.key, KNOWN_NAME, 2).SerializeToString())
    if last.status != "OK":
        wrong.append(f"the known record's owner is answered {last}")
    fresh = await minted(target, "bob", "after")
    made = await target.send("Create", "bob", requests.create(fresh.key, "after").SerializeToString())
    if made.status != "OK":
        wrong.append(f"a new record is answered {made}")
    return wrong


def printed(what: str, report: Report, seed: int, began: float) -> bool:
    """Prints what became of the messages, the verdict last; True if all is well."""
    reasons = ", ".join(f"{reason or status} {count:,}" for (status, reason), count in report.answers.most_common())
    statuses: Counter[str] = Counter()
    for (status, _), count in report.answers.items():
        statuses[status] += count
    print(f"{what}: {reasons}")
    print(f"{what}: {', '.join(f'{report.fates[fate]:,} {fate.value}' for fate in Fate)} by the rule")
    for sentence in report.wrong[:SHOWN]:
        print(f"{what}: WRONG: {sentence}")
    bad = ", ".join(f"{statuses[name]} {name}" for name in ("CRASH", "INTERNAL", "UNKNOWN"))
    print(
        f"{what}: {statuses.total():,} messages, seed {seed}: {bad}, {len(report.wrong)} wrong answers;"
        f" alive with the known record {'intact' if report.intact else 'NOT INTACT'}; {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return not report.wrong


async def fuzz_in_process(messages: int, seed: int) -> bool:
    """To the service in this process."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with in_process(Path(folder)) as target:
            return printed("in-process", await fuzzed(target, messages, seed), seed, began)


async def fuzz_wire(messages: int, seed: int) -> bool:
    """To a server process, which has to stop in order and to have met nothing unexpected."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, production_server(Path(folder)) as server:
        async with wire(server) as target:
            report = await fuzzed(target, messages, seed)
        if status := server.server.stop():
            report.wrong.append(f"the server ended with status {status}")
        if "unexpected error" in server.server.log.read_text():
            report.wrong.append("the server's log has an unexpected error")
        return printed("wire", report, seed, began)


def fuzz_formats(count: int, seed: int) -> bool:
    """The parsers alone."""
    began = time.monotonic()
    found, wrong = checked(count, seed)
    print("formats:", ", ".join(f"{what} {number:,}" for what, number in sorted(found.items())))
    for sentence in wrong[:SHOWN]:
        print("formats: WRONG:", sentence)
    print(f"formats: {count:,} inputs, seed {seed}: {len(wrong)} wrong; {time.monotonic() - began:.0f} s", flush=True)
    return not wrong


def main() -> bool:
    """True if all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=0)
    parser.add_argument("--wire", type=int, default=0)
    parser.add_argument("--formats", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if not (chosen.messages or chosen.wire or chosen.formats):
        parser.error("say how many: --messages, --wire or --formats")
    good = [fuzz_formats(chosen.formats, chosen.seed)] if chosen.formats else []
    if chosen.messages:
        good.append(asyncio.run(fuzz_in_process(chosen.messages, chosen.seed)))
    if chosen.wire:
        good.append(asyncio.run(fuzz_wire(chosen.wire, chosen.seed)))
    return all(good)


if __name__ == "__main__":
    raise SystemExit(not main())
