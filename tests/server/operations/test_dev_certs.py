"""Certificates for trying TLS out, used as they are meant to be."""

import datetime
import ipaddress
import os
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from keyvault_server.access.identity import Identifier
from keyvault_server.access.tls import ServerTls, TlsFiles
from keyvault_server.operations.dev_certs import CannotWriteCerts, DevCerts, Pair, write_dev_certs
from tests.support.certificates import Issued
from tests.support.identity_server import identity_of, identity_server
from tests.support.meters import RecordedMeter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    previous = os.umask(0)
    try:
        return write_dev_certs(tmp_path_factory.mktemp("dev") / "certs", ["alice", "bob", "carol-2"])
    finally:
        os.umask(previous)


def read(pair: Pair) -> Issued:
    return Issued(pair.certificate.read_bytes(), pair.private_key.read_bytes())


def certificate(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


async def test_only_a_server_and_its_clients_work_with_them(made: DevCerts, tmp_path: Path) -> None:
    """Unidentified callers do not."""
    tls = ServerTls(TlsFiles(made.server.certificate, made.server.private_key, made.ca), meter=RecordedMeter())
    async with identity_server(tls.credentials(), Identifier(certificates=True)) as server:
        for name, pair in made.clients.items():
            for host in ("localhost", "127.0.0.1"):
                address = server.address.replace("localhost", host)
                identity = await identity_of(address, made.ca.read_bytes(), read(pair))
                assert identity == f"spiffe://keyvault.test/{name}"
        other = write_dev_certs(tmp_path / "other")
        for ca, client in ((other.ca, made.clients["alice"]), (made.ca, other.clients["alice"])):
            with pytest.raises(grpc.aio.AioRpcError):
                await identity_of(server.address, ca.read_bytes(), read(client))


def test_an_independent_verifier_finds_them_right(made: DevCerts) -> None:
    store = Store([x509.load_pem_x509_certificate(made.ca.read_bytes())])
    hosts = (
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    )
    for host in hosts:
        PolicyBuilder().store(store).build_server_verifier(host).verify(certificate(made.server), [])
    for pair in made.clients.values():
        PolicyBuilder().store(store).build_client_verifier().verify(certificate(pair), [])


def test_neither_server_nor_client_can_pass_for_the_other(made: DevCerts) -> None:
    for pair, allowed in (
        (made.server, ExtendedKeyUsageOID.SERVER_AUTH),
        (made.clients["bob"], ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        uses = certificate(pair).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(uses) == [allowed]


def test_they_are_for_thirty_days_and_on_p_256(made: DevCerts) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for path in (made.ca, made.server.certificate, made.clients["alice"].certificate):
        found = x509.load_pem_x509_certificate(path.read_bytes())
        assert found.not_valid_before_utc < now
        assert datetime.timedelta(days=29, hours=23) < found.not_valid_after_utc - now <= datetime.timedelta(days=30)
        key = found.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def test_only_their_owner_reads_them_and_no_ca_key_exists(made: DevCerts, tmp_path: Path) -> None:
    folder = made.ca.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [
        "alice.key",
        "alice.pem",
        "bob.key",
        "bob.pem",
        "ca.pem",
        "carol-2.key",
        "carol-2.pem",
        "server.key",
        "server.pem",
    ]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    ca = x509.load_pem_x509_certificate(made.ca.read_bytes()).public_key()
    for file in files:
        if file.suffix == ".key":
            key = serialization.load_pem_private_key(file.read_bytes(), None)
            assert key.public_key() != ca


@pytest.mark.parametrize("name", ["ca.pem", "server.key", "bob.pem", "bob.key"])
def test_nothing_is_written_over_and_then_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CannotWriteCerts, match=name):
        write_dev_certs(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../x", "server", "ca", "a b", "a.b", "alice\n", "\u00e4"])
def test_a_name_that_fits_no_file_or_spiffe_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotWriteCerts, match="letters, digits and hyphens"):
        write_dev_certs(tmp_path / "certs", ["alice", name])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWriteCerts, match=r"^\S+file\S*: \w[^\n]*$"):
        write_dev_certs(tmp_path / "file" / "certs")


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_dev_certs(tmp_path / "certs")
    assert capfd.readouterr() == ("", "")
