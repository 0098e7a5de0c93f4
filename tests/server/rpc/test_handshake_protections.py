"""What only gRPC's TLS refuses of a client: certificates that its CA did not mean for clients, and old protocols.

Each test has a client that is let in and differs in one thing only. It fails if an upgrade of grpcio stops the
protection.
"""

import socket
import ssl
import warnings
from asyncio import to_thread as in_thread
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.certificates import HOUR, LOCALHOST, Authority, Issued
from tests.support.policy_server import BILLING, PolicyServer, policy_server
from tests.support.refusals import failure_of

Make = Callable[[Authority], Issued]
GOOD: dict[str, Make] = {
    "for clients": lambda root: root.issue(BILLING, purposes=[Purpose.CLIENT_AUTH]),
    "for clients and servers": lambda root: root.issue(BILLING, purposes=[Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH]),
    "of a CA below the root": lambda root: Authority("issuing", above=root, path_length=0).issue(BILLING),
    "two below the root": lambda root: Authority("two", above=Authority("one", above=root)).issue(BILLING),
}
BAD: dict[str, Make] = {
    "for servers": lambda root: root.issue(BILLING, purposes=[Purpose.SERVER_AUTH]),
    "for code": lambda root: root.issue(BILLING, purposes=[Purpose.CODE_SIGNING]),
    "path too long": lambda root: Authority("two", above=Authority("one", above=root, path_length=0)).issue(BILLING),
    "of no CA": lambda root: Authority("leaf", above=root, is_ca=False).issue(BILLING),
    "without constraints": lambda root: Authority("leaf", above=root, is_ca=None).issue(BILLING),
    "may not sign": lambda root: Authority("leaf", above=root, signs=False).issue(BILLING),
    "expired": lambda root: root.issue(BILLING, since=-2 * HOUR, until=-HOUR),
    "not yet valid": lambda root: root.issue(BILLING, since=HOUR, until=2 * HOUR),
    "of an expired CA": lambda root: Authority("old", above=root, since=-2 * HOUR, until=-HOUR).issue(BILLING),
    "another root of that name": lambda _: Authority().issue(BILLING),
}
MODERN = ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384")
OLD = (
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-CAMELLIA128-SHA256",
    "ECDHE-ECDSA-NULL-SHA",
)
MODERN_RSA = ("ECDHE-RSA-AES128-GCM-SHA256",)
OLD_RSA = ("AES128-GCM-SHA256", "AES128-SHA", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256", "NULL-SHA256")


@pytest.fixture(scope="module")
async def gate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyServer]:
    async with policy_server(tmp_path_factory.mktemp("gate")) as served:
        yield served


async def reason(gate: PolicyServer, client: Issued) -> str:
    """Return what a caller with this certificate is answered: a reason of ours, or a status of gRPC's."""
    async with gate.stub(client) as stub:
        failure = await failure_of(stub.Read(pb.ReadRequest(key_id="prod/billing/a"), timeout=30))
        return failure.reason or failure.status


@pytest.mark.parametrize("kind", GOOD)
async def test_a_certificate_for_clients_is_accepted(gate: PolicyServer, kind: str) -> None:
    assert await reason(gate, GOOD[kind](gate.authority)) == "RECORD_NOT_FOUND"


@pytest.mark.parametrize("kind", BAD)
async def test_a_certificate_not_for_clients_is_refused(gate: PolicyServer, kind: str) -> None:
    before = gate.backend_calls()
    assert await reason(gate, BAD[kind](gate.authority)) == "UNAVAILABLE"
    assert gate.backend_calls() == before


def spoken(gate: PolicyServer, version: ssl.TLSVersion, ciphers: str) -> str:
    """Return the cipher of a handshake by OpenSSL in this version with these ciphers alone. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(*gate.authority.issue(BILLING).write(gate.folder, "client"))
    assert gate.running
    with (
        socket.create_connection(("127.0.0.1", gate.running.port), timeout=30) as raw,
        context.wrap_socket(raw) as connection,
    ):
        if not connection.recv(1):
            raise ConnectionError("the server hung up")
        used = connection.cipher()
    assert used
    return used[0]


@pytest.mark.parametrize("cipher", MODERN)
async def test_a_modern_cipher_is_spoken(gate: PolicyServer, cipher: str) -> None:
    assert await in_thread(spoken, gate, ssl.TLSVersion.TLSv1_2, cipher) == cipher


@pytest.mark.parametrize("cipher", OLD)
async def test_an_old_cipher_is_not_spoken(gate: PolicyServer, cipher: str) -> None:
    with pytest.raises(OSError, match=r"(?i)handshake.failure|eof|reset"):
        await in_thread(spoken, gate, ssl.TLSVersion.TLSv1_2, cipher)


@pytest.mark.slow
async def test_an_rsa_server_speaks_no_old_cipher(tmp_path: Path) -> None:
    """Without an ephemeral key exchange, who gets the server's key later can read what was recorded."""
    key = rsa.generate_private_key(65_537, 2_048)
    certificate, private_key = Authority().issue(*LOCALHOST, key=key).write(tmp_path, "rsa")
    async with policy_server(tmp_path, tls_certificate=certificate, tls_private_key=private_key) as gate:
        for cipher in MODERN_RSA:
            assert await in_thread(spoken, gate, ssl.TLSVersion.TLSv1_2, cipher) == cipher
        for cipher in OLD_RSA:
            with pytest.raises(OSError, match=r"(?i)handshake.failure|eof|reset"):
                await in_thread(spoken, gate, ssl.TLSVersion.TLSv1_2, cipher)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_tls_before_1_2_is_not_spoken(gate: PolicyServer, version: ssl.TLSVersion) -> None:
    with pytest.raises(OSError, match=r"(?i)protocol.version|eof|reset"):
        await in_thread(spoken, gate, version, "ALL")
