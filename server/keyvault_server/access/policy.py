"""Who may call what: one TOML file, default deny, no code in it. docs/policy.md has the format.

The most specific pattern wins: an identity belongs to that one entry, and so to one tenant, and only the rules of that
entry apply. The rule of this file: it looks at nothing but the policy, so a decision never shows whether a record
exists.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from keyvault_api.names import LIST, POLICY_METHODS, is_tenant
from keyvault_server.access.patterns import AnyOf, MostSpecific, Pattern, parse_identity_pattern, parse_name_pattern
from keyvault_server.access.policy_file import BadPolicy, CallerTables, Table, listed, read_tables, shown
from keyvault_server.access.quotas import CALLS_IN_FLIGHT, Limits, Rate

__all__ = ["BadPolicy", "CallerEntry", "Decision", "Policy", "Rule", "unknown_rpc"]

UNWRAP = "UnwrapKey"
"""The RPC that no wildcard grants: with it, a wrapped key alone is enough to read a record."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[caller.allow]]: methods, and the names on which they are allowed."""

    line: int
    methods: frozenset[str]
    names: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class CallerEntry:
    """One [[caller]]: a pattern of identities, their tenant, and what they may do."""

    line: int
    identity: Pattern
    tenant: str
    limits: Limits
    rules: tuple[Rule, ...]
    _names: Mapping[str, AnyOf] = field(repr=False, compare=False)

    def allows(self, method: str, name: str) -> bool:
        """Return whether this caller may try the RPC on this key_id or scope; "" means that no scope was given.

        For a List, `name` is its prefix, and a pattern has to cover all names that begin with it.
        """
        names = self._names.get(method)
        return names is not None and _covers(names, method, name)


def _covers(names: AnyOf | Pattern, method: str, name: str) -> bool:
    """Return whether these names are granted: for a List, all that begin with its prefix."""
    return names.covers_all(name) if method == LIST else names.matches(name)


class Decision(NamedTuple):
    """Whether a call is allowed, and the line of the policy that decides."""

    allowed: bool
    line: int | None
    """Line of the [[caller.allow]] that allows, or of the [[caller]] whose rules do not; None: no entry matches."""
    why: str
    """A clause that explains it to the operator."""


class Policy:
    """A parsed policy; immutable, so that a new one replaces it in one assignment."""

    def __init__(self, entries: Iterable[CallerEntry]) -> None:
        self._entries = {entry.identity: entry for entry in entries}
        self._patterns = MostSpecific(self._entries)

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Parse the whole file. Raises BadPolicy: one line that names the line at fault and what to do."""
        entries: dict[Pattern, CallerEntry] = {}
        for tables in read_tables(text):
            entry = _parse_entry(tables)
            other = entries.setdefault(entry.identity, entry)
            if other is not entry:
                pattern = shown(str(entry.identity))
                tables.caller.refuse(
                    f"identity {pattern} already has an entry in line {other.line}: put its rules there", "identity"
                )
        return cls(entries.values())

    def divided(self, shares: int) -> "Policy":
        """Return this policy with one of so many equal shares of all its limits."""
        if shares == 1:
            return self
        return Policy(replace(entry, limits=entry.limits.divided(shares)) for entry in self._entries.values())

    def caller(self, identity: str) -> CallerEntry | None:
        """Return the entry to which an identity belongs; None if there is none, so that it is denied everything."""
        pattern = self._patterns.find(identity)
        return None if pattern is None else self._entries[pattern]

    def decide(self, identity: str, method: str, name: str) -> Decision:
        """Return the answer of `CallerEntry.allows`, with the line of the policy that decides."""
        caller = self.caller(identity)
        if caller is None:
            return Decision(False, None, "no [[caller]] matches this identity")
        if method not in POLICY_METHODS:
            return Decision(False, caller.line, unknown_rpc(method))
        entry = f'the caller matches "{caller.identity}" (tenant {caller.tenant})'
        rules = [rule for rule in caller.rules if method in rule.methods]
        for rule in rules:
            for pattern in rule.names:
                if _covers(pattern, method, name):
                    return Decision(True, rule.line, f'{entry}, and this rule allows {method} on "{pattern}"')
        covers = 'covers this prefix by a pattern that ends in "*"' if method == LIST else "covers this name"
        missing = covers if rules else f"lists {method}"
        return Decision(False, caller.line, f"{entry}, but no rule of this entry {missing}")


def unknown_rpc(method: str) -> str:
    """Return a sentence about a method that does not exist: what was probably meant, or all there are."""
    by_lower_case = {known.lower(): known for known in POLICY_METHODS}
    close = difflib.get_close_matches(method[:40].lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[close[0]]}?" if close else f": expected {listed(POLICY_METHODS)}"
    return f"unknown RPC {shown(method)}{hint}"


def _parse_entry(tables: CallerTables) -> CallerEntry:
    caller = tables.caller
    caller.check_keys("identity", "tenant", "allow", "limits")
    text = caller.text("identity", "an identity, or a prefix of identities and a final *")
    try:
        identity = parse_identity_pattern(text)
    except ValueError as error:
        caller.refuse(f"{shown(text)}: {error}", "identity")
    tenant = caller.text("tenant", "the tenant of these callers")
    if not is_tenant(tenant):
        caller.refuse(
            f'{shown(tenant)}: a tenant is 1 to 63 characters of [a-z0-9-] and does not begin with "-"', "tenant"
        )
    rules = tuple(map(_parse_rule, tables.rules))
    return CallerEntry(caller.line, identity, tenant, _parse_limits(tables.limits), rules, _names_by_method(rules))


def _parse_rule(table: Table) -> Rule:
    table.check_keys("methods", "names")
    methods = _parse_methods(table)
    names = []
    for text in table.texts("names", 'key_ids, prefixes of names with a final *, or "*"'):
        try:
            names.append(parse_name_pattern(text))
        except ValueError as error:
            table.refuse(f"{shown(text)}: {error}", "names")
        _check_scope(table, methods, names[-1])
    return Rule(table.line, methods, tuple(names))


def _parse_methods(table: Table) -> frozenset[str]:
    texts = table.texts("methods", f'names of RPCs, or "*" for all but {UNWRAP}')
    for method in texts:
        if method not in POLICY_METHODS and method != "*":
            table.refuse(unknown_rpc(method), "methods")
    everything = set(POLICY_METHODS) - {UNWRAP} if "*" in texts else set()
    return frozenset(everything.union(texts) - {"*"})


def _check_scope(table: Table, methods: frozenset[str], name: Pattern) -> None:
    """Refuse a wildcard for UnwrapKey, and a scope in full for any other method: there a prefix covers it."""
    if name.is_prefix and UNWRAP in methods:
        table.refuse(f"{UNWRAP} is never granted by a wildcard: write a rule for it alone, with each scope", "names")
    if name.literal.endswith("/") and not name.is_prefix and methods != {UNWRAP}:
        table.refuse(f'"{name}" is a scope: write "{name}*", or write a rule for {UNWRAP} alone', "names")


def _names_by_method(rules: tuple[Rule, ...]) -> dict[str, AnyOf]:
    """Return the names of all rules by method; methods that the same rules list share one object."""
    made: dict[tuple[Rule, ...], AnyOf] = {}
    by_method = {}
    for method in POLICY_METHODS:
        of_method = tuple(rule for rule in rules if method in rule.methods)
        if of_method:
            if of_method not in made:
                made[of_method] = AnyOf(name for rule in of_method for name in rule.names)
            by_method[method] = made[of_method]
    return by_method


def _parse_limits(table: Table) -> Limits:
    limits = Limits()
    table.check_keys(*limits.rates, CALLS_IN_FLIGHT)
    rates = {
        bucket: _parse_rate(table, bucket, value) for bucket, value in table.values.items() if bucket != CALLS_IN_FLIGHT
    }
    return limits.with_changes(rates, _parse_calls_in_flight(table))


def _parse_calls_in_flight(table: Table) -> int | None:
    calls = table.values.get(CALLS_IN_FLIGHT)
    if calls is not None and (type(calls) is not int or calls < 1):
        table.refuse(f"{CALLS_IN_FLIGHT} must be a whole number of at least 1", CALLS_IN_FLIGHT)
    return calls


def _parse_rate(table: Table, bucket: str, value: object) -> Rate:
    if not isinstance(value, dict) or set(value) != {"per_second", "burst"}:
        table.refuse(f"{bucket} must be {{ per_second = NUMBER, burst = NUMBER }}", bucket)
    if not all(type(number) in {int, float} for number in value.values()):
        table.refuse(f"per_second and burst of {bucket} must be numbers", bucket)
    try:
        return Rate(**value)
    except ValueError as error:
        table.refuse(f"{bucket}: {error}", bucket)
