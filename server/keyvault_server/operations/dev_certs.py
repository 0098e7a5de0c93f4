"""Certificates to try out TLS: a CA, a server on this machine, and clients with SPIFFE IDs. Not for production.

The rules of this file: the CA's key is never written, so nobody can issue another certificate that these trust; no file
is overwritten; each is 0600. Keys are EC P-256. Sources: RFC 5280; X509-SVID (SPIFFE), section 4.
"""

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyvault_server.core.errors import OperatorError

TRUST_DOMAIN = "keyvault.test"
DAYS = 30
_HOSTS: Sequence[x509.GeneralName] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)
_NAME = re.compile(r"[a-zA-Z0-9-]{1,64}", re.ASCII)
_BACKDATED = datetime.timedelta(minutes=5)  # for a clock that is a little behind ours

_PEM = serialization.Encoding.PEM


class CannotWriteCerts(OperatorError):
    """The certificates cannot be written to the folder; the message says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of one certificate and its key."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class DevCerts:
    """Files that were written."""

    ca: Path
    server: Pair
    clients: dict[str, Pair]
    """By name; the SPIFFE ID of NAME is spiffe://keyvault.test/NAME."""


def write_dev_certs(folder: Path, names: Iterable[str] = ("alice", "bob")) -> DevCerts:
    """Write ca.pem, server.pem, server.key and NAME.pem, NAME.key to a folder, for 30 days. Raises OperatorError.

    The server's certificate is for localhost, 127.0.0.1 and ::1. Nothing is written if one of the files exists.
    """
    names = list(names)
    if not all(map(_NAME.fullmatch, names)) or {"ca", "server"} & set(names):
        raise CannotWriteCerts("a client's name must be letters, digits and hyphens, and neither ca nor server")
    authority = _Authority()
    clients = {name: Pair(folder / f"{name}.pem", folder / f"{name}.key") for name in names}
    made = DevCerts(folder / "ca.pem", Pair(folder / "server.pem", folder / "server.key"), clients)
    contents = {made.ca: authority.pem} | authority.server(made.server)
    for name, pair in clients.items():
        contents |= authority.client(name, pair)
    _write_all(folder, contents)
    return made


class _Authority:
    """A CA whose key exists only as long as this object."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KeyVault development CA")])
        uri = x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")
        made = self._builder(self._name, self._key, [uri], x509.BasicConstraints(ca=True, path_length=0))
        self._certificate = made.add_extension(_usage(signs_certificates=True), critical=True).sign(
            self._key, hashes.SHA256()
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(_PEM)

    def server(self, pair: Pair) -> dict[Path, bytes]:
        return self._issue(pair, "localhost", _HOSTS, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, name: str, pair: Pair) -> dict[Path, bytes]:
        spiffe_id = x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{name}")
        return self._issue(pair, name, [spiffe_id], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self, pair: Pair, common_name: str, names: Sequence[x509.GeneralName], use: x509.ObjectIdentifier
    ) -> dict[Path, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = (
            self._builder(subject, key, names, x509.BasicConstraints(ca=False, path_length=None))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        pem = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return {
            pair.certificate: builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM),
            pair.private_key: pem,
        }

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[x509.GeneralName],
        basic: x509.BasicConstraints,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=DAYS))
            .add_extension(basic, critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_all(folder: Path, contents: dict[Path, bytes]) -> None:
    for path in contents:
        if path.exists():
            raise CannotWriteCerts(f"{path} exists and is not overwritten: name another folder, or remove it")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, content in contents.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except OSError as error:
        raise CannotWriteCerts(f"{error.filename or folder}: {error.strerror}") from None
