"""Which language understands which, as a table at the end of a test run.

The rule of this file: it is a plugin of the whole run and takes what it shows from the tests' reports, because the
process that prints the summary is not the worker that ran them.
"""

import pytest

from tests.interop.languages import LANGUAGES

TITLE = "who creates (down) and who then reads, updates, rotates and deletes (across)"
PAIR = "interop"
"""Name of the property that a test records: its creator and the other language."""
_cells: dict[tuple[str, str], str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how the test of a pair ends."""
    words = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}
    for name, pair in report.user_properties:
        if name == PAIR and isinstance(pair, tuple | list) and report.when == "call":
            creator, other = pair
            _cells[creator, other] = words[report.outcome]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, also when all is well."""
    if _cells:
        terminalreporter.section(TITLE)
        terminalreporter.write_line(table())


def table() -> str:
    """One line a creator; a cell is empty where no test came by."""
    lines = [["", *LANGUAGES]]
    lines += [[creator, *(_cells.get((creator, other), "") for other in LANGUAGES)] for creator in LANGUAGES]
    return "\n".join("".join(word.ljust(12) for word in line).rstrip() for line in lines)
