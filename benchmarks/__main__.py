"""KeyVault's figures: `python -m benchmarks [--quick] [--write] [SECTION ...]`; docs/performance.md explains them.

The servers run on core 0, the load on the last core, and rounds alternate between what is compared. OpenBao and etcd
are measured too where `bao` and `etcd` are on the PATH.
"""

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop

from benchmarks.calls import NAMES
from benchmarks.plan import Plan
from benchmarks.report import block, machine, write
from benchmarks.sections import SECTIONS
from benchmarks.servers import pin_generator
from keyvault_api.names import MAX_BATCH_ITEMS

SECONDS = 1.5
"""Of one round."""


async def measure(names: list[str], rounds: int, seconds: float, records: int, *, to_page: bool) -> None:
    """Measure the sections, print each, and write it into the page if wanted."""
    pin_generator()
    # Next to this file, since /tmp may be in memory, where nothing has to become durable.
    folder = tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix="data-")
    with folder as data, ExitStack() as stack:
        plan = Plan(stack, Path(data), rounds, seconds, records)
        for section in SECTIONS:
            if section.name in names:
                where, measured = machine(rounds), await section.measure(plan)
                print(f"{section.name}\n\n{block(section, measured, where)}\n", flush=True)
                if to_page:
                    write(section, measured, where)


def main() -> None:
    """Read the arguments, and measure."""
    known = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(known)}; all if none")
    parser.add_argument("--quick", action="store_true", help="a few calls: shows that it runs, and is not a figure")
    parser.add_argument("--rounds", type=int, default=5, help="of which a figure is the median")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/performance.md")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sections if name not in known]:
        parser.error(f"{unknown[0]!r}: expected some of {', '.join(known)}")
    if arguments.quick and arguments.write:
        parser.error("--write: not with --quick, whose numbers are not figures")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers
    how_much = (1, 0.1, MAX_BATCH_ITEMS) if arguments.quick else (arguments.rounds, SECONDS, NAMES)
    uvloop.run(measure(arguments.sections or known, *how_much, to_page=arguments.write))


if __name__ == "__main__":
    main()
