"""Who may call what: one TOML file, default deny, no code in it. docs/policy.md has the format.

An identity belongs to one entry, that of the most specific pattern, and so to one tenant; only that entry's rules
count. Rule of the file: nothing is looked up here but in the policy, so an answer never tells whether a record exists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvault_api.names import METHODS, is_tenant
from keyvault_server.access.patterns import AnyOf, MostSpecific, Pattern, identity_pattern, name_pattern
from keyvault_server.access.policy_file import BadPolicy, CallerTables, Table, read_tables, shown
from keyvault_server.access.quotas import CALLS_IN_FLIGHT, Limits, Rate

__all__ = ["BadPolicy", "CallerEntry", "Decision", "Policy", "Rule"]

UNWRAP = "UnwrapKey"
"""The one that no wildcard grants: with it, a wrapped key is as good as both keys."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[caller.allow]]: these methods on these names."""

    line: int
    methods: frozenset[str]
    names: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class CallerEntry:
    """One [[caller]]: whose it is, the tenant that they are, and what they may."""

    line: int
    identity: Pattern
    tenant: str
    limits: Limits
    rules: tuple[Rule, ...]
    _names: Mapping[str, AnyOf] = field(repr=False, compare=False)

    def allows(self, method: str, name: str) -> bool:
        """True if the policy lets this caller try the RPC on this key_id or scope, "" being a scope not given."""
        names = self._names.get(method)
        return names is not None and names.matches(name)


class Decision(NamedTuple):
    """An answer, and what in the file makes it."""

    allowed: bool
    line: int | None
    """Of the [[caller.allow]] that allows; of the [[caller]] whose rules do not; None: no entry is the caller's."""
    why: str


class Policy:
    """The parsed file; immutable, so that a new one replaces it in one assignment."""

    def __init__(self, entries: Iterable[CallerEntry]) -> None:
        self._entries = {entry.identity: entry for entry in entries}
        self._patterns = MostSpecific(self._entries)

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Reads the whole file. Raises BadPolicy: one line that names the line at fault and what to do."""
        entries: dict[Pattern, CallerEntry] = {}
        for tables in read_tables(text):
            entry = _entry(tables)
            other = entries.setdefault(entry.identity, entry)
            if other is not entry:
                tables.caller.refuse(
                    f"line {other.line} has an entry of this identity: put the rules there", "identity"
                )
        return cls(entries.values())

    def caller(self, identity: str) -> CallerEntry | None:
        """The entry to which an identity belongs; None if the policy does not know it, which is to deny it."""
        pattern = self._patterns.find(identity)
        return None if pattern is None else self._entries[pattern]

    def decide(self, identity: str, method: str, name: str) -> Decision:
        """What `allows` answers, with the line of the file that decides."""
        caller = self.caller(identity)
        if caller is None:
            return Decision(False, None, "no [[caller]] has a pattern for this identity")
        whose = f'it belongs to "{caller.identity}", tenant {caller.tenant}'
        if method not in METHODS:
            return Decision(False, caller.line, f"there is no such RPC: {', '.join(METHODS)}")
        rules = [rule for rule in caller.rules if method in rule.methods]
        for rule in rules:
            for pattern in rule.names:
                if pattern.matches(name):
                    return Decision(True, rule.line, f'{whose}, and this rule allows {method} on "{pattern}"')
        missing = "has this name" if rules else f"lists {method}"
        return Decision(False, caller.line, f"{whose}, and no rule of this entry {missing}")


def _entry(tables: CallerTables) -> CallerEntry:
    caller = tables.caller
    caller.check_keys("identity", "tenant", "allow", "limits")
    text = caller.text("identity", "an identity, or the beginning of identities and a final *")
    try:
        identity = identity_pattern(text)
    except ValueError as error:
        caller.refuse(f"{shown(text)}: {error}", "identity")
    tenant = caller.text("tenant", "the tenant of these callers")
    if not is_tenant(tenant):
        caller.refuse(f"{shown(tenant)}: a tenant is 1 to 63 characters of [a-z0-9-], no - at its beginning", "tenant")
    rules = tuple(map(_rule, tables.rules))
    return CallerEntry(caller.line, identity, tenant, _limits(tables.limits), rules, _names_by_method(rules))


def _rule(table: Table) -> Rule:
    table.check_keys("methods", "names")
    methods = _methods(table)
    names = []
    for text in table.texts("names", 'key_ids, or the beginning of names and a final *, or "*"'):
        try:
            names.append(name_pattern(text))
        except ValueError as error:
            table.refuse(f"{shown(text)}: {error}", "names")
        _check_scope(table, methods, names[-1])
    return Rule(table.line, methods, tuple(names))


def _methods(table: Table) -> frozenset[str]:
    listed = table.texts("methods", 'the names of RPCs, or "*", which is every one but UnwrapKey')
    for method in listed:
        if method not in METHODS and method != "*":
            table.refuse(f"{shown(method)} is no RPC: the RPCs are {', '.join(METHODS)}", "methods")
    everything = set(METHODS) - {UNWRAP} if "*" in listed else set()
    return frozenset(everything.union(listed) - {"*"})


def _check_scope(table: Table, methods: frozenset[str], name: Pattern) -> None:
    """A prefix scope stands for itself under UnwrapKey alone; for all else a * rule covers it."""
    if name.open and UNWRAP in methods:
        table.refuse(f"{UNWRAP} is never granted by a wildcard: give it a rule of its own, with each scope", "names")
    if name.literal.endswith("/") and not name.open and methods != {UNWRAP}:
        table.refuse(f'"{name}" is no key_id: write "{name}*", or give {UNWRAP} a rule of its own', "names")


def _names_by_method(rules: tuple[Rule, ...]) -> dict[str, AnyOf]:
    """The names of all rules together, method by method; methods of the same rules share them."""
    made: dict[tuple[Rule, ...], AnyOf] = {}
    by_method = {}
    for method in METHODS:
        of_method = tuple(rule for rule in rules if method in rule.methods)
        if of_method:
            if of_method not in made:
                made[of_method] = AnyOf(name for rule in of_method for name in rule.names)
            by_method[method] = made[of_method]
    return by_method


def _limits(table: Table) -> Limits:
    limits = Limits()
    table.check_keys(*limits.rates, CALLS_IN_FLIGHT)
    rates = {bucket: _rate(table, bucket, value) for bucket, value in table.values.items() if bucket != CALLS_IN_FLIGHT}
    return limits.but(rates, _calls_in_flight(table))


def _calls_in_flight(table: Table) -> int | None:
    calls = table.values.get(CALLS_IN_FLIGHT)
    if calls is not None and (type(calls) is not int or calls < 1):
        table.refuse(f"{CALLS_IN_FLIGHT} has to be a whole number of at least 1", CALLS_IN_FLIGHT)
    return calls


def _rate(table: Table, bucket: str, value: object) -> Rate:
    if not isinstance(value, dict) or set(value) != {"per_second", "burst"}:
        table.refuse(f"{bucket} has to be {{ per_second = NUMBER, burst = NUMBER }}", bucket)
    if not all(type(number) in {int, float} for number in value.values()):
        table.refuse(f"per_second and burst of {bucket} have to be numbers", bucket)
    try:
        return Rate(**value)
    except ValueError as error:
        table.refuse(f"{bucket}: {error}", bucket)
