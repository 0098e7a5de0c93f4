"""Each language over TLS: it shows its certificate, believes only the right server, and sends a token to no other."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs
from tests.support.certificates import Authority, dns
from tests.support.processes import server_process
from tests.support.servers import grpc_server

pytestmark = MARKS
EVERY_LANGUAGE = pytest.mark.parametrize("language", LANGUAGES)


POLICY = """
[[caller]]
identity = "dns:billing"
tenant = "default"
[[caller.allow]]
methods = ["*"]
names = ["*"]
"""


@dataclass(frozen=True)
class Files:
    """An authority's root, and a server and a client that it signed for, in PEM."""

    ca: Path
    server: tuple[Path, Path]
    """For localhost, and not for 127.0.0.1."""
    client: tuple[Path, Path]

    @property
    def shown(self) -> dict[str, Path]:
        """The settings of a client that shows its certificate."""
        return {"certificate": self.client[0], "private_key": self.client[1]}


def issued(folder: Path) -> Files:
    """By an authority of its own."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    server, client = authority.issue(dns("localhost")), authority.issue(dns("billing"))
    return Files(folder / "ca.pem", server.write(folder, "localhost"), client.write(folder, "billing"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issued(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that asks for a certificate."""
    settings = {
        "KEYVAULT_TLS_CERTIFICATE": files.server[0],
        "KEYVAULT_TLS_PRIVATE_KEY": files.server[1],
        "KEYVAULT_TLS_CLIENT_CA": files.ca,
    }
    data = tmp_path_factory.mktemp("tls") / "data"
    settings["KEYVAULT_POLICY"] = data.with_name("policy.toml")
    settings["KEYVAULT_POLICY"].write_text(POLICY)
    with server_process(data, **{name: str(path) for name, path in settings.items()}) as server:
        yield server.address.rpartition(":")[2]


@EVERY_LANGUAGE
def test_a_record_lives_behind_client_certificates(
    language: str, programs: Programs, port: str, files: Files, tmp_path: Path
) -> None:
    client = programs.get(language)
    name, key, new_key = f"tls/{language}", tmp_path / "a.key", tmp_path / "b.key"
    known = client.at(f"localhost:{port}", ca=files.ca, **files.shown)
    assert known.create(name, key, b"one") == 1
    assert known.update(name, key, b"two") == 2
    assert known.rotate(name, key, new_key) == 3
    assert known.read(name, new_key) == b"two"
    assert known.delete(name, new_key) == 4


@EVERY_LANGUAGE
def test_an_unidentified_server_gets_no_request(
    language: str, programs: Programs, port: str, files: Files, tmp_path: Path
) -> None:
    client = replace(programs.get(language), environment={"GRPC_VERBOSITY": "ERROR"})  # else Python's core adds lines
    name, key = f"tls/{language}-strange", tmp_path / "a.key"
    client.at(f"localhost:{port}", ca=files.ca, **files.shown).create(name, key, b"one")
    other = issued(tmp_path)
    strange = [
        client.at(f"localhost:{port}", ca=other.ca, timeout=2, **files.shown),  # another authority signed for it
        client.at(f"127.0.0.1:{port}", ca=files.ca, timeout=2, **files.shown),  # it has another name
        client.at(f"localhost:{port}", ca=files.ca, timeout=2, **other.shown),  # it does not know this client
        client.at(f"localhost:{port}", ca=files.ca, timeout=2),  # it asks for a certificate
    ]
    with ThreadPoolExecutor() as threads:
        tries = [threads.submit(each.refused, each.word("read"), name, "--key", key) for each in strange]
    assert all("RECORD_NOT_FOUND" not in each.result() for each in tries)


class Recorder(grpc.GenericRpcHandler):
    """Notes the authorization of each call and knows no method."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        metadata: Any = handler_call_details.invocation_metadata
        self.seen.append(dict(metadata).get("authorization"))


@asynccontextmanager
async def recording(files: Files | None) -> AsyncIterator[tuple[Recorder, int]]:
    """A server that only notes; its port."""
    recorder, credentials = Recorder(), None
    if files is not None:
        certificate, key = (path.read_bytes() for path in files.server)
        credentials = grpc.ssl_server_credentials([(key, certificate)])
    async with grpc_server(
        lambda server: server.add_generic_rpc_handlers((recorder,)), credentials=credentials
    ) as port:
        yield recorder, port


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key of no use, since no server is asked for one here."""
    content = {"tenant": "default", "scope": "tls/token"} | dict.fromkeys(
        ("plaintext_key", "wrapped_key"), "A" * 43 + "="
    )
    (tmp_path / "a.key").touch(mode=0o600)
    (tmp_path / "a.key").write_text(json.dumps(content))
    (tmp_path / "a.key").chmod(0o600)
    return tmp_path / "a.key"


@EVERY_LANGUAGE
async def test_a_token_goes_over_tls(
    language: str, programs: Programs, files: Files, key: Path, tmp_path: Path
) -> None:
    client = programs.get(language)
    (tmp_path / "token").write_text(" the.token\n")
    async with recording(files) as (recorder, port):
        told = client.at(f"localhost:{port}", ca=files.ca, token_file=tmp_path / "token")
        await asyncio.to_thread(told.refused, told.word("read"), "tls/token", "--key", key)
    assert set(recorder.seen) == {"Bearer the.token"}


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != "python"])  # which trusts its own machine
async def test_a_token_never_goes_in_clear(language: str, programs: Programs, key: Path, tmp_path: Path) -> None:
    client = programs.get(language)
    (tmp_path / "token").write_text("the.token")
    async with recording(None) as (recorder, port):
        told = client.at(f"127.0.0.1:{port}", token_file=tmp_path / "token")
        done = await asyncio.to_thread(told.run, told.word("read"), "tls/token", "--key", key)
    assert done.returncode in {1, 2}
    assert set(recorder.seen) <= {None}
    assert b"the.token" not in done.stderr
