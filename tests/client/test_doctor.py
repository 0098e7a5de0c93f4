"""`keyvault doctor` against real servers, with each fault on the way to them."""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_client import TLS, DataKey
from keyvault_client.doctor import Examination, Finding
from keyvault_client.doctor_connection import Broken, handshake, resolve
from tests.server.backends.aws.wire import listening
from tests.support.certificates import HOUR, LOCALHOST, Authority, dns, replace, uri
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.servers import Served, grpc_server, on_ports
from tests.support.shell import Shell

AUTHORITY, CLIENTS = Authority(), Authority("clients' CA")
ALICE, BOB = "spiffe://keyvault.test/alice", "spiffe://keyvault.test/bob"
POLICY = "".join(
    f"""
[[caller]]
identity = "{identity}"
tenant = "acme"

[[caller.allow]]
methods = ["Read"]
names = ["prod/*"]
"""
    for identity in (ALICE, "jwt:service-7")
)


async def examine(address: str, tls: TLS | None = None, **more: Any) -> dict[str, Finding]:
    """Take all steps; return their findings by name."""
    findings = await Examination(address, tls, **{"seconds": 10.0} | more).findings()
    return {finding.check: finding for finding in findings}


def states(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.state for name, finding in found.items() if finding.state != "ok"}


def only_problem(found: dict[str, Finding]) -> Finding:
    (problem,) = (finding for finding in found.values() if finding.state == "problem")
    return problem


@asynccontextmanager
async def tls_server(folder: Path, *, name: str = "localhost") -> AsyncIterator[str]:
    """Serve with TLS for callers whom the policy names by their certificates; yield host:port."""
    certificate, key = AUTHORITY.issue(dns(name)).write(folder, "server")
    replace(folder / "clients.pem", CLIENTS.pem)
    replace(folder / "policy.toml", POLICY.encode())
    settings = {"tls_certificate": certificate, "tls_private_key": key, "tls_client_ca": folder / "clients.pem"}
    async with on_ports(FakeKeyService(), FakeRecordStore(), policy=folder / "policy.toml", **settings) as served:
        yield served.address.replace("127.0.0.1", "localhost")


def files(folder: Path, identity: str = ALICE, ca: bytes = AUTHORITY.pem) -> TLS:
    """A client's files."""
    replace(folder / "ca.pem", ca)
    return TLS(folder / "ca.pem", *CLIENTS.issue(uri(identity)).write(folder, "client"))


def _refusal(address: str, tls: TLS, seconds: float = 5.0) -> str:
    """Why there is no handshake."""
    with pytest.raises(Broken) as broken:
        handshake(resolve(address)[0], "localhost", tls, seconds)
    return str(broken.value)


async def test_a_server_in_plaintext_has_no_problem(server: Served) -> None:
    found = await examine(server.address)
    assert states(found) == {"tls": "skipped"}
    assert found["identity"].text.startswith("anonymous, as the server (")
    assert found["policy"].text == "tenant default: " + found["policy"].text.partition(": ")[2]
    assert list(found) == ["address", "name", "tcp", "tls", "identity", "policy", "clock"]


async def test_a_server_with_tls_has_no_problem(tmp_path: Path) -> None:
    async with tls_server(tmp_path) as address:
        found = await examine(address, files(tmp_path))
    assert states(found) == {}
    assert "is trusted, and valid until" in found["tls"].text
    assert found["tls"].text.endswith("which is soon")
    assert found["policy"].text == "tenant acme: Read on prod/*"
    assert "after the begin of the server's certificate" in found["clock"].text
    assert found["file"].text.endswith("client.key: nobody else can read or write it")


@pytest.mark.parametrize(
    ("address", "check", "text"),
    [
        ("127.0.0.1", "address", "name its port"),
        ("vault.example:50051", "address", "refusing plaintext to another machine"),
        ("127.0.0.1:1", "tcp", "127.0.0.1: connection refused. Is the server running, and is the port right?"),
        ("unix:/nowhere/socket", "tcp", "no such socket. Is the server running?"),
    ],
)
async def test_a_wrong_address_is_found_at_its_step(address: str, check: str, text: str) -> None:
    if check == "address":
        found = {"address": (await Examination(address, seconds=1).findings())[0]}
    else:
        found = await examine(address)
        assert states(found) == {"tcp": "problem", "tls": "skipped", "identity": "skipped", "policy": "skipped"}
    assert found[check].state == "problem"
    assert text in found[check].text


async def test_a_name_that_does_not_resolve_is_found(tmp_path: Path) -> None:
    problem = only_problem(await examine("nowhere.invalid:50051", files(tmp_path), seconds=1))
    assert problem.check == "name"
    assert problem.text.startswith("nowhere.invalid does not resolve: ")


async def test_a_wrong_ca_is_found(tmp_path: Path) -> None:
    async with tls_server(tmp_path) as address:
        found = await examine(address, files(tmp_path, ca=Authority().pem))
    assert states(found) == {"tls": "problem", "identity": "skipped", "policy": "skipped"}
    assert f"is not signed by the CA {tmp_path / 'ca.pem'}. Does the CA (--ca)" in found["tls"].text


async def test_an_expired_certificate_is_shown_with_its_dates(tmp_path: Path) -> None:
    expired = AUTHORITY.issue(*LOCALHOST, since=-2 * HOUR, until=-HOUR)  # our server would not start with it
    credentials = grpc.ssl_server_credentials([(expired.private_key, expired.certificate)])
    async with grpc_server(lambda _: None, credentials=credentials) as port:
        problem = only_problem(await examine(f"localhost:{port}", files(tmp_path)))
    assert problem.check == "tls"
    assert "the server's certificate, or its CA's, has expired (20" in problem.text
    assert "is this machine's clock wrong?" in problem.text


async def test_a_certificate_of_another_host_is_found(tmp_path: Path) -> None:
    async with tls_server(tmp_path, name="vault.example") as address:
        problem = only_problem(await examine(address, files(tmp_path)))
        tls = TLS(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key", "vault.example")
        assert states(await examine(address, tls)) == {}
    assert problem.text.startswith("the server's certificate is not for localhost. For a forwarded port")


async def test_a_client_certificate_that_is_not_accepted_is_found(tmp_path: Path) -> None:
    async with tls_server(tmp_path) as address:
        replace(tmp_path / "ca.pem", AUTHORITY.pem)
        missing = only_problem(await examine(address, TLS(tmp_path / "ca.pem")))
        foreign = Authority().issue(uri(ALICE)).write(tmp_path, "foreign")
        refused = only_problem(await examine(address, TLS(tmp_path / "ca.pem", *foreign)))
    assert missing.check == refused.check == "tls"
    assert missing.text.endswith("Does it require a client certificate? Give one (--certificate, --private-key)")
    assert refused.text.endswith(f"Does it trust the client certificate {tmp_path / 'foreign.pem'}?")


def test_what_a_proxy_says_about_the_certificate_is_shown(tmp_path: Path) -> None:
    """gRPC's servers close the connection without a word; others send an alert."""
    replace(tmp_path / "ca.pem", AUTHORITY.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*AUTHORITY.issue(*LOCALHOST).write(tmp_path, "proxy"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=CLIENTS.pem.decode())
    foreign = Authority().issue(uri(ALICE)).write(tmp_path, "foreign")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse_two() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    context.wrap_socket(connection, server_side=True)

        proxy = threading.Thread(target=refuse_two)
        proxy.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        missing = _refusal(address, TLS(tmp_path / "ca.pem"))
        unknown = _refusal(address, TLS(tmp_path / "ca.pem", *foreign))
        proxy.join()
    assert missing == "the server refused the client certificate (certificate required): give one that it trusts"
    assert unknown == "the server refused the client certificate (unknown ca): give one that it trusts"


@pytest.mark.medium
async def test_a_server_that_says_nothing_is_found(tmp_path: Path) -> None:
    replace(tmp_path / "ca.pem", AUTHORITY.pem)
    async with listening(lambda _reader, _writer: asyncio.sleep(60)) as port:
        refusal = await asyncio.to_thread(_refusal, f"localhost:{port}", TLS(tmp_path / "ca.pem"), 0.2)
    assert refusal == "no answer within 0.2 s. Does the server speak TLS on this address?"


@pytest.mark.medium
async def test_tls_on_one_side_alone_is_found(server: Served, tmp_path: Path) -> None:
    found = await examine(server.address.replace("127.0.0.1", "localhost"), files(tmp_path))
    assert "does not speak TLS on this address" in only_problem(found).text
    async with tls_server(tmp_path) as address:
        problem = only_problem(await examine(address, seconds=2))
    assert problem.check == "identity"
    assert "Does it require TLS" in problem.text


async def test_unusable_files_of_tls_are_found(server: Served, tmp_path: Path) -> None:
    tls = files(tmp_path)
    replace(tmp_path / "client.pem", CLIENTS.issue(uri(ALICE), until=-1).certificate)
    assert "is not the private key of the certificate" in (await examine(server.address, tls))["tls"].text
    CLIENTS.issue(uri(ALICE), until=-1).write(tmp_path, "client")
    assert "client.pem: the certificate expired at" in (await examine(server.address, tls))["tls"].text


async def test_an_identity_that_the_policy_does_not_know_is_found(tmp_path: Path) -> None:
    async with tls_server(tmp_path) as address:
        found = await examine(address, files(tmp_path, BOB))
    assert only_problem(found).check == "policy"
    assert found["policy"].text.startswith(f"it does not know {BOB}: ask the operator for an entry")


async def test_tokens_are_judged_by_the_server_and_their_dates(tmp_path: Path) -> None:
    issuer, now = Issuer(), int(time.time())
    replace(tmp_path / "keys.json", issuer.key_set())
    replace(tmp_path / "policy.toml", POLICY.encode())
    settings = {"jwt_keys": str(tmp_path / "keys.json"), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    token = tmp_path / "token"
    async with on_ports(FakeKeyService(), FakeRecordStore(), policy=tmp_path / "policy.toml", **settings) as served:

        async def found(text: str, **more: Any) -> dict[str, Finding]:
            replace(token, text.encode())
            return await examine(served.address, token_file=token, **more)

        good = issuer.token()
        assert states(await found(good)) == {"tls": "skipped"}
        wrong = only_problem(await found(issuer.token(aud="another")))
        expired = await found(issuer.token(exp=now - 600))
        behind = only_problem(await found(good, now=lambda: now - 3600.0))
        opaque = only_problem(await found("opaque"))
        missing = only_problem(await examine(served.address))
    assert wrong.check == opaque.check == missing.check == "identity"
    assert wrong.text.endswith(f"Get a new token into {token}, for this server's issuer and audience")
    assert "Give a token (--token-file) or a client certificate" in missing.text
    assert states(expired) == {"tls": "skipped", "identity": "problem", "policy": "skipped", "clock": "problem"}
    assert "the token expired 0:10:0" in expired["clock"].text
    assert (behind.check, "before the token began" in behind.text) == ("clock", True)
    for finding in (wrong, opaque, *expired.values()):
        assert good.split(".")[2] not in finding.text


async def test_a_clock_of_long_ago_is_found(server: Served) -> None:
    problem = only_problem(await examine(server.address, now=lambda: 1e9))
    assert problem.text == "2001-09-09 01:46:40 UTC is before this release: set this machine's clock"


async def test_key_files_are_checked_like_those_of_ssh(server: Served, tmp_path: Path) -> None:
    key = DataKey("default", "prod/", b"wrapped", bytes(32))
    key.save(tmp_path / "good.key")
    key.save(tmp_path / "open.key")
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "bad.key").write_text("{}")
    (tmp_path / "bad.key").chmod(0o600)
    paths = [tmp_path / f"{name}.key" for name in ("good", "open", "bad", "gone")]
    *_, good, shared, bad, gone = await Examination(server.address, key_files=paths).findings()
    assert good.text == f"{paths[0]}: a key of tenant default for prod/"
    assert (shared.state, f"{paths[1]} has mode 0644, so others can read" in shared.text) == ("problem", True)
    assert bad.text.startswith(f"{paths[2]}: not a data key")
    assert gone.text == f"{paths[3]}: No such file or directory"


async def test_a_key_folder_is_checked_file_by_file(server: Served, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    *_, missing = await Examination(server.address, key_folder=folder).findings()
    assert (missing.state, missing.text.startswith(f"{folder}: no such folder")) == ("problem", True)
    folder.mkdir(mode=0o700)
    *_, empty = await Examination(server.address, key_folder=folder).findings()
    assert (empty.state, empty.text) == ("ok", f"{folder}: no key yet")
    DataKey("default", "prod/", b"wrapped", bytes(32)).save(folder / "prod.key")
    *_, good = await Examination(server.address, key_folder=folder).findings()
    assert (good.state, good.text) == ("ok", f"{folder}: prod/")
    (folder / "prod.key").chmod(0o666)
    *_, bad = await Examination(server.address, key_folder=folder).findings()
    assert (bad.state, "has mode 0666" in bad.text) == ("problem", True)


@pytest.mark.process
def test_the_command_shows_a_line_for_each_step(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    lines = shell.ok("doctor --key prod.key").decode().splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["ok", "address"], ["ok", "name"], ["ok", "tcp"]]
    assert lines[-1] == "ok       key file   prod.key: a key of tenant default for prod/"
    done = shell.run("doctor --json --address 127.0.0.1:1")
    found = [json.loads(line) for line in (done.stdout or b"").splitlines()]
    assert done.returncode == 1
    assert [one["check"] for one in found if one["state"] == "problem"] == ["tcp"]
