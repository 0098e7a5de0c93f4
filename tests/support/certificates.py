"""Certificates of every kind, good and bad, made for one test. Independent of the server's own maker."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
HOUR = 3600.0
LOCALHOST = (x509.DNSName("localhost"),)
_SHA256_WITH_RSA, _SHA1_WITH_RSA = (bytes.fromhex("2a864886f70d0101") + last for last in (b"\x0b", b"\x05"))  # DER


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def dns(text: str) -> x509.GeneralName:
    return x509.DNSName(text)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: bytes
    private_key: bytes

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.certificate).serial_number

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key, each replaced by rename; return their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        replace(certificate, self.certificate)
        replace(key, self.private_key)
        return certificate, key


class Authority:
    """A certificate authority."""

    def __init__(
        self,
        name: str = "test CA",
        *,
        is_ca: bool | None = True,
        signs: bool = True,
        since: float = -HOUR,
        until: float = HOUR,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        path_length: int | None = None,
        above: "Authority | None" = None,
    ) -> None:
        """Make one. `above` signs it, else it signs itself; `path_length` is how many may be below it."""
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._above = above
        issuer = above or self
        builder = _builder(self._name, issuer._name, self._key, issuer._key, since, until)
        if is_ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        usage = x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)
        builder = builder.add_extension(usage, critical=True)
        self.pem = builder.sign(issuer._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def chain(self) -> bytes:
        """Certificates from this one up to the one below the root, which a peer shows with its own."""
        return self.pem + self._above.chain if self._above else b""

    def issue(
        self,
        *names: x509.GeneralName,
        key: PrivateKey | None = None,
        since: float = -HOUR,
        until: float = HOUR,
        is_ca: bool | None = None,
        purposes: Sequence[x509.ObjectIdentifier] = (),
    ) -> Issued:
        """Issue a certificate for these subject alternative names, valid between these seconds from now.

        `is_ca` is what its basic constraints say; None: it has none. `purposes` are its extended key usages.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named("common-name"), self._name, key, self._key, since, until)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if is_ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(is_ca, path_length=None), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(certificate.public_bytes(serialization.Encoding.PEM) + self.chain, pem_of(key))

    def sign_with_sha1(self, issued: Issued) -> Issued:
        """Return a certificate of this authority, which has an RSA key, with a SHA-1 signature instead.

        No builder makes one any more. The names of both signatures are equally long, and so are the signatures.
        """
        assert isinstance(self._key, rsa.RSAPrivateKey)
        der = x509.load_pem_x509_certificate(issued.certificate).public_bytes(serialization.Encoding.DER)
        weak = x509.load_der_x509_certificate(der.replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA))
        signature = self._key.sign(weak.tbs_certificate_bytes, padding.PKCS1v15(), hashes.SHA1())
        der = weak.public_bytes(serialization.Encoding.DER).replace(weak.signature, signature)
        made = x509.load_der_x509_certificate(der)
        return Issued(made.public_bytes(serialization.Encoding.PEM), issued.private_key)


def pem_of(key: PrivateKey, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a draft and rename it over the file, as careful programs do."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    draft.chmod(mode)
    draft.replace(path)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, signer: PrivateKey, since: float, until: float
) -> x509.CertificateBuilder:
    """Return a certificate to sign; Python 3.13 and newer refuse one without the identifiers of both keys."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=since))
        .not_valid_after(now + datetime.timedelta(seconds=until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
