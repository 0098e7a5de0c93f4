"""What has to be answered to a message, from the side of one who knows every key: the one rule once more.

The rules of this file: it judges the bytes that were sent, not what somebody meant by them; it shares the envelope with
the server, and nothing else. It knows only the names of its own lane, which nobody else writes.
"""

import base64
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from google.protobuf.message import DecodeError

from keyvault_api import envelope as kve1
from keyvault_api.envelope import Kind
from keyvault_api.names import MAX_WRAPPED_KEY, covers, is_key_id, is_scope
from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.requests import Key

REQUESTS: dict[str, Any] = {
    "GenerateKey": pb.GenerateKeyRequest,
    "Create": pb.CreateRequest,
    "Read": pb.ReadRequest,
    "Update": pb.UpdateRequest,
    "Delete": pb.DeleteRequest,
    "RotateKey": pb.RotateKeyRequest,
    "RewrapKey": pb.RewrapKeyRequest,
    "UnwrapKey": pb.UnwrapKeyRequest,
    "BatchRead": pb.BatchReadRequest,
    "List": pb.ListRequest,
    "ListRevisions": pb.ListRevisionsRequest,
    "WhoAmI": pb.WhoAmIRequest,
}
RESPONSES: dict[str, Any] = {
    "GenerateKey": pb.GenerateKeyResponse,
    "Create": pb.CreateResponse,
    "Read": pb.ReadResponse,
    "Update": pb.UpdateResponse,
    "Delete": pb.DeleteResponse,
    "RotateKey": pb.RotateKeyResponse,
    "RewrapKey": pb.RewrapKeyResponse,
    "UnwrapKey": pb.UnwrapKeyResponse,
    "BatchRead": pb.BatchReadResponse,
    "List": pb.ListResponse,
    "ListRevisions": pb.ListRevisionsResponse,
    "WhoAmI": pb.WhoAmIResponse,
}
KINDS = {"Create": Kind.DATA, "Update": Kind.DATA, "Delete": Kind.TOMBSTONE, "RotateKey": Kind.DATA}
RING_LENGTH = 16
HISTORY = 10
"""Earlier revisions that can be read: the default of the setting."""


class Fate(Enum):
    """What becomes of a message."""

    REFUSED = "refused"
    OK = "answered"
    WRITTEN = "written"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Known:
    """A data key that the server gave out, and what it is bound to."""

    scope: str
    key: Key


@dataclass(slots=True)
class Stored:
    """A record, as its author knows it."""

    known: Known
    envelope: bytes = b""
    revision: int = 0
    live: bool = False
    ring: deque[bytes] = field(default_factory=lambda: deque(maxlen=RING_LENGTH))
    readable: dict[int, bytes] = field(default_factory=dict)
    """Envelopes by revision, newest first."""

    def write(self, known: Known, envelope: bytes, *, updates: bool = False) -> None:
        """The next revision."""
        header = kve1.parse(envelope)
        self.known, self.envelope = known, envelope
        self.revision, self.live = header.revision, header.kind is Kind.DATA
        self.ring.append(_digest(envelope))
        earlier = list(self.readable.items())[: HISTORY if updates else 0]
        self.readable = {self.revision: envelope, **dict(earlier)}


class Book:
    """Every key that was given out, every record that was written."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Known] = {}
        """By wrapped key."""
        self.records: dict[tuple[str, str], Stored] = {}
        """By tenant and key_id."""

    def fate(self, method: str, tenant: str, message: bytes, unwrapped: str) -> Fate:
        """What has to become of a message; `unwrapped` is the scope for which UnwrapKey is on."""
        try:
            request = REQUESTS[method].FromString(message)
        except DecodeError:
            return Fate.REFUSED
        match method:
            case "GenerateKey":
                good = not request.scope or is_scope(request.scope)
            case "WhoAmI":
                good = True
            case "BatchRead":
                names = [item.key_id for item in request.items]
                good = len(names) <= 100 and len(set(names)) == len(names)
            case "RewrapKey":
                good = self._known(tenant, request.wrapped_key) is not None
            case "UnwrapKey":
                known = self._known(tenant, request.wrapped_key)
                good = known is not None and known.scope == unwrapped
            case "List":
                good = (not request.prefix or is_scope(request.prefix)) and request.page_size >= 0
                good = good and page_start(request) is not None
            case "ListRevisions":
                stored = self.records.get((tenant, request.key_id))
                good = stored is not None and stored.live
            case "Read":
                good = self._readable(tenant, request)
            case _:
                return self._mutation(method, tenant, request)
        return Fate.OK if good else Fate.REFUSED

    def note(self, method: str, tenant: str, message: bytes) -> None:
        """A mutation was written."""
        request = REQUESTS[method].FromString(message)
        sealing = request.new_wrapped_key if method == "RotateKey" else request.wrapped_key
        known = self.keys[sealing]
        self.records.setdefault((tenant, request.key_id), Stored(known)).write(
            known, request.envelope, updates=method == "Update"
        )

    def _known(self, tenant: str, wrapped_key: bytes) -> Known | None:
        known = self.keys.get(wrapped_key) if len(wrapped_key) <= MAX_WRAPPED_KEY else None
        return known if known and known.key.tenant == tenant else None

    def readable(self, tenant: str, items: Sequence[Any]) -> list[bool]:
        """Which items of a BatchRead find a record."""
        return [self._readable(tenant, item) for item in items]

    def listed(self, tenant: str, request: pb.ListRequest) -> list[str]:
        """The known names of the listing from this page on."""
        after = page_start(request)
        assert after is not None
        return sorted(
            name
            for (owner, name), stored in self.records.items()
            if owner == tenant and name.startswith(request.prefix) and name > after and stored.live != request.deleted
        )

    def _readable(self, tenant: str, request: pb.ReadRequest | pb.BatchReadRequest.Item) -> bool:
        stored = self.records.get((tenant, request.key_id))
        if isinstance(request, pb.ReadRequest) and request.revision:
            alone = not request.known_revision and not request.include_deleted
            return stored is not None and stored.live and alone and request.revision in stored.readable
        return (
            stored is not None
            and request.known_revision >= 0
            and (stored.live or request.include_deleted)
            and is_key_id(request.key_id)
        )

    def _mutation(self, method: str, tenant: str, request: Any) -> Fate:
        present = self._covering(tenant, request.key_id, request.wrapped_key)
        sealing = present
        if method == "RotateKey":
            sealing = self._covering(tenant, request.key_id, request.new_wrapped_key)
        revision = _revision(request.envelope, KINDS[method])
        if present is None or sealing is None or revision is None:
            return Fate.REFUSED
        if method == "RotateKey" and not _permitted(request, tenant, present.key, sealing.key, revision):
            return Fate.REFUSED
        if not _opens(sealing.key.plaintext, tenant, request.key_id, request.envelope):
            return Fate.REFUSED
        stored = self.records.get((tenant, request.key_id))
        if stored is not None and _digest(request.envelope) in stored.ring:
            return Fate.REPLAYED
        live = stored is not None and stored.live
        fits = live is not (method == "Create") and revision == (stored.revision if stored else 0) + 1
        owned = stored is None or stored.known.key.plaintext == present.key.plaintext
        return Fate.WRITTEN if fits and owned else Fate.REFUSED

    def _covering(self, tenant: str, key_id: str, wrapped_key: bytes) -> Known | None:
        known = self._known(tenant, wrapped_key)
        return known if known and is_key_id(key_id) and covers(known.scope, key_id) else None


def page_start(request: pb.ListRequest) -> str | None:
    """The name after which the page begins, empty for the first one; None for a token of no such listing."""
    if not request.page_token:
        return ""
    try:
        place = base64.b64decode(request.page_token.encode(), b"-_", validate=True)
        kind, prefix, last = place.decode("ascii").split("#")
    except ValueError:
        return None
    good = kind == ("deleted" if request.deleted else "live") and prefix == request.prefix
    good = good and last.startswith(prefix) and is_key_id(last)
    return last if good and base64.urlsafe_b64encode(place).decode() == request.page_token else None


def _digest(envelope: bytes) -> bytes:
    return hashlib.sha256(envelope).digest()[:16]


def _revision(envelope: bytes, kind: Kind) -> int | None:
    try:
        header = kve1.parse(envelope)
    except kve1.MalformedEnvelope:
        return None
    return header.revision if header.kind is kind else None


def _opens(data_key: bytes, tenant: str, key_id: str, envelope: bytes) -> bool:
    try:
        kve1.open(data_key, tenant, key_id, envelope)
    except kve1.EnvelopeDoesNotOpen:
        return False
    return True


def _permitted(request: pb.RotateKeyRequest, tenant: str, present: Key, sealing: Key, revision: int) -> bool:
    """The current key says yes to just these bytes, and the new one is another."""
    if present.plaintext == sealing.plaintext or _revision(request.authorization, Kind.REKEY) != revision:
        return False
    try:
        permit = kve1.open(present.plaintext, tenant, request.key_id, request.authorization)
    except kve1.EnvelopeDoesNotOpen:
        return False
    return permit == hashlib.sha256(request.envelope).digest()
