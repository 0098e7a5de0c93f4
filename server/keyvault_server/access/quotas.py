"""How much one caller may: a token bucket for each identity and RPC, one in bytes for what Read gave out, and how many
calls of each are at work.

A bucket is a single number, the moment at which it will be full again (the generic cell rate algorithm of ITU-T I.371,
which is a token bucket read backwards). So one that is full is worth nothing, and need not be kept. Rule of the file:
every call costs the same few steps and no caller can make it keep more, whatever identities they come with. For one
event loop: nothing here is locked.
"""

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keyvault_server.core.errors import RateLimited

READ_BYTES = "read_bytes"
"""The bucket that counts the bytes of the envelopes that Read gave out; every other is named for its RPC."""
CALLS_IN_FLIGHT = "calls_in_flight"
"""What is no bucket among the limits."""
MAX_PER_SECOND = 1_000_000_000
MAX_FILL_SECONDS = 30 * 86_400
"""The longest that an empty bucket may take to become full: beyond it, a mistyped rate is likelier than a meant one."""
MAX_RETRY_AFTER = 60.0
"""Seconds: nobody is told to wait longer, since the policy may have changed by then."""

_SLACK = 1e-6  # seconds: what sums of floats lose; a bucket is never refused for it


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket's shape, in calls or bytes. Raises ValueError, a sentence, for a shape that is none."""

    per_second: float
    """What comes in; above 0, may be a fraction."""
    burst: float
    """What fits in; at least 1, or no call would ever pass."""

    def __post_init__(self) -> None:
        if not 0 < self.per_second <= MAX_PER_SECOND:
            raise ValueError(f"per_second has to be above 0 and at most {MAX_PER_SECOND:_}")
        if not 1 <= self.burst <= MAX_FILL_SECONDS * self.per_second:
            raise ValueError("burst has to be at least 1, and at most what 30 days of per_second bring")


DEFAULT_RATES: Mapping[str, Rate] = MappingProxyType(
    {
        # One request to KMS each, which costs money and counts against a quota of the whole AWS account, shared with
        # every other service in it. GenerateKey is the tightest: it needs nothing but an identity.
        "GenerateKey": Rate(5, 20),
        "RewrapKey": Rate(20, 100),
        "UnwrapKey": Rate(20, 100),
        # Two requests to KMS and a write.
        "RotateKey": Rate(20, 40),
        # One request to KMS, once the record is found at the right revision, and a write of up to 400 of the 1,000
        # units that a DynamoDB partition takes in a second.
        "Create": Rate(50, 100),
        "Update": Rate(50, 100),
        "Delete": Rate(50, 100),
        # No request to KMS. A DynamoDB partition gives 3,000 strongly consistent reads of 4 KB in a second, 12 MB: that
        # is 32 records of full size, so bytes are counted beside calls.
        "Read": Rate(500, 1_000),
        READ_BYTES: Rate(12_000_000, 24_000_000),
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What each identity of a policy entry may spend, bucket by bucket, and have at work; immutable."""

    rates: Mapping[str, Rate] = field(default_factory=lambda: DEFAULT_RATES)
    calls_in_flight: int | None = None
    """None: as many as the server gives to whoever has no number of its own."""

    def __getitem__(self, bucket: str) -> Rate:
        return self.rates[bucket]

    def but(self, changed: Mapping[str, Rate], calls_in_flight: int | None = None) -> "Limits":
        """These, with some buckets changed, and the calls at work."""
        rates = MappingProxyType({**self.rates, **changed}) if changed else self.rates
        return Limits(rates, calls_in_flight)


class _Buckets:
    """The buckets of one name. A full one is the same as none, so those least recently used go when there are too many.

    One that goes before it is full must not come back full, or its caller would be given a burst by whoever pushes it
    out. So for as long as any that went may still be filling, a caller without a bucket starts with a single call.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._forgotten_until = -math.inf

    def __len__(self) -> int:
        return len(self._full_at)

    def full_at(self, identity: str, rate: Rate, now: float) -> float:
        """When this caller's bucket is, or was, full."""
        known = self._full_at.get(identity)
        if known is not None:
            self._full_at.move_to_end(identity)
            return known
        return now if now >= self._forgotten_until else now + (rate.burst - 1) / rate.per_second

    def keep(self, identity: str, full_at: float) -> None:
        self._full_at[identity] = full_at
        if len(self._full_at) > self._most:
            _, lost = self._full_at.popitem(last=False)
            self._forgotten_until = max(self._forgotten_until, lost)


class Quotas:
    """All buckets of a server; at most `most` identities in each. A changed rate holds from its next call on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = 10_000) -> None:
        self._clock = clock
        self._read = clock()
        self._ahead = -self._read
        self._buckets: defaultdict[str, _Buckets] = defaultdict(lambda: _Buckets(most))

    def __len__(self) -> int:
        """Buckets that are kept."""
        return sum(map(len, self._buckets.values()))

    def spend(self, identity: str, bucket: str, rate: Rate) -> None:
        """Takes one from the bucket, or raises RateLimited with the seconds until there is one."""
        buckets, now = self._buckets[bucket], self._now()
        full_at = max(buckets.full_at(identity, rate, now), now) + 1 / rate.per_second
        wait = full_at - now - rate.burst / rate.per_second
        if wait > _SLACK:
            raise RateLimited(min(math.ceil(wait * 1000) / 1000, MAX_RETRY_AFTER))
        buckets.keep(identity, full_at)

    def charge(self, identity: str, bucket: str, rate: Rate, amount: float) -> None:
        """Takes what was used already, into debt if need be: `spend` refuses until the debt is paid."""
        if amount < 0:
            raise ValueError("nothing is given back")
        buckets, now = self._buckets[bucket], self._now()
        buckets.keep(identity, max(buckets.full_at(identity, rate, now), now) + amount / rate.per_second)

    def _now(self) -> float:
        """Seconds since the start. For a clock that was set back, time goes on from where it was."""
        read = self._clock()
        if read < self._read:
            self._ahead += self._read - read
        self._read = read
        return read + self._ahead


class InFlight:
    """How many calls of each caller are at work. A caller without any is not kept."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}

    def __len__(self) -> int:
        """Callers that are kept."""
        return len(self._calls)

    def enter(self, identity: str, most: int) -> None:
        """One more, unless there are `most`: then raises RateLimited."""
        calls = self._calls.get(identity, 0)
        if calls >= most:
            raise RateLimited
        self._calls[identity] = calls + 1

    def leave(self, identity: str) -> None:
        """One that entered is over."""
        calls = self._calls.pop(identity) - 1
        if calls:
            self._calls[identity] = calls
