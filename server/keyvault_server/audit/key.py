"""The keys of the audit trail: what makes and checks a line, and what signs a checkpoint.

The file is JSON {"version": 1, "hmac_key": base64 of 32 bytes, "signing_key": base64 of an Ed25519 seed}. The HMAC key
is never used itself: HKDF-SHA-256 (RFC 5869) makes a subkey of it for the chain and one for the values. The signing
key's public half is all that a third party needs to check a log as far as its last checkpoint, and can forge nothing.

Whoever has the file can write any log anew, but not what checkpoints that were shipped elsewhere cover: keep it apart
from the log, and from the keys of the data.
"""

import base64
import hmac
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from keyvault_server.core.errors import OperatorError
from keyvault_server.disk.files import replace_durably
from keyvault_server.disk.watched import read_file

VALUE_SIZE = 16
"""Bytes of an HMACed value."""
_KEY_SIZE = 32
_PEM = b"-----BEGIN PUBLIC KEY-----"
_SIGNED = b"keyvault audit checkpoint v1\n"
"""Comes before what is signed, so that no signature of this key means anything else."""


class UnusableAuditKey(OperatorError):
    """The file is no audit key, or not ours alone; the message says what to do."""


class PublicAuditKey:
    """Checks checkpoints."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public

    @property
    def pem(self) -> str:
        """The public key, as openssl reads it."""
        return self._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def signed(self, message: bytes, signature: bytes) -> bool:
        """True if the checkpoint's signature (64 bytes) is by this key."""
        try:
            self._public.verify(signature, _SIGNED + message)
        except InvalidSignature:
            return False
        return True


class AuditKey(PublicAuditKey):
    """Makes and checks lines, and signs checkpoints."""

    def __init__(self, hmac_key: bytes, signing_key: bytes) -> None:
        self._signing = Ed25519PrivateKey.from_private_bytes(signing_key)
        super().__init__(self._signing.public_key())
        self._chain = _subkey(hmac_key, b"keyvault audit v1 chain")
        self._values = _subkey(hmac_key, b"keyvault audit v1 values")

    @classmethod
    def create(cls, path: Path) -> "AuditKey":
        """Writes a fresh key, 0600. Raises FileExistsError: a key is never overwritten."""
        if path.exists():
            raise FileExistsError(path)
        hmac_key, signing_key = os.urandom(_KEY_SIZE), os.urandom(_KEY_SIZE)
        encoded = {"hmac_key": _encoded(hmac_key), "signing_key": _encoded(signing_key)}
        try:
            replace_durably(path, json.dumps({"version": 1, **encoded}, indent=1).encode())
        except OSError as error:
            raise UnusableAuditKey(f"{path} cannot be written: {error.strerror}") from None
        return cls(hmac_key, signing_key)

    @classmethod
    def load(cls, path: Path) -> "AuditKey":
        """Read a key. Raises UnusableAuditKey; Unreadable; UnsafeFile for a file that others can read."""
        text = read_file(path, secret=True)
        try:
            content = json.loads(text)
            return cls(_decoded(content, "hmac_key"), _decoded(content, "signing_key"))
        except (ValueError, KeyError, TypeError):
            raise UnusableAuditKey(f"{path} is no audit key of version 1: restore it from its backup") from None

    def mac(self, previous: bytes, line: bytes) -> bytes:
        """HMAC-SHA-256 over the last line's MAC (32 bytes) and a line without its own."""
        return hmac.digest(self._chain, previous + line, "sha256")

    def value(self, label: str, *parts: bytes) -> str:
        """What stands for a value in a line: 16 bytes of HMAC-SHA-256, in hex. Label and parts have one reading."""
        message = b"".join(len(part).to_bytes(4, "big") + part for part in (label.encode(), *parts))
        return hmac.digest(self._values, message, "sha256")[:VALUE_SIZE].hex()

    def sign(self, message: bytes) -> bytes:
        """Signs a checkpoint: Ed25519 (RFC 8032), 64 bytes."""
        return self._signing.sign(_SIGNED + message)


def key_beside(log: Path) -> Path:
    """Where the key of a log is, unless the settings say another place: FILE.key."""
    return Path(f"{log}.key")


def load_key(path: Path) -> PublicAuditKey:
    """An AuditKey, or the public one alone if the file is what `audit public-key` prints. Raises as AuditKey.load."""
    try:
        with path.open("rb") as file:
            if not file.read(len(_PEM)).startswith(_PEM):
                return AuditKey.load(path)
        public = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UnusableAuditKey(f"the audit key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableAuditKey(f"{path} is no public key") from None
    if not isinstance(public, Ed25519PublicKey):
        raise UnusableAuditKey(f"{path} is no Ed25519 public key")
    return PublicAuditKey(public)


def _subkey(hmac_key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_SIZE, salt=None, info=purpose).derive(hmac_key)


def _encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _decoded(content: Any, name: str) -> bytes:
    key = base64.b64decode(content[name], validate=True)
    if content["version"] != 1 or len(key) != _KEY_SIZE:
        raise ValueError
    return key
