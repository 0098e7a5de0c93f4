"""Each language over TLS: it shows its certificate, believes only the right server, and sends a token to no other."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.authority import Authority, Issued, make_authority
from tests.interop.clients import LANGUAGES, Client
from tests.serving import server_process

EVERY_LANGUAGE = pytest.mark.parametrize("language", LANGUAGES)
WITH_TOKENS = pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "python"])


@pytest.fixture
def client(language: str, request: pytest.FixtureRequest) -> Client:
    made: Client = request.getfixturevalue(language)
    return made


@pytest.fixture(scope="module")
def localhost(authority: Authority) -> Issued:
    """A certificate for that name, and not for 127.0.0.1."""
    return authority.issue("localhost")


@pytest.fixture(scope="module")
def billing(authority: Authority) -> Issued:
    """A client's certificate."""
    return authority.issue("billing")


@pytest.fixture(scope="module")
def port(authority: Authority, localhost: Issued, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that asks for a certificate."""
    with server_process(
        tmp_path_factory.mktemp("tls") / "data",
        KEYVAULT_TLS_CERTIFICATE=str(localhost.certificate),
        KEYVAULT_TLS_PRIVATE_KEY=str(localhost.private_key),
        KEYVAULT_TLS_CLIENT_CA=authority.bundle,
    ) as server:
        yield server.address.rpartition(":")[2]


@EVERY_LANGUAGE
def test_a_record_lives_behind_client_certificates(
    client: Client, language: str, port: str, authority: Authority, billing: Issued, tmp_path: Path
) -> None:
    name, key, new_key = f"tls/{language}", tmp_path / "a.key", tmp_path / "b.key"
    known = client.at(f"localhost:{port}", ca=authority.bundle, **billing._asdict())
    assert known.create(name, key, b"one") == 1
    assert known.update(name, key, b"two") == 2
    assert known.rotate(name, key, new_key) == 3
    assert known.read(name, new_key) == b"two"
    assert known.delete(name, new_key) == 4


@EVERY_LANGUAGE
def test_no_stranger_is_spoken_to(
    client: Client, language: str, port: str, authority: Authority, billing: Issued, tmp_path: Path
) -> None:
    name, key = f"tls/{language}-strange", tmp_path / "a.key"
    (tmp_path / "other").mkdir()
    other = make_authority(tmp_path / "other")
    known = billing._asdict()
    client = replace(client, environment={"GRPC_VERBOSITY": "ERROR"})  # grpc's core in Python tells of handshakes
    client.at(f"localhost:{port}", ca=authority.bundle, **known).create(name, key, b"one")
    strange = [
        client.at(f"localhost:{port}", ca=other.bundle, timeout=2, **known),  # another authority signed for the server
        client.at(f"127.0.0.1:{port}", ca=authority.bundle, timeout=2, **known),  # it is a server of another name
        client.at(f"localhost:{port}", ca=authority.bundle, timeout=2),  # it asks for a certificate
    ]
    with ThreadPoolExecutor() as threads:
        tries = [threads.submit(each.refused, each.reading, name, "--key", key) for each in strange]
    assert all("RECORD_NOT_FOUND" not in each.result() for each in tries)


class Recorder(grpc.GenericRpcHandler):
    """Notes the authorization of each call and knows no method."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        metadata: Any = handler_call_details.invocation_metadata
        self.seen.append(dict(metadata).get("authorization"))


@asynccontextmanager
async def recording(certificate: Issued | None) -> AsyncIterator[tuple[Recorder, int]]:
    """A server that only notes; its port."""
    recorder = Recorder()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((recorder,))
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = certificate.private_key.read_bytes(), certificate.certificate.read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        yield recorder, port
    finally:
        await server.stop(None)


@WITH_TOKENS
async def test_a_token_goes_over_tls(client: Client, authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" the.token\n")
    async with recording(localhost) as (recorder, port):
        told = client.at(f"localhost:{port}", ca=authority.bundle, token_file=tmp_path / "token")
        line = await asyncio.to_thread(told.refused, "put", "tls/token", "--key", tmp_path / "a.key")
    assert line.startswith("kv: UNIMPLEMENTED")
    assert set(recorder.seen) == {"Bearer the.token"}


@WITH_TOKENS
async def test_a_token_never_goes_in_clear(client: Client, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the.token")
    async with recording(None) as (recorder, port):
        told = client.at(f"127.0.0.1:{port}", token_file=tmp_path / "token")
        done = await asyncio.to_thread(told.run, "put", "tls/token", "--key", tmp_path / "a.key")
    assert done.returncode in {1, 2}
    assert set(recorder.seen) <= {None}
    assert b"the.token" not in done.stderr
