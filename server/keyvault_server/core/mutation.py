"""A mutation as the caller requested it, and every check on it: shape, replay, revision, key, envelope.

The rule of this file: nothing here looks anything up or writes; `vault.py` has the order of the checks.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_ENVELOPE, Header, Kind
from keyvault_api.names import covers, is_key_id
from keyvault_server.core.errors import (
    EnvelopeNotUnderKey,
    InvalidKeyId,
    MalformedEnvelope,
    NotAuthorized,
    RecordExists,
    RecordNotFound,
    SameDataKey,
    StaleRevision,
    TooLarge,
    WrongKind,
    WrongScope,
)
from keyvault_server.core.records import State, StoredHead, digest, in_ring, remembered_since, state_of
from keyvault_server.core.wrapped_key import WrappedKey, parse_wrapped_key


@dataclass(frozen=True, slots=True)
class Mutation:
    """A well-formed mutation; nothing has been looked up for it."""

    tenant: str
    key_id: str
    wrapped: WrappedKey
    envelope: bytes
    header: Header
    creates: bool

    @property
    def updates(self) -> bool:
        """Whether it is an Update, the only mutation after which the revisions before it can still be read."""
        return self.header.kind is Kind.DATA and not self.creates


@dataclass(frozen=True, slots=True)
class Rotation(Mutation):
    """A mutation whose envelope is under a new data key, authorized by a REKEY envelope under the current one."""

    authorization: bytes = b""
    new_wrapped: WrappedKey | None = None

    @property
    def updates(self) -> bool:
        """See Mutation."""
        return False


@dataclass(frozen=True, slots=True)
class Keys:
    """The data keys of one request, in plaintext while it lasts."""

    current: bytes = field(repr=False)
    """The key that the stored record has to commit to."""
    sealing: bytes = field(repr=False)
    """The key that the new envelope is under: the current one, except in a rotation."""


def check_key_id(key_id: str) -> None:
    """Raise InvalidKeyId for a name that breaks the naming rule."""
    if not is_key_id(key_id):
        raise InvalidKeyId(field="key_id")


def parse_covering_key(key_id: str, data: bytes, field: str = "wrapped_key") -> WrappedKey:
    """Parse a wrapped key whose scope covers this key_id.

    Raises InvalidKeyId, TooLarge, MalformedWrappedKey, WrongScope.
    """
    check_key_id(key_id)
    wrapped = parse_wrapped_key(data, field)
    if not covers(wrapped.scope, key_id):
        raise WrongScope(field=field)
    return wrapped


def parse_envelope(envelope: bytes, kind: Kind, field: str = "envelope") -> Header:
    """Parse a request's envelope, which has to be of this kind. Raises TooLarge, MalformedEnvelope, WrongKind."""
    if len(envelope) > MAX_ENVELOPE:
        raise TooLarge(f"{field} is {len(envelope)} bytes; at most {MAX_ENVELOPE} are allowed", field=field)
    try:
        header = kve1.parse(envelope)
    except kve1.MalformedEnvelope as error:
        raise MalformedEnvelope(f"{field}: {error}", field=field) from None
    if header.kind is not kind:
        raise WrongKind(f"{field} is of kind {header.kind.name}; this method takes {kind.name}", field=field)
    return header


def is_replay(mutation: Mutation, stored: StoredHead | None) -> bool:
    """Return whether these bytes are among the last 16 that were accepted; the caller has yet to prove its key."""
    return stored is not None and in_ring(digest(mutation.envelope), stored.ring)


def check_revision(mutation: Mutation, stored: StoredHead | None) -> State | None:
    """Check that the RPC fits what is stored, and the revision too; return the stored state.

    Raises RecordNotFound, RecordExists, StaleRevision, RecordCorrupt.
    """
    state = state_of(stored) if stored is not None else None
    if state is None or not state.live:
        if not mutation.creates:
            raise RecordNotFound
    elif mutation.creates:
        raise RecordExists(state.revision, remembered_since(stored))
    current = state.revision if state else 0
    if mutation.header.revision != current + 1:
        vacant = state is not None and state.kind is None
        raise StaleRevision(current, remembered_since(stored), vacant=vacant)
    return state


def prove_ownership(mutation: Mutation, stored: StoredHead, keys: Keys) -> None:
    """Raise NotAuthorized unless the stored head commits to the presented data key."""
    if not kve1.commits_to(stored.head, keys.current, mutation.tenant, mutation.key_id):
        raise NotAuthorized


def prove_envelope(mutation: Mutation, keys: Keys) -> None:
    """Raise EnvelopeNotUnderKey or SameDataKey unless what was sent opens under the presented keys."""
    if isinstance(mutation, Rotation):
        if hmac.compare_digest(keys.current, keys.sealing):
            raise SameDataKey(field="new_wrapped_key")
        authorized = _open(mutation, keys.current, mutation.authorization, "authorization")
        if not hmac.compare_digest(authorized, hashlib.sha256(mutation.envelope).digest()):
            raise EnvelopeNotUnderKey("authorization names another envelope", field="authorization")
    _open(mutation, keys.sealing, mutation.envelope, "envelope")


def prove_replay(mutation: Mutation, keys: Keys) -> None:
    """Raise NotAuthorized unless the caller can open what it sends: a replay has no stored head to own."""
    try:
        prove_envelope(mutation, keys)
    except EnvelopeNotUnderKey:
        raise NotAuthorized from None


def _open(mutation: Mutation, data_key: bytes, envelope: bytes, field: str) -> bytes:
    try:
        return kve1.open(data_key, mutation.tenant, mutation.key_id, envelope)
    except kve1.EnvelopeDoesNotOpen:
        raise EnvelopeNotUnderKey(field=field) from None
