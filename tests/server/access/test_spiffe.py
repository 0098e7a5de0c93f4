"""The grammar of SPIFFE IDs, for certificates and for the policy alike."""

import pytest

from keyvault_server.access.policy import BadPolicy, Policy
from keyvault_server.access.spiffe import is_spiffe_id, is_spiffe_prefix

START = "spiffe://a/"
LONGEST = 2048
"""Characters of a SPIFFE ID (SPIFFE-ID, 2.3)."""
IDS = [
    "spiffe://a/b",
    "spiffe://example.org/ns/x/sa/y",
    "spiffe://a/...",
    "spiffe://a/.b",
    "spiffe://a/b..c",
    START + "b" * (LONGEST - len(START)),
]
NOT_IDS = [
    "spiffe://a",
    "spiffe://a/",
    "spiffe://a/b/",
    "spiffe://a//b",
    "spiffe://a/../b",
    "spiffe://a/./b",
    "spiffe://a/b/..",
    "spiffe://a/.",
    "spiffe://A/b",
    "spiffe://a:1/b",
    "spiffe:///b",
    "spiffe://a/b c",
    "spiffe://a/b%20c",
    "spiffe://a/b\n",
    "SPIFFE://a/b",
    START + "b" * (LONGEST - len(START) + 1),
]
PREFIXES = ["spiffe://a/", "spiffe://a/b", "spiffe://a/b/", "spiffe://a/.", "spiffe://a/b/.."]
NOT_PREFIXES = ["spiffe://a", "spiffe://", "spiffe://a//", "spiffe://a/../", "spiffe://a/./b", "spiffe://a/b/../c"]
POLICY = '[[caller]]\nidentity = "{}"\ntenant = "acme"\n[[caller.allow]]\nmethods = ["Read"]\nnames = ["*"]\n'


@pytest.mark.parametrize("text", IDS)
def test_a_spiffe_id_is_one_for_the_policy_too(text: str) -> None:
    assert is_spiffe_id(text)
    assert Policy.parse(POLICY.format(text)).caller(text)


@pytest.mark.parametrize("text", NOT_IDS, ids=ascii)
def test_what_breaks_the_grammar_is_refused_by_the_policy_too(text: str) -> None:
    assert not is_spiffe_id(text)
    with pytest.raises(BadPolicy):
        Policy.parse(POLICY.format(text.replace("\n", "\\n")))


@pytest.mark.parametrize("text", PREFIXES)
def test_a_prefix_admits_an_id_that_begins_with_it(text: str) -> None:
    assert is_spiffe_prefix(text)
    policy = Policy.parse(POLICY.format(f"{text}*"))
    assert is_spiffe_id(f"{text}x")
    assert policy.caller(f"{text}x")


@pytest.mark.parametrize("text", NOT_PREFIXES)
def test_a_prefix_of_no_spiffe_id_is_refused(text: str) -> None:
    assert not is_spiffe_prefix(text)
    with pytest.raises(BadPolicy):
        Policy.parse(POLICY.format(f"{text}*"))
