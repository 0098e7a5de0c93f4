"""The policy against an oracle that tries every pattern by itself, and files that are refused, line by line."""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyvault_api.names import LIST, METHODS, POLICY_METHODS
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.access.policy import BadPolicy, CallerEntry, Policy
from keyvault_server.access.quotas import READ_BYTES, Limits, Rate
from keyvault_server.access.spiffe import is_spiffe_id, is_spiffe_prefix
from keyvault_server.disk.watched import LOOK_SECONDS, Watched
from tests.support.clock import Clock
from tests.support.meters import RecordedMeter
from tests.support.properties import examples
from tests.support.repository import DOCS

PAGE = (DOCS / "policy.md").read_text()
(EXAMPLE,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PROPERTY = examples(150)


@dataclass(frozen=True)
class WrittenRule:
    methods: tuple[str, ...]
    names: tuple[str, ...]

    def is_sound(self) -> bool:
        if "UnwrapKey" not in self.methods:
            return not any(name.endswith("/") for name in self.names)
        alone = set(self.methods) == {"UnwrapKey"}
        return not any(name.endswith("*" if alone else ("*", "/")) for name in self.names)

    def allows(self, method: str, name: str) -> bool:
        listed = method in self.methods or ("*" in self.methods and method != "UnwrapKey")
        if method == LIST:  # every name that begins with this prefix has to match, and there is a longer one
            return listed and any(pattern.endswith("*") and means(pattern, name) for pattern in self.names)
        return listed and any(means(pattern, name) for pattern in self.names)


@dataclass(frozen=True)
class WrittenCaller:
    identity: str
    tenant: str
    rules: tuple[WrittenRule, ...]


def means(pattern: str, text: str) -> bool:
    if pattern.endswith("*"):
        return text[: len(pattern) - 1] == pattern[:-1]
    return text == pattern


def belongs_to(callers: list[WrittenCaller], identity: str) -> WrittenCaller | None:
    fitting = [caller for caller in callers if means(caller.identity, identity)]
    return max(fitting, key=lambda caller: (not caller.identity.endswith("*"), len(caller.identity)), default=None)


def is_sound(callers: list[WrittenCaller]) -> bool:
    patterns = [caller.identity for caller in callers]
    return len(patterns) == len(set(patterns)) > 0 and all(rule.is_sound() for each in callers for rule in each.rules)


PATHS = st.text("ab/", max_size=4)
SUBJECTS = st.one_of(PATHS.map("jwt:{}".format), PATHS.map("spiffe://a/{}".format), PATHS.map("uri:urn:a{}".format))
IDENTITIES = st.one_of(
    SUBJECTS.filter(lambda text: not text.startswith("spiffe") or is_spiffe_id(text)).filter("jwt:".__ne__),
    SUBJECTS.filter(lambda text: not text.startswith("spiffe") or is_spiffe_prefix(text)).map("{}*".format),
    st.sampled_from(["dns:a.example", "anonymous"]),
)
CALLED = st.one_of(PATHS, st.text("ab/", min_size=3, max_size=7))
NAMES = st.one_of(PATHS.map("{}*".format), st.text("ab/", min_size=1, max_size=4))
SOUND_NAMES = NAMES.filter(lambda name: not name.endswith("/"))
ANY_RULE = st.builds(
    WrittenRule,
    st.lists(st.sampled_from([*POLICY_METHODS, "*", "UnwrapKey"]), min_size=1, max_size=3).map(tuple),
    st.lists(NAMES, min_size=1, max_size=4).map(tuple),
)
SOUND_RULE = st.one_of(
    st.builds(
        WrittenRule,
        st.lists(
            st.sampled_from([*(method for method in POLICY_METHODS if method != "UnwrapKey"), "*"]),
            min_size=1,
            max_size=3,
        ).map(tuple),
        st.lists(SOUND_NAMES, min_size=1, max_size=4).map(tuple),
    ),
    st.builds(
        WrittenRule,
        st.sampled_from([("UnwrapKey",), ("UnwrapKey", "UnwrapKey")]),
        st.lists(st.text("ab/", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
    ),
)


def callers_of(rules: st.SearchStrategy[WrittenRule]) -> st.SearchStrategy[WrittenCaller]:
    return st.builds(
        WrittenCaller,
        IDENTITIES,
        st.sampled_from(["acme", "globex", "default"]),
        st.lists(rules, max_size=3).map(tuple),
    )


SOUND = st.lists(callers_of(SOUND_RULE), min_size=1, max_size=8, unique_by=lambda caller: caller.identity)


@dataclass(frozen=True)
class Written:
    """A file, and the lines of its headers."""

    text: str
    callers: list[int]
    rules: list[list[int]]


def written(
    callers: list[WrittenCaller], between: Callable[[], str] = str, quoted: Callable[[str], str] = json.dumps
) -> Written:
    """The policy as a file; `between` gives lines that mean nothing, `quoted` writes a string."""
    lines: list[str] = []
    headers: list[int] = []
    rules: list[list[int]] = []

    def header(text: str) -> int:
        lines.extend(between().splitlines())
        lines.append(text)
        return len(lines)

    def key(name: str, *values: str, array: bool = True) -> None:
        value = ", ".join(map(quoted, values))
        lines.extend(f"{name} = {f'[{value}]' if array else value}".split("\n"))
        lines.extend(between().splitlines())

    for caller in callers:
        headers.append(header("[[caller]]"))
        key("identity", caller.identity, array=False)
        key("tenant", caller.tenant, array=False)
        rules.append([])
        for rule in caller.rules:
            rules[-1].append(header("[[caller.allow]]"))
            key("methods", *rule.methods)
            key("names", *rule.names)
    return Written("\n".join(lines), headers, rules)


@pytest.mark.slow
@PROPERTY
@given(
    callers=SOUND, identities=st.lists(SUBJECTS, min_size=2, max_size=6), names=st.lists(CALLED, min_size=1, max_size=6)
)
def test_decisions_are_those_of_an_oracle(
    callers: list[WrittenCaller], identities: list[str], names: list[str]
) -> None:
    """Tenants and decisions are those of an oracle that tries every pattern."""
    policy = Policy.parse(written(callers).text)
    for identity in [*identities, "dns:a.example", "anonymous"]:
        entry, expected = policy.caller(identity), belongs_to(callers, identity)
        assert (entry and (str(entry.identity), entry.tenant)) == (expected and (expected.identity, expected.tenant))
        for method in POLICY_METHODS:
            for name in names:
                allowed = expected is not None and any(rule.allows(method, name) for rule in expected.rules)
                assert (entry is not None and entry.allows(method, name)) == allowed
                assert policy.decide(identity, method, name).allowed == allowed


@pytest.mark.slow
@PROPERTY
@given(callers=SOUND, other=callers_of(SOUND_RULE), identity=SUBJECTS, name=CALLED, at=st.integers(0, 8))
def test_rules_of_others_change_nothing_for_an_identity(
    callers: list[WrittenCaller], other: WrittenCaller, identity: str, name: str, at: int
) -> None:
    assume(not means(other.identity, identity) and other.identity not in {caller.identity for caller in callers})
    alone = Policy.parse(written(callers).text).caller(identity)
    among = Policy.parse(written([*callers[:at], other, *callers[at:]]).text).caller(identity)
    assert (alone and alone.tenant) == (among and among.tenant)
    if alone and among:
        assert [alone.allows(method, name) for method in POLICY_METHODS] == [
            among.allows(method, name) for method in POLICY_METHODS
        ]


@pytest.mark.slow
@PROPERTY
@given(callers=st.lists(callers_of(ANY_RULE), max_size=3), identity=SUBJECTS, name=CALLED)
def test_unwrap_key_is_granted_by_name_and_by_no_wildcard(
    callers: list[WrittenCaller], identity: str, name: str
) -> None:
    """It is granted by its own name, for scopes that are written out."""
    try:
        policy = Policy.parse(written(callers).text)
    except BadPolicy:
        assert not is_sound(callers)
        return
    assert is_sound(callers)
    if policy.decide(identity, "UnwrapKey", name).allowed:
        caller = belongs_to(callers, identity)
        assert caller is not None
        assert any("UnwrapKey" in rule.methods and name in rule.names for rule in caller.rules)


LISTING = """
[[caller]]
identity = "jwt:a"
tenant = "acme"
[[caller.allow]]
methods = ["*"]
names = ["prod/db", "prod/billing/*"]
"""


def check_listings(policy: Policy) -> None:
    """Check that a List which is allowed shows no name that the same rules do not let its caller read."""
    entry = policy.caller("jwt:a")
    assert entry is not None
    allowed = []
    for name in ("prod/db", "prod/db-2", "prod/billing/", "prod/billing/web", "prod/billing", "test"):
        for end in range(len(name) + 1):
            prefix = name[:end]
            if entry.allows(LIST, prefix):
                allowed.append(prefix)
                assert entry.allows("Read", prefix + "-2"), f"List of {prefix!r} shows its neighbours"
    assert allowed == ["prod/billing/", *("prod/billing/web"[:end] for end in range(13, 17))]


def test_a_list_shows_no_name_that_its_rules_do_not_cover() -> None:
    check_listings(Policy.parse(LISTING))


class ExactRuleLists(CallerEntry):
    """Lets an exact name list the names that begin with it: the rule prod/db shows prod/db-2."""

    def allows(self, method: str, name: str) -> bool:
        return super().allows("Read" if method == LIST else method, name)


def test_an_exact_rule_that_lists_its_neighbours_is_caught() -> None:
    entry = Policy.parse(LISTING).caller("jwt:a")
    assert entry is not None
    wrong = ExactRuleLists(**{field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)})
    with pytest.raises(AssertionError, match="List of 'prod/db' shows its neighbours"):
        check_listings(Policy([wrong]))


@pytest.mark.parametrize(
    ("pattern", "prefix", "allowed"),
    [
        ("*", "", True),
        ("*", "a", True),
        ("a*", "", False),
        ("a*", "a", True),
        ("a*", "ab", True),
        ("ab*", "a", False),
        ("a", "a", False),
        ("a", "", False),
        ("a/*", "a", False),
        ("a/*", "a/", True),
        ("b*", "a", False),
    ],
)
def test_a_list_is_allowed_by_an_open_pattern_that_begins_it(pattern: str, prefix: str, allowed: bool) -> None:
    for methods in ("*", LIST):
        rule = WrittenRule((methods,), (pattern, "zz", "zz/*"))
        policy = Policy.parse(written([WrittenCaller("jwt:a", "acme", (rule,))]).text)
        entry = policy.caller("jwt:a")
        assert entry is not None
        assert entry.allows(LIST, prefix) is policy.decide("jwt:a", LIST, prefix).allowed is allowed


def test_a_method_that_is_listed_twice_is_listed_once() -> None:
    for methods in (("UnwrapKey",), ("UnwrapKey", "UnwrapKey")):
        callers = [WrittenCaller("jwt:a", "acme", (WrittenRule(methods, ("a/",)),))]
        assert is_sound(callers)
        assert Policy.parse(written(callers).text).decide("jwt:a", "UnwrapKey", "a/").allowed


@pytest.mark.slow
@PROPERTY
@given(pattern=NAMES, scope=st.text("ab/", max_size=3).map("{}/".format), key_id=st.text("ab/", max_size=5))
def test_scopes_and_key_ids_are_allowed_by_their_prefixes(pattern: str, scope: str, key_id: str) -> None:
    """A key_id is allowed by its name too."""
    assume(not pattern.endswith("/"))
    rule = WrittenRule(("GenerateKey", "Read"), (pattern,))
    entry = Policy.parse(written([WrittenCaller("jwt:a", "acme", (rule,))]).text).caller("jwt:a")
    assert entry is not None
    prefix = pattern[:-1] if pattern.endswith("*") else None
    assert entry.allows("GenerateKey", scope) == (prefix is not None and scope.startswith(prefix))
    assert entry.allows("GenerateKey", "") == (pattern == "*")
    named = key_id + "a"
    assert entry.allows("Read", named) == (named == pattern or (prefix is not None and named.startswith(prefix)))


@PROPERTY
@given(literals=st.lists(st.text("ab", max_size=6), min_size=1, unique=True), subject=st.text("ab", max_size=8))
@pytest.mark.slow
def test_the_longest_prefix_wins_however_deep_they_nest(literals: list[str], subject: str) -> None:
    policy = Policy.parse(written([WrittenCaller(f"jwt:{text}*", "acme", ()) for text in literals]).text)
    fitting = [text for text in literals if subject.startswith(text)]
    entry = policy.caller(f"jwt:{subject}")
    assert (entry and entry.identity.literal) == (f"jwt:{max(fitting, key=len)}" if fitting else None)


def test_an_exact_pattern_wins_over_every_prefix() -> None:
    """Its own prefix included."""
    callers = [WrittenCaller(identity, "acme", ()) for identity in ("jwt:alice*", "jwt:alice", "jwt:*")]
    policy = Policy.parse(written(callers).text)
    found = {identity: policy.caller(identity) for identity in ("jwt:alice", "jwt:alice2", "jwt:bob", "jwt:", "jwt")}
    assert {identity: entry and str(entry.identity) for identity, entry in found.items()} == {
        "jwt:alice": "jwt:alice",
        "jwt:alice2": "jwt:alice*",
        "jwt:bob": "jwt:*",
        "jwt:": "jwt:*",
        "jwt": None,
    }


WIDE = """
[[caller]]
identity = "jwt:team-*"
tenant = "acme"

[[caller.allow]]
methods = ["Read"]
names = ["prod/*"]
"""
NARROW = """
[[caller]]
identity = "jwt:team-trainee"
tenant = "acme"
"""


def test_a_narrowing_entry_counts_while_a_policy_is_written(tmp_path: Path) -> None:
    """Almost every part of the file is a policy of its own, without the entry at its end."""
    path, clock = tmp_path / "policy.toml", Clock()
    path.write_text(WIDE + NARROW)
    watched = Watched("policy", [path], lambda: Policy.parse(path.read_text()), RecordedMeter(), clock=clock)

    def may_read() -> list[str]:
        clock.now += LOOK_SECONDS
        decide = watched.get().decide
        return [who for who in ("team-lead", "team-trainee") if decide(f"jwt:{who}", "Read", "prod/db").allowed]

    changed = WIDE + '[[caller]]\nidentity = "jwt:new"\ntenant = "acme"\n' + NARROW
    with path.open("w", buffering=1) as file:
        for line in changed.splitlines(keepends=True):
            file.write(line)
            assert may_read() == ["team-lead"]
    assert may_read() == ["team-lead"]
    assert watched.get().caller("jwt:new") is not None


NOISE = ["", "# [[caller]]", '  # """', "\t# it's", "#'''", '# "', "\n\n"]


def in_any_quotes(data: st.DataObject) -> Callable[[str], str]:
    """Writes a string in one of TOML's ways, some of which hold what looks like a header."""

    def quoted(text: str) -> str:
        half = len(text) // 2
        ways = [
            json.dumps(text),
            f"'{text}'",
            f'"""{text}"""',
            f"'''\n{text}'''",
            f'"""{text[:half]}\\\n\n  {text[half:]}"""',
        ]
        return data.draw(st.sampled_from(ways))

    return quoted


@pytest.mark.slow
@PROPERTY
@given(callers=SOUND, data=st.data())
def test_a_decision_names_the_line_of_its_rule(callers: list[WrittenCaller], data: st.DataObject) -> None:
    """Without a rule it names the line of the caller."""
    file = written(callers, lambda: data.draw(st.sampled_from(NOISE)), in_any_quotes(data))
    policy = Policy.parse(file.text)
    for number, caller in enumerate(callers):
        identity = caller.identity.removesuffix("*")
        if belongs_to(callers, identity) is not caller:
            continue
        for method in POLICY_METHODS:
            name = data.draw(CALLED)
            lines = [
                line for line, rule in zip(file.rules[number], caller.rules, strict=True) if rule.allows(method, name)
            ]
            decision = policy.decide(identity, method, name)
            assert (decision.allowed, decision.line) == ((True, lines[0]) if lines else (False, file.callers[number]))


def test_a_header_within_a_string_or_a_comment_is_none() -> None:
    text = r'''# [[caller]]
[[caller]] # [[caller]]
identity = """jwt:\
[[caller]]\
[[caller.allow]]\
\"""''"""" # """"
tenant = 'acme' # it's ours
[[caller.allow]] # """
methods = [ # "
  'Read', """\
  Update""",
]
names = ["*"]'''
    policy = Policy.parse(text)
    identity = 'jwt:[[caller]][[caller.allow]]"""\'\'"'
    assert policy.decide(identity, "Update", "x")[:2] == (True, 8)
    assert policy.decide(identity, "Delete", "x")[:2] == (False, 2)


def test_a_multi_line_string_may_end_in_many_quotes() -> None:
    """More than three."""
    caller = "[[caller]]\nidentity = '''jwt:a'''' # ''''\ntenant = 'acme'\n"
    rule = "[[caller.allow]] # '''\nmethods = ['*']\nnames = ['*']"
    assert Policy.parse(caller + rule).decide("jwt:a'", "Read", "x")[:2] == (True, 4)


def test_a_decision_says_why() -> None:
    rule = WrittenRule(("Read",), ("prod/billing/*",))
    member = "spiffe://example.org/billing/web"
    callers = [
        WrittenCaller("spiffe://example.org/billing/*", "acme", (rule,)),
        WrittenCaller("jwt:alice", "acme", ()),
        WrittenCaller("jwt:carol", "acme", (WrittenRule((LIST,), ("x",)),)),
    ]
    policy = Policy.parse(written(callers).text)
    assert policy.decide(member, "Read", "prod/billing/x") == (
        True,
        4,
        'the caller matches "spiffe://example.org/billing/*" (tenant acme), '
        'and this rule allows Read on "prod/billing/*"',
    )
    for identity, method, name, line, why in [
        (member, "Read", "prod/x", 1, "but no rule of this entry covers this name"),
        (member, "Update", "prod/billing/x", 1, "but no rule of this entry lists Update"),
        (
            member,
            "Purge",
            "prod/billing/x",
            1,
            f"unknown RPC 'Purge': expected {', '.join(POLICY_METHODS[:-1])} or {POLICY_METHODS[-1]}",
        ),
        (member, "List", "prod/billing/", 1, "but no rule of this entry lists List"),
        ("jwt:carol", "List", "x", 10, 'but no rule of this entry covers this prefix by a pattern that ends in "*"'),
        ("jwt:alice", "Read", "prod/billing/x", 7, "but no rule of this entry lists Read"),
        ("jwt:bob", "Read", "prod/billing/x", None, "no [[caller]] matches this identity"),
    ]:
        decision = policy.decide(identity, method, name)
        assert decision[:2] == (False, line)
        assert decision.why.endswith(why)


def test_limits_are_the_defaults_but_for_what_the_file_says() -> None:
    policy = Policy.parse(EXAMPLE)
    billing, export = (policy.caller(f"spiffe://example.org/billing/{name}") for name in ("web", "export"))
    assert billing is not None
    assert export is not None
    assert export.limits == Limits()
    assert billing.limits["GenerateKey"] == Rate(1, 10)
    assert billing.limits.calls_in_flight == 32
    assert billing.limits[READ_BYTES] == Rate(4_000_000, 8_000_000)
    assert billing.limits["Read"] == Limits()["Read"]


def test_in_flight_calls_are_the_default_unless_the_file_says() -> None:
    limits = "[caller.limits]\n"
    caller = '[[caller]]\nidentity = "jwt:a"\ntenant = "acme"\n'
    for written_limits, calls in (
        ("", None),
        ("calls_in_flight = 7\n", 7),
        ("Read = { per_second = 1, burst = 2 }\n", None),
    ):
        entry = Policy.parse(caller + limits + written_limits).caller("jwt:a")
        assert entry is not None
        assert entry.limits.calls_in_flight == calls


def test_the_example_in_the_docs_does_what_its_comments_say() -> None:
    policy = Policy.parse(EXAMPLE)
    web, export = "spiffe://example.org/billing/web", "spiffe://example.org/billing/export"
    admin, rotation = "dns:vault-admin.globex.example", "jwt:key-rotation"
    for identity, method, name, allowed in [
        (web, "GenerateKey", "prod/billing/", True),
        (web, "GenerateKey", "prod/", False),
        (web, "GenerateKey", "", False),
        (web, "Update", "prod/billing/x", True),
        (web, "Read", "shared/config", True),
        (web, "Update", "shared/config", False),
        (export, "Read", "prod/billing/invoices/7", True),
        (export, "Read", "shared/config", False),
        (export, "Update", "prod/billing/invoices/7", False),
        (rotation, "RewrapKey", "prod/billing/", True),
        (rotation, "UnwrapKey", "prod/billing/signing-key", True),
        (rotation, "UnwrapKey", "prod/billing/", False),
        (rotation, "Read", "prod/billing/x", False),
        (admin, "GenerateKey", "", True),
        (admin, "Delete", "prod/billing/x", True),
        (admin, "UnwrapKey", "prod/billing/signing-key", False),
        ("spiffe://example.org/web", "Read", "shared/config", False),
    ]:
        assert policy.decide(identity, method, name).allowed == allowed, (identity, method, name)
    tenants = {
        identity: entry.tenant for identity in (web, export, rotation, admin) if (entry := policy.caller(identity))
    }
    assert tenants == {web: "acme", export: "acme", rotation: "acme", admin: "globex"}


def test_the_defaults_in_the_docs_are_those_in_force() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,.]+) \| ([\d,.]+) \|", PAGE, re.MULTILINE)
    documented = {name: Rate(*(float(number.replace(",", "")) for number in numbers)) for name, *numbers in rows}
    assert documented == Limits().rates


def test_the_methods_are_those_of_the_contract() -> None:
    assert tuple(pb.DESCRIPTOR.services_by_name["KeyVault"].methods_by_name) == METHODS
    assert set(METHODS) > set(POLICY_METHODS)
