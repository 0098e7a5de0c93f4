"""The tiers of the run, held while it runs: a test without a marker starts no process and leaves loopback alone.

`process` starts processes, `external` needs programs or packages that are not ours, `medium` takes more than
a tenth of a second, `slow` more than a second. The unit tier is what has none of them.

The rule of this file: what a tier may not do raises where it is done, so that a traceback shows the line. Python's
audit events are what is seen; gRPC's own sockets raise none.
"""

import ipaddress
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest

from tests.support.repository import ROOT

STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system"}
_markers: frozenset[str] | None = None
"""Markers of the test that runs; None between tests, when nothing is checked."""


class WrongTier(Exception):
    """A test does what its tier may not."""


EXTERNAL_FIXTURES = {"moto", "dynalite", "programs", "recorder"}
"""Fixtures that need programs or packages that are not ours."""
MIRRORS = ("api", "client", "contract", "server")
"""Folders of tests/ that mirror the sources."""
PROCESS_FIXTURES = {"address", "shell"}
"""Fixtures that talk to a server's process."""


def pytest_configure() -> None:
    """Watch this process from now on: an audit hook cannot be taken out."""
    sys.addaudithook(_audit)


def _is_covered(item: pytest.Item) -> bool:
    """Report whether CI measures coverage of a test: of those that mirror the sources, but slow ones in this process.

    The others would take half as long again with it.
    """
    mirrors = item.path.relative_to(ROOT / "tests").parts[0] in MIRRORS
    return mirrors and (not item.get_closest_marker("slow") or item.get_closest_marker("process") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they ask for, directly or not, before `-m` chooses."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else ()
        asked = set(getattr(item, "fixturenames", ())) - set(parameters)
        if asked & EXTERNAL_FIXTURES:
            item.add_marker("external")
        if asked & PROCESS_FIXTURES:
            item.add_marker("process")
        if _is_covered(item):
            item.add_marker("covered")


def enter(markers: Iterable[str] | None) -> None:
    """Check from now on that only what these markers allow is done; None checks nothing."""
    global _markers
    _markers = None if markers is None else frozenset(markers)


def need_external(what: str) -> None:
    """Raise WrongTier if the test that asks for this has no marker `external`."""
    if _markers is not None and "external" not in _markers:
        raise WrongTier(f"uses {what}: mark it external")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _markers is None or _markers & {"process", "external"}:
        return
    if event in STARTS:
        raise WrongTier(f"starts a process ({event}): mark it process")
    if event == "socket.connect" and not _is_loopback(arguments[1]):
        raise WrongTier(f"connects to {arguments[1]!r}, which is not loopback")


def _is_loopback(address: object) -> bool:
    """Report whether a socket's address stays on this machine; paths of Unix sockets do."""
    if not isinstance(address, tuple):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(address[0]).is_loopback
    return bool(address[0] == "localhost")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Hold the test's tier from its set-up to its teardown."""
    enter(marker.name for marker in item.iter_markers())
    try:
        return (yield)
    finally:
        enter(None)
