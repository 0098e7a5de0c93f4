"""A mutation as it was asked for, and all that is judged of it: shape, replay, revision, key, envelope.

The rule of this file: nothing here looks anything up or writes; `vault.py` says in which order it is asked.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_ENVELOPE, Header, Kind
from keyvault_api.names import MAX_WRAPPED_KEY, covers, is_key_id
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
from keyvault_server.core.records import State, StoredHead, digest, in_ring, state_of
from keyvault_server.core.wrapped_key import WrappedKey, parse_wrapped_key


@dataclass(frozen=True, slots=True)
class Mutation:
    """A well-formed mutation; nothing has been looked up for it."""

    tenant: str
    key_id: str
    wrapped: WrappedKey
    envelope: bytes
    header: Header
    creates: bool = False


@dataclass(frozen=True, slots=True)
class Rotation(Mutation):
    """A mutation whose envelope is under a new data key, by a REKEY envelope under the present one."""

    authorization: bytes = b""
    new_wrapped: WrappedKey | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """The data keys of one request, in the clear for its length."""

    present: bytes = field(repr=False)
    sealing: bytes = field(repr=False)
    """The key that the new envelope is under: the present one, but for a rotation."""


def check_key_id(key_id: str) -> None:
    """Raises InvalidKeyId."""
    if not is_key_id(key_id):
        raise InvalidKeyId(field="key_id")


def framed(data: bytes, field: str = "wrapped_key") -> WrappedKey:
    """The wrapped key in a request's field. Raises TooLarge, MalformedWrappedKey."""
    if len(data) > MAX_WRAPPED_KEY:
        raise TooLarge(f"a wrapped key has at most {MAX_WRAPPED_KEY} bytes", field=field)
    return parse_wrapped_key(data, field)


def covering(key_id: str, data: bytes, field: str = "wrapped_key") -> WrappedKey:
    """As `framed`, for this key_id. Raises InvalidKeyId, WrongScope too."""
    check_key_id(key_id)
    wrapped = framed(data, field)
    if not covers(wrapped.scope, key_id):
        raise WrongScope(field=field)
    return wrapped


def shaped(envelope: bytes, kind: Kind, field: str = "envelope") -> Header:
    """What a request's envelope says of itself. Raises TooLarge, MalformedEnvelope, WrongKind."""
    if len(envelope) > MAX_ENVELOPE:
        raise TooLarge(f"an envelope has at most {MAX_ENVELOPE} bytes", field=field)
    try:
        header = kve1.parse(envelope)
    except kve1.MalformedEnvelope as error:
        raise MalformedEnvelope(str(error), field=field) from None
    if header.kind is not kind:
        raise WrongKind(f"{field} is of kind {header.kind.name}, this method takes {kind.name}", field=field)
    return header


def is_replay(mutation: Mutation, stored: StoredHead | None) -> bool:
    """True if these very bytes are among the last 16 that were accepted; that is still to be proved."""
    return stored is not None and in_ring(digest(mutation.envelope), stored.ring)


def check_revision(mutation: Mutation, stored: StoredHead | None) -> State | None:
    """What the RPC may find stored, and at which revision it may write. Raises what the caller is told if not."""
    state = state_of(stored) if stored is not None else None
    if state is None or not state.live:
        if not mutation.creates:
            raise RecordNotFound
    elif mutation.creates:
        raise RecordExists(state.revision)
    current = state.revision if state else 0
    if mutation.header.revision != current + 1:
        raise StaleRevision(current)
    return state


def prove_ownership(mutation: Mutation, stored: StoredHead, keys: Keys) -> None:
    """Raises NotAuthorized unless the stored head commits to the presented data key."""
    if not kve1.commits_to(stored.head, keys.present, mutation.tenant, mutation.key_id):
        raise NotAuthorized


def prove_envelope(mutation: Mutation, keys: Keys) -> None:
    """Raises EnvelopeNotUnderKey, SameDataKey unless what was sent opens under the presented keys."""
    if isinstance(mutation, Rotation):
        if hmac.compare_digest(keys.present, keys.sealing):
            raise SameDataKey(field="new_wrapped_key")
        permit = _opened(mutation, keys.present, mutation.authorization, "authorization")
        if not hmac.compare_digest(permit, hashlib.sha256(mutation.envelope).digest()):
            raise EnvelopeNotUnderKey("authorization names another envelope", field="authorization")
    _opened(mutation, keys.sealing, mutation.envelope, "envelope")


def prove_replay(mutation: Mutation, keys: Keys) -> None:
    """A replay has no stored head to own: whoever cannot open what they send again is not its author."""
    try:
        prove_envelope(mutation, keys)
    except EnvelopeNotUnderKey:
        raise NotAuthorized from None


def _opened(mutation: Mutation, data_key: bytes, envelope: bytes, field: str) -> bytes:
    try:
        return kve1.open(data_key, mutation.tenant, mutation.key_id, envelope)
    except kve1.EnvelopeDoesNotOpen:
        raise EnvelopeNotUnderKey(field=field) from None
