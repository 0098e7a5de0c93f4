"""When credentials are fetched again, by a clock that a test moves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from botocore.credentials import ReadOnlyCredentials

from keyvault_server.backends.aws.credentials import (
    FETCH_SECONDS,
    LOOK_SECONDS,
    REFRESH_BEFORE,
    RETRY_SECONDS,
    Credentials,
    NoCredentials,
)
from tests.support.clock import Clock


@dataclass
class Given:
    """What one fetch gave."""

    frozen: ReadOnlyCredentials
    clock: Clock
    until: float
    outdated: bool = False

    def expires_within(self, seconds: float) -> bool:
        return self.clock.now + seconds >= self.until

    def is_outdated(self) -> bool:
        return self.outdated


@dataclass
class Source:
    """Gives out credentials, numbered, unless it fails or is held up."""

    clock: Clock = field(default_factory=Clock)
    lifetime: float = 3600.0
    failure: Exception | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    fetches: int = 0
    last: Given | None = None

    async def fetch(self) -> Given:
        self.fetches += 1
        await self.held.wait()
        if self.failure:
            raise self.failure
        frozen = ReadOnlyCredentials(f"KEY{self.fetches}", "secret", None)
        self.last = Given(frozen, self.clock, self.clock.now + self.lifetime)
        return self.last


@pytest.fixture
def source() -> Source:
    """A source that answers at once."""
    made = Source()
    made.held.set()
    return made


@pytest.fixture
def credentials(source: Source) -> Credentials:
    return Credentials(source.fetch, clock=source.clock)


async def key(credentials: Credentials) -> str:
    """Return the key that a call is signed with now."""
    await credentials.ready()
    frozen = await credentials.get_frozen_credentials()
    assert frozen is not None
    return str(frozen.access_key)


async def settled(credentials: Credentials) -> str:
    """Return the key that a call is signed with once a fetch in the background has ended."""
    await key(credentials)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return await key(credentials)


def test_the_seconds_are_those_of_the_page() -> None:
    """docs/dynamodb.md names them."""
    assert (FETCH_SECONDS, REFRESH_BEFORE, LOOK_SECONDS, RETRY_SECONDS) == (30, 600, 1, 10)


async def test_a_fetch_without_an_end_is_ended(source: Source) -> None:
    source.held.clear()
    credentials = Credentials(source.fetch, limit=0.01, clock=source.clock)
    async with asyncio.timeout(5):
        with pytest.raises(NoCredentials, match="AWS credentials: no answer in time"):
            await credentials.ready()


async def test_they_are_fetched_once_until_shortly_before_they_expire(credentials: Credentials, source: Source) -> None:
    assert await settled(credentials) == "KEY1"
    source.clock.now += source.lifetime - REFRESH_BEFORE - 1
    assert await settled(credentials) == "KEY1"
    source.clock.now += 1
    assert await settled(credentials) == "KEY2"


async def test_valid_ones_are_used_while_newer_ones_are_fetched(credentials: Credentials, source: Source) -> None:
    await key(credentials)
    source.held.clear()
    source.clock.now += source.lifetime - REFRESH_BEFORE
    for _ in range(5):
        assert await key(credentials) == "KEY1"
        source.clock.now += RETRY_SECONDS
        await asyncio.sleep(0)
    assert source.fetches == 2, "one fetch at a time"
    source.held.set()
    assert await settled(credentials) == "KEY2"
    await credentials.aclose()


async def test_a_failed_fetch_is_repeated_after_a_pause(credentials: Credentials, source: Source) -> None:
    await key(credentials)
    source.failure = KeyError("AccessKeyId")
    source.clock.now += source.lifetime - REFRESH_BEFORE
    for _ in range(10):
        assert await settled(credentials) == "KEY1"
    assert source.fetches == 2
    source.clock.now += RETRY_SECONDS
    assert await settled(credentials) == "KEY1"
    assert source.fetches == 3
    source.failure = None
    source.clock.now += RETRY_SECONDS
    assert await settled(credentials) == "KEY4"


async def test_expired_ones_are_never_signed_with(credentials: Credentials, source: Source) -> None:
    await key(credentials)
    source.failure = FileNotFoundError(2, "No such file or directory", "token")
    source.clock.now += source.lifetime
    with pytest.raises(NoCredentials, match="AWS credentials: token: No such file or directory"):
        await credentials.ready()
    source.failure = None
    source.clock.now += LOOK_SECONDS
    assert await key(credentials) == "KEY3"


async def test_a_source_that_fails_is_not_asked_by_each_call(credentials: Credentials, source: Source) -> None:
    source.failure = OSError()
    for _ in range(10):
        with pytest.raises(NoCredentials):
            await credentials.ready()
    assert source.fetches == 1
    source.clock.now += LOOK_SECONDS
    with pytest.raises(NoCredentials):
        await credentials.ready()
    assert source.fetches == 2


async def test_ones_of_seconds_are_fetched_again_when_they_expire(credentials: Credentials, source: Source) -> None:
    """A source may give out the same short-lived ones again, as an instance's metadata does."""
    source.lifetime = LOOK_SECONDS * 2
    for number in range(1, 6):
        assert await key(credentials) == f"KEY{number}"
        source.clock.now += source.lifetime


async def test_ones_that_bring_no_time_are_fetched_now_and_then(credentials: Credentials, source: Source) -> None:
    source.lifetime = REFRESH_BEFORE / 2
    for _ in range(100):
        await settled(credentials)
        source.clock.now += 1
    assert source.fetches == pytest.approx(100 / RETRY_SECONDS, abs=1)


def outdated(credentials: Credentials, source: Source) -> None:
    """Let the files change."""
    assert source.last is not None
    source.last.outdated = True


def rejected(credentials: Credentials, source: Source) -> None:
    """Let AWS say no to them."""
    credentials.reject()


@pytest.mark.parametrize("event", [outdated, rejected])
async def test_changed_files_and_a_rejection_bring_a_fetch(
    credentials: Credentials, source: Source, event: Callable[[Credentials, Source], None]
) -> None:
    await key(credentials)
    source.clock.now += RETRY_SECONDS
    event(credentials, source)
    assert await settled(credentials) == "KEY2"
    assert source.fetches == 2


async def test_after_a_rejection_a_call_waits_for_the_new_ones(credentials: Credentials, source: Source) -> None:
    await key(credentials)
    source.clock.now += RETRY_SECONDS
    credentials.reject()
    assert await key(credentials) == "KEY2"


async def test_new_ones_that_are_rejected_too_are_kept_for_a_while(credentials: Credentials, source: Source) -> None:
    await key(credentials)
    for _ in range(10):
        credentials.reject()
        await settled(credentials)
    assert source.fetches == 1


async def test_leaving_callers_and_an_end_do_not_disturb_a_fetch(credentials: Credentials, source: Source) -> None:
    source.held.clear()
    waiting = [asyncio.create_task(credentials.ready()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    source.held.set()
    await asyncio.gather(*waiting[1:])
    assert source.fetches == 1
    source.held.clear()
    source.clock.now += source.lifetime
    last = asyncio.create_task(credentials.ready())
    await asyncio.sleep(0)
    await credentials.aclose()
    with pytest.raises(NoCredentials):
        await last


async def test_no_secret_is_in_a_text(credentials: Credentials) -> None:
    await key(credentials)
    assert "secret" not in repr(credentials) + str(vars(NoCredentials("cause")))
