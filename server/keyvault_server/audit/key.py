"""The keys of the audit log: one makes and checks lines, the other signs checkpoints.

The file is JSON {"version": 1, "hmac_key": base64 of 32 bytes, "signing_key": base64 of an Ed25519 seed}. The HMAC key
is never used itself: HKDF-SHA-256 (RFC 5869) derives one subkey for the chain and one for the values. With the public
half of the signing key a third party can check a log up to its last checkpoint, and can forge nothing.

The rule of this file: the key file is a secret. Someone who has it can forge a whole log, except for what shipped
checkpoints cover. Keep it apart from the log, and from the keys of the data.
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
"""Bytes of the HMAC that a line has in place of a value."""
_KEY_SIZE = 32
_PEM = b"-----BEGIN PUBLIC KEY-----"
_SIGNED = b"keyvault audit checkpoint v1\n"
"""Prefix of every signed message, so that a signature of this key has no other meaning."""


class UnusableAuditKey(OperatorError):
    """The file is not a valid audit key; the message says what to do."""


class PublicAuditKey:
    """The public key, which checks checkpoints."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public

    @property
    def pem(self) -> str:
        """The public key in PEM, as openssl reads it."""
        return self._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether the checkpoint's signature (64 bytes) is by this key."""
        try:
            self._public.verify(signature, _SIGNED + message)
        except InvalidSignature:
            return False
        return True


class AuditKey(PublicAuditKey):
    """The whole key, which makes and checks lines, and signs checkpoints."""

    def __init__(self, hmac_key: bytes, signing_key: bytes) -> None:
        self._signing = Ed25519PrivateKey.from_private_bytes(signing_key)
        super().__init__(self._signing.public_key())
        self._chain = _subkey(hmac_key, b"keyvault audit v1 chain")
        self._values = _subkey(hmac_key, b"keyvault audit v1 values")

    @classmethod
    def create(cls, path: Path) -> "AuditKey":
        """Write a new key with mode 0600. Raises FileExistsError: a key is never overwritten."""
        if path.exists():
            raise FileExistsError(path)
        hmac_key, signing_key = os.urandom(_KEY_SIZE), os.urandom(_KEY_SIZE)
        encoded = {"hmac_key": _encode(hmac_key), "signing_key": _encode(signing_key)}
        try:
            replace_durably(path, json.dumps({"version": 1, **encoded}, indent=1).encode())
        except OSError as error:
            raise UnusableAuditKey(f"{path}: cannot be written: {error.strerror}") from None
        return cls(hmac_key, signing_key)

    @classmethod
    def load(cls, path: Path) -> "AuditKey":
        """Read a key file. Raises UnusableAuditKey; Unreadable; UnsafeFile for a file that others can read."""
        text = read_file(path, secret=True)
        try:
            content = json.loads(text)
            if type(content["version"]) is int and content["version"] > 1:
                raise UnusableAuditKey(
                    f"{path} has version {content['version']}: it was written by a later version of keyvault-server;"
                    " this one is older. Run the later one"
                )
            return cls(_decode(content, "hmac_key"), _decode(content, "signing_key"))
        except (ValueError, KeyError, TypeError):
            raise UnusableAuditKey(f"{path}: not an audit key of version 1: restore it from its backup") from None

    def mac(self, previous: bytes, line: bytes) -> bytes:
        """Return the HMAC-SHA-256 over the last line's MAC (32 bytes) and a line without its own MAC."""
        return hmac.digest(self._chain, previous + line, "sha256")

    def value(self, label: str, *parts: bytes) -> str:
        """Return what a line has in place of a value: 16 bytes of HMAC-SHA-256, in hex."""
        # With its length before each part, no two lists of label and parts make the same message.
        message = b"".join(len(part).to_bytes(4, "big") + part for part in (label.encode(), *parts))
        return hmac.digest(self._values, message, "sha256")[:VALUE_SIZE].hex()

    def sign(self, message: bytes) -> bytes:
        """Return a checkpoint's signature: Ed25519 (RFC 8032), 64 bytes."""
        return self._signing.sign(_SIGNED + message)


def default_key_path(log: Path) -> Path:
    """Return the path of a log's key, unless the settings name another: FILE.key."""
    return Path(f"{log}.key")


def load_key(path: Path) -> PublicAuditKey:
    """Return an AuditKey, or the public key alone if the file is output of `audit public-key`.

    Raises as AuditKey.load.
    """
    try:
        with path.open("rb") as file:
            if not file.read(len(_PEM)).startswith(_PEM):
                return AuditKey.load(path)
        public = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UnusableAuditKey(f"{path}: cannot read the audit key: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableAuditKey(f"{path}: not a public key") from None
    if not isinstance(public, Ed25519PublicKey):
        raise UnusableAuditKey(f"{path}: not an Ed25519 public key")
    return PublicAuditKey(public)


def _subkey(hmac_key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_SIZE, salt=None, info=purpose).derive(hmac_key)


def _encode(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _decode(content: Any, name: str) -> bytes:
    key = base64.b64decode(content[name], validate=True)
    if content["version"] != 1 or len(key) != _KEY_SIZE:
        raise ValueError
    return key
