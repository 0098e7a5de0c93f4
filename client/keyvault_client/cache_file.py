"""The file of a cache: sealed envelopes, so that a program starts while the server is away.

The file is JSON {"keyvault_cache": 1, "records": {NAME: {...}}}, mode 0600. Each record has its envelope, as the server
stores it, and the time at which the server last confirmed it. A MAC under the record's data key covers the times.

The rules of this file:

* Without the data keys the file shows names, sizes, revisions and times, and nothing else.
* Nothing in it counts before it opens under the record's key, times included: someone who writes the file can bring
  back an earlier content of it, with its age, and cannot make it look newer.
"""

import base64
import hashlib
import hmac
import json
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MalformedEnvelope
from keyvault_api.files import why_unsafe
from keyvault_api.names import is_key_id
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, RecordDamaged
from keyvault_client.key_files import write_private
from keyvault_client.keys import DataKey
from keyvault_client.records import Record, check_scope, json_time, open_record

MAX_FILE = 64 * 1024 * 1024
"""Most bytes in the file."""
VERSION = 1
CLOCK_SLACK = 60.0
"""Seconds that a time in the file may be ahead of the clock. One that is further ahead counts as 1970."""

_BEGINNING = b'{\n "keyvault_cache":'
_LABEL = b"keyvault: cache file v1"
_EPOCH = datetime.fromtimestamp(0, UTC)


class ForeignFile(InvalidRequest):
    """The file does not begin as one of ours: it is not to be replaced."""


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record of the file. Only `key_id` and `envelope` mean anything before `open`."""

    key_id: str
    envelope: bytes = field(repr=False)
    created: datetime
    updated: datetime
    confirmed: datetime
    """When the server last said that the record is so, by the clock of the program that asked."""
    mac: bytes = field(repr=False)

    @classmethod
    def of(cls, record: Record, envelope: bytes, confirmed: datetime, key: DataKey) -> "SealedRecord":
        """Return an opened record as the file has it."""
        made = cls(record.key_id, envelope, record.created, record.updated, confirmed, b"")
        return replace(made, mac=made._mac(key))

    @property
    def revision(self) -> int:
        """The revision that the envelope carries."""
        return kve1.parse(self.envelope).revision

    def open(self, key: DataKey) -> Record:
        """Return the record. Raises InvalidRequest for a key of another scope, RecordDamaged if it does not open."""
        check_scope(key, self.key_id)
        record = open_record(self.key_id, self.answer(), key)
        if not hmac.compare_digest(self.mac, self._mac(key)):
            raise RecordDamaged(f"the times of {self.key_id} were changed")
        return replace(record, created=self.created, updated=self.updated)

    def answer(self) -> pb.ReadResponse:
        """Return the envelope as a server answers with it."""
        return pb.ReadResponse(envelope=self.envelope, revision=self.revision)

    def age(self) -> float:
        """Return the seconds since the server confirmed the record, by this machine's clock."""
        now = datetime.now(UTC)
        if (self.confirmed - now).total_seconds() > CLOCK_SLACK:
            return (now - _EPOCH).total_seconds()
        return max(0.0, (now - self.confirmed).total_seconds())

    def to_json(self) -> dict[str, Any]:
        """Return the fields as the file has them."""
        return {
            "revision": self.revision,
            "create_time": json_time(self.created),
            "update_time": json_time(self.updated),
            "confirm_time": json_time(self.confirmed),
            "mac": base64.b64encode(self.mac).decode(),
            "envelope": base64.b64encode(self.envelope).decode(),
        }

    @classmethod
    def from_json(cls, key_id: str, content: Mapping[str, Any]) -> "SealedRecord":
        """Parse what `to_json` returned. Raises KeyError, TypeError, ValueError, MalformedEnvelope."""
        if not is_key_id(key_id):
            raise ValueError
        created, updated, confirmed = (
            datetime.fromisoformat(content[name]).astimezone(UTC)
            for name in ("create_time", "update_time", "confirm_time")
        )
        envelope, mac = (base64.b64decode(content[name], validate=True) for name in ("envelope", "mac"))
        kve1.parse(envelope)
        return cls(key_id, envelope, created, updated, confirmed, mac)

    def _mac(self, key: DataKey) -> bytes:
        """Return the MAC of what the envelope does not authenticate, bound to this envelope by its head."""
        times = [json_time(time) for time in (self.created, self.updated, self.confirmed)]
        parts = [part.encode() for part in (key.tenant, self.key_id, *times)] + [self.envelope[: kve1.HEAD_SIZE]]
        message = _LABEL + b"".join(struct.pack(">H", len(part)) + part for part in parts)
        return hmac.digest(key.secret(), message, hashlib.sha256)


def read_cache_file(path: str | os.PathLike[str]) -> dict[str, SealedRecord]:
    """Read the records of a cache's file, by name; `open` opens one, without a server.

    Raises OSError, FileNotFoundError among them; InvalidRequest for another file, and for one that others may write.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ForeignFile(f"{os.fspath(path)}: not a file")
        if why := why_unsafe(os.fspath(path), file.fileno()):
            raise InvalidRequest(why)
        content = file.read(MAX_FILE + 1)
    if content and not content.startswith(_BEGINNING):
        raise ForeignFile(f"{os.fspath(path)}: not the file of a cache: remove it, or name another one")
    if len(content) > MAX_FILE:
        raise InvalidRequest(f"{os.fspath(path)}: larger than {MAX_FILE} bytes")
    return _parse(os.fspath(path), content)


def write_cache_file(path: str | os.PathLike[str], records: Iterable[SealedRecord]) -> None:
    """Replace the file durably, with mode 0600.

    Raises OSError, and InvalidRequest if it would be too large; then it leaves the old file.
    """
    made = {record.key_id: record.to_json() for record in records}
    content = json.dumps({"keyvault_cache": VERSION, "records": made}, indent=1).encode()
    if len(content) > MAX_FILE:
        raise InvalidRequest(f"{os.fspath(path)}: not written: it would be larger than {MAX_FILE} bytes")
    write_private(path, content)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file for reading. A pipe without a writer would wait for one."""
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(path: str, content: bytes) -> dict[str, SealedRecord]:
    try:
        parsed = json.loads(content)
        version, records = parsed["keyvault_cache"], parsed["records"]
        if version == VERSION:
            return {name: SealedRecord.from_json(name, fields) for name, fields in records.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, MalformedEnvelope):
        raise InvalidRequest(f"{path}: truncated or damaged") from None
    raise InvalidRequest(f"{path}: the file of a cache of another KeyVault version")
