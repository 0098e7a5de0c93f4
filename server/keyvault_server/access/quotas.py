"""Rate limits: a token bucket for each identity and RPC, one for the bytes that Read returned, and in-flight calls.

A bucket is stored as one number, the time at which it will be full again (the generic cell rate algorithm of ITU-T
I.371, a token bucket seen backwards). A full bucket carries no information and need not be kept. The rule of this file:
every call costs the same few steps, and memory is bounded whatever identities callers use. For one event loop: nothing
here is locked.
"""

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keyvault_api.names import LIST
from keyvault_server.core.errors import RateLimited

READ_BYTES = "read_bytes"
"""Name of the bucket for the bytes of the envelopes that Read returned, and of the names that List did."""
REFUSED = "refused"
"""Name of the bucket for calls that cost no other one: denied, malformed or rate-limited. Every other bucket has the
name of its RPC."""
CALLS_IN_FLIGHT = "calls_in_flight"
"""Name of the one limit that is not a bucket."""
MAX_PER_SECOND = 1_000_000_000
MAX_FILL_SECONDS = 30 * 86_400
"""Longest time in which an empty bucket may fill up; a rate that needs longer is probably a typing error."""
MAX_RETRY_AFTER = 60.0
"""Longest wait that a caller is asked for, in seconds: the policy may change."""

_SLACK = 1e-6  # seconds that sums of floats may be off; no call is refused for so little


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket's shape, in calls or bytes. Raises ValueError, a sentence, for an invalid one."""

    per_second: float
    """Tokens that come in; above 0, may be a fraction."""
    burst: float
    """Tokens that a full bucket has; at least 1, or no call would ever pass."""

    def __post_init__(self) -> None:
        if not 0 < self.per_second <= MAX_PER_SECOND:
            raise ValueError(f"per_second must be above 0 and at most {MAX_PER_SECOND:_}")
        if not 1 <= self.burst <= MAX_FILL_SECONDS * self.per_second:
            raise ValueError("burst must be at least 1, and at most 30 days of per_second")

    def divided(self, shares: int) -> "Rate":
        """Return one of so many equal shares; a share lets at least one call through."""
        burst = max(1, self.burst / shares)
        slowest = math.nextafter(burst / MAX_FILL_SECONDS, math.inf)  # or rounding could make it too slow
        return Rate(max(self.per_second / shares, slowest), burst)


DEFAULT_RATES: Mapping[str, Rate] = MappingProxyType(
    {
        # One request to KMS each, which costs money and counts against a quota of the whole AWS account, shared with
        # every other service in it. GenerateKey has the lowest limit: it needs nothing but an identity.
        "GenerateKey": Rate(5, 20),
        "RewrapKey": Rate(20, 100),
        "UnwrapKey": Rate(20, 100),
        # Two requests to KMS and a write.
        "RotateKey": Rate(20, 40),
        # One request to KMS if the record is at the right revision, and a write of up to 400 of the 1,000 units that a
        # DynamoDB partition takes in a second.
        "Create": Rate(50, 100),
        "Update": Rate(50, 100),
        "Delete": Rate(50, 100),
        # No request to KMS. A DynamoDB partition serves 3,000 strongly consistent reads of 4 KB in a second, 12 MB:
        # that is 32 records of full size, so bytes are counted in addition to calls.
        "Read": Rate(500, 1_000),
        # No request to KMS. DynamoDB gives the names of a tenant 3,000 read units in a second; a page of 1,000 takes
        # 15 to 83, and a few milliseconds of CPU. Its names count as bytes.
        LIST: Rate(50, 100),
        # No request to a backend; people ask now and then.
        "WhoAmI": Rate(10, 50),
        READ_BYTES: Rate(12_000_000, 24_000_000),
        # About as much CPU as a Read, and no caller needs many.
        REFUSED: Rate(50, 100),
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What each identity of a policy entry may use: a rate for each bucket, and in-flight calls; immutable."""

    rates: Mapping[str, Rate] = field(default_factory=lambda: DEFAULT_RATES)
    calls_in_flight: int | None = None
    """Maximum in-flight calls. None: the server's default."""

    def __getitem__(self, bucket: str) -> Rate:
        return self.rates[bucket]

    def with_changes(self, changed: Mapping[str, Rate], calls_in_flight: int | None = None) -> "Limits":
        """Return these limits with some rates replaced, and this limit of in-flight calls."""
        rates = MappingProxyType({**self.rates, **changed}) if changed else self.rates
        return Limits(rates, calls_in_flight)

    def divided(self, shares: int) -> "Limits":
        """Return one of so many equal shares, with at least one call in flight."""
        calls = None if self.calls_in_flight is None else max(1, self.calls_in_flight // shares)
        return Limits(MappingProxyType({bucket: rate.divided(shares) for bucket, rate in self.rates.items()}), calls)


class _Buckets:
    """The buckets of one name, by identity: the time at which each is full, at most `most` of them.

    1. A bucket that is known is the most recently used one.
    2. Beyond `most`, the least recently used bucket is dropped. That costs its caller nothing if it is full.
    3. A bucket that is dropped before it is full must not come back full: its caller would gain a burst if others push
       it out. So until every dropped bucket would be full, a caller without a bucket starts with a single call.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._dropped_full_at = -math.inf
        """Time at which the last of the dropped buckets would be full."""

    def __len__(self) -> int:
        return len(self._full_at)

    def full_at(self, identity: str, rate: Rate, now: float) -> float:
        """Return the time at which this caller's bucket is, or was, full."""
        known = self._full_at.get(identity)
        if known is not None:
            self._full_at.move_to_end(identity)  # 1.
            return known
        if now >= self._dropped_full_at:
            return now
        return now + (rate.burst - 1) / rate.per_second  # 3.

    def keep(self, identity: str, full_at: float) -> None:
        """Store the time at which this caller's bucket is full."""
        self._full_at[identity] = full_at
        if len(self._full_at) > self._most:
            _, dropped = self._full_at.popitem(last=False)  # 2.
            self._dropped_full_at = max(self._dropped_full_at, dropped)


class Quotas:
    """All buckets of a server, at most `most` identities in each. A changed rate applies from the next call on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = 10_000) -> None:
        self._clock = clock
        self._read = clock()
        self._ahead = -self._read
        self._buckets: defaultdict[str, _Buckets] = defaultdict(lambda: _Buckets(most))

    def __len__(self) -> int:
        """Return the number of buckets that are kept."""
        return sum(map(len, self._buckets.values()))

    def spend(self, identity: str, bucket: str, rate: Rate) -> None:
        """Take one token from the bucket. Raises RateLimited, with the seconds until there is one.

        1. Each token that is taken delays the time at which the bucket is full by 1 / per_second.
        2. An empty bucket needs burst / per_second to fill up. If this one would need longer, it had no token left.
        3. Only a call that passes is stored: a rejected one does not delay the next.
        """
        buckets, now = self._buckets[bucket], self._now()
        # 1. A bucket that has been full for a while has no more tokens than one that is full now.
        full_at = max(buckets.full_at(identity, rate, now), now) + 1 / rate.per_second
        # 2.
        wait = full_at - now - rate.burst / rate.per_second
        if wait > _SLACK:
            raise RateLimited(min(math.ceil(wait * 1000) / 1000, MAX_RETRY_AFTER))
        # 3.
        buckets.keep(identity, full_at)

    def give_back(self, identity: str, bucket: str, rate: Rate, amount: float) -> None:
        """Put tokens back that were taken for nothing."""
        buckets, now = self._buckets[bucket], self._now()
        buckets.keep(identity, max(buckets.full_at(identity, rate, now) - amount / rate.per_second, now))

    def draw(self, identity: str, bucket: str, rate: Rate, longest: float) -> float:
        """Take one token that may have yet to come in; return the seconds until it does, at most `longest`.

        A token that would take longer is not taken: more callers do not lengthen the wait of the next.
        """
        buckets, now = self._buckets[bucket], self._now()
        full_at = max(buckets.full_at(identity, rate, now), now) + 1 / rate.per_second
        wait = full_at - now - rate.burst / rate.per_second
        if wait > longest:
            return longest
        buckets.keep(identity, full_at)
        return wait if wait > _SLACK else 0.0

    def charge(self, identity: str, bucket: str, rate: Rate, amount: float) -> None:
        """Take tokens for what was used already, into debt if need be: `spend` refuses until the debt is paid."""
        if amount < 0:
            raise ValueError("the amount must not be negative: no bucket is refilled")
        buckets, now = self._buckets[bucket], self._now()
        buckets.keep(identity, max(buckets.full_at(identity, rate, now), now) + amount / rate.per_second)

    def _now(self) -> float:
        """Return seconds that never decrease: when the clock is set back, time goes on from where it was."""
        read = self._clock()
        if read < self._read:
            self._ahead += self._read - read
        self._read = read
        return read + self._ahead


class InFlight:
    """What each caller has in flight: calls, or bytes of their requests. A caller without any is not kept."""

    def __init__(self) -> None:
        self._amounts: dict[str, int] = {}
        self.total = 0
        """Of all callers."""

    def __len__(self) -> int:
        """Return the number of callers that are kept."""
        return len(self._amounts)

    def enter(self, identity: str, most: int, amount: int = 1) -> None:
        """Count so much more. Raises RateLimited if it would be more than `most`."""
        held = self._amounts.get(identity, 0) + amount
        if held > most:
            raise RateLimited
        self._hold(identity, held)
        self.total += amount

    def leave(self, identity: str, amount: int = 1) -> None:
        """Count so much less, which entered before."""
        self._hold(identity, self._amounts.pop(identity) - amount)
        self.total -= amount

    def _hold(self, identity: str, amount: int) -> None:
        if amount:
            self._amounts[identity] = amount
