"""The commands `keyvault-server audit verify` and `audit public-key`.

The rules of this file: results go to stdout. A refusal is one line on stderr and exit 1, bad usage one line and exit 2;
the command that mounts these prints both. Settings are passed in, not read here. Names from a store may be planted, so
they are printed as escapes where they are not visible.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import App, CycloptsError, Parameter

from keyvault_api.printable import printable
from keyvault_server.audit.key import AuditKey, PublicAuditKey, default_key_path, load_key
from keyvault_server.audit.reading import BadPlace
from keyvault_server.audit.replay import StoreReport, against_store
from keyvault_server.audit.rotation import live_name
from keyvault_server.audit.verify import Report, verify
from keyvault_server.audit.worker_logs import existing_logs, key_of
from keyvault_server.core.errors import OperatorError
from keyvault_server.core.ports import RecordStore

OpenRecords = Callable[[], AbstractAsyncContextManager[RecordStore]]


class AuditSettings(Protocol):
    """The settings that are the commands' defaults."""

    @property
    def audit_file(self) -> Path | None:
        """The log that the server writes."""

    @property
    def audit_key(self) -> Path | None:
        """Key of that log."""

    @property
    def workers(self) -> int:
        """Processes that serve, each with a log of its own if there are several."""


class NotWhole(OperatorError):
    """A log or the store is not what the vault wrote; the message, one line, names the first bad place."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def audit_app(load: Callable[[], AuditSettings], open_records: OpenRecords) -> App:
    """Return the group of commands. `load` returns the settings, `open_records` the store for an operator's walk."""
    app = App(name="audit", help="Check the audit log.", default_parameter=Parameter(negative="", show_default=False))

    @app.command(name="verify")
    def verify_command(
        *files: Annotated[
            Path, Parameter(help="Logs, and their older files in other places (default: KEYVAULT_AUDIT_FILE).")
        ],
        key: Annotated[
            Path | None, Parameter(help="Key file, or output of public-key (default: KEYVAULT_AUDIT_KEY).")
        ] = None,
        checkpoints: Annotated[
            tuple[Path, ...], Parameter(help="Checkpoints that were shipped elsewhere (default: FILE.checkpoints).")
        ] = (),
        since: Annotated[
            tuple[int, ...], Parameter(help="First seq of a log whose older files are kept elsewhere.")
        ] = (),
        against_store: Annotated[
            bool, Parameter(help="Compare the store's records with the logs; name all logs of the store.")
        ] = False,
    ) -> None:
        """Check that logs are as the vault wrote them. Exit 1 names the first line that is not."""
        settings = load()
        paths = files or _logs_of(settings)
        if not paths:
            raise CycloptsError(msg="name the log to verify, or set KEYVAULT_AUDIT_FILE")
        _refuse_unreadable(paths)  # before its key is looked for next to it
        audit_key = load_key(key or settings.audit_key or key_of(live_name(paths[0])))
        store_key = _get_store_key(audit_key, since) if against_store else None
        report = verify(paths, audit_key, checkpoints or None, since=since)
        if report.bad:
            raise NotWhole(str(report.bad))
        _show(report, shipped=bool(checkpoints))
        if store_key:
            _show_store(asyncio.run(_against_store(paths, store_key, open_records)))

    @app.command(name="public-key")
    def public_key_command(
        *, key: Annotated[Path | None, Parameter(help="Key file (default: KEYVAULT_AUDIT_KEY).")] = None
    ) -> None:
        """Print the public key in PEM, which can verify logs and cannot forge them."""
        settings = load()
        path = key or settings.audit_key or (default_key_path(settings.audit_file) if settings.audit_file else None)
        if path is None:
            raise CycloptsError(msg="name the audit key with --key, or set KEYVAULT_AUDIT_KEY")
        print(load_key(path).pem, end="")

    return app


def _logs_of(settings: AuditSettings) -> tuple[Path, ...]:
    """Return the logs that the settings speak of: of several workers, all that exist."""
    if settings.audit_file is None:
        return ()
    logs = tuple(existing_logs(settings.audit_file)) if settings.workers > 1 else ()
    return logs or (settings.audit_file,)


def _refuse_unreadable(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise NotWhole(f"{path}: cannot be read: {error.strerror}") from None


def _get_store_key(key: PublicAuditKey, since: Sequence[int]) -> AuditKey:
    """Return the key, if logs that it verifies can be compared with the store. Raises CycloptsError."""
    if not isinstance(key, AuditKey):
        raise CycloptsError(msg="--against-store needs the whole key: the public key cannot check names")
    if since:
        raise CycloptsError(msg="--against-store needs all files of the logs: omit --since and name all files")
    return key


def _show(report: Report, *, shipped: bool) -> None:
    seen = f"starts: {report.starts}, after a crash: {report.crashes}"
    print(f"whole: {report.lines} lines, {report.checkpoints} checkpoints; {seen}")
    if report.refused:
        print(f"rejected without a line of their own: {report.refused} calls of unidentified callers")
    if not shipped:
        print("compared only with the checkpoints next to the log: someone who can truncate one can truncate both")
    if report.unshipped:
        print(f"not shipped: {report.unshipped} checkpoints at the end")
    if report.unproved:
        print(f"not proved: {report.unproved} lines after the last checkpoint, which the public key cannot check")


async def _against_store(paths: Sequence[Path], key: AuditKey, open_records: OpenRecords) -> StoreReport:
    async with open_records() as records:
        try:
            return await against_store(paths, key, records)
        except BadPlace as bad:
            raise NotWhole(str(bad)) from None


def _show_store(report: StoreReport) -> None:
    for name in report.vacancies:
        print(f"vacant: {printable(name)}: compare with the purges that you ordered")
    for finding in report.findings:
        print(f"wrong: {printable(str(finding))}")
    if report.findings:
        raise NotWhole(f"{len(report.findings)} findings in the store, the first: {report.findings[0]}")
    print(f"store: {report.records} records match the logs")
