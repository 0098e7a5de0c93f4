"""Records of the service that KeyVault replaces: base64 of AES-256-ECB with PKCS#7 padding, no integrity.

The rule of this file: no other file knows ECB, and this one only decrypts. A wrong secret goes unnoticed once in 255
tries and then gives garbage: look at what was imported.
Source: NIST SP 800-38A (ECB), RFC 5652 section 6.3 (padding).
"""

import base64
import json

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from keyvault_client.errors import InvalidRequest


def open_legacy(record: bytes) -> bytes:
    """Return the plaintext of JSON {"data": base64, "secret": base64 of 32 bytes}. Raises InvalidRequest."""
    try:
        content = json.loads(record)
        data = base64.b64decode(content["data"], validate=True)
        secret = base64.b64decode(content["secret"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidRequest('not a legacy record: expected JSON {"data": base64, "secret": base64}') from None
    if len(secret) != 32 or not data or len(data) % 16:
        raise InvalidRequest("not a legacy record: secret must be 32 bytes, and data one or more blocks of 16")
    decryptor = Cipher(algorithms.AES256(secret), modes.ECB()).decryptor()
    unpadder = PKCS7(128).unpadder()
    try:
        return unpadder.update(decryptor.update(data) + decryptor.finalize()) + unpadder.finalize()
    except ValueError:
        raise InvalidRequest("the legacy record does not open with its secret") from None
