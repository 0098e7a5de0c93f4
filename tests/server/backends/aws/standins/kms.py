"""AWS KMS as far as the server uses it, correct where other stand-ins are not.

A blob opens under the very encryption context that it was made with, which AES-GCM authenticates as sorted pairs with
lengths; key states count; a blob of another key than the named one is IncorrectKeyException; ReEncrypt checks
SourceKeyId. The rule of this file: AWS documents every check that is made here.

Source: AWS KMS API Reference, operation by operation; Developer Guide "Key states of AWS KMS keys".
"""

import base64
import binascii
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.server.backends.aws.standins.service import (
    ACCOUNT,
    REGION,
    AwsError,
    InvalidInput,
    Parameters,
    Service,
    text,
)

MAX_BLOB = 6_144
MAX_PLAINTEXT = 4_096
MAX_DATA_KEY = 1_024
SYMMETRIC = "SYMMETRIC_DEFAULT"
_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:"
_MAGIC = b"\x01\x02\x02\x00"
_NONCE_SIZE = 12
_HEAD_SIZE = len(_MAGIC) + 16
_DATA_KEY_SIZES = {"AES_128": 16, "AES_256": 32}


@dataclass
class MasterKey:
    """A key of KMS."""

    spec: str
    usage: str
    id: str = field(default_factory=lambda: str(uuid4()))
    state: str = "Enabled"
    material: bytes = field(default_factory=lambda: os.urandom(32), repr=False)

    @property
    def arn(self) -> str:
        return f"{_ARN}key/{self.id}"

    def metadata(self) -> dict[str, Any]:
        return {
            "AWSAccountId": ACCOUNT,
            "KeyId": self.id,
            "Arn": self.arn,
            "Enabled": self.state == "Enabled",
            "KeyState": self.state,
            "KeyUsage": self.usage,
            "KeySpec": self.spec,
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "MultiRegion": False,
        }

    def wrap(self, plaintext: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        return _MAGIC + UUID(self.id).bytes + nonce + AESGCM(self.material).encrypt(nonce, plaintext, context)

    def unwrap(self, blob: bytes, context: bytes) -> bytes:
        nonce, sealed = blob[_HEAD_SIZE : _HEAD_SIZE + _NONCE_SIZE], blob[_HEAD_SIZE + _NONCE_SIZE :]
        try:
            return AESGCM(self.material).decrypt(nonce, sealed, context)
        except (InvalidTag, ValueError):  # ValueError: a nonce cut short
            raise AwsError("InvalidCiphertextException") from None


class StandInKms(Service):
    """Keys and aliases of one account in one Region."""

    name = "kms"
    target = "TrentService"
    json_version = "1.1"

    def __init__(self) -> None:
        self._keys: dict[str, MasterKey] = {}
        self._aliases: dict[str, str] = {}
        operations = {
            "CancelKeyDeletion": self._cancel_deletion,
            "CreateAlias": self._create_alias,
            "CreateKey": self._create_key,
            "Decrypt": self._decrypt,
            "DescribeKey": lambda given: {"KeyMetadata": self._named(given).metadata()},
            "DisableKey": lambda given: self._set_state(given, "Disabled"),
            "EnableKey": lambda given: self._set_state(given, "Enabled"),
            "Encrypt": self._encrypt,
            "GenerateDataKey": self._generate_data_key,
            "ReEncrypt": self._re_encrypt,
            "ScheduleKeyDeletion": self._schedule_deletion,
        }
        super().__init__(operations)

    def _create_key(self, given: Parameters) -> dict[str, Any]:
        key = MasterKey(given.get("KeySpec", SYMMETRIC), given.get("KeyUsage", "ENCRYPT_DECRYPT"))
        self._keys[key.id] = key
        return {"KeyMetadata": key.metadata()}

    def _create_alias(self, given: Parameters) -> dict[str, Any]:
        alias = text(given, "AliasName")
        if not alias.startswith("alias/") or alias.startswith("alias/aws/"):
            raise InvalidInput("an alias begins with alias/, and not with alias/aws/")
        if alias in self._aliases:
            raise AwsError("AlreadyExistsException")
        self._aliases[alias] = self._named(given, "TargetKeyId").id
        return {}

    def _set_state(self, given: Parameters, state: str) -> dict[str, Any]:
        key = self._named(given)
        if key.state == "PendingDeletion":
            raise AwsError("KMSInvalidStateException")
        key.state = state
        return {}

    def _schedule_deletion(self, given: Parameters) -> dict[str, Any]:
        self._set_state(given, "PendingDeletion")
        return {"KeyId": self._named(given).arn, "KeyState": "PendingDeletion"}

    def _cancel_deletion(self, given: Parameters) -> dict[str, Any]:
        key = self._named(given)
        if key.state != "PendingDeletion":
            raise AwsError("KMSInvalidStateException")
        key.state = "Disabled"
        return {"KeyId": key.arn}

    def _generate_data_key(self, given: Parameters) -> dict[str, Any]:
        if ("KeySpec" in given) == ("NumberOfBytes" in given):
            raise InvalidInput("either KeySpec or NumberOfBytes")
        size = _DATA_KEY_SIZES.get(given["KeySpec"], 0) if "KeySpec" in given else given["NumberOfBytes"]
        if not isinstance(size, int) or not 1 <= size <= MAX_DATA_KEY:
            raise InvalidInput(f"a data key has 1 to {MAX_DATA_KEY} bytes")
        return self._wrapped(self._usable(given), os.urandom(size), given)

    def _encrypt(self, given: Parameters) -> dict[str, Any]:
        plaintext = _bytes(given, "Plaintext", MAX_PLAINTEXT)
        made = self._wrapped(self._usable(given), plaintext, given)
        del made["Plaintext"]
        return made | {"EncryptionAlgorithm": SYMMETRIC}

    def _wrapped(self, key: MasterKey, plaintext: bytes, given: Parameters) -> dict[str, Any]:
        blob = key.wrap(plaintext, _context(given, "EncryptionContext"))
        return {"KeyId": key.arn, "Plaintext": _base64(plaintext), "CiphertextBlob": _base64(blob)}

    def _decrypt(self, given: Parameters) -> dict[str, Any]:
        key, plaintext = self._unwrapped(given, "KeyId", "EncryptionContext")
        return {"KeyId": key.arn, "Plaintext": _base64(plaintext), "EncryptionAlgorithm": SYMMETRIC}

    def _re_encrypt(self, given: Parameters) -> dict[str, Any]:
        source, plaintext = self._unwrapped(given, "SourceKeyId", "SourceEncryptionContext")
        destination = self._usable(given, "DestinationKeyId")
        blob = destination.wrap(plaintext, _context(given, "DestinationEncryptionContext"))
        return {
            "CiphertextBlob": _base64(blob),
            "SourceKeyId": source.arn,
            "KeyId": destination.arn,
            "SourceEncryptionAlgorithm": SYMMETRIC,
            "DestinationEncryptionAlgorithm": SYMMETRIC,
        }

    def _unwrapped(self, given: Parameters, key_name: str, context_name: str) -> tuple[MasterKey, bytes]:
        """Return the key that the blob names, which must be the one that the call names, if any; and what it wraps."""
        blob = _bytes(given, "CiphertextBlob", MAX_BLOB)
        context = _context(given, context_name)
        named = self._usable(given, key_name) if key_name in given else None
        if not blob.startswith(_MAGIC) or len(blob) < _HEAD_SIZE:
            raise AwsError("InvalidCiphertextException")
        key = self._keys.get(str(UUID(bytes=blob[len(_MAGIC) : _HEAD_SIZE])))
        if key is None:
            raise AwsError("InvalidCiphertextException")
        if named is not None and named is not key:
            raise AwsError("IncorrectKeyException")
        _refuse_unusable(key)
        return key, key.unwrap(blob, context)

    def _usable(self, given: Parameters, name: str = "KeyId") -> MasterKey:
        key = self._named(given, name)
        _refuse_unusable(key)
        return key

    def _named(self, given: Parameters, name: str = "KeyId") -> MasterKey:
        """Return the key of this id, ARN, alias or alias ARN."""
        given_id = text(given, name).removeprefix(_ARN)
        key = self._keys.get(self._aliases.get(given_id, given_id.removeprefix("key/")))
        if key is None:
            raise AwsError("NotFoundException")
        return key


def _refuse_unusable(key: MasterKey) -> None:
    if key.state == "Disabled":
        raise AwsError("DisabledException")
    if key.state != "Enabled":
        raise AwsError("KMSInvalidStateException")
    if key.spec != SYMMETRIC or key.usage != "ENCRYPT_DECRYPT":
        raise AwsError("InvalidKeyUsageException")


def _bytes(given: Parameters, name: str, limit: int) -> bytes:
    try:
        value = base64.b64decode(text(given, name), validate=True)
    except binascii.Error:
        raise AwsError("SerializationException") from None
    if not 1 <= len(value) <= limit:
        raise InvalidInput(f"{name} has 1 to {limit} bytes")
    return value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _context(given: Parameters, name: str) -> bytes:
    """Return sorted pairs, each part with its length, so that nothing can move from one part to another."""
    pairs: Mapping[str, str] = given.get(name, {})
    parts = [part.encode() for pair in sorted(pairs.items()) for part in pair]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
