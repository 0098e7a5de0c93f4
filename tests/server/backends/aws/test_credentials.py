"""Credentials from the SDK's own chain, before endpoints that are slow, refuse or give out what soon expires."""

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import pytest

from keyvault_server.backends.aws.clients import open_aws, open_clients
from keyvault_server.backends.aws.credential_chain import CredentialChain
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.backends.aws.setup import create_backend
from keyvault_server.core.errors import BackendUnavailable, OperatorError
from keyvault_server.rpc.health import Readiness
from tests.server.backends.aws.standins.account import Account
from tests.server.backends.aws.stub import Reply, Stub, aws_error, stub
from tests.support.credential_endpoints import (
    ROLE,
    SECRET,
    CredentialEndpoint,
    container,
    credential_endpoint,
    identity_from,
    instance,
    web_identity,
)
from tests.support.engines import options

pytestmark = [pytest.mark.usefixtures("aws_identity"), pytest.mark.slow]

ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
LIFETIME = 2.0
"""Of credentials that a test lets expire, in seconds."""


@pytest.fixture
async def endpoint() -> AsyncIterator[CredentialEndpoint]:
    async with credential_endpoint() as made:
        yield made


@pytest.fixture
def sts(endpoint: CredentialEndpoint, tmp_path: Path) -> Iterator[CredentialEndpoint]:
    """An STS that the credentials come from."""
    with web_identity(endpoint, tmp_path):
        yield endpoint


@asynccontextmanager
async def answering(**changed: object) -> AsyncIterator[tuple[KmsKeyService, DynamoRecordStore, Stub]]:
    """Open both ports on a stub that says yes, without the checks of a start."""
    async with stub(Reply()) as served, open_clients(options(served.address, served.address, **changed)) as clients:
        yield KmsKeyService(clients[0], {"1": ARN}), DynamoRecordStore(clients[1], "keyvault"), served


@asynccontextmanager
async def with_expired(
    sts: CredentialEndpoint, **changed: object
) -> AsyncIterator[tuple[KmsKeyService, DynamoRecordStore, Stub]]:
    """Open both ports, with credentials that have expired when the body begins; the next ones last."""
    sts.lifetime = LIFETIME
    async with answering(**changed) as ports:
        sts.lifetime = 3600.0
        await asyncio.sleep(LIFETIME)
        yield ports


async def refusal(given: AwsOptions) -> str:
    """Return the one line with which a start is refused."""
    with pytest.raises(OperatorError) as refused:
        async with open_aws(given):
            pass
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
    return str(refused.value)


async def start_refused() -> str:
    """Return the one line with which a start is refused whatever AWS itself would say."""
    async with stub(Reply()) as served:
        return await refusal(options(served.address, served.address, master_keys={"1": ARN}))


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what would be in the server's log: our lines, and libraries' from WARNING on."""
    return [one for one in caplog.records if one.name.startswith("keyvault_server") or one.levelno >= logging.WARNING]


async def test_a_slow_sts_only_delays_the_start(
    sts: CredentialEndpoint, standins: Account, standin_options: AwsOptions
) -> None:
    """Its answer may take longer than an attempt at KMS, and longer than a call."""
    sts.delay = 3.0
    async with open_aws(dataclasses.replace(standin_options, call_timeout=2.0)) as (keys, records):
        assert len((await keys.generate("acme", "prod/")).plaintext) == 32
        assert await records.get("acme", "k") is None
    assert sts.requests == 1


@pytest.mark.parametrize("source", [container, instance], ids=["container", "instance"])
async def test_a_slow_endpoint_of_the_machine_only_delays_the_start(
    endpoint: CredentialEndpoint, source: Callable[[CredentialEndpoint], AbstractContextManager[None]]
) -> None:
    endpoint.delay = 1.3
    with source(endpoint):
        async with answering(call_timeout=1.0) as (_, records, _served):
            assert await records.get("acme", "k") is None


async def test_an_assumed_role_waits_for_a_slow_sts(endpoint: CredentialEndpoint, tmp_path: Path) -> None:
    config = tmp_path / "config"
    source = f"[profile source]\naws_access_key_id = SOURCE\naws_secret_access_key = {SECRET}\n"
    config.write_text(f"{source}[profile role]\nrole_arn = {ROLE}\nsource_profile = source\n")
    endpoint.delay = 1.3
    with identity_from(AWS_CONFIG_FILE=str(config), AWS_PROFILE="role", AWS_ENDPOINT_URL_STS=endpoint.address):
        async with answering(call_timeout=1.0) as (_, records, served):
            assert await records.get("acme", "k") is None
            assert served.keys == ["KEY1"]


@pytest.mark.parametrize("failures", [1, 2])
async def test_sts_is_asked_again_before_a_start_is_given_up(sts: CredentialEndpoint, failures: int) -> None:
    sts.errors[:] = ["IDPCommunicationError"] * failures + [""]
    async with answering() as (_, records, _served):
        assert await records.get("acme", "k") is None
    assert sts.requests == failures + 1


async def test_all_calls_wait_for_one_fetch(sts: CredentialEndpoint) -> None:
    async with with_expired(sts, max_connections=4) as (keys, records, served):
        sts.delay = 1.5
        calls = (records.get("acme", "k") for _ in range(50))
        assert await asyncio.gather(*calls) == [None] * 50
        with pytest.raises(BackendUnavailable):  # the stub's reply has no KeyMetadata
            await keys.check()
        assert (sts.requests, sts.most_in_flight) == (2, 1)
        assert set(served.keys) == {"KEY2"}


async def test_callers_who_leave_do_not_end_the_fetch(sts: CredentialEndpoint) -> None:
    async with with_expired(sts) as (_, records, _served):
        sts.delay = 0.5
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await records.get("acme", "k")
        assert await records.get("acme", "k") is None
        assert sts.requests == 2


async def test_valid_credentials_are_used_while_sts_is_slow(
    sts: CredentialEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed file is what makes the server ask again here."""
    config = tmp_path / "config"
    config.write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    async with answering() as (_, records, served):
        sts.delay = 10.0
        config.write_text("[default]\n")
        async with asyncio.timeout(5.0):
            while not sts.in_flight:
                assert await records.get("acme", "k") is None
                await asyncio.sleep(0.02)
            for _ in range(20):
                assert await records.get("acme", "k") is None
        assert sts.most_in_flight == 1
        assert set(served.keys) == {"KEY1"}


@pytest.mark.parametrize("code", ["IDPCommunicationError", "InvalidIdentityToken", "Nonsense"])
async def test_an_sts_that_refuses_makes_calls_unavailable(
    sts: CredentialEndpoint, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The lines name the credentials and STS's code; none has a traceback or a text of AWS."""
    async with with_expired(sts) as (keys, records, served):
        sts.errors[:] = [code]
        for call in (keys.check(), records.get("acme", "k"), keys.generate("acme", "prod/")):
            with pytest.raises(BackendUnavailable) as failed:
                await call
            assert str(failed.value.__cause__).endswith(f": credentials: AssumeRoleWithWebIdentity: {code}")
        assert served.requests == []
    assert "AWS credentials cannot be fetched" in caplog.messages
    assert all(line.exc_info is None for line in lines(caplog))
    assert SECRET not in caplog.text


async def test_a_silent_sts_does_not_open_the_breaker_of_aws(sts: CredentialEndpoint) -> None:
    """Calls that waited for credentials in vain are no silence of the service, and hold none of its connections."""
    async with with_expired(sts, call_timeout=0.5, max_connections=2) as (_, records, served):
        sts.delay = 2.0
        outcomes = await asyncio.gather(*(records.get("acme", "k") for _ in range(30)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {BackendUnavailable}
        causes = {str(outcome.__cause__) for outcome in outcomes if isinstance(outcome, BaseException)}
        assert causes == {"get_item: credentials: Timeout"}
        assert served.requests == []
        await asyncio.sleep(2.0)
        assert [await records.get("acme", "k") for _ in range(4)] == [None] * 4


async def test_a_refused_start_names_what_sts_said(sts: CredentialEndpoint) -> None:
    sts.errors[:] = ["InvalidIdentityToken"]
    assert "AWS credentials: AssumeRoleWithWebIdentity: InvalidIdentityToken" in await start_refused()


async def test_a_refused_start_names_a_missing_token_file(sts: CredentialEndpoint, tmp_path: Path) -> None:
    (tmp_path / "token").unlink()
    assert f"AWS credentials: {tmp_path / 'token'}: No such file or directory" in await start_refused()


async def test_a_refused_start_does_not_repeat_a_bad_token(sts: CredentialEndpoint, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("BAD")
    said = await start_refused()
    assert "AWS credentials: a value of the profile or the token file is not valid" in said
    assert "BAD" not in said


async def test_a_refused_start_names_an_unreachable_sts(tmp_path: Path) -> None:
    with web_identity(CredentialEndpoint("http://127.0.0.1:9"), tmp_path):
        assert "AWS credentials: EndpointConnectionError (127.0.0.1: Connect" in await start_refused()


async def test_a_refused_start_says_that_there_are_no_credentials() -> None:
    with identity_from():
        assert "AWS credentials: the AWS SDK finds none" in await start_refused()


async def test_a_refused_start_says_what_the_container_answered(endpoint: CredentialEndpoint) -> None:
    endpoint.errors[:] = ["500"]
    with container(endpoint):
        assert "AWS credentials: container-role: Received non 200 response 500" in await start_refused()


async def test_a_refused_start_names_expired_credentials(endpoint: CredentialEndpoint) -> None:
    endpoint.lifetime = -60.0
    with container(endpoint):
        assert "AWS credentials: container-role: what it gave had expired" in await start_refused()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param(
            "[default]\ncredential_process = /no/such/program",
            "/no/such/program: No such file or directory",
            marks=pytest.mark.process,
        ),
        ("[default]\naws_access_key_id = a", "aws_secret_access_key is missing"),
        (f"[default]\nrole_arn = {ROLE}\nsource_profile = other", 'source_profile "other"'),
        ("nonsense", "not a valid AWS config file"),
    ],
)
async def test_a_refused_start_says_what_is_wrong_with_the_profile(tmp_path: Path, text: str, cause: str) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    with identity_from(AWS_CONFIG_FILE=str(config)):
        assert cause in await start_refused()


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("sys.exit('SECRET')", "credential_process failed: run its command by hand"),
        ("print('SECRET')", "answer is not JSON"),
        ("print('{\"Version\": 2}')", "custom-process: Unsupported version '2'"),
    ],
)
async def test_what_a_credential_process_writes_is_not_repeated(tmp_path: Path, code: str, cause: str) -> None:
    with identity_from(AWS_CONFIG_FILE=str(process_profile(tmp_path, f"import sys\n{code}\n"))):
        assert cause in await start_refused()


@pytest.mark.process
async def test_the_credentials_of_a_process_are_used(tmp_path: Path) -> None:
    given = {"Version": 1, "AccessKeyId": "PROCESS", "SecretAccessKey": SECRET}
    with identity_from(AWS_CONFIG_FILE=str(process_profile(tmp_path, f"print({json.dumps(given)!r})"))):
        async with answering() as (_, records, served):
            await records.get("acme", "k")
            assert served.keys == ["PROCESS"]


def process_profile(folder: Path, code: str) -> Path:
    """Return a config file whose default profile gets its credentials from a program."""
    program, config = folder / "program.py", folder / "config"
    program.write_text(code)
    config.write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    return config


async def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nope")
    assert "AWS_PROFILE: nope: no such profile" in await start_refused()
    async with stub(Reply()) as served:
        with pytest.raises(OperatorError, match="AWS_PROFILE: nope: no such profile"):
            await create_backend(options(served.address, served.address), "alias/keyvault")


async def test_a_rewritten_file_is_read_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    write_keys(file, "OLD")
    with identity_from(AWS_SHARED_CREDENTIALS_FILE=str(file)):
        async with answering() as (_, records, served):
            await records.get("acme", "k")
            assert served.keys == ["OLD"]
            write_keys(file, "NEW")
            async with asyncio.timeout(5):
                while served.keys[-1] != "NEW":
                    await asyncio.sleep(0.05)
                    assert await records.get("acme", "k") is None


async def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """AWS would reject a call that is signed with half a secret."""
    file = tmp_path / "credentials"
    write_keys(file, "OLD")
    with identity_from(AWS_SHARED_CREDENTIALS_FILE=str(file)):
        walk = await CredentialChain("eu-central-1").fetch()
    looks = [walk.is_outdated()]
    with file.open("ab", buffering=0) as unfinished:
        for part in (b"#", b"another", b" key"):
            unfinished.write(part)
            looks.append(walk.is_outdated())
    assert looks == [False] * 4
    assert [walk.is_outdated() for _ in range(2)] == [True, True]


async def test_an_emptied_file_leaves_the_credentials_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "credentials"
    write_keys(file, "OLD")
    with identity_from(AWS_SHARED_CREDENTIALS_FILE=str(file)):
        async with answering() as (_, records, served):
            file.write_text("")
            async with asyncio.timeout(5):
                while not lines(caplog):
                    assert await records.get("acme", "k") is None
                    await asyncio.sleep(0.05)
            assert await records.get("acme", "k") is None
            assert set(served.keys) == {"OLD"}
    assert [line.cause for line in lines(caplog)] == ["the AWS SDK finds none"]  # type: ignore[attr-defined]


async def test_a_running_server_is_not_stopped_by_a_question_for_mfa(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody sits at its terminal: the event loop would wait there for a code."""
    config = tmp_path / "config"
    keys = f"[profile source]\naws_access_key_id = OLD\naws_secret_access_key = {SECRET}\n"
    config.write_text(keys.replace("profile source", "default"))
    with identity_from(AWS_CONFIG_FILE=str(config)):
        async with answering() as (_, records, served):
            await records.get("acme", "k")
            role = (
                f"[default]\nrole_arn = {ROLE}\nmfa_serial = arn:aws:iam::123456789012:mfa/m\nsource_profile = source\n"
            )
            config.write_text(keys + role)
            async with asyncio.timeout(5):
                while not lines(caplog):
                    assert await records.get("acme", "k") is None
                    await asyncio.sleep(0.05)
            assert set(served.keys) == {"OLD"}
    assert "needs an MFA code" in lines(caplog)[0].cause  # type: ignore[attr-defined]


async def test_a_machine_without_a_home_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user may have no entry in the list of users either, as in a pod with a user id of its own."""
    for variable in ("HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}[_uid])
    async with answering() as (_, records, _served):
        assert await records.get("acme", "k") is None


def write_keys(file: Path, key: str) -> None:
    """Replace the file as a careful program does."""
    new = file.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")
    new.replace(file)


async def test_rejected_credentials_are_not_fetched_for_each_call(sts: CredentialEndpoint) -> None:
    async with answering() as (_, records, served):
        served.answers[:] = [aws_error("UnrecognizedClientException")]
        for _ in range(20):
            with pytest.raises(BackendUnavailable):
                await records.get("acme", "k")
    assert sts.requests == 1


async def test_readiness_says_what_the_credentials_lack(
    sts: CredentialEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_expired(sts) as (keys, records, _served):
        sts.errors[:] = ["InvalidIdentityToken"]
        async with Readiness(records, keys).watching():
            pass
    (line,) = [one for one in lines(caplog) if one.getMessage() == "readiness"]
    assert line.cause == "NotSent: get_item: credentials: AssumeRoleWithWebIdentity: InvalidIdentityToken"  # type: ignore[attr-defined]
