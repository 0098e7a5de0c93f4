"""The server's side of TLS: certificate, key and client CAs, checked before gRPC gets them and taken over live.

The rules of this file: what is handed over was parsed and checked here, since gRPC tells of a bad file only on stderr
and in a handshake that fails; a changed file counts for connections made from then on, those at work stay, so bound
their age. gRPC speaks TLS 1.2 and 1.3 and nothing older. A certificate's key is RSA of 2,048 bits or more, P-256 or
P-384: with others, Ed25519 among them, no client of gRPC shakes hands.

The key file is a secret that any group may read, as Debian keeps TLS keys (group ssl-cert); `disk.permissions` has the
rule. Certificate and CAs are public. Sources: RFC 5280; grpc's dynamic_ssl_server_credentials.
"""

import datetime
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyvault_server.core.errors import OperatorError
from keyvault_server.core.meter import Meter
from keyvault_server.disk.watched import Watched, read_file

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_RSA_BITS = 2048

_PEM = serialization.Encoding.PEM


class BadTlsFile(OperatorError):
    """A certificate, key or CA file cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A checked certificate with its key, and whom it trusts."""

    chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes | None
    expires: float

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """For gRPC."""
        return grpc.ssl_server_certificate_configuration([(self.private_key, self.chain)], self.client_ca)


class ServerTls:
    """The TLS files of one server, as they are now."""

    def __init__(
        self,
        certificate: Path,
        private_key: Path,
        client_ca: Path | None = None,
        *,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the PEM files; with `client_ca`, a client has to present a certificate that one of its roots signed.

        Raises OperatorError.

        `meter` counts the readings of "tls".
        """
        self._asks_clients = client_ca is not None
        paths = [path for path in (certificate, private_key, client_ca) if path is not None]
        self.files = Watched("tls", paths, lambda: _read(certificate, private_key, client_ca), meter, clock=clock)
        """`files.watching()` notices a change before the next connection does; `files.failed_since` is for a metric."""

    @property
    def expires(self) -> float:
        """When the certificate in use expires, in seconds since 1970."""
        return self.files.get().expires

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files, for one port."""
        handed = self.files.get()
        lock = threading.Lock()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC's core before each handshake, on its threads; None: go on with what you have."""
            nonlocal handed
            now = self.files.get()
            with lock:
                if now is handed:
                    return None
                handed = now
            return now.configuration()

        return grpc.dynamic_ssl_server_credentials(
            handed.configuration(),
            changed,  # type: ignore[arg-type] # the stubs forget that None means no change
            require_client_authentication=self._asks_clients,
        )


def _read(certificate: Path, private_key: Path, client_ca: Path | None) -> _Pair:
    key = _private_key(private_key)
    chain = _certificates(certificate)
    leaf = chain[0]
    _refuse_outside_its_time(leaf, certificate)
    if leaf.public_key() != key.public_key():
        raise BadTlsFile(f"{private_key} is not the key of the first certificate in {certificate}")
    return _Pair(
        chain=_pem(chain),
        private_key=key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        client_ca=_pem(_client_ca(client_ca)) if client_ca else None,
        expires=leaf.not_valid_after_utc.timestamp(),
    )


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    pem = read_file(path, secret=True, group_reads=True)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise BadTlsFile(f"{path} is encrypted: the server has no password, decrypt it") from None
    except ValueError:
        raise BadTlsFile(f"{path} holds no private key in PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _RSA_BITS:
        return key
    raise BadTlsFile(f"{path}: use an EC key on P-256 or P-384, or an RSA key of at least {_RSA_BITS} bits")


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except ValueError:
        raise BadTlsFile(f"{path} holds no certificate in PEM, or a broken one") from None


def _refuse_outside_its_time(leaf: x509.Certificate, path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if now > leaf.not_valid_after_utc:
        raise BadTlsFile(f"{path} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it")
    if now < leaf.not_valid_before_utc:
        raise BadTlsFile(f"{path} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: check the clock")


def _client_ca(path: Path) -> list[x509.Certificate]:
    """A bundle may hold CAs of yesterday and of tomorrow, as it does while one follows another, but not these alone."""
    bundle = _certificates(path)
    now = datetime.datetime.now(datetime.UTC)
    if not all(map(_is_ca, bundle)):
        raise BadTlsFile(f"{path} holds a certificate that is no CA: put only the clients' CAs there")
    if not any(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in bundle):
        raise BadTlsFile(f"{path} holds no CA that is valid today")
    return bundle


def _is_ca(certificate: x509.Certificate) -> bool:
    """By RFC 5280, 4.2.1.9 and 4.2.1.3; a broken extension makes it none."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = [one.value for one in certificate.extensions if isinstance(one.value, x509.KeyUsage)]
    except (ValueError, x509.ExtensionNotFound):
        return False
    return basic.ca and all(usage.key_cert_sign for usage in usages)


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(_PEM) for certificate in certificates)
