"""The full figures, one after the other: `python -m tests.prove [NAME ...] [--short]`. `make prove` makes all of them.

Each is a command of its own, which fails if what it measures is not good. The last lines of its output go into
docs/reliability.md, between `<!-- figures: NAME -->` and the next `<!-- end -->`, with the command, its seeds and where
it ran; the rest of the page is left alone. All of them take some hours on two cores. --short tries each on a little,
and writes nothing.
"""

import argparse
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.support import environment
from tests.support.repository import ROOT

PAGE = ROOT / "docs" / "reliability.md"
LINES = 8
"""Of each command's output, from its end."""


class CannotProve(Exception):
    """A figure cannot be made; one sentence says which and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command."""

    module: str
    full: str
    """Its arguments, the seed among them where it has one."""
    short: str

    def arguments(self, *, short: bool) -> list[str]:
        """After `python`."""
        return ["-m", self.module, *shlex.split(self.short if short else self.full)]


STEPS: Mapping[str, Step] = {
    "simulation": Step("tests.reliability.simulation", "--histories 100000 --seed 0", "--histories 200 --seed 0"),
    "wire-embedded": Step(
        "tests.reliability.wire", "embedded --histories 1000 --seed 0", "embedded --histories 50 --seed 0"
    ),
    "wire-replicas": Step(
        "tests.reliability.wire", "replicas --histories 1000 --seed 0", "replicas --histories 50 --seed 0"
    ),
    "replicas": Step("tests.reliability.replicas", "--histories 1000 --seed 0", "--histories 50 --seed 0"),
    "crash": Step("tests.crash.cycles", "--cycles 1000 --seed 1", "--cycles 3 --seed 1"),
    "fuzz": Step(
        "tests.fuzz.run", "--messages 1000000 --formats 1000000 --seed 1", "--messages 20000 --formats 20000 --seed 1"
    ),
    "fuzz-wire": Step("tests.fuzz.run", "--wire 100000 --seed 1", "--wire 2000 --seed 1"),
    "properties": Step(
        "pytest",
        "-q -n 2 --timeout=0 -m 'hypothesis or sampled' --hypothesis-profile=prove",
        "-q -n 2 --timeout=0 -m 'hypothesis or sampled' --hypothesis-profile=prove tests/api",
    ),
    "stops": Step("tests.lifecycle.stops", "--cycles 200 --seed 1", "--cycles 3 --seed 1"),
    "starts": Step("tests.lifecycle.starts", "--records 1000000 --times 5", "--records 50000 --times 2"),
    "soak": Step("tests.soak", "--minutes 60 --seed 1", "--minutes 0.5 --seed 1"),
}


def main(arguments: Sequence[str] | None = None, steps: Mapping[str, Step] = STEPS, page: Path = PAGE) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(steps)}; all of them by default")
    parser.add_argument("--short", action="store_true", help="try it on a little; writes nothing")
    chosen = parser.parse_args(arguments)
    environment.clean()
    try:
        names = chosen.names or list(steps)
        refuse_what_is_missing(names, steps, page)
        for name in names:
            figures = made(name, steps[name], short=chosen.short)
            if not chosen.short:
                page.write_text(placed(page.read_text(), name, figures))
    except CannotProve as cannot:
        print(f"prove: {cannot}", file=sys.stderr)
        return 1
    print("prove: all is well" + ("; that was the short form, and nothing is written" if chosen.short else ""))
    return 0


def refuse_what_is_missing(names: Sequence[str], steps: Mapping[str, Step], page: Path) -> None:
    """Before hours have passed. Raises CannotProve."""
    for name in names:
        if name not in steps:
            raise CannotProve(f"there is no {name}: {', '.join(steps)}")
        if not exists(steps[name].module):
            raise CannotProve(f"{name} needs {steps[name].module}, which is not here")
        placed(page.read_text() if page.exists() else "", name, "")


def exists(module: str) -> bool:
    """True if there is a module of this name."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it should be in
        return False


def made(name: str, step: Step, *, short: bool) -> str:
    """Runs a step; returns what goes into the page. Raises CannotProve."""
    arguments = step.arguments(short=short)
    print(f"\nprove: {name}: python {shlex.join(arguments)}", flush=True)
    lines = []
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise CannotProve(f"{name} failed with status {process.returncode}, and its figures are not written")
    if not lines:
        raise CannotProve(f"{name} printed nothing")
    return "\n".join([f"$ python {shlex.join(arguments)}", *lines[-LINES:], circumstances()])


def circumstances() -> str:
    """When, on what, and of which commit."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = [line for line in _git("status", "--porcelain").splitlines() if not line.endswith(PAGE.name)]
    when = datetime.now(UTC).date().isoformat()
    return (
        f"commit {commit}{' with changes' if changed else ''}, {when}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, {platform.system()} {platform.release()}"
    )


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def placed(page: str, name: str, figures: str) -> str:
    """The page with these figures in their place. Raises CannotProve if it has none for them."""
    begin, end = f"<!-- figures: {name} -->", "<!-- end -->"
    found = re.compile(f"({re.escape(begin)}\n).*?(\n?{re.escape(end)})", re.DOTALL)
    if len(found.findall(page)) != 1:
        raise CannotProve(f"docs/{PAGE.name} has to have {begin} and {end} after it once, where the figures belong")
    return found.sub(lambda match: f"{match[1]}\n```text\n{figures}\n```\n\n{end}", page)


if __name__ == "__main__":
    raise SystemExit(main())
