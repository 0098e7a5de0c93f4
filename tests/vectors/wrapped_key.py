"""The vectors of wrapped_key.json: the frame round a wrapped data key, and what the embedded key service puts in it.

    frame   = 01 || u8 len(label) || label || u16 len(scope) || scope || blob       1 to 8,192 bytes, text in UTF-8
    blob    = the Cobblestone-256 message of the data key under the master key that the label names, with
    context = for (name, value) of (keyvault:v, 1), (keyvault:tenant, tenant), (keyvault:scope, scope):
              u16 len(name) || name || u16 len(value) || value

`parse` and `unwrap` are a second reading of the two, which has to agree with every expectation before it is added.
"""

import hashlib
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors import reference
from tests.vectors.layout import Vectors, edited, flip, put
from tests.vectors.salamander import both_open

ALPHABET = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:@/+=-")
NOTES = {
    "Normal": "A wrapped key as GenerateKey returns it.",
    "EdgeCaseScope": "A scope at the limits of what KeyVault accepts.",
    "OldMasterKey": "Wrapped by a master key that is no longer the newest.",
    "FlippedBit": "One bit is changed.",
    "Truncated": "The end is missing.",
    "Appended": "Bytes follow the blob.",
    "MalformedFrame": "The frame is wrong; refused without a key.",
    "IllegalScope": "The blob is bound to a scope that no key_id can have; refused without a key.",
    "RewrittenLabel": "The label names another master key, or none.",
    "RewrittenScope": "The frame claims another scope than the blob is bound to.",
    "WrongTenant": "Another tenant.",
    "ShiftedBoundary": "Tenant and scope that are the same text in a row: their lengths must be bound.",
    "WrongContext": "The blob is bound to names in another way.",
    "WrongBlob": "The blob is not the message of 32 bytes.",
    "Salamander": "A body that AES-GCM opens under two master keys: only the commitment tells them apart.",
}


def drawn(name: str, size: int = 32) -> bytes:
    """Bytes in place of random ones, the same at every run."""
    return hashlib.sha512(f"wrapped key vectors: {name}".encode()).digest()[:size]


MASTER_KEYS = {"1": bytes(range(0x60, 0x80)), "2": drawn("master key 2")}
DATA_KEY = bytes(range(32))
TENANT, SCOPE = "acme", "prod/"


def counted(*texts: str) -> bytes:
    """u16 len(text) || text, of each."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(2, "big") + text for text in encoded)


def context(tenant: str, scope: str) -> bytes:
    return counted("keyvault:v", "1", "keyvault:tenant", tenant, "keyvault:scope", scope)


def frame(label: str, scope: str, blob: bytes) -> bytes:
    text = label.encode()
    return b"\x01" + bytes([len(text)]) + text + counted(scope) + blob


def parse(wrapped: bytes) -> tuple[str, str, bytes]:
    """Label, scope and blob. Raises reference.Malformed."""
    if not 2 <= len(wrapped) <= 8_192 or wrapped[0] != 1 or wrapped[1] == 0:
        raise reference.Malformed("size, version or label")
    label, rest = wrapped[2 : 2 + wrapped[1]], wrapped[2 + wrapped[1] :]
    size = int.from_bytes(rest[:2], "big")
    scope, blob = rest[2 : 2 + size], rest[2 + size :]
    if not 1 <= len(scope) <= 255 or not blob or not ALPHABET.issuperset(scope):
        raise reference.Malformed("scope or blob")
    try:
        return label.decode(), scope.decode(), blob
    except UnicodeDecodeError:
        raise reference.Malformed("label") from None


def unwrap(tenant: str, wrapped: bytes) -> bytes:
    """The data key. Raises reference.Malformed, reference.DoesNotOpen."""
    label, scope, blob = parse(wrapped)
    if label not in MASTER_KEYS or len(blob) != 104:
        raise reference.DoesNotOpen
    return reference.cobblestone_open(MASTER_KEYS[label], context(tenant, scope), blob)


class WrappedKeys(Vectors):
    """Vectors of wrapped keys."""

    def __init__(self) -> None:
        super().__init__("WrappedKeyTest")

    def blob(self, bound: bytes, content: bytes = DATA_KEY, label: str = "1") -> bytes:
        salt = drawn(f"salt of test {self.count + 1}", 24)
        return reference.cobblestone_seal(MASTER_KEYS[label], bound, salt, content)

    def wrapped(self, scope: str = SCOPE, label: str = "1", tenant: str = TENANT) -> bytes:
        return frame(label, scope, self.blob(context(tenant, scope), label=label))

    def valid(self, comment: str, flags: str, wrapped: bytes, tenant: str = TENANT, data_key: bytes = DATA_KEY) -> None:
        assert unwrap(tenant, wrapped) == data_key
        label, scope, blob = parse(wrapped)
        told = {"label": label, "scope": scope, "salt": blob[:24].hex(), "dataKey": data_key.hex()}
        self.add(comment, flags, tenant=tenant, wrappedKey=wrapped.hex(), result="valid", **told)

    def refused(self, comment: str, flags: str, phase: str, wrapped: bytes, tenant: str = TENANT) -> None:
        told: dict[str, Any] = {"phase": phase}
        assert phase == phase_of(tenant, wrapped), comment
        if phase == "open":
            told["label"], told["scope"], _ = parse(wrapped)
        self.add(comment, flags, tenant=tenant, wrappedKey=wrapped.hex(), result="invalid", **told)


def phase_of(tenant: str, wrapped: bytes) -> str:
    """Which phase refuses this, in the second reading."""
    try:
        unwrap(tenant, wrapped)
    except reference.Malformed:
        return "parse"
    except reference.DoesNotOpen:
        return "open"
    return "none"


def make() -> str:
    """The file wrapped_key.json."""
    out = WrappedKeys()
    good = out.wrapped()
    out.group("valid")
    out.valid("a prefix, master key 1", "Normal", good)
    out.valid("a key_id, master key 2", "Normal", out.wrapped("prod/db-password", "2"))
    out.valid("master key 1, when 2 is the newest", "OldMasterKey", out.wrapped("prod/db-password"))
    for scope in ("k", "/", "k" * 255, "k" * 254 + "/", bytes(sorted(ALPHABET)).decode()):
        out.valid(f"a scope of {len(scope)} bytes", "EdgeCaseScope", out.wrapped(scope))
    out.valid("tenant of 63 bytes", "Normal", out.wrapped(tenant="a" * 63), "a" * 63)
    _damaged(out, good)
    _frames(out, good)
    _rewritten(out)
    _blobs(out)
    keys = {label: key.hex() for label, key in MASTER_KEYS.items()}
    return out.text("KeyVault wrapped key", "wrapped_key.schema.json", NOTES, masterKeys=keys)


def _damaged(out: WrappedKeys, good: bytes) -> None:
    out.group("every bit of the frame, two bits of every byte of the blob")
    _, _, blob = parse(good)
    for offset in range(len(good)):
        for bit in range(8) if offset < len(good) - len(blob) else (0, 7):
            changed = edited(good, [flip(offset, 1 << bit)])
            out.refused(f"byte {offset}, bit {bit}", "FlippedBit", phase_of(TENANT, changed), changed)
    out.group("truncated")
    for length in range(len(good)):
        phase = "parse" if length <= len(good) - len(blob) else "open"
        out.refused(f"the first {length} bytes", "Truncated", phase, good[:length])
    out.group("appended")
    for more in (b"\x00", bytes(16), good):
        out.refused(f"{len(more)} more bytes", "Appended", "open", good + more)
    out.refused("as large as may be", "Appended", "open", good.ljust(8_192, b"\x00"))
    out.refused("too large", "Appended", "parse", good.ljust(8_193, b"\x00"))


def _frames(out: WrappedKeys, good: bytes) -> None:
    out.group("malformed frames")
    _, _, blob = parse(good)
    for version in (0, 2, 255):
        out.refused(f"version {version}", "MalformedFrame", "parse", edited(good, [put(0, bytes([version]))]))
    out.refused("no label", "MalformedFrame", "parse", frame("", SCOPE, blob))
    out.refused("a label that runs past the end", "MalformedFrame", "parse", edited(good, [put(1, b"\xff")]))
    out.refused("a label that is not UTF-8", "MalformedFrame", "parse", edited(good, [put(2, b"\xff")]))
    out.refused("a scope that runs past the end", "MalformedFrame", "parse", edited(good, [put(3, b"\x00\xff")]))
    out.refused("a scope that takes it all", "MalformedFrame", "parse", frame("1", "k" * 200, b""))
    out.refused("no blob", "MalformedFrame", "parse", frame("1", SCOPE, b""))
    out.refused("no scope", "MalformedFrame", "parse", out.wrapped(""))
    out.refused("a bare blob", "MalformedFrame", "parse", blob)
    for scope in (
        "k" * 256,
        "prod db",
        "prod\n",
        "prod\x00",
        "pröd",
        "prod/*",
        "prod\\db",
        "prod%2Fdb",
        " ",
        "/\ufeff",
    ):
        out.refused(f"scope {scope[:20]!a}", "IllegalScope", "parse", out.wrapped(scope))


def _rewritten(out: WrappedKeys) -> None:
    out.group("rewritten labels")
    blob = out.blob(context(TENANT, SCOPE))
    for label in ("2", "3", "0", "01", "+1", " 1", "1 ", "1\x00", "\uff11", "11", "1" * 255, "arn:aws:kms:::key/1"):
        out.refused(f"label {label[:20]!a}", "RewrittenLabel", "open", frame(label, SCOPE, blob))
    out.group("rewritten scopes and other tenants")
    narrow = out.blob(context(TENANT, "prod/db"))
    for scope in ("prod/", "prod/d", "prod/dc", "prod/db/", "prod", "p", "/", "Prod/db", "prod//db", "prod/./db"):
        out.refused(f"prod/db as {scope}", "RewrittenScope", "open", frame("1", scope, narrow))
    for tenant in ("acm", "acmee", "default", "a" * 63):
        out.refused(f"tenant {tenant}", "WrongTenant", "open", frame("1", SCOPE, blob), tenant)
    for tenant, scope in (("acmep", "rod/"), ("acm", "eprod/"), ("acmeprod", "/")):
        out.refused(f"as {tenant}|{scope}", "ShiftedBoundary", "open", frame("1", scope, blob), tenant)


def _blobs(out: WrappedKeys) -> None:
    out.group("blobs of another make")
    for comment, bound in (
        ("no context", b""),
        ("no lengths", b"keyvault:v1keyvault:tenantacmekeyvault:scopeprod/"),
        ("version 2", counted("keyvault:v", "2", "keyvault:tenant", TENANT, "keyvault:scope", SCOPE)),
        ("another order", counted("keyvault:tenant", TENANT, "keyvault:scope", SCOPE, "keyvault:v", "1")),
        ("tenant and scope exchanged", context(SCOPE, TENANT)),
        ("an envelope's context", reference.context(reference.header(1, 1), TENANT, SCOPE)),
    ):
        out.refused(comment, "WrongContext", "open", frame("1", SCOPE, out.blob(bound)))
    bound = context(TENANT, SCOPE)
    for size in (0, 16, 31, 33, 64):
        content = drawn("content", size)
        out.refused(f"a data key of {size} bytes", "WrongBlob", "open", frame("1", SCOPE, out.blob(bound, content)))
    for blob in (b"\x00", bytes(103), bytes(104), bytes(105), DATA_KEY, bytes(72) + DATA_KEY):
        out.refused(f"{len(blob)} bytes, not sealed", "WrongBlob", "open", frame("1", SCOPE, blob))
    under_two = out.blob(bound, label="2")
    out.refused("master key 2 under label 1", "RewrittenLabel", "open", frame("1", SCOPE, under_two))
    out.group("a body that AES-GCM opens twice")
    salt = drawn("salamander", 24)
    one, two = (reference.derive(MASTER_KEYS[label], salt, bound) for label in "12")
    body = both_open(one, two, [drawn("salamander block", 16)])
    for label, other, derived in (("1", "2", one), ("2", "1", two)):
        blob = salt + derived.commitment + body
        data_key = AESGCM(derived.aes_key).decrypt(derived.base_nonce, body, None)
        out.valid(f"committed to {label}", "Salamander", frame(label, SCOPE, blob), data_key=data_key)
        out.refused(f"committed to {label}, as {other}", "Salamander", "open", frame(other, SCOPE, blob))
