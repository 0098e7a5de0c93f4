"""Token buckets against a slow exact model: who may call when, too many identities, and strange clocks."""

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_api.names import BATCH_READ, LIST_REVISIONS, MAX_MESSAGE, METHODS
from keyvault_server.access.quotas import MAX_RETRY_AFTER, READ_BYTES, REFUSED, InFlight, Limits, Quotas, Rate
from keyvault_server.core.errors import RateLimited
from tests.support.clock import Clock
from tests.support.properties import examples

MEMBER = "spiffe://example.org/web"
PROPERTY = examples(300)


@dataclass
class Bucket:
    """A token bucket as the books have it, in fractions."""

    rate: Rate
    tokens: Fraction = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = Fraction(self.rate.burst)

    def wait(self, seconds: float) -> None:
        self.tokens = min(Fraction(self.rate.burst), self.tokens + Fraction(seconds) * Fraction(self.rate.per_second))

    def lacking(self) -> Fraction:
        """Seconds until a call may be spent."""
        return max(Fraction(0), 1 - self.tokens) / Fraction(self.rate.per_second)


def refused(quotas: Quotas, identity: str, bucket: str, rate: Rate) -> float:
    """Spend one; return the seconds that a refused caller has to wait, 0 if it was not refused."""
    try:
        quotas.spend(identity, bucket, rate)
    except RateLimited as error:
        return error.retry_after or math.nan
    return 0.0


def granted(quotas: Quotas, identity: str, rate: Rate, calls: int = 100) -> int:
    """How many of so many calls at one moment pass."""
    return sum(not refused(quotas, identity, "Read", rate) for _ in range(calls))


def test_a_burst_passes_at_once_and_then_as_many_as_come_in() -> None:
    clock = Clock()
    quotas, rate = Quotas(clock), Rate(per_second=2, burst=5)
    assert granted(quotas, MEMBER, rate) == 5
    clock.now += 0.5
    assert granted(quotas, MEMBER, rate) == 1
    clock.now += 1
    assert granted(quotas, MEMBER, rate) == 2
    clock.now += 3_600
    assert granted(quotas, MEMBER, rate) == 5


def test_a_bucket_fills_up_within_30_days() -> None:
    """A rate that needs longer is probably a typing error."""
    days = 30 * 24 * 3600
    assert Rate(per_second=1, burst=days).burst == days
    with pytest.raises(ValueError, match="30 days"):
        Rate(per_second=1, burst=days + 1)


def test_each_identity_and_each_rpc_has_a_bucket_of_its_own() -> None:
    quotas, rate = Quotas(Clock()), Rate(1, 1)
    for identity in ("a", "b"):
        for bucket in ("GenerateKey", "Read"):
            assert not refused(quotas, identity, bucket, rate)
            assert refused(quotas, identity, bucket, rate)


def test_a_refusal_says_the_true_wait_and_never_0() -> None:
    """Rounded up."""
    clock = Clock()
    quotas = Quotas(clock)
    quotas.spend(MEMBER, "Read", Rate(3, 1))
    assert refused(quotas, MEMBER, "Read", Rate(3, 1)) == 0.334
    quotas.spend(MEMBER, "Update", Rate(100_000, 1))
    assert refused(quotas, MEMBER, "Update", Rate(100_000, 1)) == 0.001
    quotas.spend(MEMBER, "Create", Rate(1 / 3_600, 1))
    assert refused(quotas, MEMBER, "Create", Rate(1 / 3_600, 1)) == MAX_RETRY_AFTER


def test_the_wait_is_that_of_one_refusal_and_not_of_all() -> None:
    quotas = Quotas(Clock())
    quotas.spend(MEMBER, "Create", Rate(1 / 30, 1))
    assert refused(quotas, MEMBER, "Create", Rate(1 / 30, 1)) == pytest.approx(30, abs=0.002)
    assert RateLimited().retry_after == 0.1


def test_bytes_go_into_debt_that_the_next_call_waits_for() -> None:
    clock = Clock()
    quotas, rate = Quotas(clock), Rate(per_second=1_000, burst=2_000)
    quotas.spend(MEMBER, READ_BYTES, rate)
    quotas.charge(MEMBER, READ_BYTES, rate, 11_999)
    assert refused(quotas, MEMBER, READ_BYTES, rate) == 10.001
    clock.now += 10
    assert refused(quotas, MEMBER, READ_BYTES, rate)
    clock.now += 0.001
    assert not refused(quotas, MEMBER, READ_BYTES, rate)


def test_less_than_a_token_is_charged_too() -> None:
    clock = Clock()
    quotas, rate = Quotas(clock), Rate(per_second=1, burst=2)
    for _ in range(2):
        quotas.charge(MEMBER, READ_BYTES, rate, 0.75)
    assert refused(quotas, MEMBER, READ_BYTES, rate) == 0.5


def test_nothing_is_given_back() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Quotas(Clock()).charge(MEMBER, READ_BYTES, Rate(1, 1), -1)


ROUND = st.sampled_from([0.25, 0.5, 1, 2, 4, 8])
"""Rates whose sums lose nothing as floats, so that both sides have to agree to the last bit."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["spend", "spend", "spend", "charge"]),
        st.integers(0, 12),
        st.integers(-8, 40).map(lambda sixteenths: sixteenths / 16),
    ),
    max_size=60,
)


@pytest.mark.slow
@PROPERTY
@given(per_second=ROUND, burst=st.integers(1, 5), steps=STEPS)
def test_every_answer_is_that_of_an_exact_model(
    per_second: float, burst: int, steps: list[tuple[str, str, int, float]]
) -> None:
    """A clock that is set back stands still."""
    clock, rate = Clock(), Rate(per_second, burst)
    quotas, model = Quotas(clock), {identity: Bucket(rate) for identity in "ab"}
    for identity, action, amount, later in steps:
        clock.now += later
        for bucket in model.values():
            bucket.wait(max(later, 0))
        if action == "charge":
            quotas.charge(identity, "Read", rate, amount)
            model[identity].tokens -= amount
            continue
        lacking = model[identity].lacking()
        model[identity].tokens -= 0 if lacking else 1
        assert refused(quotas, identity, "Read", rate) == min(math.ceil(lacking * 1000) / 1000, MAX_RETRY_AFTER)


@pytest.mark.slow
@PROPERTY
@given(
    per_second=st.floats(0.01, 10_000),
    burst=st.floats(1, 100),
    start=st.floats(-1e9, 1e9),
    pauses=st.lists(st.floats(0, 3), max_size=60),
)
def test_any_numbers_give_the_models_answers_to_a_microsecond(
    per_second: float, burst: float, start: float, pauses: list[float]
) -> None:
    clock, rate = Clock(start), Rate(per_second, burst)
    quotas, model = Quotas(clock), Bucket(rate)
    for pause in pauses:
        before = clock.now
        clock.now += pause
        model.wait(clock.now - before)
        off = 1e-5 * per_second
        if refused(quotas, MEMBER, "Read", rate):
            assert model.tokens < 1 + off
        else:
            assert model.tokens > 1 - off
            model.tokens -= 1


@pytest.mark.slow
@PROPERTY
@given(per_second=st.floats(0.02, 10_000), burst=st.floats(1, 20), calls=st.integers(1, 60))
def test_who_waits_as_long_as_asked_is_not_refused_again(per_second: float, burst: float, calls: int) -> None:
    clock, rate = Clock(), Rate(per_second, burst)
    quotas = Quotas(clock)
    for _ in range(calls):
        wait = refused(quotas, MEMBER, "Read", rate)
        if wait:
            clock.now += wait
            assert not refused(quotas, MEMBER, "Read", rate)


def test_a_changed_rate_holds_from_the_next_call_on() -> None:
    quotas = Quotas(Clock())
    assert granted(quotas, MEMBER, Rate(1, 10)) == 10
    assert granted(quotas, MEMBER, Rate(1, 15)) == 5
    assert refused(quotas, MEMBER, "Read", Rate(1, 5)) == 11
    assert granted(quotas, MEMBER, Rate(10, 200)) == 50


def test_many_identities_keep_few_buckets_and_each_is_let_in() -> None:
    quotas, rate = Quotas(Clock(), most=50), Rate(1, 10)
    for number in range(5_000):
        assert not refused(quotas, f"jwt:{number}", "Read", rate)
        assert len(quotas) <= 50
    quotas.spend(MEMBER, "Create", rate)
    assert len(quotas) == 51


def test_an_evicted_caller_comes_back_to_one_call() -> None:
    """Not to a burst."""
    quotas, rate = Quotas(Clock(), most=10), Rate(1, 20)
    assert granted(quotas, MEMBER, rate) == 20
    for number in range(10):
        quotas.spend(f"jwt:{number}", "Read", rate)
    assert granted(quotas, MEMBER, rate) == 1


@pytest.mark.parametrize("per_second", [0.25, 4])
def test_an_evicted_caller_waits_for_one_token_only(per_second: float) -> None:
    """Its bucket has one, at any rate."""
    quotas, rate = Quotas(Clock(), most=1), Rate(per_second, 8)
    assert granted(quotas, "a", rate) == 8
    assert granted(quotas, "b", rate) == 8  # and "a" goes
    assert granted(quotas, "a", rate) == 1
    assert refused(quotas, "a", "Read", rate) == 1 / per_second


def test_who_goes_on_calling_is_not_pushed_out_by_being_refused() -> None:
    quotas, rate = Quotas(Clock(), most=10), Rate(1, 20)
    assert granted(quotas, MEMBER, rate) == 20
    for number in range(100):
        quotas.spend(f"jwt:{number}", "Read", rate)
        assert refused(quotas, MEMBER, "Read", rate)


def test_a_full_bucket_is_forgotten_at_no_cost_to_anyone() -> None:
    clock = Clock()
    quotas, rate = Quotas(clock, most=1), Rate(1, 20)
    quotas.spend("a", "Read", rate)
    clock.now += 1
    assert granted(quotas, "b", rate) == 20
    clock.now += 20
    assert granted(quotas, "a", rate) == 20


def test_newcomers_have_their_burst_again_in_time() -> None:
    """Once all that was forgotten would be full."""
    clock = Clock()
    quotas, rate = Quotas(clock, most=1), Rate(1, 20)
    assert granted(quotas, "a", rate) == 20
    assert granted(quotas, "b", rate) == 20  # and "a" goes
    assert granted(quotas, "c", rate) == 1
    clock.now += 19
    assert granted(quotas, "d", rate) == 1
    clock.now += 20
    assert granted(quotas, "e", rate) == 20


def test_a_nearly_full_bucket_does_not_cover_an_empty_one() -> None:
    """When both are forgotten."""
    clock = Clock()
    quotas, rate = Quotas(clock, most=2), Rate(1, 20)
    assert granted(quotas, "empty", rate) == 20
    quotas.spend("nearly full", "Read", rate)
    for newcomer in ("a", "b"):
        quotas.spend(newcomer, "Read", rate)
    clock.now += 2
    assert granted(quotas, "empty", rate) == 1


def test_a_flood_of_one_rpc_forgets_nothing_of_another() -> None:
    quotas, rate = Quotas(Clock(), most=10), Rate(1, 20)
    for _ in range(20):
        quotas.spend(MEMBER, "GenerateKey", rate)
    for number in range(1_000):
        quotas.spend(f"jwt:{number}", "Read", rate)
    assert refused(quotas, MEMBER, "GenerateKey", rate)


@pytest.mark.slow
@PROPERTY
@given(most=st.integers(1, 4), burst=st.integers(1, 4), callers=st.lists(st.integers(0, 8), max_size=200))
def test_a_call_beyond_the_burst_takes_as_many_as_all_buckets(most: int, burst: int, callers: list[int]) -> None:
    """It costs as many calls of other callers as there are buckets."""
    quotas, rate = Quotas(Clock(), most), Rate(1, burst)
    passed = [number for number in callers if not refused(quotas, str(number), "Read", rate)]
    for number in range(9):
        own = callers.count(number)
        assert passed.count(number) <= burst + (len(callers) - own) // most
        assert passed.count(number) >= min(own, 1)


@pytest.mark.parametrize(
    ("per_second", "burst"),
    [
        (0, 1),
        (-1, 1),
        (math.nan, 1),
        (math.inf, 1),
        (1e9 + 1, 1),
        (1, 0),
        (1, 0.5),
        (1, math.nan),
        (1, math.inf),
        (1, 1e7),
    ],
)
def test_a_rate_that_no_bucket_has_is_refused(per_second: float, burst: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Rate(per_second, burst)


@pytest.mark.slow
@PROPERTY
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 3), st.booleans())))
def test_each_caller_has_as_many_calls_in_flight_as_it_may(
    steps: list[tuple[str, int, bool]],
) -> None:
    """Callers without one are forgotten."""
    in_flight, counted = InFlight(), Counter[str]()
    for identity, most, comes in steps:
        if not comes and counted[identity]:
            in_flight.leave(identity)
            counted[identity] -= 1
        elif comes and counted[identity] < most:
            in_flight.enter(identity, most)
            counted[identity] += 1
        elif comes:
            with pytest.raises(RateLimited) as error:
                in_flight.enter(identity, most)
            assert error.value.retry_after
        assert len(in_flight) == len(+counted)


def test_every_rpc_has_a_default_and_generate_key_the_tightest() -> None:
    limits = Limits()
    assert set(limits.rates) == {*METHODS, READ_BYTES, REFUSED} - {BATCH_READ, LIST_REVISIONS}
    tightest = limits["GenerateKey"]
    for method in set(limits.rates) - {"GenerateKey", READ_BYTES, REFUSED}:
        assert limits[method].per_second > tightest.per_second
        assert limits[method].burst > tightest.burst


def test_the_default_in_bytes_fits_a_partition_and_a_message() -> None:
    """It stays within what a partition gives, and takes a whole message."""
    assert 0.9 * 3_000 * 4_096 < Limits()[READ_BYTES].per_second < 3_000 * 4_096
    assert Limits()[READ_BYTES].burst > MAX_MESSAGE


def test_an_empty_request_keeps_no_caller() -> None:
    in_flight = InFlight()
    in_flight.enter("empty", 10, amount=0)
    in_flight.enter("full", 10, amount=7)
    assert (len(in_flight), in_flight.total) == (1, 7)


def test_a_share_of_the_limits_has_at_least_one_call() -> None:
    limits = Limits(calls_in_flight=5)
    shares = [limits.divided(count) for count in (1, 2, 8)]
    assert [share.calls_in_flight for share in shares] == [5, 2, 1]
    assert [share["Read"].per_second for share in shares] == [500, 250, 62.5]
    assert Limits().divided(2).calls_in_flight is None
