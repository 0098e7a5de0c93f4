"""The copies of earlier envelopes that a record's head says can be read, compared with the record's digests.

The rule of this file: the digests are compared with the logs elsewhere, so a copy that fits its digest is what the logs
have. A copy may be removed while it is looked for; it is wrong only if the head that needs it is still stored.
"""

from keyvault_server.core.errors import RecordCorrupt, RecordNotFound, RevisionNotFound
from keyvault_server.core.history import find_revision
from keyvault_server.core.ports import RecordStore, Walked
from keyvault_server.core.records import readable_revisions


async def find_wrong_copy(records: RecordStore, walked: Walked) -> str | None:
    """Return what is wrong with the copies of a record that a walk met and whose head is sound, or None."""
    assert walked.record is not None
    for earlier in list(readable_revisions(walked.record))[1:]:
        try:
            await find_revision(records, walked.tenant, walked.key_id, earlier.revision)
        except (RecordNotFound, RevisionNotFound):
            return None
        except RecordCorrupt:
            return f"the copy of revision {earlier.revision} is missing or does not match its digest"
    return None
