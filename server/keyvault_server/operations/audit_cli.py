"""The commands `keyvault-server audit verify` and `audit public-key`.

The rules of this file, which the command that it is mounted in keeps for it: what was found goes to stdout, a refusal
is one line on stderr and exit 1, bad usage one line and exit 2. It reads no settings: they are passed in.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import App, CycloptsError, Parameter

from keyvault_server.audit.key import AuditKey, key_beside, load_key
from keyvault_server.audit.reading import BadPlace
from keyvault_server.audit.replay import StoreReport, against_store
from keyvault_server.audit.rotation import live_name
from keyvault_server.audit.verify import Report, verify
from keyvault_server.core.errors import OperatorError
from keyvault_server.core.ports import RecordStore

OpenRecords = Callable[[], AbstractAsyncContextManager[RecordStore]]


class AuditSettings(Protocol):
    """The settings that the commands fall back on."""

    @property
    def audit_file(self) -> Path | None:
        """The log that the server writes."""

    @property
    def audit_key(self) -> Path | None:
        """Its key."""


class NotWhole(OperatorError):
    """A log, or the store, is not what the vault left; the sentence names the first bad place."""


def audit_app(load: Callable[[], AuditSettings], open_records: OpenRecords) -> App:
    """The group of commands. `load` gives the settings, `open_records` the store for an operator's walk."""
    app = App(name="audit", help="Check the audit trail.", default_parameter=Parameter(negative="", show_default=False))

    @app.command(name="verify")
    def verify_command(
        *files: Annotated[Path, Parameter(help="Logs, and files of theirs that are elsewhere (KEYVAULT_AUDIT_FILE).")],
        key: Annotated[
            Path | None, Parameter(help="The key file, or what public-key printed (KEYVAULT_AUDIT_KEY).")
        ] = None,
        checkpoints: Annotated[
            tuple[Path, ...], Parameter(help="Checkpoints that were shipped elsewhere (default: FILE.checkpoints).")
        ] = (),
        since: Annotated[
            tuple[int, ...], Parameter(help="The seq that a log begins with whose older files are not at hand.")
        ] = (),
        against_store: Annotated[
            bool, Parameter(help="Hold the records against the logs, which have to be all.")
        ] = False,
    ) -> None:
        """Say whether logs are as the vault wrote them, up to their ends; exit 1 names the first line that is not."""
        settings = load()
        paths = files or ((settings.audit_file,) if settings.audit_file else ())
        if not paths:
            raise CycloptsError(msg="name the log to verify, or set KEYVAULT_AUDIT_FILE")
        audit_key = load_key(key or settings.audit_key or key_beside(live_name(paths[0])))
        if against_store and not isinstance(audit_key, AuditKey):
            raise CycloptsError(msg="--against-store needs the whole key: the public one knows no names")
        if against_store and since:
            raise CycloptsError(msg="--against-store needs all files of the logs: leave --since out and name them")
        _show(_whole(verify(paths, audit_key, checkpoints or None, since=since)), shipped=bool(checkpoints))
        if against_store and isinstance(audit_key, AuditKey):
            _show_store(asyncio.run(_against_store(paths, audit_key, open_records)))

    @app.command(name="public-key")
    def public_key_command(
        *, key: Annotated[Path | None, Parameter(help="The key file (KEYVAULT_AUDIT_KEY).")] = None
    ) -> None:
        """Print the key that checks checkpoints, in PEM: who has it can verify logs and forge nothing."""
        settings = load()
        path = key or settings.audit_key or (key_beside(settings.audit_file) if settings.audit_file else None)
        if path is None:
            raise CycloptsError(msg="name the audit key with --key, or set KEYVAULT_AUDIT_KEY")
        print(load_key(path).pem, end="")

    return app


def _whole(report: Report) -> Report:
    if report.bad:
        raise NotWhole(str(report.bad))
    return report


def _show(report: Report, *, shipped: bool) -> None:
    seen = f"starts: {report.starts}, after a crash: {report.crashes}"
    print(f"whole: {report.lines} lines, {report.checkpoints} checkpoints; {seen}")
    if report.refused:
        print(f"refused without a line of their own: {report.refused} calls of callers not known or not yet asked")
    if not shipped:
        print("compared with the checkpoints beside the log only: whoever can cut off one can cut off both")
    if report.unshipped:
        print(f"not shipped: {report.unshipped} checkpoints at the end")
    if report.unproved:
        print(f"not proved: {report.unproved} lines behind the last checkpoint, which the public key cannot check")


async def _against_store(paths: Sequence[Path], key: AuditKey, open_records: OpenRecords) -> StoreReport:
    async with open_records() as records:
        try:
            return await against_store(paths, key, records)
        except BadPlace as bad:
            raise NotWhole(str(bad)) from None


def _show_store(report: StoreReport) -> None:
    for name in report.vacancies:
        print(f"vacant: {name}: compare with the purges that you ordered")
    for finding in report.findings:
        print(f"wrong: {finding}")
    if report.findings:
        raise NotWhole(f"{len(report.findings)} findings in the store, the first: {report.findings[0]}")
    print(f"store: {report.records} records are as the logs have them")
