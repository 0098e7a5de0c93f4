"""The commands that change or copy a store while an operator looks on: init, backup, rotate-master-key, purge, sweep.

The rules of this file are those of `cli.py`, which catches what is raised here: bad usage is a CycloptsError.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Annotated

from cyclopts import CycloptsError, Parameter
from cyclopts.validators import Number

from keyvault_api.envelope import MAX_REVISION
from keyvault_api.names import is_key_id, is_tenant
from keyvault_server.audit.entry import Origin
from keyvault_server.core.caller import DEFAULT_TENANT
from keyvault_server.core.errors import OperatorError, StaleRevision, VaultError
from keyvault_server.core.ports import CopyName, HeadChanged
from keyvault_server.core.purge import purge as purge_record
from keyvault_server.core.sweep import Swept
from keyvault_server.core.sweep import sweep as sweep_copies
from keyvault_server.disk.files import explain, replace_durably
from keyvault_server.operations.composition import backup_records, initialise, open_audit_log, open_records
from keyvault_server.operations.composition import rotate_master_key as rotate_keyring
from keyvault_server.operations.environment import load_settings, sudo_uid
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.gatekeeper import Gatekeeper, Visitor
from keyvault_server.rpc.status import status_of

Backend = Annotated[str | None, Parameter(help="embedded or aws (KEYVAULT_BACKEND).")]
Data = Annotated[Path | None, Parameter(help="Directory of the embedded backend (KEYVAULT_DATA).")]
LastRevision = Annotated[
    int | None,
    Parameter(validator=Number(gte=1, lt=MAX_REVISION), help="For a corrupt record: its highest revision."),
]
NAME_RULE = "1 to 255 characters of [A-Za-z0-9._~:@/+=-]"


def init(
    *,
    backend: Backend = None,
    data: Data = None,
    save: Annotated[Path | None, Parameter(help="File for the settings; nothing is written on failure.")] = None,
) -> None:
    """Create what the backend needs: a data directory, or a DynamoDB table, a KMS key and its alias. Repeatable."""
    done = asyncio.run(initialise(load_settings(backend=backend, data=data)))
    if save:
        _save(save, f"{done.environment}\n")
    print((done.advice if save or done.advice else done.environment) or f"settings saved in {save}")


def _save(path: Path, text: str) -> None:
    try:
        replace_durably(path, text.encode())
    except OSError as error:  # its own name may be that of a draft
        raise OperatorError(f"--save {path}: cannot write: {explain(error)}; the backend is there") from None


def rotate_master_key(*, data: Data = None) -> None:
    """Add a master key to the embedded keyring while the server is stopped; RewrapKey moves wrapped keys to it."""
    label = rotate_keyring(load_settings(data=data))
    print(f"master key {label} wraps from the next start on; older keys still unwrap. Back up keyring.json now")


def purge(
    key_id: Annotated[str, Parameter(help="The record's name.")],
    /,
    *,
    tenant: Annotated[str, Parameter(show_default=True, help="Tenant of the record.")] = DEFAULT_TENANT,
    last_revision: LastRevision = None,
    yes: Annotated[bool, Parameter(help="Confirm that the record is destroyed.")] = False,
    insecure_no_audit: Annotated[bool | None, Parameter(help="Purge without an audit record.")] = None,
    backend: Backend = None,
    data: Data = None,
) -> None:
    """Destroy a record and free its name. Cannot be undone."""
    _refuse_bad_key_id(key_id)
    _refuse_bad_tenant(tenant)
    if not yes:
        raise CycloptsError(msg=f"purging {key_id} cannot be undone; add --yes to confirm")
    settings = load_settings(backend=backend, data=data, insecure_no_audit=insecure_no_audit)
    if settings.audit_file is None and not settings.insecure_no_audit:  # the server may run with another environment
        raise CycloptsError(msg="the purge would not be audited: set KEYVAULT_AUDIT_FILE, or add --insecure-no-audit")
    revision = asyncio.run(_purge(settings, tenant, key_id, last_revision))
    print(f"{key_id} is vacant at revision {revision}: a new owner creates it with --revision {revision}")


def sweep(
    key_id: Annotated[str | None, Parameter(help="A record's name (default: all records).")] = None,
    /,
    *,
    tenant: Annotated[str | None, Parameter(help=f"Tenant (default: all; of one record: {DEFAULT_TENANT}).")] = None,
    backend: Backend = None,
    data: Data = None,
) -> None:
    """Remove copies of earlier revisions that cannot be read any more, which a crash can leave.

    With DynamoDB servers may run; it reads the whole table, also for one record.
    """
    if key_id is not None:
        _refuse_bad_key_id(key_id)
        tenant = tenant or DEFAULT_TENANT
    if tenant is not None:
        _refuse_bad_tenant(tenant)
    swept = asyncio.run(_sweep(load_settings(backend=backend, data=data), tenant, key_id))
    print(f"{swept.copies} {'copy' if swept.copies == 1 else 'copies'} of earlier revisions, {swept.removed} removed")
    if swept.unclear:
        print(f"{swept.unclear} left: they are of names without a record, or with a corrupt one")


def backup(
    file: Annotated[Path, Parameter(help="A new file, of mode 0600.")],
    /,
    *,
    data: Data = None,
) -> None:
    """Copy the embedded records to one file, while the server runs or not. Keep keyring.json apart from it."""
    records = backup_records(load_settings(data=data), file)
    print(f"{records} records saved in {file}, checked and synced. The keyring is not in it: back it up apart")


def _refuse_bad_key_id(key_id: str) -> None:
    if not is_key_id(key_id):
        raise CycloptsError(msg=f'invalid key_id {key_id!r}: {NAME_RULE}, not ending in "/"')


def _refuse_bad_tenant(tenant: str) -> None:
    if not is_tenant(tenant):
        raise CycloptsError(msg=f"invalid tenant {tenant!r}: 1 to 63 characters of [a-z0-9-], not beginning with -")


async def _sweep(settings: Settings, tenant: str | None, key_id: str | None) -> Swept:
    def belongs(name: CopyName) -> bool:
        return tenant in (None, name.tenant) and key_id in (None, name.key_id)

    async with open_records(settings) as records:
        return await sweep_copies(records, belongs)


async def _purge(settings: Settings, tenant: str, key_id: str, last_revision: int | None) -> int:
    async with open_records(settings) as records, contextlib.AsyncExitStack() as opened:
        audit = None
        if settings.audit_file:  # nothing else of the gate: an operator is not in the policy
            audit = await opened.enter_async_context(open_audit_log(settings, settings.audit_file))
        operator = Visitor(Gatekeeper(audit=audit), "Purge", f"purge-{os.getpid()}")
        operator.identity, operator.tenant = "operator", tenant
        operator.origin = Origin(uid=os.getuid(), sudo_uid=sudo_uid())
        try:
            revision = await purge_record(records, operator, key_id, last_revision)
        except VaultError as error:
            await operator.record_outcome(status_of(error).name, error.reason)
            raise
        except HeadChanged:
            await operator.record_outcome("ABORTED", StaleRevision.reason)
            raise
        await operator.record_outcome("OK", "")
        return revision
