"""Plain English in pages, docstrings, comments, messages, --help texts and names: words that we fell back into.

What is read: every *.md and *.proto, and of every *.py its strings, its comments, and the names of its functions and
classes. Variables are free, and so is what is not ours: generated stubs, installed packages, the changelog's past.
"""

import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT

INSTEAD = {
    r"whoever": 'name the actor: "a caller that", "someone who"',
    r"anew": '"again", "new"',
    r"mend(?:s|ed|ing)?": '"fix"',
    r"meanwhile": '"while ...", "during this"',
    r"beside": '"next to", "in addition to", "while"',
    r"at work": '"in-flight", "running"',
    r"turn(?:s|ed|ing)? away": '"rejected"',
    r"nobody else's": '"only the owner\'s"',
    r"of before": '"earlier"',
    r"say --yes": '"--yes to confirm"',
    r"(?<!there[\s_])(?:is|are) no (?:address|certificate|data|digest|envelope|figure|file|json|key|key_id|line|log|"
    r"name|number|pem|policy|rate|record|rpc|scope|secret|setting|tenant|token|toml|url)": '"invalid ...", "not a ..."',
    r"tells(?! \w+ apart)|told": '"says", "reports", "answered"',
    r"strangers?": '"unidentified caller"',
    r"(?:is|are|was|were) silent": '"stops responding"',
    r"cut off": '"truncated"',
    r"off loopback": '"on a non-loopback address"',
    r"read again": '"reload", "read it again"',
    r"sen[dt]s? (?:the same bytes )?again": '"retry with the same bytes"',
    r"the present (?:data key|envelope|head|key|master key|one|revision|state)": '"current"',
}
ALLOWED = {
    ("tests/docs/test_prose.py", ""): "has the words themselves",
    ("CHANGELOG.md", ""): "entries of the past stay as they were",
}
"""Text that may have such a word, by its file and a part of its line, and why."""

FOREIGN = {"node_modules", "build", "dist", "target", "data", "tour", "__pycache__"}
_GAP = r"[\s_]+"
_WORDS = {
    re.compile(rf"(?<![A-Za-z]){pattern.replace(' ', _GAP)}(?![A-Za-z])", re.IGNORECASE): instead
    for pattern, instead in INSTEAD.items()
}
_BLANKS = str.maketrans('_"#', "   ")
_ANY = re.compile("|".join(INSTEAD).replace(r"[\s_]", " "))
"""Finds, in lower case and with one blank between words, every source that may have a hit: quick, and not exact."""
_NAME = re.compile(r"^\s*(?:async )?(?:def|class) (\w+)", re.MULTILINE)
_QUOTED = re.compile(r"""([A-Za-z]*)(\"{3}|'{3}|"|')(.*)\2""", re.DOTALL)
_KINDS = {
    tokenize.COMMENT: "comment",
    tokenize.STRING: "string",
    getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING): "string",
}
_BETWEEN = {tokenize.NL, *(getattr(tokenize, name, tokenize.NL) for name in ("FSTRING_START", "FSTRING_END"))}


@pytest.mark.medium
def test_no_text_has_a_word_that_we_avoid() -> None:
    files = list(ours())
    assert len(files) > 250
    found = [hit for file in files for hit in hits_in(file)]
    assert not found, "\n".join(found)


def ours() -> Iterator[Path]:
    """The files that are checked: those that git has, without asking it."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in FOREIGN and not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            generated = name.endswith(("_pb2.py", "_pb2_grpc.py"))
            if path.suffix in {".md", ".proto", ".py"} and not generated:
                yield path


def hits_in(path: Path) -> list[str]:
    """Every word of a file that is to be replaced, with its line and what to say instead."""
    file, source = path.relative_to(ROOT).as_posix(), path.read_text()
    if (file, "") in ALLOWED or not _ANY.search(" ".join(source.lower().translate(_BLANKS).split())):
        return []
    return [
        f"{file}:{number}: {word!r}: say {instead}"
        for number, word, instead in hits(source, path.suffix)
        if not any(file == allowed and part in source.splitlines()[number - 1] for allowed, part in ALLOWED)
    ]


def hits(source: str, suffix: str) -> Iterator[tuple[int, str, str]]:
    """Line, word, and what to say instead."""
    for first, text in texts_of(source) if suffix == ".py" else [(1, source)]:
        for word, instead in _WORDS.items():
            for found in word.finditer(text):
                yield first + text.count("\n", 0, found.start()), " ".join(found[0].split()), instead


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """What people read of a Python file, each with its first line."""
    for name in _NAME.finditer(source):
        yield source.count("\n", 0, name.start(1)) + 1, name[1]
    # Neighbours of one kind are one text: a phrase may be wrapped.
    kind, first, text = "", 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _BETWEEN:
            continue
        new = _KINDS.get(token.type, "")
        if new != kind or not new:
            if kind:
                yield first, text
            kind, first, text = new, token.start[0], ""
        if new:
            text += "\n" * (token.start[0] - first - text.count("\n")) + _bare(token.string)


def _bare(token: str) -> str:
    """A comment or string without its marks, as it is read; no line of it is lost."""
    string = _QUOTED.fullmatch(token)
    if not string:
        return token.lstrip("#")
    prefix, _, text = string.groups()
    text = re.sub(r"\{[^{}]*\}", "{}", text) if "f" in prefix.lower() else text
    return text.replace("\\n", "  ")


@pytest.mark.parametrize(
    "source",
    [
        '"""A key that was mended."""',
        "x = 1  # nobody else's",
        "# a call is turned\n# away\nx = 1",
        'x = ("it is told, "\n     "away")',
        'x = ("turned "\n     "away")',
        'f"{x} is no key"',
        '"first\\nmend it"',
        "async def test_a_stranger_is_rejected(): ...",
        "class Server_off_loopback: ...",
    ],
)
def test_a_word_to_avoid_is_found(source: str) -> None:
    assert list(hits(source, ".py"))


@pytest.mark.parametrize(
    "source",
    [
        "told = reads(stranger)",
        'f"{told}"',
        '"there is no key of that name"',
        '"a recommendation"  # amendment',
        '"turned"\nx = "away"',
    ],
)
def test_other_text_is_left_alone(source: str) -> None:
    assert not list(hits(source, ".py"))


def test_a_hit_names_its_line() -> None:
    ((line, word, _),) = hits('"""One.\n\nTwo is cut\noff.\n"""\n', ".py")
    assert (line, word) == (3, "cut off")


def test_pages_are_read_as_they_are() -> None:
    ((line, word, _),) = hits("# A page\n\nThe caller is told.\n", ".md")
    assert (line, word) == (3, "told")
