"""An endpoint must show a certificate for the host's name: the SDK that is installed does not ask for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.credentials import NoCredentials
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.core.errors import BackendUnavailable
from tests.server.backends.aws.stub import Authority, Reply, Stub, stub
from tests.server.backends.aws.wire import listening, relay
from tests.support.engines import options

pytestmark = pytest.mark.usefixtures("aws_identity")


async def read_from(served: Stub, bundle: str | None) -> None:
    """Read a record that is absent. Raises BackendUnavailable if the server is not trusted."""
    async with open_clients(options(None, served.address, ca_bundle=bundle)) as (_, dynamodb):
        assert await DynamoRecordStore(dynamodb, "keyvault").get("acme", "k") is None


@pytest.mark.slow
async def test_a_certificate_for_the_hosts_name_is_believed(authority: Authority) -> None:
    async with stub(Reply(), tls=authority.server("localhost")) as served:
        await read_from(served, authority.bundle)
        assert len(served.requests) == 1


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1"])
@pytest.mark.slow
async def test_a_trusted_certificate_for_another_name_is_not(authority: Authority, name: str) -> None:
    async with stub(Reply(), tls=authority.server(name)) as served:
        with pytest.raises(BackendUnavailable):
            await read_from(served, authority.bundle)
        assert served.requests == []


@pytest.mark.slow
async def test_a_certificate_that_nobody_trusted_signed_is_not(authority: Authority) -> None:
    async with stub(Reply(), tls=authority.server("localhost")) as served:
        with pytest.raises(BackendUnavailable):
            await read_from(served, None)
        assert served.requests == []


@contextlib.asynccontextmanager
async def proxy() -> AsyncIterator[str]:
    """Run an HTTP proxy that accepts CONNECT; yield its address."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await relay(int(request.split()[1].rpartition(":")[2]), reader, writer)

    async with listening(connect) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "believed"), [("localhost", True), ("evil.example", False)])
async def test_behind_a_proxy_the_name_counts_as_well(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str, believed: bool
) -> None:
    async with proxy() as address, stub(Reply(), tls=authority.server(name)) as served:
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with contextlib.nullcontext() if believed else pytest.raises(BackendUnavailable):
            await read_from(served, authority.bundle)
        assert len(served.requests) == int(believed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "believed"), [("localhost", True), ("evil.example", False)])
async def test_a_credentials_endpoint_must_show_its_name_too(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, believed: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("web identity token")
    async with stub(Reply(500), tls=authority.server(name)) as sts, stub(Reply()) as served:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/keyvault")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.address)
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        with pytest.raises(NoCredentials):  # this STS has no credentials for anybody
            await read_from(served, None)
        assert bool(sts.requests) is believed
        assert all("web" in body for _, body in sts.requests)
