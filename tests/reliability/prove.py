"""Runs the commands behind the figures of docs/reliability.md, and writes what they print into the page.

    python -m tests.reliability.prove [NAME ...]        all of them, or some

A figure's place in the page is between `<!-- figures: NAME -->` and `<!-- end -->`. Returns 1 if a command fails; what
it printed is in the page all the same.
"""

# ruff: noqa: T201 - a command prints

import argparse
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
FIGURES = {
    "simulation": ("tests.reliability.simulation", "--histories", "100000"),
    "wire-embedded": ("tests.reliability.wire", "embedded", "--histories", "1000"),
    "wire-replicas": ("tests.reliability.wire", "replicas", "--histories", "1000"),
    "aws-faults": ("tests.reliability.replicas", "--histories", "1000"),
    "crash": ("tests.crash.cycles", "--cycles", "1000"),
    "fuzz": ("tests.fuzz.run", "--messages", "1000000", "--wire", "100000", "--formats", "1000000"),
    "stops": ("tests.lifecycle.stops", "--cycles", "200"),
    "starts": ("tests.lifecycle.starts",),
    "soak": ("tests.soak", "--minutes", "60"),
}
"""By name: a module, and its arguments."""
LONGEST = 4 * 3600
"""Seconds that one command may take."""


class NoSuchPlace(ValueError):
    """The page has no place for this figure."""


def here() -> str:
    """What the figures depend on, beside the seeds that the commands print."""
    asked = ("git", "rev-parse", "--short", "HEAD")
    commit = subprocess.run(asked, cwd=PAGE.parent, capture_output=True, text=True, check=False)
    at = commit.stdout.strip() or "no commit"
    kernel, python = platform.release().partition("-")[0], platform.python_version()
    return f"{datetime.date.today()}, {at}, {os.cpu_count()} cores, Python {python}, Linux {kernel}"


def filled(page: str, name: str, printed: str) -> str:
    """The page with this in the figure's place. Raises NoSuchPlace."""
    begin, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise NoSuchPlace(f"the page has no `{begin.strip()}` with an `{end}` behind it")
    return f"{before}{begin}\n```text\n{printed.strip()}\n```\n\n{end}{after}"


def prove(name: str) -> bool:
    """Runs one command, shows and writes what it printed. Returns whether it succeeded."""
    command = (sys.executable, "-m", *FIGURES[name])
    print(f"== {name}: python {' '.join(command[1:])}", flush=True)
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LONGEST, check=False)
    print(run.stdout, flush=True)
    PAGE.write_text(filled(PAGE.read_text(), name, f"{run.stdout.strip()}\n{here()}"))
    return run.returncode == 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    names = parser.parse_args().names or list(FIGURES)
    if unknown := [name for name in names if name not in FIGURES]:
        parser.error(f"there is no figure {unknown[0]}")
    failed = [name for name in names if not prove(name)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
