"""What it costs to import the client library: `python -m benchmarks.imports [--rounds 20] [--module keyvault_client]`.

Two programs in turns, from start to end: one imports the library, the other grpc and cryptography. Then the modules
that the library adds to those two, as `python -X importtime` reports them, the slowest first: these are worth a later
import.
"""

import re
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.arguments import parser_of
from benchmarks.sections.processes import IMPORT_BOTH, Command
from benchmarks.servers import ROOT, child_environment, sources_of

SHOWN = 20
_SOURCES = {"PYTHONPATH": sources_of(ROOT)}
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)


def added(module: str) -> Iterator[tuple[str, int]]:
    """Yield the modules that an import adds to those of grpc and cryptography, and the microseconds of each alone."""
    command = (sys.executable, "-X", "importtime", "-c", f"{IMPORT_BOTH}\nimport {module}")
    done = subprocess.run(command, env=child_environment(_SOURCES), check=True, capture_output=True, text=True)
    lines = _LINE.findall(done.stderr)
    both = next(number for number, (_, name) in enumerate(lines) if name == "cryptography")
    yield from ((name, int(took)) for took, name in lines[both + 1 :])


def compare(module: str, rounds: int) -> None:
    """Print the CPU time of both programs, their ratio, and the slowest modules."""
    ours, theirs = (Command((sys.executable, "-c", code), _SOURCES) for code in (f"import {module}", IMPORT_BOTH))
    for number in range(rounds + 1):
        for command in (ours, theirs) if number % 2 else (theirs, ours):
            command.run()
    pairs = list(zip(ours.cpu[1:], theirs.cpu[1:], strict=True))
    print(f"import {module}: {statistics.median(ours.cpu[1:]):.0f} ms of CPU time")
    print(f"{IMPORT_BOTH}: {statistics.median(theirs.cpu[1:]):.0f} ms")
    print(f"ratio: {statistics.median(one / other for one, other in pairs):.2f}, {rounds} rounds\n")
    for name, took in sorted(added(module), key=lambda found: -found[1])[:SHOWN]:
        print(f"{took / 1_000:8.1f} ms  {name}")


if __name__ == "__main__":
    parser = parser_of("imports", __doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--module", default="keyvault_client")
    arguments = parser.parse_args()
    compare(arguments.module, arguments.rounds)
