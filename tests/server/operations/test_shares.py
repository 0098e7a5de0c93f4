"""What each of several workers has: together at most what the settings and the policy say."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.names import MAX_MESSAGE
from keyvault_server.access.policy import Policy
from keyvault_server.access.quotas import MAX_FILL_SECONDS, Rate
from keyvault_server.access.quotas import Limits as Quota
from keyvault_server.operations.composition import open_gate
from keyvault_server.operations.environment import BadSettings, load_settings
from keyvault_server.operations.memory import MIB, parts
from keyvault_server.operations.settings import DIVIDED, Settings
from keyvault_server.operations.shares import describe_shares, share_of
from keyvault_server.rpc.guard import Limits
from keyvault_server.rpc.metrics import Metrics
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.refusals import failure_of
from tests.support.requests import create, mint
from tests.support.servers import on_ports

MOST = 16


def of(workers: int, **changed: Any) -> Settings:
    return Settings(backend="aws", workers=workers, **changed)


@pytest.mark.parametrize("workers", [2, 3, MOST])
def test_shares_are_together_at_most_the_setting(workers: int) -> None:
    settings = of(workers)
    for name in DIVIDED:
        whole = getattr(settings, name)
        shares = [getattr(share_of(settings, number), name) for number in range(1, workers + 1)]
        assert whole - workers < sum(shares) <= whole


def test_a_limit_that_is_off_stays_off() -> None:
    assert share_of(of(2, connections=0, connections_per_address=0), 1).connections == 0


def test_health_and_metrics_are_their_parents() -> None:
    share = share_of(of(2, admin_listen="127.0.0.1:1", metrics_listen="127.0.0.1:2"), 1)
    assert (share.admin_listen, share.metrics_listen) == (None, None)


def test_workers_have_logs_of_their_own_and_one_key() -> None:
    settings = of(2, audit_file=Path("audit.jsonl"))
    shares = [share_of(settings, number) for number in (1, 2)]
    assert [str(share.audit_file) for share in shares] == ["audit-1.jsonl", "audit-2.jsonl"]
    assert {share.audit_key for share in shares} == {Path("audit.jsonl.key")}
    assert share_of(of(2, audit_file=Path("a"), audit_key=Path("k")), 2).audit_key == Path("k")


@pytest.mark.parametrize("shares", [2, MOST])
def test_what_is_not_a_setting_is_divided_too(shares: int) -> None:
    whole, share = Limits(), Limits().divided(shares)
    for name in ("request_bytes", "unanswered_calls", "receiving_calls", "reply_bytes", "waiting_refusals"):
        assert 0 < getattr(share, name) * shares <= getattr(whole, name)
    assert share.call_seconds == whole.call_seconds
    assert Limits().divided(1) == Limits()


def test_a_share_has_room_for_the_largest_request_and_reply() -> None:
    share = Limits().divided(MOST)
    assert share.request_bytes // 2 >= MAX_MESSAGE, "one caller has half"
    assert share.reply_bytes // 3 >= MAX_MESSAGE, "one connection has a third"


def test_a_share_of_a_quota_lets_a_call_through() -> None:
    assert Rate(100, 40).divided(4) == Rate(25, 10)
    assert Rate(0.5, 2).divided(4) == Rate(0.125, 1)
    slowest = Rate(1.001 / MAX_FILL_SECONDS, 1)
    assert slowest.divided(4).per_second == pytest.approx(slowest.per_second, rel=0.01)
    assert Rate(1, MAX_FILL_SECONDS).divided(7).burst == MAX_FILL_SECONDS / 7
    assert Quota(calls_in_flight=9).divided(4).calls_in_flight == 2
    assert Quota(calls_in_flight=1).divided(4).calls_in_flight == 1
    assert Quota().divided(4).calls_in_flight is None


def test_every_quota_of_a_policy_is_divided() -> None:
    text = """[[caller]]
identity = "dns:a"
tenant = "a"
[caller.limits]
Read = { per_second = 30, burst = 60 }
calls_in_flight = 9
"""
    whole, share = Policy.parse(text), Policy.parse(text).divided(3)
    limits = [policy.caller("dns:a").limits for policy in (whole, share)]  # type: ignore[union-attr]
    assert limits[1]["Read"] == Rate(10, 20)
    assert limits[1].calls_in_flight == 3
    assert limits[1].rates == {bucket: rate.divided(3) for bucket, rate in limits[0].rates.items()}
    assert whole.divided(1) is whole


def test_check_config_says_what_each_worker_has() -> None:
    said = "\n".join(describe_shares(of(4, audit_file=Path("audit.jsonl"))))
    assert "4 workers" in said
    assert "KEYVAULT_CONCURRENT_CALLS=64" in said
    assert "1/4 of every quota" in said
    assert "audit-1.jsonl, audit-2.jsonl, audit-3.jsonl, audit-4.jsonl" in said
    assert list(describe_shares(of(1))) == []


def test_memory_grows_by_processes_and_not_by_limits() -> None:
    one, two = dict(parts(of(1))), dict(parts(of(2)))
    for each in ("access log that nobody reads", "4 replies of DynamoDB", "2 replies that BatchReads hold"):
        assert two.pop(each) == 2 * one.pop(each)
    assert two.pop("2 workers' processes") == 2 * one.pop("process")
    assert two.pop("parent") <= 90 * MIB
    assert one == two


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"backend": "embedded"}, "backend is embedded, whose directory belongs to one process"),
        ({"listen": "unix:/run/keyvault"}, "KEYVAULT_LISTEN is a unix socket, on which one process can listen"),
        ({"concurrent_calls": 3}, "KEYVAULT_CONCURRENT_CALLS must be at least KEYVAULT_WORKERS, 4"),
        ({"workers": 17}, "--workers: Input should be less than or equal to 16"),
        ({"workers": 0}, "--workers: Input should be greater than or equal to 1"),
    ],
)
def test_what_workers_cannot_have_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(**{"backend": "aws", "workers": 4} | changed)
    assert sentence in str(refused.value)
    assert str(refused.value).count(";") == 0, "one sentence"


async def test_a_worker_enforces_its_share_of_the_policy(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[[caller]]\nidentity = "dns:a"\ntenant = "a"\n')
    async with open_gate(of(4, policy=tmp_path / "policy.toml", access_log=False), Metrics()) as gate:
        assert gate.policy is not None
        caller = gate.policy.last.caller("dns:a")
    assert caller is not None
    assert caller.limits["Read"] == Quota()["Read"].divided(4)


async def test_a_worker_enforces_its_share_of_the_requests() -> None:
    """A sixteenth of 16 MiB holds two requests of 360 kB, and not three."""
    keys, both_held, release = FakeKeyService(), asyncio.Semaphore(0), asyncio.Event()

    async def hold() -> None:
        both_held.release()
        await release.wait()

    async with asyncio.timeout(20), on_ports(keys, FakeRecordStore(), backend="aws", workers=16) as server:
        key = await mint(server.stub, "x/")
        requests = [create(key, f"x/{number}", bytes(360_000)) for number in range(3)]
        for _ in range(2):
            keys.before("unwrap", hold)
        held = [asyncio.ensure_future(server.stub.Create(request)) for request in requests[:2]]
        for _ in held:
            await both_held.acquire()
        assert (await failure_of(server.stub.Create(requests[2]))).reason == "RATE_LIMITED"
        release.set()
        await asyncio.gather(*held)
