"""What tests of the audit log share: a place for it, calls to note, and its lines as anybody reads them."""

import asyncio
import itertools
import json
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keyvault_server.audit.entry import Call, Change
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.log import FILE_BYTES
from keyvault_server.audit.trail import Audit, AuditOptions, open_audit
from keyvault_server.audit.verify import Report, verify
from keyvault_server.core.records import Record, successor
from tests.support.requests import some_envelope

CALL = Call("req-1", "spiffe://acme/billing", "Update", "acme", "prod/db")


@dataclass(frozen=True)
class Trail:
    """The files of one audit log."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "audit.jsonl.checkpoints"

    @property
    def key_path(self) -> Path:
        return self.folder / "audit.key"

    @property
    def key(self) -> AuditKey:
        return AuditKey.load(self.key_path)

    @asynccontextmanager
    async def open(
        self, *, clear_names: bool = False, file_bytes: int = FILE_BYTES, **seams: Any
    ) -> AsyncIterator[Audit]:
        options = AuditOptions(self.path, self.key_path, clear_names, file_bytes)
        async with open_audit(options, **seams) as audit:
            yield audit

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def archives(self) -> list[Path]:
        """Return the archived files, the oldest first."""
        return sorted(self.folder.glob("audit.jsonl.0*"))

    def lines_of_all_files(self) -> list[dict[str, Any]]:
        """Return the lines of all files as one log: a file begins with the last line of the one before it."""
        files = [path.read_bytes().splitlines() for path in (*self.archives(), self.path)]
        for before, after in itertools.pairwise(files):
            assert after[0] == before[-1]
        return [json.loads(line) for lines in (files[0], *(later[1:] for later in files[1:])) for line in lines]

    def phases(self) -> list[str]:
        return [line["phase"] for line in self.lines()]

    def verified(self) -> Report:
        report = verify([self.path], self.key, patience=0)
        assert report.whole, report.bad
        return report


def some_change(revision: int = 1, size: int = 100) -> tuple[Change, Record]:
    """Return a record as a vault would make it, and its change."""
    record = replace(successor(None, some_envelope(revision, size), 2, fresh=True), created=1)
    return Change.of(record), record


async def note(audit: Audit, count: int, prefix: str = "r") -> None:
    """Record so many outcomes at the same time."""
    await asyncio.gather(*(audit.outcome(CALL._replace(request=f"{prefix}{n}"), "OK") for n in range(count)))


@contextmanager
def small_files(trail: Trail | None = None, size: int = 60_001) -> Iterator[Callable[[], None]]:
    """Limit the size of files, in bytes, while the body runs; yield a function that lifts the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
