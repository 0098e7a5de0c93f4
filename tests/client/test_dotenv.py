"""Dotenv files: what is written means the same to a shell, and to us when we parse it."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_client.dotenv import parse, render
from keyvault_client.errors import InvalidRequest
from tests.support.properties import examples

TEXTS = st.one_of(
    st.text(st.sampled_from("ab'\"\\$`\n\r\t #=!*~{}()é\x7f\x01&;|<>")),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)


@pytest.mark.medium
@given(st.lists(TEXTS))
def test_what_is_written_is_read_as_it_was(values: list[str]) -> None:
    named = {f"A{number}": value for number, value in enumerate(values)}
    assert parse(render(named, export=False)) == named
    assert parse(render(named, export=True)) == named


@pytest.mark.process
@pytest.mark.slow
@examples(20)
@given(st.lists(TEXTS, min_size=30, max_size=60))
def test_a_real_shell_evaluates_it_to_the_same_values(values: list[str]) -> None:
    named = {f"A{number}": value for number, value in enumerate(values)}
    show = "".join(f'printf "%s\\0" "${name}"\n' for name in named)
    for export in (False, True):
        lines = render(named, export=export).encode()
        done = subprocess.run(["sh", "-ec", f". /dev/stdin\n{show}"], input=lines, capture_output=True, check=True)
        assert done.stdout.decode().split("\0")[:-1] == list(named.values())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A = b ", "b"),
        ("export A=b", "b"),
        ("A=", ""),
        ("A=''", ""),
        ("A=b c", "b c"),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A='b' # comment", "b"),
        ("A='b # c'", "b # c"),
        ('A="b\\nc"', "b\nc"),
        ('A="b\nc"', "b\nc"),
        ("A='b\nc'", "b\nc"),
        ("A='b\\nc'", "b\\nc"),
        ('A="p\\$\\`\\"\\\\\\x"', 'p$`"\\\\x'),
        ("A=$B", "$B"),
        ('A="${B}"', "${B}"),
        ("\n# comment\r\n  A=b\r\n\n", "b"),
        ("A=b=c==", "b=c=="),
        ("A= # comment", ""),
        ("A=#c", "#c"),
        ("A='b'\r\n", "b"),
        ("A=it's", "it's"),
    ],
)
def test_usual_files_are_read(text: str, value: str) -> None:
    assert parse(text) == {"A": value}


@pytest.mark.medium
@pytest.mark.parametrize(
    "text",
    ["hunter2", "A='hunter2", 'A="hunter2', "A='hunter'2", "A='hunter'#2", "1A=hunter2", "=hunter2", "A B=hunter2"],
)
def test_a_line_that_is_none_is_named_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^line 3: ") as refused:
        parse(f"OTHER='1\n2'\n{text}\n")
    assert "hunter" not in str(refused.value)


def test_a_long_line_of_blanks_is_read_at_once() -> None:
    blanks = " \t" * 100_000
    assert parse(f"A={blanks}b{blanks}\nB='c'{blanks}") == {"A": "b", "B": "c"}


def test_a_name_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^line 2: A is given twice$"):
        parse("A=1\nA=2\n")
