"""Policies that are refused, each in one line that names the line at fault, and whatever else an editor may leave."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvault_server.access.patterns import check_identity
from keyvault_server.access.policy import BadPolicy, Policy
from keyvault_server.core.errors import OperatorError
from tests.support.properties import examples

GOOD = """\
[[caller]]
identity = "spiffe://example.org/billing/*"
tenant = "acme"

[[caller.allow]]
methods = ["Read"]
names = ["prod/billing/*"]

[caller.limits]
Read = { per_second = 500, burst = 1000 }

[[caller]]
identity = "jwt:alice"
tenant = "acme"
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[[caller]]\n", "[[callers]]\n", 12, "unknown key 'callers': expected caller"),
        ('tenant = "acme"', 'tenant = "acme"\nrole = "x"', 4, "unknown key 'role': expected identity, .* or limits"),
        ("[[caller.allow]]", "[[caller.alow]]", 5, "unknown key 'alow'"),
        ("[[caller.allow]]", "[caller.allow]", 5, r"under a line \[\[caller.allow\]\]"),
        ("[[caller.allow]]", '[[caller."allow"]]', 1, r"under a line \[\[caller.allow\]\]"),
        ("[[caller]]\nidentity", "[caller]\nidentity", 12, "not valid TOML"),
        ("[caller.limits]", "[[caller.limits]]", 9, "limits must be one table"),
        ('tenant = "acme"\n', "", 1, "tenant must be a string"),
        ("identity", "identities", 2, "unknown key"),
        ('tenant = "acme"', 'tenant = "Acme"', 3, "'Acme': a tenant is 1 to 63"),
        ('tenant = "acme"', 'tenant = ["acme"]', 3, "tenant must be a string"),
        ('["Read"]', '["Purge"]', 6, "unknown RPC 'Purge': expected GenerateKey.* or List"),
        ('["Read"]', '["read"]', 6, "unknown RPC 'read'; did you mean Read"),
        ('["Read"]', "[]", 6, "methods must be an array"),
        ('["Read"]', '"Read"', 6, "methods must be an array"),
        ('["Read"]', '["Read", 1]', 6, "methods must be an array"),
        ('methods = ["Read"]\n', "", 5, "methods must be an array"),
        ('["Read"]', '["Read", "UnwrapKey"]', 7, "UnwrapKey is never granted by a wildcard"),
        ('["Read"]', '["*", "UnwrapKey"]', 7, "UnwrapKey is never granted by a wildcard"),
        ('["prod/billing/*"]', "[]", 7, "names must be an array"),
        ("prod/billing/*", "prod/billing/", 7, r'write "prod/billing/\*"'),
        ("prod/billing/*", "prod/*/x", 7, "a name is 1 to 255"),
        ("prod/billing/*", "prod/**", 7, "a name is 1 to 255"),
        ("prod/billing/*", "prod/b?lling", 7, "a name is 1 to 255"),
        ("prod/billing/*", "", 7, "a name is 1 to 255"),
        ("prod/billing/*", "ä*", 7, r"'\\xe4\*': a name is 1 to 255"),
        ("prod/billing/*", "x" * 256, 7, r"\.\.\.': a name is 1 to 255"),
        ("Read = {", "calls_in_flight = 0\nRead = {", 10, "calls_in_flight must be a whole number of at least 1"),
        ("Read = {", "calls_in_flight = true\nRead = {", 10, "calls_in_flight must be a whole number"),
        ("Read = {", "calls_in_flight = 1.5\nRead = {", 10, "calls_in_flight must be a whole number"),
        ("Read = {", "calls_in_flight = { burst = 1 }\nRead = {", 10, "calls_in_flight must be a whole number"),
        ("Read = {", "calls = 5\nRead = {", 10, "unknown key 'calls': expected GenerateKey.* or calls_in_flight"),
        ("per_second = 500", "per_second = 0", 10, "Read: per_second must be above 0"),
        ("per_second = 500", "per_second = -1", 10, "Read: per_second must be above 0"),
        ("per_second = 500", "per_second = nan", 10, "Read: per_second must be above 0"),
        ("per_second = 500", "per_second = inf", 10, "Read: per_second must be above 0"),
        ("per_second = 500", "per_second = true", 10, "must be numbers"),
        ("per_second = 500", 'per_second = "500"', 10, "must be numbers"),
        ("burst = 1000", "burst = 0", 10, "burst must be at least 1"),
        ("burst = 1000", "burst = 0x" + "f" * 5_000, 10, "burst must be at least 1"),
        (", burst = 1000", "", 10, "Read must be { per_second"),
        ("Read = { per_second = 500, burst = 1000 }", "Read = 500", 10, "Read must be { per_second"),
        ("Read = {", "Purge = {", 10, "unknown key 'Purge': expected GenerateKey"),
        ("jwt:alice", "spiffe://example.org/billing/*", 13, r"/billing/\*' already has an entry in line 1"),
        (GOOD, "", 1, "the policy has no caller"),
        (GOOD, "# later", 1, "the policy has no caller"),
        (GOOD, "caller = []", 1, "the policy has no caller"),
        (GOOD, 'x = 1\n\ncaller = [{identity = "jwt:a", tenant = "a"}]', 1, "unknown key 'x'"),
        (GOOD, '\ncaller = [{identity = "jwt:a", tenant = "a"}]', 2, r"under a line \[\[caller\]\]"),
        (GOOD, '[["caller"]]\nidentity = "jwt:a"\ntenant = "a"', 1, r"under a line \[\[caller\]\]"),
        (GOOD, '[caller]\nidentity = "jwt:a"\ntenant = "a"', 1, r"under a line \[\[caller\]\]"),
        (GOOD, 'caller = "jwt:a"', 1, r"under a line \[\[caller\]\]"),
        ("alice", "alice\n", 13, "not valid TOML"),
        (GOOD, GOOD + "[[", 15, "not valid TOML"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_its_line(old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    last = old == "jwt:alice" or old.startswith("[[caller]]\n")
    bad = new.join(GOOD.rsplit(old, 1)) if last else GOOD.replace(old, new, 1)
    with pytest.raises(BadPolicy, match=words) as refused:
        Policy.parse(bad)
    assert str(refused.value).startswith(f"line {line}: ")
    assert str(refused.value).isprintable()
    assert isinstance(refused.value, OperatorError)


@pytest.mark.parametrize(
    "identity",
    [
        "*", "", "spiffe", "spiffe*", "spiffe:*", "spiffe:/*", "spiffe://*", "spiffe://exam*", "spiffe://example.org*",
        "spiffe://example.org", "spiffe://example.org/", "spiffe:///x", "spiffe://Example.org/x", "spiffe://example.org:8443/x",
        "spiffe://example.org/a b", "spiffe://example.org/*/x", "spiffe://example.org/**", "spiffe://*/x",
        "uri*", "uri:*", "uri:", "uri:https", "uri:https:", "uri:https*", "uri:https:*", "uri:https:/*", "uri:https://*",
        "uri:https://exam*", "uri:https://example.org*", "uri::x",
        "dns:", "dns:*", "dns:web.*", "dns:*.example.org", "jwt:", "jwt", "jwt*", "j*", "JWT:alice", "alice",
        "cn:alice", "anonymous*", "anonymous2", "anon*", "jwt:a\nb", "jwt:a\x7f", "jwt:" + "a" * 2_048,
    ],
)  # fmt: skip
def test_a_pattern_that_is_invalid_or_too_wide_is_refused(identity: str) -> None:
    """One that admits unidentified callers, for example."""
    with pytest.raises(BadPolicy, match=r"^line 13: '"):
        Policy.parse(GOOD.replace('"jwt:alice"', json.dumps(identity)))


IN_NO_IDENTITY = {
    "jwt:alice ": r"character 10 is ' ', which no identity has: use visible ASCII characters$",
    "jwt: alice*": "character 5 is ' '",
    "jwt:alice *": "character 10 is ' '",
    "jwt:\u0430lice": r"character 5 is '\\u0430'",
    "jwt:\u0430*": r"character 5 is '\\u0430'",
    "jwt:al\u00adice": r"character 7 is '\\xad'",
    "jwt:alice\u200b": r"character 10 is '\\u200b'",
    "jwt:a\tb": r"character 6 is '\\t'",
    "jwt:" + "a" * 256: "at most 255 characters, this one has 256",
    "jwt:" + "a" * 256 + "*": "at most 255 characters, this one has 256",
    "dns:a b": "character 6 is ' '.*; write international names as certificates do, with xn--",
    "dns:b\u00fccher.example": r"character 6 is '\\xfc'.*xn--",
    "uri:https://example.org/a b": "character 26 is ' '",
    "uri:https://example.org/\u0430*": r"character 25 is '\\u0430'",
    "uri:spiffe://example.org/a": "write it without uri:",
    "uri:SPIFFE://example.org/*": "write it without uri:",
    "uri:https://example.org/" + "a" * 2048: "at most 2048 characters",
    "spiffe://a/../x": "a SPIFFE ID is",
    "spiffe://a/../x*": "a SPIFFE ID is",
    "spiffe://a/x ": "a SPIFFE ID is",
    "spiffe://a/\u0430*": "a SPIFFE ID is",
}


@pytest.mark.parametrize(("pattern", "sentence"), IN_NO_IDENTITY.items(), ids=ascii)
def test_a_pattern_that_covers_nobody_is_refused(pattern: str, sentence: str) -> None:
    """Else an entry that is meant to shut somebody out does not."""
    with pytest.raises(BadPolicy, match=rf"^line 13: .*{sentence}") as refused:
        Policy.parse(GOOD.replace('"jwt:alice"', json.dumps(pattern)))
    assert str(refused.value).isprintable()
    if not pattern.endswith("*"):
        with pytest.raises(ValueError, match=sentence):
            check_identity(pattern)


@pytest.mark.parametrize(
    ("pattern", "identity"),
    [
        ("spiffe://example.org/*", "spiffe://example.org/a/b"),
        ("spiffe://example.org/bill*", "spiffe://example.org/billing"),
        ("spiffe://example.org/web", "spiffe://example.org/web"),
        ("uri:https://example.org/*", "uri:https://example.org/x"),
        ("uri:https://example.org", "uri:https://example.org"),
        ("uri:urn:uuid:*", "uri:urn:uuid:f81d4fae"),
        ("dns:web.example.org", "dns:web.example.org"),
        ("uri:https://example.org/a/../b", "uri:https://example.org/a/../b"),
        ("dns:Web_1.example.org.", "dns:Web_1.example.org."),
        ("jwt:*", "jwt:anyone|at~all"),
        ("jwt:" + "a" * 255, "jwt:" + "a" * 255),
        ("jwt:" + "a" * 255 + "*", "jwt:" + "a" * 255),
        ('jwt:!"#$%&*', 'jwt:!"#$%&x'),
        ("anonymous", "anonymous"),
    ],
)
def test_a_pattern_of_each_kind_means_its_identities(pattern: str, identity: str) -> None:
    entry = Policy.parse(GOOD.replace('"jwt:alice"', json.dumps(pattern, ensure_ascii=False))).caller(identity)
    assert entry is not None
    assert str(entry.identity) == pattern


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#" * (4 * 1024 * 1024 + 1), "over 4_194_304 characters"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "9" * 5_000, "too many digits"),
    ],
    ids=["size", "depth", "digits"],
)
def test_a_file_out_of_all_proportion_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        Policy.parse(text)


PIECES = [
    "[[caller]]\n", "[[caller.allow]]\n", "[caller.limits]\n", "[caller]\n", "identity", "names", "methods", "allow",
    "limits", '"UnwrapKey", ', '"*", ', "spiffe://", "true", "nan", "0x", "1e999", "1979-05-27", '"""', "'''", '"', "'",
    "[", "]", "{", "}", "*", "=", ".", ",", "-", "#", "\\", "\\ud800", "\\u0000", "\n", "\r\n", "\r", "\0", "\x85",
    "\u2028", "\ud800",
]  # fmt: skip


@pytest.mark.slow
@examples(500)
@given(st.data())
def test_a_changed_file_is_a_policy_or_refused_in_one_line(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 40))
        piece = data.draw(st.one_of(st.sampled_from(PIECES), st.text(max_size=3), st.just(text[start:end] * 2)))
        text = text[:start] + piece + text[end:]
    is_policy_or_refused(text)


@pytest.mark.slow
@examples(500)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*PIECES, " = ", "caller", "tenant"])).map("".join)))
@example("[[caller]]\n" * 3)
@example('[[caller]]\nidentity = "jwt:a"\ntenant = "a"\nallow = [1]')
@example('[[caller]]\nidentity = "jwt:a"\ntenant = "a"\nlimits = [1]')
@example("\ud800")
@example('#\ud800\n"\ud800" = 1')
def test_any_text_at_all_is_a_policy_or_refused_in_one_line(text: str) -> None:
    is_policy_or_refused(text)


def is_policy_or_refused(text: str) -> None:
    sentence = "a policy"
    try:
        policy = Policy.parse(text)
    except BadPolicy as refusal:
        sentence = str(refusal)
    else:
        for identity in ("spiffe://example.org/billing/web", "jwt:alice"):
            assert not policy.decide(identity, "UnwrapKey", "prod/billing/x").allowed
            allowed, line, _ = policy.decide(identity, "Read", "prod/billing/x")
            header = "[[caller.allow]]" if allowed else "[[caller]]"
            assert line is None or "".join(text.split("\n")[line - 1].split()).startswith(header)
    assert sentence.isprintable()
