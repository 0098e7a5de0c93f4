"""The rules of names, by examples on both sides of each boundary."""

import re
import string

import pytest

from keyvault_api import names
from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.repository import ROOT

ALLOWED = string.ascii_letters + string.digits + "._~:@/+=-"
REFUSED = [chr(code) for code in range(256) if chr(code) not in ALLOWED]
CONFUSABLE = ["\u0430", "\uff41", "\u0131", "\u017f", "\u212a", "\u0661", "\u2215", "\u2024", "e\u0301", "\ud800"]


@pytest.mark.parametrize(
    "key_id", ["k", "0", "-", ".", "..", "prod/db", "/prod", "a//b", "a/../b", "k" * 255, "~:@+=x"]
)
def test_a_key_id_is_a_scope_too(key_id: str) -> None:
    assert names.is_key_id(key_id)
    assert names.is_scope(key_id)


@pytest.mark.parametrize("scope", ["/", "//", "prod/", "prod/db/", "k" * 254 + "/"])
def test_a_prefix_with_a_slash_is_a_scope_but_not_a_key_id(scope: str) -> None:
    assert names.is_scope(scope)
    assert not names.is_key_id(scope)


@pytest.mark.parametrize("text", ["", "k" * 256, "k" * 255 + "/", "k\n", "\nk", "k\x00", " k", "k ", "a b", "prod/*"])
def test_a_bad_length_or_character_makes_neither(text: str) -> None:
    assert not names.is_scope(text)
    assert not names.is_key_id(text)


def test_every_allowed_character_makes_a_scope() -> None:
    assert all(names.is_scope(character) for character in ALLOWED)
    assert [character for character in ALLOWED if not names.is_key_id(character)] == ["/"]
    assert all(names.is_key_id(f"{character}k") for character in ALLOWED)


@pytest.mark.parametrize("character", REFUSED + CONFUSABLE, ids=ascii)
def test_no_other_character_is_accepted_anywhere(character: str) -> None:
    for text in (character, f"a{character}", f"{character}a", f"a{character}a"):
        assert not names.is_scope(text)
        assert not names.is_key_id(text)
        assert not names.is_tenant(text)


@pytest.mark.parametrize("tenant", ["a", "0", "acme", "a-", "a--b", "0-9", "a" * 63])
def test_a_tenant_is_1_to_63_small_letters_digits_and_hyphens(tenant: str) -> None:
    assert names.is_tenant(tenant)


@pytest.mark.parametrize("text", ["", "-", "-a", "a" * 64, "A", "aB", "a_b", "a.b", "a/b", "a b", "a\n", "ä"])
def test_text_that_breaks_a_rule_is_not_a_tenant(text: str) -> None:
    assert not names.is_tenant(text)


@pytest.mark.parametrize(
    ("scope", "key_id"),
    [
        ("prod/db", "prod/db"),
        ("prod/", "prod/db"),
        ("prod/", "prod/a/b"),
        ("prod/", "prod//x"),
        ("/", "/x"),
        ("k", "k"),
    ],
)
def test_a_scope_covers_its_own_name_and_what_is_below_its_slash(scope: str, key_id: str) -> None:
    assert names.covers(scope, key_id)


@pytest.mark.parametrize(
    ("scope", "key_id"),
    [
        ("prod/db", "prod/db2"),
        ("prod/db", "prod/db/x"),
        ("prod/db", "prod/d"),
        ("prod", "prod/db"),
        ("prod/", "prod"),
        ("prod/", "production/db"),
        ("prod/", "Prod/db"),
        ("prod/", "/prod/db"),
        ("prod/", "test/../prod/db"),
        ("prod//", "prod/db"),
        ("/", "x"),
    ],
)
def test_a_scope_covers_nothing_next_to_it(scope: str, key_id: str) -> None:
    assert not names.covers(scope, key_id)


def test_the_slash_covers_only_names_that_begin_with_it() -> None:
    assert not any(names.covers("/", character) for character in ALLOWED.replace("/", ""))


def test_the_contract_has_the_same_sizes() -> None:
    contract = (ROOT / "protos/keyvault/v1/keyvault.proto").read_text()
    assert f"1 to {names.MAX_KEY_ID} characters of [A-Za-z0-9._~:@/+=-]" in contract
    assert "1 to 63 characters of [a-z0-9-]" in contract
    wrapped = re.findall(r"[Aa]t most ([0-9,]+) bytes[.,][^\n]*\n  bytes \w*wrapped_key", contract)
    assert {int(size.replace(",", "")) for size in wrapped} == {names.MAX_WRAPPED_KEY}
    keys = re.findall(r"data key, (\d+) bytes", contract)
    assert {int(size) for size in keys} == {names.DATA_KEY_SIZE}


def test_the_methods_are_the_contracts_in_its_order() -> None:
    assert tuple(pb.DESCRIPTOR.services_by_name["KeyVault"].methods_by_name) == names.METHODS


def test_the_largest_request_fits_a_message() -> None:
    rotation = 2 * names.MAX_WRAPPED_KEY + names.MAX_KEY_ID + 120 + 380_456
    assert rotation + 64 <= names.MAX_MESSAGE
