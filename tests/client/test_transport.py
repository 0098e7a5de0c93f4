"""What the transport knows of the contract, and what it reports when it cannot connect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509

from keyvault_api.names import METHODS
from keyvault_client import TLS, KeyVault, Unavailable, transport
from keyvault_client.connect_failures import ConnectFailures
from keyvault_client.transport import Backoff, Method
from keyvault_server.access.identity import Identifier
from keyvault_server.access.tls import ServerTls, TlsFiles
from tests.server.backends.aws.wire import listening
from tests.support.certificates import LOCALHOST, Authority, replace
from tests.support.identity_server import identity_server
from tests.support.meters import RecordedMeter

pytestmark = pytest.mark.slow

AUTHORITY = Authority()


class ThreeAttempts(Backoff):
    """A cause is known after the first attempt: three take into account that localhost has two addresses."""

    def __init__(self) -> None:
        super().__init__()
        self._retries = 2

    def wait(self, remaining: float, retry_after: float = 0.0) -> float | None:
        self._retries -= 1
        return super().wait(remaining, retry_after) if self._retries >= 0 else None


@pytest.fixture(autouse=True)
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline, which bounds attempts otherwise, is generous here."""
    monkeypatch.setattr(transport, "Backoff", ThreeAttempts)


@pytest.fixture
def tls(tmp_path: Path) -> TLS:
    replace(tmp_path / "ca.pem", AUTHORITY.pem)
    return TLS(tmp_path / "ca.pem")


async def cause(address: str, tls: TLS | None = None) -> str:
    """The cause that the client reports for this address."""
    async with KeyVault(address, tls=tls, timeout=20) as vault:
        with pytest.raises(Unavailable) as unavailable:
            await vault.generate_key("prod/")
    sentence = str(unavailable.value)
    prefix = f"cannot connect to {address}: "
    assert sentence.startswith(prefix)
    return sentence.removeprefix(prefix)


@asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[str]:
    """The address of a server that sends these bytes and hangs up."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async with listening(answer) as port:
        yield f"localhost:{port}"


@asynccontextmanager
async def tls_server(folder: Path, *names: x509.GeneralName) -> AsyncIterator[str]:
    """The address of a server whose certificate is for these names."""
    files = AUTHORITY.issue(*names).write(folder, "server")
    credentials = ServerTls(TlsFiles(*files), meter=RecordedMeter()).credentials()
    async with identity_server(credentials, Identifier(certificates=False)) as served:
        yield served.address


def test_the_methods_are_the_contracts() -> None:
    assert get_args(Method) == METHODS


async def test_a_refused_connection_is_named(tls: TLS) -> None:
    for options in (None, tls):
        assert await cause("127.0.0.1:1", options) == "connection refused. Is the server running?"


async def test_a_missing_socket_is_named(tmp_path: Path) -> None:
    assert await cause(f"unix:{tmp_path}/none") == "no such socket. Is the server running?"


async def test_a_host_name_that_does_not_resolve_is_named(tls: TLS) -> None:
    assert await cause("keyvault.invalid:1", tls) == "the host name does not resolve. Is the address right?"


async def test_a_server_without_tls_is_named(tls: TLS) -> None:
    async with identity_server(None, Identifier(certificates=False)) as served:
        assert "does not speak TLS" in await cause(served.address, tls)


async def test_a_server_with_tls_is_named(tmp_path: Path) -> None:
    async with tls_server(tmp_path, *LOCALHOST) as address:
        assert "Does it require TLS" in await cause(address)


async def test_a_certificate_for_another_host_is_named(tls: TLS, tmp_path: Path) -> None:
    async with tls_server(tmp_path, x509.DNSName("vault.example")) as address:
        assert "certificate is for another host name" in await cause(address, tls)


async def test_an_untrusted_server_certificate_is_named(tmp_path: Path) -> None:
    replace(tmp_path / "other.pem", Authority("another CA").pem)
    async with tls_server(tmp_path, *LOCALHOST) as address:
        for roots in (TLS(tmp_path / "other.pem"), TLS()):
            assert "the server's certificate is not trusted" in await cause(address, roots)


async def test_a_server_of_another_protocol_is_named() -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert await cause(address) == "there is no gRPC server on this address. Is the address right?"


async def test_a_listener_that_does_not_answer_is_named() -> None:
    async with listening(lambda _reader, _writer: asyncio.sleep(60)) as port:
        assert await cause(f"127.0.0.1:{port}") == (
            "what accepts connections there does not answer. Is the address right, and does the server require TLS?"
        )


async def test_a_server_that_hangs_up_is_named(tls: TLS) -> None:
    async with answering(b"") as address:
        assert "the server closed the connection" in await cause(address)
        assert "client certificate" in await cause(address, tls)


async def answer_502(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak just enough HTTP/2 to answer every request as a proxy without its server does."""
    writer.write(bytes.fromhex("000000040000000000"))  # SETTINGS
    await reader.readexactly(24)  # the connection preface
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        if head[3] == 1:  # HEADERS: answer with :status 502, END_STREAM and END_HEADERS
            writer.write(bytes.fromhex("0000050105") + head[5:9] + b"\x48\x03502")


async def test_a_proxy_without_its_server_is_named() -> None:
    async with listening(answer_502) as port, KeyVault(f"127.0.0.1:{port}", timeout=3) as vault:
        with pytest.raises(Unavailable, match="a proxy answered with HTTP status 502 instead of the server"):
            await vault.generate_key("prod/")


async def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch, tls: TLS) -> None:
    async with answering(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert "the proxy of the environment (https_proxy) refused to connect" in await cause("vault.invalid:1", tls)


def test_an_unknown_cause_gets_the_general_sentence() -> None:
    for tls in (True, False):
        assert ConnectFailures("vault.example:1", tls=tls).explain("unheard of") == (
            "cannot connect to vault.example:1: check the address, the TLS settings and the client certificate"
        )


def test_a_refused_address_does_not_hide_the_cause_of_another() -> None:
    failures = ConnectFailures("localhost:1", tls=False)
    refused, closed = "ipv6:%5B::1%5D:1: Connection refused", "ipv4:127.0.0.1:1: Socket closed"
    for details in (refused, closed, refused):
        sentence = failures.explain(f"failed to connect to all addresses; last error: UNKNOWN: {details}")
    assert "the server closed the connection" in sentence
    sentence = failures.explain("last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused")
    assert "Is the server running?" in sentence, "the latest failure of an address counts"


async def test_a_closed_client_says_so() -> None:
    vault = KeyVault("127.0.0.1:1")
    await vault.close()
    with pytest.raises(Unavailable, match="this client is closed; the request was not sent"):
        await vault.generate_key("prod/")


async def test_a_client_that_is_closed_while_it_connects_says_so() -> None:
    """Here the server accepts, and answers nothing."""
    connected, ended = asyncio.Event(), asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await ended.wait()
        writer.close()

    async with listening(say_nothing) as port, asyncio.timeout(20):
        vault = KeyVault(f"127.0.0.1:{port}", timeout=60)
        call = asyncio.create_task(vault.generate_key("prod/"))
        await connected.wait()
        await vault.close()
        with pytest.raises(Unavailable, match="this client is closed; the request was not sent"):
            await call
        ended.set()
