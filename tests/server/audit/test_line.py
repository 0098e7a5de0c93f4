"""The text of a line, which is put together by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_server.audit.line import encode_fields, shorten

_VALUES = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=()))
_NAMES = st.from_regex("[a-z][a-z_]{0,9}", fullmatch=True)


@pytest.mark.medium
@given(st.dictionaries(_NAMES, _VALUES))
def test_a_text_is_what_the_json_encoder_makes(fields: dict[str, str | int | bool | None]) -> None:
    """Also of halves of characters, which a caller may send."""
    kept = {name: value for name, value in fields.items() if value not in (None, "")}
    assert "{" + encode_fields(**fields) + "}" == json.dumps(kept, separators=(",", ":"))


def test_a_text_of_more_than_256_characters_is_cut() -> None:
    assert shorten("ü" * 256) == "ü" * 256
    assert shorten("ü" * 257) == "ü" * 256 + "…"
