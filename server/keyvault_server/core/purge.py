"""Purge: turn a record whose keys are lost into a vacancy.

The last revision stays, so that no (tenant, key_id, revision) is ever used twice and old envelopes cannot come back.
Owner, data, ring and copies of earlier envelopes are destroyed. Any caller that the policy allows to Create may then
take the name.
"""

import time

from keyvault_api.names import MAX_HISTORY
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import RecordCorrupt, RecordNotFound
from keyvault_server.core.ports import RecordStore
from keyvault_server.core.records import StoredHead, state_of, vacancy


async def purge(records: RecordStore, caller: Caller, key_id: str, last_revision: int | None = None) -> int:
    """Purge one name of the caller's tenant; return the revision that its vacancy keeps.

    `last_revision` (1 to 2^63-2) is needed only for a corrupt record, whose revision cannot be read; it must not be
    below any revision that was ever used. Raises RecordNotFound, RecordCorrupt, HeadChanged if another write came
    first.
    """
    caller.permit(key_id)
    stored = await records.get_head(caller.tenant, key_id)
    if stored is None:
        raise RecordNotFound
    revision = _last_revision(stored, last_revision)
    record = vacancy(revision, int(time.time() * 1_000_000))
    await caller.intend(record, stored.head)
    await records.put_if(caller.tenant, key_id, record, stored.head)
    # The last ones that could be read, whatever the head was, and a copy that a failed Update left of the current one.
    records.remove(caller.tenant, key_id, range(max(1, revision - MAX_HISTORY), revision + 1))
    return revision


def _last_revision(stored: StoredHead, given: int | None) -> int:
    try:
        return state_of(stored).revision
    except RecordCorrupt:
        if given is None:
            raise
        return given
