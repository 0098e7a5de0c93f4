"""The system's CA certificates, as OpenSSL finds them. gRPC would use a list of its own instead.

The rule of this file: what OpenSSL on this machine trusts is trusted, and nothing else. SSL_CERT_FILE replaces the file
of certificates, SSL_CERT_DIR the folders. Files in a folder count by OpenSSL's names for them (`1a2b3c4d.0`, made by
`openssl rehash`), so that a certificate without such a name is not trusted.
Source: SSL_CTX_set_default_verify_paths(3), openssl-rehash(1).
"""

import os
import re
import ssl
from pathlib import Path

from keyvault_client.errors import InvalidRequest

_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def system_root_paths() -> list[Path]:
    """Return the file and the folders that hold the system's CA certificates, those of the environment first."""
    defaults = ssl.get_default_verify_paths()
    file = os.environ.get(defaults.openssl_cafile_env) or defaults.openssl_cafile
    folders = os.environ.get(defaults.openssl_capath_env) or defaults.openssl_capath
    return [Path(path) for path in (file, *folders.split(os.pathsep)) if path]


def read_system_roots() -> bytes:
    """Return the system's CA certificates in PEM. Raises InvalidRequest if there are none."""
    named = os.environ.get(ssl.get_default_verify_paths().openssl_cafile_env)
    if named and not Path(named).is_file():
        raise InvalidRequest(f"SSL_CERT_FILE: {named}: no such file")
    found: dict[bytes, None] = {}  # a set that keeps the order: the file often holds what the folder has
    for path in system_root_paths():
        for file in _files_of(path):
            found.update(dict.fromkeys(_CERTIFICATE.findall(_content(file))))
    if not found:
        places = ", ".join(map(str, system_root_paths()))
        raise InvalidRequest(
            f"no CA certificates of the system in {places}: install them (ca-certificates), "
            "or name a file of them with ca (--ca) or SSL_CERT_FILE"
        )
    return b"\n".join(found) + b"\n"


def _files_of(path: Path) -> list[Path]:
    try:
        return [file for file in sorted(path.iterdir()) if _HASHED.fullmatch(file.name)]
    except NotADirectoryError:
        return [path]
    except OSError:  # absent or not readable: the other places count
        return []


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
