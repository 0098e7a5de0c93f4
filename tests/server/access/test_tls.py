"""The server's TLS with real connections: who gets in, what a changed file does, and what a bad one does not."""

import asyncio
import logging
import os
import socket
import ssl
import warnings
from asyncio import to_thread as in_thread
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from keyvault_server.access.identity import Identifier
from keyvault_server.access.tls import ServerTls, TlsFiles
from keyvault_server.core.errors import OperatorError
from keyvault_server.disk.permissions import UnsafeFile
from keyvault_server.disk.watched import LOOK_SECONDS
from tests.support.certificates import HOUR, LOCALHOST, Authority, Issued, pem_of, replace, uri
from tests.support.clock import Clock
from tests.support.connections import channel
from tests.support.identity_server import IdentityServer, identity_of, identity_over, identity_server
from tests.support.meters import RecordedMeter

ALICE = "spiffe://keyvault.test/alice"


@dataclass
class Files:
    """The TLS files of a server, and its certificate."""

    folder: Path
    authority: Authority = field(default_factory=Authority)
    clients: Authority = field(default_factory=lambda: Authority("clients' CA"))
    clock: Clock = field(default_factory=Clock)
    meter: RecordedMeter = field(default_factory=RecordedMeter)
    made: list[ServerTls] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.renew()
        self.trust(self.clients.pem)

    @property
    def client_ca(self) -> Path:
        return self.folder / "clients.pem"

    def renew(self) -> Issued:
        issued = self.authority.issue(*LOCALHOST)
        issued.write(self.folder, "server")
        return issued

    def trust(self, bundle: bytes) -> None:
        replace(self.client_ca, bundle)

    def tls(self) -> ServerTls:
        files = TlsFiles(self.folder / "server.pem", self.folder / "server.key", self.client_ca)
        self.made.append(ServerTls(files, clock=self.clock, meter=self.meter))
        return self.made[-1]

    def look(self) -> None:
        """The next handshake looks at the files for the second time."""
        self.clock.now += LOOK_SECONDS
        for tls in self.made:
            tls.files.get()
        self.clock.now += LOOK_SECONDS


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def mutual(tls: ServerTls) -> Any:
    """A server that asks for certificates."""
    return identity_server(tls.credentials(), Identifier(certificates=True))


def serial_shown(server: IdentityServer, files: Files) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=files.authority.pem.decode())
    alice = files.clients.issue(uri(ALICE)).write(files.folder, "someone")
    context.load_cert_chain(*alice)
    with handshake(server, context) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def handshake(server: IdentityServer | int, context: ssl.SSLContext, **options: Any) -> ssl.SSLSocket:
    """A TLS connection by OpenSSL, which knows nothing of gRPC. Raises OSError."""
    context.set_alpn_protocols(["h2"])
    port = server if isinstance(server, int) else int(server.address.rpartition(":")[2])
    raw = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection = context.wrap_socket(raw, server_hostname="localhost", do_handshake_on_connect=False, **options)
    try:
        connection.do_handshake()
        if not connection.recv(1):  # TLS 1.3: a refusal of our certificate comes after our side of the handshake
            raise ConnectionError("the server hung up instead of greeting")
    except BaseException:
        connection.close()
        raise
    return connection


async def refused(address: str, files: Files, client: Issued | None) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await identity_of(address, files.authority.pem, client)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_only_certificates_of_a_client_ca_are_let_in(files: Files) -> None:
    async with mutual(files.tls()) as server:
        alice = files.clients.issue(uri(ALICE))
        assert await identity_of(server.address, files.authority.pem, alice) == ALICE
        await refused(server.address, files, None)
        await refused(server.address, files, Authority("clients' CA").issue(uri(ALICE)))
        await refused(server.address, files, files.authority.issue(uri(ALICE)))  # the server's CA vouches for no client
        await refused(server.address, files, files.clients.issue(uri(ALICE), since=-2 * HOUR, until=-HOUR))


async def test_without_a_client_ca_no_certificate_is_asked_for(tmp_path: Path) -> None:
    files = Files(tmp_path)
    tls = ServerTls(TlsFiles(tmp_path / "server.pem", tmp_path / "server.key"), meter=RecordedMeter())
    async with identity_server(tls.credentials(), Identifier(certificates=False)) as server:
        assert await identity_of(server.address, files.authority.pem) == "anonymous"


async def test_new_connections_see_a_renewed_certificate(files: Files) -> None:
    """Old ones stay."""
    async with mutual(files.tls()) as server:
        alice = files.clients.issue(uri(ALICE))
        async with channel(server.address, files.authority.pem, alice) as old:
            assert await identity_over(old) == ALICE
            for _ in range(3):
                renewed = files.renew()
                files.look()
                assert await in_thread(serial_shown, server, files) == renewed.serial
            assert await in_thread(serial_shown, server, files) == renewed.serial, "and it stays"
            assert await identity_over(old) == ALICE
    assert files.meter.readings == [("tls", True)] * 4


async def test_a_secret_that_kubernetes_swaps_is_taken_over(files: Files) -> None:
    second = files.authority.issue(*LOCALHOST)
    for version, pair in (("1", files.authority.issue(*LOCALHOST)), ("2", second)):
        (files.folder / f"..{version}").mkdir()
        pair.write(files.folder / f"..{version}", "server")
    (files.folder / "..data").symlink_to("..1")
    for name in ("server.pem", "server.key"):
        (files.folder / name).unlink()
        (files.folder / name).symlink_to(f"..data/{name}")
    async with mutual(files.tls()) as server:
        (files.folder / "..new").symlink_to("..2")
        (files.folder / "..new").replace(files.folder / "..data")
        files.look()
        assert await in_thread(serial_shown, server, files) == second.serial


async def test_another_client_ca_locks_the_old_clients_out(files: Files) -> None:
    """Out of new connections."""
    async with mutual(files.tls()) as server:
        old, new = files.clients, Authority("the next CA")
        alice, bob = old.issue(uri(ALICE)), new.issue(uri("spiffe://keyvault.test/bob"))
        async with channel(server.address, files.authority.pem, alice) as connected:
            assert await identity_over(connected) == ALICE
            files.trust(old.pem + new.pem)  # while one follows the other, both are let in
            files.look()
            assert await identity_of(server.address, files.authority.pem, alice) == ALICE
            assert await identity_of(server.address, files.authority.pem, bob) == "spiffe://keyvault.test/bob"
            files.trust(new.pem)
            files.look()
            await refused(server.address, files, alice)
            assert await identity_of(server.address, files.authority.pem, bob) == "spiffe://keyvault.test/bob"
            assert await identity_over(connected) == ALICE, "a connection lives on: bound its age"


async def test_an_earlier_session_ends_with_its_ca(files: Files) -> None:
    """Resuming a session skips the check of the certificate: it has to be refused with the CA."""

    def resume(server: IdentityServer, context: ssl.SSLContext, session: Any) -> bool:
        with handshake(server, context, session=session) as connection:
            return bool(connection.session_reused)

    async with mutual(files.tls()) as server:
        context = ssl.create_default_context(cadata=files.authority.pem.decode())
        context.load_cert_chain(*files.clients.issue(uri(ALICE)).write(files.folder, "alice"))
        with await in_thread(handshake, server, context) as first:
            session = first.session
        assert await in_thread(resume, server, context, session), "or this test shows nothing"
        files.trust(Authority("the next CA").pem)
        files.look()
        with pytest.raises(OSError):
            await in_thread(resume, server, context, session)


def speaking(side: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """One version alone, even one that OpenSSL finds too old."""
    side.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        side.minimum_version = side.maximum_version = version
    return side


def greet_one(listener: socket.socket, context: ssl.SSLContext) -> None:
    """A server that takes one connection, as OpenSSL does."""
    raw, _ = listener.accept()
    raw.settimeout(30)
    with context.wrap_socket(raw, server_side=True) as connection:
        connection.send(b"!")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(files: Files, version: ssl.TLSVersion) -> None:
    context = speaking(ssl.create_default_context(cadata=files.authority.pem.decode()), version)
    context.load_cert_chain(*files.clients.issue(uri(ALICE)).write(files.folder, "alice"))
    async with mutual(files.tls()) as server:
        with await in_thread(handshake, server, context) as connection:
            assert connection.version() == version.name.replace("v1_", "v1.")


async def test_tls_1_1_is_not_spoken(files: Files) -> None:
    old = ssl.TLSVersion.TLSv1_1
    context = speaking(ssl.create_default_context(cadata=files.authority.pem.decode()), old)
    context.load_cert_chain(*files.clients.issue(uri(ALICE)).write(files.folder, "alice"))
    async with mutual(files.tls()) as server:
        with pytest.raises(OSError, match=r"(?i)eof|reset|protocol.version"):
            await in_thread(handshake, server, context)
    lenient = speaking(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), old)
    lenient.load_cert_chain(files.folder / "server.pem", files.folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        greeting = asyncio.create_task(in_thread(greet_one, listener, lenient))
        with await in_thread(handshake, listener.getsockname()[1], context) as connection:
            assert connection.version() == "TLSv1.1", "or this client could not have spoken it"
        await greeting


def test_when_the_certificate_expires_is_known(files: Files) -> None:
    tls = files.tls()
    files.authority.issue(*LOCALHOST, until=5 * HOUR).write(files.folder, "server")
    before = tls.expires
    files.look()
    assert 3.9 * HOUR < tls.expires - before < 4.1 * HOUR


Damage = Callable[[Files], None]


def damage(name: str, content: Callable[[Files], bytes], mode: int = 0o600) -> Damage:
    return lambda files: replace(files.folder / name, content(files), mode)


def issued(until: float = HOUR, since: float = -HOUR, key: Any = None) -> Damage:
    """A server certificate with its own, fitting key."""

    def write(files: Files) -> None:
        files.authority.issue(*LOCALHOST, since=since, until=until, key=key).write(files.folder, "server")

    return write


def _of_unknown_kind(certificate: bytes) -> bytes:
    """Return the certificate with the name of another kind of key (1.2.840.10045.2.9 for ...2.1)."""
    der = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    changed = der.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0209"))
    return x509.load_der_x509_certificate(changed).public_bytes(Encoding.PEM)


BAD: dict[str, tuple[Damage, str]] = {
    "a certificate that is garbage": (damage("server.pem", lambda _: b"s3cret garbage"), "no certificate"),
    "a certificate cut short": (damage("server.pem", lambda f: f.authority.issue().certificate[:-60]), "malformed"),
    "an empty certificate": (damage("server.pem", lambda _: b""), "no certificate"),
    "no certificate": (lambda files: (files.folder / "server.pem").unlink(), "No such file"),
    "a huge certificate": (damage("server.pem", lambda _: bytes(2_000_000)), "right file"),
    "a key that is garbage": (damage("server.key", lambda _: b"s3cret garbage"), "not a private key"),
    "no key": (lambda files: (files.folder / "server.key").unlink(), "No such file"),
    "another's key": (damage("server.key", lambda f: f.authority.issue().private_key), "not the key of the first"),
    "an encrypted key": (
        damage("server.key", lambda _: pem_of(ec.generate_private_key(ec.SECP256R1()), b"password")),
        "encrypted",
    ),
    "a key that everybody can read": (
        damage("server.key", lambda f: (f.folder / "server.key").read_bytes(), 0o644),
        "0644",
    ),
    "a key that everybody can write": (
        damage("server.key", lambda f: (f.folder / "server.key").read_bytes(), 0o602),
        "0602",
    ),
    "an expired certificate": (issued(until=-60), "expired on"),
    "a certificate of tomorrow": (issued(since=HOUR, until=2 * HOUR), "not valid before"),
    "an Ed25519 key": (issued(key=ed25519.Ed25519PrivateKey.generate()), "P-256 or P-384"),
    "a P-521 key": (issued(key=ec.generate_private_key(ec.SECP521R1())), "P-256 or P-384"),
    "a short RSA key": (issued(key=rsa.generate_private_key(65537, 1024)), "2048 bits"),
    "a key of a kind that is unknown here": (
        damage("server.pem", lambda f: _of_unknown_kind(f.authority.issue(*LOCALHOST).certificate)),
        "not the key of the first certificate",
    ),
    "an empty client CA": (damage("clients.pem", lambda _: b""), "no certificate"),
    "a client CA that is garbage": (damage("clients.pem", lambda _: b"s3cret garbage"), "no certificate"),
    "a client CA that is no CA": (damage("clients.pem", lambda f: f.authority.issue().certificate), "not a CA"),
    "a client CA that says that it is none": (damage("clients.pem", lambda _: Authority(is_ca=False).pem), "not a CA"),
    "a client CA without the basic constraint": (
        damage("clients.pem", lambda _: Authority(is_ca=None).pem),
        "not a CA",
    ),
    "a client CA that may not sign": (damage("clients.pem", lambda _: Authority(signs=False).pem), "not a CA"),
    "a leaf among the client CAs": (
        damage("clients.pem", lambda f: f.clients.pem + f.authority.issue().certificate),
        "not a CA",
    ),
    "a weak CA among the client CAs": (
        damage("clients.pem", lambda f: f.clients.pem + Authority(key=rsa.generate_private_key(65537, 1024)).pem),
        "has a CA with an RSA key below 2048 bits",
    ),
    "only expired client CAs": (damage("clients.pem", lambda _: Authority(until=-60).pem), "valid today"),
}


@pytest.mark.parametrize(("do", "sentence"), BAD.values(), ids=BAD.keys())
def test_what_is_bad_at_the_start_is_refused_in_one_sentence(files: Files, do: Damage, sentence: str) -> None:
    do(files)
    with pytest.raises(OperatorError, match=sentence) as error:
        files.tls()
    message = str(error.value)
    assert str(files.folder) in message
    assert "\n" not in message
    assert "s3cret" not in message
    assert "PRIVATE KEY" not in message


@pytest.mark.parametrize(("do", "sentence"), BAD.values(), ids=BAD.keys())
async def test_what_goes_bad_later_leaves_the_last_good_files_in_use(
    files: Files, do: Damage, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = files.renew()
    tls = files.tls()
    async with mutual(tls) as server:
        assert await in_thread(serial_shown, server, files) == good.serial
        with caplog.at_level(logging.INFO, "keyvault_server"):
            do(files)
            for _ in range(2):
                files.look()
                assert await in_thread(serial_shown, server, files) == good.serial
            await refused(server.address, files, None)
            (line,) = caplog.records
            assert sentence in line.__dict__["cause"]
            assert "s3cret" not in str(line.__dict__)
            assert files.meter.readings == [("tls", True), ("tls", False)]
            assert tls.files.failed_since is not None
            files.trust(files.clients.pem)
            renewed = files.renew()
            files.look()
            assert await in_thread(serial_shown, server, files) == renewed.serial
        assert tls.files.failed_since is None
        assert files.meter.readings == [("tls", True), ("tls", False), ("tls", True)]


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA-2048"],
)
async def test_other_keys_than_p_256_shake_hands(files: Files, key: Any) -> None:
    made = files.authority.issue(*LOCALHOST, key=key)
    made.write(files.folder, "server")
    async with mutual(files.tls()) as server:
        assert await in_thread(serial_shown, server, files) == made.serial


async def test_a_bundle_with_an_expired_and_a_current_ca_is_good(files: Files) -> None:
    files.trust(Authority("yesterday", until=-60).pem + files.clients.pem + Authority("tomorrow", since=HOUR).pem)
    async with mutual(files.tls()) as server:
        assert await identity_of(server.address, files.authority.pem, files.clients.issue(uri(ALICE))) == ALICE


def test_a_key_that_its_group_can_read_is_good(files: Files) -> None:
    """As Kubernetes mounts it."""
    (files.folder / "server.key").chmod(0o640)
    assert files.tls().expires > 0


def test_a_key_of_another_user_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = (files.folder / "server.key").stat().st_uid
    if owner == 0:
        other = 12_345
        os.chown(files.folder / "server.key", other, -1)
    else:  # only root can give a file away: become somebody else instead
        other = owner
        monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(UnsafeFile, match=f"uid {other}"):
        files.tls()


def test_files_may_begin_with_a_byte_order_mark(files: Files) -> None:
    for name in ("server.pem", "server.key", "clients.pem"):
        path = files.folder / name
        replace(path, "\ufeff".encode() + path.read_bytes())
    assert files.tls().expires
