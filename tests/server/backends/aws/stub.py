"""A server on loopback that answers what a test says, as AWS, as what stands between, or not at all."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.server.backends.aws.wire import Reply as Reply
from tests.server.backends.aws.wire import aws_error as aws_error
from tests.server.backends.aws.wire import listening, read_message

RESET = "reset"
"""The server reads the request and drops the connection."""
HALF = "half"
"""The server sends half of a reply and drops the connection."""
SILENCE = "silence"
"""The server reads the request and never answers."""
Answer = Reply | str


@dataclass
class Stub:
    """A server that gives one answer after the other; the last one stays."""

    answers: list[Answer]
    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Operation (or the request line, if no operation is named) and body of each request."""
    keys: list[str] = field(default_factory=list)
    """Access key that each request was signed with; empty if it was not."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_message(reader)
        self.requests.append((request.operation, request.body.decode()))
        self.keys.append(request.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == SILENCE:
            await asyncio.sleep(60)
        elif isinstance(answer, Reply) or answer == HALF:
            sent = _bytes(answer if isinstance(answer, Reply) else Reply())
            writer.write(sent if isinstance(answer, Reply) else sent[:-1])
            await writer.drain()
        else:
            writer.transport.abort()


def _bytes(reply: Reply) -> bytes:
    """Return the reply's bytes. Each connection carries one request, so that a failure hits only one."""
    return bytes(Reply(reply.status, reply.body, {"connection": "close", **reply.headers}))


@asynccontextmanager
async def stub(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stub]:
    """Serve while the body runs; with TLS the address names localhost."""
    served = Stub(list(answers))
    async with listening(served.serve, tls) as port:
        served.address = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        yield served


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one test session."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def bundle(self) -> str:
        """Path of its root certificate."""
        return str(self.directory / "ca.pem")

    def server(self, *names: str) -> ssl.SSLContext:
        """Return the TLS context of a server whose certificate names these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName(list(_general_names(names)))
        certificate = _certificate(names[0], key, self.certificate.subject, self.key, san)
        path = self.directory / f"{names[0]}.pem"
        path.write_bytes(_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Its root is trusted by a client that is given `bundle`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    made = Authority(tmp_path_factory.mktemp("ca"), key, _certificate("test root", key, name, key, constraints))
    Path(made.bundle).write_bytes(made.certificate.public_bytes(serialization.Encoding.PEM))
    return made


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
