"""A certificate authority of one test session, and what it signs, as the PEM files that programs want."""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Issued(NamedTuple):
    """The files of one certificate."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True)
class Authority:
    """Signs for whoever asks."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def bundle(self) -> str:
        """The file of its root."""
        return str(self.directory / "ca.pem")

    def issue(self, *names: str) -> Issued:
        """A certificate for these hosts or addresses; the first is its common name and that of its files."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName(list(_general_names(names)))
        certificate = _certificate(names[0], key, self.certificate.subject, self.key, san)
        issued = Issued(self.directory / f"{names[0]}.pem", self.directory / f"{names[0]}-key.pem")
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.private_key.write_bytes(_pem(key))
        return issued


def make_authority(directory: Path) -> Authority:
    """A new one, with files of its own in an empty directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    made = Authority(directory, key, _certificate("test root", key, name, key, constraints))
    Path(made.bundle).write_bytes(made.certificate.public_bytes(serialization.Encoding.PEM))
    return made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Its root is trusted by whoever is given `bundle`."""
    return make_authority(tmp_path_factory.mktemp("ca"))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(extension, critical=True)
    )
    return builder.sign(issuer_key, hashes.SHA256())


def _general_names(names: Iterable[str]) -> Iterable[x509.GeneralName]:
    for name in names:
        if name[0].isdecimal():
            yield x509.IPAddress(ipaddress.ip_address(name))
        else:
            yield x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
