"""What a section of the benchmark is, what it measured, and how docs/performance.md shows it.

The rule of this file: the page's prose stays as people wrote it. Only what stands between the two marks of a section is
written here, and every section says on which commit and machine it was measured.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.generator import LATE_SECONDS
from benchmarks.plan import Plan
from benchmarks.rivals import Generator, Rounds
from benchmarks.servers import ROOT

PAGE = ROOT / "docs" / "performance.md"
PLOTS = "performance"
"""Folder of the plots, next to the page."""
WARN = 0.80
"""Share of its core from which on the load generator may have been the limit."""
FEW = 0.001
"""Share of failed calls that is not worth a word."""
NONE = "-"


@dataclass
class Measured:
    """The rows of a table by their titles, and what else is to be said."""

    cells: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)
    """SVG text by file name."""
    generator: dict[str, Generator] = field(default_factory=dict)
    """What the load generator did, by row."""
    failed: dict[str, float] = field(default_factory=dict)
    """The share of calls that were not answered well, by row."""

    def note(self, row: str, rounds: Rounds) -> None:
        """Keep what the load generator did in these rounds, and how many of their calls failed."""
        self.generator[row] = rounds.generator
        self.failed[row] = rounds.failed


@dataclass(frozen=True)
class Section:
    """One table of the page."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    """Titles: the first cells. All of them are printed, also where there is no figure."""
    measure: Callable[[Plan], Awaitable[Measured]]
    plots: tuple[tuple[str, str], ...] = ()
    """File name and description of each plot."""


def block(section: Section, measured: Measured, where: str) -> str:
    """Return the Markdown between a section's marks."""
    rows = [section.columns, *((row, *_filled(section, measured, row)) for row in section.rows)]
    notes = [*measured.notes, *_failures(measured), *_generator(measured)]
    plots = [f"![{text}]({PLOTS}/{name})" for name, text in section.plots]
    return "\n\n".join(["\n".join(_table(rows)), *plots, "<br>\n".join([*notes, where])])


def _filled(section: Section, measured: Measured, row: str) -> list[str]:
    return measured.cells.get(row, [NONE] * (len(section.columns) - 1))


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return [line(rows[0]), rule, *map(line, rows[1:])]


def _failures(measured: Measured) -> list[str]:
    """Say which rows lack calls that failed."""
    failed = [f"{share:.1%} of {row}" for row, share in measured.failed.items() if share > FEW]
    return [f"Calls that failed, and are in no figure: {'; '.join(failed)}."] if failed else []


def _generator(measured: Measured) -> list[str]:
    """Say how busy the load generator was, and where it may have been the limit."""
    if not measured.generator:
        return []
    used, busy, late = (max(of) for of in zip(*measured.generator.values(), strict=True))
    said = f"The load generator took at most {used:.0%} of its core, {busy:.0%} with its waits for the core"
    if late > LATE_SECONDS:
        said += f", and was up to {late * 1e3:.0f} ms late with its calls"
    limited = [row for row, did in measured.generator.items() if did.busy > WARN]
    if not limited:
        return [f"{said}."]
    if len(limited) == len(measured.generator):
        return [f"{said}: over {WARN:.0%} in every row, so it may have been the limit of calls/s and of latencies."]
    return [f"{said}: over {WARN:.0%} it may have been the limit, here of {'; '.join(limited)}."]


def written(page: str, name: str, text: str) -> str:
    """Return the page with a section's block replaced. Raises ValueError if the page lacks the section's marks."""
    begin, end = marks(name)
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{PAGE.name} must have a line {begin} and below it {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def marks(name: str) -> tuple[str, str]:
    """Return the two lines of the page between which a section stands."""
    return f"<!-- benchmark {name} -->", f"<!-- end of {name} -->"


def write(section: Section, measured: Measured, where: str) -> None:
    """Write a section and its plots into the page and next to it."""
    PAGE.write_text(written(PAGE.read_text(), section.name, block(section, measured, where)))
    for name, svg in measured.plots.items():
        (PAGE.parent / PLOTS).mkdir(exist_ok=True)
        (PAGE.parent / PLOTS / name).write_text(svg)


def machine(rounds: int) -> str:
    """Return one sentence: commit, number of rounds, processor, kernel, and the versions that matter."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changes = " with changes" if _git("status", "--porcelain", "--", "protos", "server", "client") else ""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "uvloop"))
    return (
        f"Commit {commit}{changes}, {rounds} round{'s' * (rounds > 1)};"
        f" {os.cpu_count()} cores of {model[1] if model else platform.machine()},"
        f" load average {os.getloadavg()[0]:.1f} before; Linux {platform.release().partition('-')[0]},"
        f" Python {platform.python_version()}, {versions}."
    )


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=False, capture_output=True, text=True).stdout.strip()
