"""The server's side of TLS: certificate, private key and client CAs, checked before gRPC gets them and reloaded live.

The rules of this file:

- gRPC gets only what was parsed and checked here: it reports a bad file only on stderr and in a failed handshake.
- A changed file is used for new connections. Existing ones keep the old files, so bound their age.
- gRPC speaks TLS 1.2 and 1.3, nothing older.
- A certificate's key is RSA of MIN_RSA_BITS or more, P-256 or P-384. With any other, Ed25519 included, every handshake
  with a gRPC client fails.
- The key file is a secret that any group may read, as Debian keeps TLS keys (group ssl-cert); see `disk.permissions`.
  The certificate and the CAs are public.

Sources: RFC 5280; grpc's dynamic_ssl_server_credentials.
"""

import datetime
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyvault_server.access.rsa_strength import MIN_RSA_BITS
from keyvault_server.core.errors import OperatorError
from keyvault_server.core.meter import Meter
from keyvault_server.disk.watched import Watched, read_file

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_PEM = serialization.Encoding.PEM


class BadTlsFile(OperatorError):
    """A certificate, key or CA file cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of a server's PEM files."""

    certificate: Path
    """The server's certificate, followed by its intermediate CAs."""
    private_key: Path
    client_ca: Path | None = None
    """CAs, one of which must have signed a client's certificate. None: clients need no certificate."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """The checked content of TlsFiles."""

    chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes | None
    expires: float

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return it as gRPC takes it."""
        return grpc.ssl_server_certificate_configuration([(self.private_key, self.chain)], self.client_ca)


class ServerTls:
    """The current content of one server's TLS files."""

    def __init__(self, files: TlsFiles, *, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the files. Raises OperatorError.

        `meter` counts the readings of "tls".
        """
        self._asks_clients = files.client_ca is not None
        paths = [path for path in (files.certificate, files.private_key, files.client_ca) if path is not None]
        self.files = Watched("tls", paths, lambda: _read(files), meter, clock=clock)
        """`files.watching()` notices a change before the next connection does; `files.failed_since` is for a metric."""

    @property
    def expires(self) -> float:
        """Time at which the current certificate expires, in seconds since 1970."""
        return self.files.get().expires

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one port that follow the files."""
        in_use = self.files.get()
        lock = threading.Lock()

        def reload() -> grpc.ServerCertificateConfiguration | None:
            """Return a changed configuration, or None; gRPC's core calls it before each handshake, on its threads."""
            nonlocal in_use
            current = self.files.get()
            with lock:
                if current is in_use:
                    return None
                in_use = current
            return current.configuration()

        return grpc.dynamic_ssl_server_credentials(
            in_use.configuration(),
            reload,  # type: ignore[arg-type] # the stubs forget that None means no change
            require_client_authentication=self._asks_clients,
        )


def _read(files: TlsFiles) -> _Identity:
    key = _read_private_key(files.private_key)
    chain = _read_certificates(files.certificate)
    leaf = chain[0]
    _refuse_outside_its_time(leaf, files.certificate)
    if _public_key(leaf) != key.public_key():
        raise BadTlsFile(f"{files.private_key}: not the key of the first certificate in {files.certificate}")
    return _Identity(
        chain=_pem(chain),
        private_key=key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        client_ca=_pem(_read_client_ca(files.client_ca)) if files.client_ca else None,
        expires=leaf.not_valid_after_utc.timestamp(),
    )


def _read_private_key(path: Path) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    pem = read_file(path, secret=True, group_reads=True)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise BadTlsFile(f"{path}: the private key is encrypted: decrypt it, the server has no password") from None
    except ValueError:
        raise BadTlsFile(f"{path}: not a private key in PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise BadTlsFile(f"{path}: unsupported key: use EC on P-256 or P-384, or RSA of at least {MIN_RSA_BITS} bits")


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except ValueError:
        raise BadTlsFile(f"{path}: no certificate in PEM, or a malformed one") from None


def _refuse_outside_its_time(leaf: x509.Certificate, path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if now > leaf.not_valid_after_utc:
        raise BadTlsFile(f"{path}: expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it")
    if now < leaf.not_valid_before_utc:
        raise BadTlsFile(f"{path}: not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: check the clock")


def _read_client_ca(path: Path) -> list[x509.Certificate]:
    """Return the CAs of a bundle. During a roll-over some may be expired or not valid yet, but not all."""
    bundle = _read_certificates(path)
    now = datetime.datetime.now(datetime.UTC)
    if not all(map(_is_ca, bundle)):
        raise BadTlsFile(f"{path}: has a certificate that is not a CA; keep only the clients' CAs there")
    if any(map(_is_weak, bundle)):
        raise BadTlsFile(f"{path}: has a CA with an RSA key below {MIN_RSA_BITS} bits; replace it")
    if not any(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in bundle):
        raise BadTlsFile(f"{path}: has no CA that is valid today; add one")
    return bundle


def _is_ca(certificate: x509.Certificate) -> bool:
    """Return whether it is a CA by RFC 5280, 4.2.1.9 and 4.2.1.3; with a malformed extension it is not."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = [one.value for one in certificate.extensions if isinstance(one.value, x509.KeyUsage)]
    except (ValueError, x509.ExtensionNotFound):
        return False
    return basic.ca and all(usage.key_cert_sign for usage in usages)


def _is_weak(certificate: x509.Certificate) -> bool:
    key = _public_key(certificate)
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS


def _public_key(certificate: x509.Certificate) -> object:
    """Return the certificate's key; None for one of a kind that is unknown here, which fits no private key."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(_PEM) for certificate in certificates)
