"""Bearer tokens: sent where they may be, followed when they change, and never shown."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyvault_client import TLS, DataKey, Denied, InvalidRequest, KeyVault, OutcomeUnknown, Unavailable
from keyvault_client.file_changes import LOOK_SECONDS
from keyvault_client.tokens import TokenFile
from keyvault_server.access.identity import Identifier
from keyvault_server.access.key_source import open_key_source
from keyvault_server.access.tls import ServerTls, TlsFiles
from keyvault_server.access.tokens import TokenRules, Tokens
from keyvault_server.core.errors import BackendUnavailable
from tests.support.certificates import LOCALHOST, Authority, replace
from tests.support.changing_file import changing_while_read
from tests.support.clock import LONG_AGO, Clock
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.forked import run_forked
from tests.support.identity_server import IdentityServer, caller_of, identity_server
from tests.support.issuer import AUDIENCE, ISSUER, SUBJECT, Issuer
from tests.support.meters import RecordedMeter
from tests.support.processes import BIN
from tests.support.servers import on_ports

ISSUED_BY = Issuer()
GARBAGE = ["", "  \n", "two words", "a\nb", "caf\u00e9", "x" * 8_001, "\x00"]


@pytest.fixture
async def identifier(tmp_path: Path) -> AsyncIterator[Identifier]:
    (tmp_path / "keys.json").write_bytes(ISSUED_BY.key_set())
    async with open_key_source(str(tmp_path / "keys.json"), meter=RecordedMeter()) as keys:
        yield Identifier(certificates=False, tokens=Tokens(TokenRules(ISSUER, AUDIENCE), keys))


@pytest.fixture
async def server(identifier: Identifier) -> AsyncIterator[IdentityServer]:
    """A server in plaintext that knows its callers by their tokens."""
    async with identity_server(None, identifier) as served:
        yield served


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(ISSUED_BY.token() + "\n")
    return path


async def whom(vault: KeyVault) -> str:
    """Whom the server takes the client for: this one names the caller in the wrapped key."""
    return caller_of((await vault.generate_key("prod/")).wrapped_key)


async def test_the_token_of_a_file_is_sent(server: IdentityServer, token_file: Path) -> None:
    async with KeyVault(server.address, token_file=token_file) as vault:
        assert await whom(vault) == f"jwt:{SUBJECT}"


@pytest.mark.parametrize("around", [b"\xef\xbb\xbf%s\r\n", b"\xef\xbb\xbf \t%s", b"\n\n%s\n\n"])
async def test_a_byte_order_mark_does_not_belong_to_a_token(
    server: IdentityServer, token_file: Path, around: bytes
) -> None:
    replace(token_file, around % ISSUED_BY.token().encode())
    async with KeyVault(server.address, token_file=token_file) as vault:
        assert await whom(vault) == f"jwt:{SUBJECT}"


async def test_a_token_that_cannot_be_reloaded_is_logged_and_stays(
    token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    source = TokenFile(token_file, clock, LONG_AGO)
    first = await source()
    replace(token_file, b"two words")
    assert await source() == first
    assert not caplog.records, "the file is looked at once a second"
    for _ in range(3):
        clock.now += LOOK_SECONDS
        assert [await source() for _ in range(2)] == [first] * 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"reload failed: {token_file}: not a bearer token")
    assert "two words" not in line
    replace(token_file, b"another")
    clock.now += LOOK_SECONDS
    assert await source() == first
    clock.now += LOOK_SECONDS
    assert await source() == "another"


async def test_a_token_that_is_being_written_is_not_sent(token_file: Path) -> None:
    """Half a token is a token by its letters; the server would answer UNAUTHENTICATED."""
    clock = Clock()
    source = TokenFile(token_file, clock, LONG_AGO)
    first = await source()
    with token_file.open("wb", buffering=0) as file:
        for part in (b"the.", b"new.", b"token"):
            file.write(part)
            clock.now += LOOK_SECONDS
            assert await source() == first
    clock.now += LOOK_SECONDS
    assert await source() == "the.new.token"


async def test_a_token_that_changes_while_it_is_read_is_not_sent(
    token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for half in (b"hal", b"two words"):
        clock = Clock()
        source = TokenFile(token_file, clock, LONG_AGO)
        first = await source()
        with changing_while_read(token_file, half, b"whole"):
            for _ in range(3):
                clock.now += LOOK_SECONDS
                assert await source() == first
        clock.now += LOOK_SECONDS
        assert await source() == "whole"
    assert not caplog.records


def test_a_token_has_one_source(token_file: Path) -> None:
    async def source() -> str:
        return ISSUED_BY.token()

    with pytest.raises(InvalidRequest, match="give token_file or token, not both"):
        KeyVault(token_file=token_file, token=source)


async def test_the_token_is_sent_in_tls(identifier: Identifier, token_file: Path, tmp_path: Path) -> None:
    authority = Authority()
    replace(tmp_path / "ca.pem", authority.pem)
    files = TlsFiles(*authority.issue(*LOCALHOST).write(tmp_path, "server"))
    credentials = ServerTls(files, meter=RecordedMeter()).credentials()
    async with (
        identity_server(credentials, identifier) as served,
        KeyVault(served.address, tls=TLS(tmp_path / "ca.pem"), token_file=token_file) as vault,
    ):
        assert await whom(vault) == f"jwt:{SUBJECT}"


async def test_without_a_token_the_server_says_what_to_do(server: IdentityServer) -> None:
    async with KeyVault(server.address) as vault:
        with pytest.raises(Denied, match="authorization: Bearer") as denied:
            await whom(vault)
        assert (denied.value.reason, bool(denied.value.request_id)) == ("UNAUTHENTICATED", True)


async def test_a_rejected_token_is_denied_and_not_shown(server: IdentityServer, token_file: Path) -> None:
    token = ISSUED_BY.token(exp=1)
    replace(token_file, token.encode())
    async with KeyVault(server.address, token_file=token_file) as vault:
        with pytest.raises(Denied, match="expired") as denied:
            await whom(vault)
    assert denied.value.reason == "UNAUTHENTICATED"
    assert token.split(".")[1] not in f"{denied.value!r} {denied.value}"


@pytest.mark.slow
async def test_a_changed_file_is_reloaded_and_a_bad_one_is_not_used(
    server: IdentityServer, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with KeyVault(server.address, token_file=token_file) as vault:
        assert await whom(vault) == f"jwt:{SUBJECT}"
        replace(token_file, b"s3cret garbage")
        with caplog.at_level(logging.INFO, "keyvault_client"):
            async with asyncio.timeout(10):
                while not caplog.records:
                    assert await whom(vault) == f"jwt:{SUBJECT}"
                    await asyncio.sleep(0.05)
        (line,) = [record.getMessage() for record in caplog.records]
        assert str(token_file) in line
        assert "s3cret" not in line
        replace(token_file, ISSUED_BY.token(sub="somebody-else").encode())
        async with asyncio.timeout(10):
            while await whom(vault) != "jwt:somebody-else":
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("content", GARBAGE)
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidRequest, match="not a bearer token") as refused:
        KeyVault(token_file=tmp_path / "token")
    assert content.strip()[:20] not in str(refused.value) or not content.strip()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        KeyVault(token_file=tmp_path / "nothing")


async def test_a_function_is_asked_for_the_token_of_every_call(server: IdentityServer) -> None:
    subjects = ["one", "two", "three"]

    async def token() -> str:
        await asyncio.sleep(0)
        return ISSUED_BY.token(sub=subjects.pop(0))

    async with KeyVault(server.address, token=token) as vault:
        assert [await whom(vault) for _ in range(3)] == ["jwt:one", "jwt:two", "jwt:three"]


@pytest.mark.slow
async def test_a_failing_function_is_unavailable_and_not_quoted(server: IdentityServer) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise RuntimeError("s3cret")
        return ISSUED_BY.token()

    async with KeyVault(server.address, token=token) as vault:
        assert await whom(vault) == f"jwt:{SUBJECT}", "it is asked again"
        asked = -100
        with pytest.raises(
            Unavailable, match=r"cannot get a token \(RuntimeError\); the request was not sent"
        ) as failure:
            await vault.generate_key("prod/", timeout=0.3)
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize("content", GARBAGE)
async def test_a_function_that_returns_a_bad_token_is_refused(server: IdentityServer, content: str) -> None:
    async def token() -> str:
        return content

    async with KeyVault(server.address, token=token) as vault:
        with pytest.raises(InvalidRequest, match="invalid bearer token"):
            await whom(vault)


@pytest.mark.medium
async def test_a_function_that_hangs_ends_with_the_timeout(
    server: IdentityServer,
) -> None:
    async def token() -> str:
        await asyncio.Event().wait()
        return ""

    async with KeyVault(server.address, token=token, timeout=0.3) as vault:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="timed out while getting a token; the request was not sent"):
                await whom(vault)


@pytest.mark.parametrize("insecure", [False, True])
def test_a_token_never_goes_to_another_machine_in_plaintext(token_file: Path, *, insecure: bool) -> None:
    async def token() -> str:
        return ISSUED_BY.token()

    for address in ("vault.example:50051", "10.0.0.1:50051", "dns:///vault.example:50051"):
        with pytest.raises(InvalidRequest, match="without TLS"):
            KeyVault(address, token_file=token_file, insecure=insecure)
        with pytest.raises(InvalidRequest, match="without TLS"):
            KeyVault(address, token=token, insecure=insecure)
    with pytest.raises(InvalidRequest, match="not both"):
        KeyVault(token_file=token_file, token=token)


@pytest.mark.medium
async def test_a_sent_mutation_is_unknown_if_the_next_token_is_bad() -> None:
    records, given = FakeRecordStore(), [ISSUED_BY.token(), ISSUED_BY.token(), "no token"]

    async def token() -> str:
        return given.pop(0)

    async with on_ports(FakeKeyService(), records) as served, KeyVault(served.address, token=token) as vault:
        key: DataKey = await vault.generate_key("prod/a")
        records.fail_after("put_if", BackendUnavailable())
        with pytest.raises(OutcomeUnknown, match="read the record"):
            await vault.create("prod/a", b"1", key=key)
    assert given == []


async def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The command, as a shell runs it."""
    command: list[str | Path] = [BIN / "keyvault", *arguments]
    done = await asyncio.to_thread(run_forked, command, environment=os.environ | environment, timeout=30)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.process
@pytest.mark.slow
async def test_the_command_takes_a_file_and_never_a_token(
    server: IdentityServer, token_file: Path, tmp_path: Path
) -> None:
    where = ("generate-key", "prod/", "--address", server.address)
    for given in (
        await command(*where, "--token-file", str(token_file)),
        await command(*where, KEYVAULT_TOKEN_FILE=str(token_file)),
    ):
        status, out, err = given
        assert (status, err) == (0, "")
        assert caller_of(DataKey.from_json(out).wrapped_key) == f"jwt:{SUBJECT}"
    status, out, err = await command(*where)
    assert (status, out) == (5, "")
    assert "authorization: Bearer" in err
    assert "[UNAUTHENTICATED " in err
    status, out, err = await command(*where, "--token", ISSUED_BY.token())
    assert (status, out) == (2, "")
    replace(tmp_path / "empty", b"")
    status, out, err = await command(*where, "--token-file", str(tmp_path / "empty"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "not a bearer token" in err
