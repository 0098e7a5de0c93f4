"""Text of others on a terminal: nothing in it moves a cursor, begins a line, or hides."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_api.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("prod/db", "prod/db"),
        ("Grüße, 世界 🔑", "Grüße, 世界 🔑"),
        ("a\nwhole: all records fit", "a\\nwhole: all records fit"),
        ("\r\t\0\x7f", "\\r\\t\\x00\\x7f"),
        ("\x1b[2K\x1b]0;title\x07", "\\x1b[2K\\x1b]0;title\\x07"),
        ("\x9b2K\x85", "\\x9b2K\\x85"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u200bb\u2060c\ufeffd\u00ade", "a\\u200bb\\u2060c\\ufeffd\\xade"),
        ("a\u2028b\u2029c\u00a0d", "a\\u2028b\\u2029c\\xa0d"),
        ("a\u3164b\ufe0fc\U000e0100d\U000e0041", "a\\u3164b\\ufe0fc\\U000e0100d\\U000e0041"),
        (b"\xff\xfe".decode("utf-8", "surrogateescape"), "\\udcff\\udcfe"),
        ("\ud800", "\\ud800"),
        ("\ue000\uffff", "\\ue000\\uffff"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_kept_character_stays() -> None:
    assert printable("a\n\tb\r\n", keep="\n\t") == "a\n\tb\\r\n"


@given(st.text(st.characters(exclude_categories=())))
@pytest.mark.medium
def test_every_text_becomes_one_line_of_visible_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(one) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for one in shown)
    assert printable(shown) == shown
    shown.encode()
