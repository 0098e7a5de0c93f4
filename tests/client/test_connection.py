"""How the client connects: whom it trusts, which certificate it shows, and what changed files do to its connection."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyvault_client import TLS, InvalidRequest, KeyVault, Unavailable
from keyvault_client.channel import Connector
from keyvault_client.file_changes import LOOK_SECONDS
from keyvault_server.access.identity import Identifier
from keyvault_server.access.tls import ServerTls, TlsFiles
from tests.server.backends.aws.wire import listening, relay
from tests.support.certificates import HOUR, LOCALHOST, Authority, dns, pem_of, replace, uri
from tests.support.changing_file import changing_while_read
from tests.support.clock import LONG_AGO, Clock
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.forked import run_forked
from tests.support.identity_server import SLOW, IdentityServer, caller_of, identity_over, identity_server
from tests.support.meters import RecordedMeter
from tests.support.processes import BIN
from tests.support.servers import on_ports

ALICE, BOB = "spiffe://keyvault.test/alice", "spiffe://keyvault.test/bob"
AUTHORITY, CLIENTS = Authority(), Authority("clients' CA")
FOR_ALICE, FOR_BOB = CLIENTS.issue(uri(ALICE)), CLIENTS.issue(uri(BOB))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[IdentityServer]:
    """A server that knows its callers by their certificates."""
    folder = tmp_path / "server"
    folder.mkdir()
    replace(folder / "clients.pem", CLIENTS.pem)
    files = AUTHORITY.issue(*LOCALHOST).write(folder, "server")
    async with identity_server(
        ServerTls(TlsFiles(*files, folder / "clients.pem"), meter=RecordedMeter()).credentials(),
        Identifier(certificates=True),
    ) as served:
        yield served


@pytest.fixture
def tls(tmp_path: Path) -> TLS:
    """Alice's files."""
    replace(tmp_path / "ca.pem", AUTHORITY.pem)
    return TLS(tmp_path / "ca.pem", *FOR_ALICE.write(tmp_path, "client"))


async def whom(vault: KeyVault, scope: str = "prod/") -> str:
    """Whom the server takes the client for: this one names the caller in the wrapped key."""
    return caller_of((await vault.generate_key(scope)).wrapped_key)


async def until(vault: KeyVault, identity: str) -> None:
    async with asyncio.timeout(10):
        while await whom(vault) != identity:
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_the_certificate_is_shown_and_the_servers_is_checked(
    server: IdentityServer, tls: TLS, tmp_path: Path
) -> None:
    async with KeyVault(server.address, tls=tls) as vault:
        assert await whom(vault) == ALICE
    replace(tmp_path / "ca.pem", Authority().pem)
    async with KeyVault(server.address, tls=tls, timeout=4) as vault:
        with pytest.raises(Unavailable, match="certificate is not trusted"):
            await whom(vault)


@pytest.mark.slow
async def test_an_untrusted_client_certificate_is_the_named_cause(
    server: IdentityServer, tls: TLS, tmp_path: Path
) -> None:
    for shown in (TLS(tls.ca), TLS(tls.ca, *Authority().issue(uri(ALICE)).write(tmp_path, "untrusted"))):
        async with KeyVault(server.address, tls=shown, timeout=4) as vault:
            with pytest.raises(Unavailable, match="Does it require a client certificate, and does it trust yours"):
                await whom(vault)


@pytest.mark.slow
async def test_changed_files_serve_new_calls_and_in_flight_ones_finish(
    server: IdentityServer, tls: TLS, tmp_path: Path
) -> None:
    async with KeyVault(server.address, tls=tls, timeout=60) as vault:
        slow = asyncio.create_task(whom(vault, SLOW))
        async with asyncio.timeout(30):
            await server.reached.wait()
        FOR_BOB.write(tmp_path, "client")
        await until(vault, BOB)
        assert not slow.done()
        server.go_on.set()
        assert await slow == ALICE
        assert await whom(vault) == BOB


@pytest.mark.slow
async def test_another_server_certificate_of_another_ca_is_followed(tls: TLS, tmp_path: Path) -> None:
    folder, clock, successor = tmp_path / "server", Clock(), Authority("the next CA")
    folder.mkdir()
    files = AUTHORITY.issue(*LOCALHOST).write(folder, "server")
    credentials = ServerTls(TlsFiles(*files), clock=clock, meter=RecordedMeter()).credentials()
    async with (
        identity_server(credentials, Identifier(certificates=False)) as server,
        KeyVault(server.address, tls=TLS(tls.ca)) as vault,
    ):
        await whom(vault)
        successor.issue(*LOCALHOST).write(folder, "server")
        clock.now += LOOK_SECONDS
        async with KeyVault(server.address, tls=TLS(tls.ca)) as other:
            await whom(other)  # its handshake lets the server see that the files changed
        clock.now += LOOK_SECONDS  # and the next one that they did not change again
        replace(tmp_path / "ca.pem", successor.pem)
        await asyncio.sleep(LOOK_SECONDS)  # the client's clock is real
        await whom(vault)
        async with KeyVault(server.address, tls=TLS(tls.ca)) as other:
            await whom(other)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a CA that is garbage": (lambda at: replace(at / "ca.pem", b"s3cret"), "not a PEM certificate"),
    "an empty CA": (lambda at: replace(at / "ca.pem", b""), "not a PEM certificate"),
    "no CA": (lambda at: (at / "ca.pem").unlink(), "No such file"),
    "a certificate that is garbage": (
        lambda at: replace(at / "client.pem", b"s3cret"),
        "not a PEM certificate and its",
    ),
    "no certificate": (lambda at: (at / "client.pem").unlink(), "No such file"),
    "another's key": (lambda at: replace(at / "client.key", FOR_BOB.private_key), "is not the private key of the cert"),
    "an expired certificate": (
        lambda at: CLIENTS.issue(uri(ALICE), since=-2 * HOUR, until=-HOUR).write(at, "client"),
        "client.pem: the certificate expired at",
    ),
    "a certificate that is not valid yet": (
        lambda at: CLIENTS.issue(uri(ALICE), since=HOUR, until=2 * HOUR).write(at, "client"),
        "client.pem: not valid before",
    ),
    "a key that is garbage": (lambda at: replace(at / "client.key", b"s3cret"), "not a PEM certificate and its"),
    "an encrypted key": (lambda at: replace(at / "client.key", encrypted()), "unencrypted"),
}


def encrypted() -> bytes:
    return pem_of(ec.generate_private_key(ec.SECP256R1()), b"password")


async def whom_now(connector: Connector, clock: Clock) -> str:
    """Return who a call comes from once the next look at the files is due."""
    clock.now += LOOK_SECONDS
    async with connector.connection() as connection:
        return await identity_over(connection.channel)


@pytest.mark.parametrize(("do", "sentence"), BAD.values(), ids=BAD.keys())
async def test_bad_files_are_refused_before_anything_is_sent(
    tls: TLS, tmp_path: Path, do: Callable[[Path], object], sentence: str
) -> None:
    do(tmp_path)
    with pytest.raises(InvalidRequest, match=sentence) as error:
        KeyVault("localhost:1", tls=tls)
    assert str(tmp_path) in str(error.value)
    assert "s3cret" not in str(error.value)


async def test_a_certificate_without_its_key_is_refused(tls: TLS) -> None:
    for half in (TLS(tls.ca, tls.certificate), TLS(tls.ca, None, tls.private_key)):
        with pytest.raises(InvalidRequest, match="must be given together"):
            KeyVault("localhost:1", tls=half)


@pytest.mark.parametrize(("do", "sentence"), BAD.values(), ids=BAD.keys())
async def test_files_that_go_bad_later_leave_the_connection_in_use(
    server: IdentityServer,
    tls: TLS,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    do: Callable[[Path], object],
    sentence: str,
) -> None:
    clock = Clock()
    connector = Connector(server.address, tls, insecure=False, clock=clock, file_clock=LONG_AGO)

    try:
        assert await whom_now(connector, clock) == ALICE
        do(tmp_path)
        with caplog.at_level(logging.INFO, "keyvault_client"):
            assert [await whom_now(connector, clock) for _ in range(5)] == [ALICE] * 5
        (line,) = [record.getMessage() for record in caplog.records]
        assert sentence in line
        assert "s3cret" not in line
        replace(tmp_path / "ca.pem", AUTHORITY.pem)
        FOR_BOB.write(tmp_path, "client")
        assert await whom_now(connector, clock) == ALICE
        assert await whom_now(connector, clock) == BOB
    finally:
        await connector.close()


async def test_files_that_change_while_they_are_read_are_not_used(
    server: IdentityServer, tls: TLS, tmp_path: Path
) -> None:
    """They are read once more: here a bundle lacks the CA when it is read, and has it a moment later."""
    clock, ca = Clock(), tmp_path / "ca.pem"
    connector = Connector(server.address, tls, insecure=False, clock=clock, file_clock=LONG_AGO)

    try:
        assert await whom_now(connector, clock) == ALICE
        FOR_BOB.write(tmp_path, "client")
        with changing_while_read(ca, Authority("another CA").pem, AUTHORITY.pem):
            assert [await whom_now(connector, clock) for _ in range(3)] == [ALICE] * 3
        assert await whom_now(connector, clock) == BOB
    finally:
        await connector.close()


@pytest.mark.slow
async def test_a_servers_other_name_is_verified(tls: TLS, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    files = AUTHORITY.issue(dns("vault.example")).write(folder, "server")
    credentials = ServerTls(TlsFiles(*files), meter=RecordedMeter()).credentials()
    async with identity_server(credentials, Identifier(certificates=False)) as server:
        for name, works in (("vault.example", True), ("other.example", False), (None, False)):
            async with KeyVault(server.address, tls=TLS(tls.ca, server_name=name), timeout=2) as vault:
                if works:
                    await whom(vault)
                    continue
                with pytest.raises(Unavailable, match=r"certificate is for another host name.*--server-name"):
                    await whom(vault)


@pytest.mark.process
@pytest.mark.slow
async def test_the_command_takes_a_servers_other_name(tls: TLS, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    files = AUTHORITY.issue(dns("vault.example")).write(folder, "server")
    credentials = ServerTls(TlsFiles(*files), meter=RecordedMeter()).credentials()
    line = (BIN / "keyvault", "generate-key", "prod/", "--ca", str(tls.ca), "--timeout", "5")
    async with identity_server(credentials, Identifier(certificates=False)) as server:
        for more, name in ((("--server-name", "vault.example"), ""), ((), "vault.example"), ((), "")):
            given = {"KEYVAULT_ADDRESS": server.address} | ({"KEYVAULT_SERVER_NAME": name} if name else {})
            done = await asyncio.to_thread(run_forked, (*line, *more), environment=os.environ | given, timeout=30)
            assert done.returncode == (0 if more or name else 6), done.stderr


@pytest.mark.slow
async def test_a_certificate_that_expires_in_use_is_named(server: IdentityServer, tls: TLS, tmp_path: Path) -> None:
    """A connection that stands goes on; a new one would fail in a handshake that names no cause."""
    CLIENTS.issue(uri(ALICE), until=3).write(tmp_path, "client")
    async with Relay(server.address).running() as relay, KeyVault(relay.address, tls=tls, timeout=5) as vault:
        assert await whom(vault) == ALICE
        await asyncio.sleep(4)
        assert await whom(vault) == ALICE
        relay.hang_up()
        async with asyncio.timeout(10):
            while relay.open:
                await asyncio.sleep(0.01)
        with pytest.raises(InvalidRequest, match="the client certificate expired at"):
            await whom(vault)


def test_an_empty_server_name_is_refused(tls: TLS) -> None:
    with pytest.raises(InvalidRequest, match="server name is empty"):
        KeyVault("localhost:1", tls=TLS(tls.ca, server_name=""))


class Relay:
    """Passes connections on to a server, and counts those that are open."""

    def __init__(self, target: str) -> None:
        self._port = int(target.rpartition(":")[2])
        self.open = 0
        self.address = ""
        self._writers: set[asyncio.StreamWriter] = set()

    def hang_up(self) -> None:
        """Close the connections that are open."""
        for writer in self._writers:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        async with listening(self._pass_on) as port:
            self.address = f"localhost:{port}"
            yield self

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self._writers.add(writer)
        try:
            await relay(self._port, reader, writer)
        finally:
            self._writers.discard(writer)
            self.open -= 1


@pytest.mark.slow
async def test_calls_share_a_connection_until_files_change(server: IdentityServer, tls: TLS, tmp_path: Path) -> None:
    """A call in flight keeps the old connection, which closes after it.

    Connections are counted by the calls that came over them: on a busy machine gRPC may need more than one try.
    """
    async with Relay(server.address).running() as relay, KeyVault(relay.address, tls=tls, timeout=60) as vault:
        await asyncio.gather(*(whom(vault) for _ in range(20)))
        slow = asyncio.create_task(whom(vault, SLOW))
        async with asyncio.timeout(30):
            await server.reached.wait()
        assert len(set(server.peers)) == 1
        FOR_BOB.write(tmp_path, "client")
        await until(vault, BOB)
        assert len(set(server.peers)) == 2
        server.go_on.set()
        assert await slow == ALICE
        async with asyncio.timeout(30):
            while relay.open != 1:
                await asyncio.sleep(0.01)
        assert await whom(vault) == BOB
        assert len(set(server.peers)) == 2


async def test_local_plaintext_never_goes_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with (
        on_ports(FakeKeyService(), FakeRecordStore()) as served,
        KeyVault(served.address, timeout=5) as vault,
    ):
        assert (await vault.generate_key("prod/")).scope == "prod/"
    listener.close()
    await listener.wait_closed()
    assert seen == []
