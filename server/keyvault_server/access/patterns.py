"""Patterns of a policy: an exact text, or a literal prefix and one final "*".

Code points are compared, in the order of their UTF-8 bytes; nothing is normalised. The rules of this file:

- To match a text that a caller chose takes at most linear time, times the steps of one binary search among the
  patterns.
- A pattern that covers no identity is refused: an entry that shuts a caller out would fail open.
"""

import os.path
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple

from keyvault_api.names import is_scope
from keyvault_server.access.spiffe import SCHEME, is_spiffe_id, is_spiffe_prefix
from keyvault_server.access.tokens import MAX_SUBJECT
from keyvault_server.core.caller import ANONYMOUS, MAX_IDENTITY

_INVISIBLE = re.compile(r"[^!-~]", re.ASCII)


class Pattern(NamedTuple):
    """One pattern."""

    literal: str
    is_prefix: bool
    """True: every text that begins with `literal` matches; False: that text alone."""

    def __str__(self) -> str:
        return self.literal + "*" * self.is_prefix

    def matches(self, text: str) -> bool:
        """Return whether the pattern covers the text."""
        return text.startswith(self.literal) if self.is_prefix else text == self.literal

    def covers_all(self, prefix: str) -> bool:
        """Return whether the pattern covers every text that begins with this prefix."""
        return self.is_prefix and prefix.startswith(self.literal)


def _split(text: str) -> Pattern:
    return Pattern(text.removesuffix("*"), text.endswith("*"))


def parse_name_pattern(text: str) -> Pattern:
    """Return a pattern of key_ids and scopes. Raises ValueError, with a sentence for the operator."""
    pattern = _split(text)
    if text == "*" or is_scope(pattern.literal):
        return pattern
    raise ValueError('a name is 1 to 255 characters of [A-Za-z0-9._~:@/+=-]; a pattern may end in one "*"')


def parse_identity_pattern(text: str) -> Pattern:
    """Return a pattern of identities.

    Raises ValueError, with a sentence for the operator; also for a prefix that is too short, such as one that would let
    in callers of every trust domain.
    """
    pattern = _split(text)
    if "*" in pattern.literal:
        raise ValueError('"*" may only come at the end of a pattern')
    _check_kind(pattern, "; no pattern covers all of them")
    _check_characters(text)
    return pattern


def check_identity(text: str) -> None:
    """Raise ValueError, with a sentence for the operator, for a text that is the identity of no caller."""
    _check_kind(Pattern(text, False))
    _check_characters(text)


def _check_kind(pattern: Pattern, more: str = "") -> None:
    if pattern == Pattern(ANONYMOUS, False):
        return
    for kind, check in _KINDS.items():
        if pattern.literal.startswith(kind):
            check(pattern.literal.removeprefix(kind), pattern.is_prefix)
            return
    raise ValueError(f"an identity is {ANONYMOUS} or begins with one of {', '.join(_KINDS)}{more}")


def _check_characters(text: str) -> None:
    """Raise ValueError for what no identity has; see `identity.py` and the subjects of `tokens.py`."""
    if found := _INVISIBLE.search(text):
        wrong = f"character {found.start() + 1} is {found[0]!a}, which no identity has"
        advice = "write international names as certificates do, with xn--" if text.startswith("dns:") else ""
        raise ValueError("; ".join(filter(None, (f"{wrong}: use visible ASCII characters", advice))))
    if len(text) > MAX_IDENTITY:
        raise ValueError(f"an identity has at most {MAX_IDENTITY} characters, this one has {len(text)}")


def _check_spiffe(rest: str, is_prefix: bool) -> None:
    literal = SCHEME + rest
    if not (is_spiffe_prefix(literal) if is_prefix else is_spiffe_id(literal)):
        raise ValueError(
            'a SPIFFE ID is spiffe://TRUST-DOMAIN/PATH; "*" may only come after the "/" that ends the trust domain'
        )


def _check_uri(rest: str, is_prefix: bool) -> None:
    scheme, _, after = rest.partition(":")
    within_host = after in {"", "/"} or (after.startswith("//") and "/" not in after[2:])
    if not scheme or not after or (is_prefix and within_host):
        raise ValueError('a URI is uri:SCHEME:REST; "*" may only come after the scheme and the "/" that ends the host')
    if scheme.lower() == "spiffe":
        raise ValueError("a SPIFFE ID is an identity of its own kind: write it without uri:")


def _check_dns(rest: str, is_prefix: bool) -> None:
    if not rest or is_prefix:
        raise ValueError("a DNS name ends in its domain, so a prefix does not limit it: write each name, as dns:NAME")


def _check_subject(rest: str, is_prefix: bool) -> None:
    if not rest and not is_prefix:
        raise ValueError("a subject has at least one character: jwt:SUBJECT")
    if len(rest) > MAX_SUBJECT:
        raise ValueError(f"a subject has at most {MAX_SUBJECT} characters, this one has {len(rest)}")


_KINDS: dict[str, Callable[[str, bool], None]] = {
    SCHEME: _check_spiffe,
    "uri:": _check_uri,
    "dns:": _check_dns,
    "jwt:": _check_subject,
}


class AnyOf:
    """Many patterns as one, which matches a text if any of them does."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = set(patterns)
        self._exact = frozenset(pattern.literal for pattern in patterns if not pattern.is_prefix)
        self._prefixes: list[str] = []  # sorted, without those that begin with another
        for prefix in sorted(pattern.literal for pattern in patterns if pattern.is_prefix):
            if not self._prefixes or not prefix.startswith(self._prefixes[-1]):
                self._prefixes.append(prefix)

    def matches(self, text: str) -> bool:
        """Return whether one of the patterns covers the text."""
        return text in self._exact or self.covers_all(text)

    def covers_all(self, prefix: str) -> bool:
        """Return whether one of the patterns covers every text that begins with this one; an exact pattern does not."""
        # No prefix begins with another, so only the last one that does not sort after the text can begin the text.
        at = bisect_right(self._prefixes, prefix)
        return at > 0 and prefix.startswith(self._prefixes[at - 1])


class MostSpecific:
    """Many patterns, the most specific of which wins: the exact one, or else the longest prefix."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = tuple(patterns)
        self._exact = {pattern.literal: pattern for pattern in patterns if not pattern.is_prefix}
        self._prefixes = sorted(pattern for pattern in patterns if pattern.is_prefix)
        self._literals = [pattern.literal for pattern in self._prefixes]
        self._shorter = _find_parents(self._literals)

    def find(self, text: str) -> Pattern | None:
        """Return the most specific pattern that covers the text, or None.

        1. An exact pattern wins over every prefix.
        2. Of the sorted prefixes, the candidate is the last one that does not sort after the text. Every prefix that
           begins the text also begins the candidate, since it sorts between the two.
        3. If the candidate does not begin the text, go to the longest prefix that begins the candidate, and so on, up
           to one that is no longer than what the text and the candidate share: that one begins the text.
        """
        # 1.
        exact = self._exact.get(text)
        if exact is not None:
            return exact
        # 2. This is the only search, whatever the number of patterns.
        at = bisect_right(self._literals, text) - 1
        # 3. Lengths are compared, not texts: nested prefixes would else cost their number times their length.
        if at >= 0 and not text.startswith(self._literals[at]):
            shared = len(os.path.commonprefix((text, self._literals[at])))  # noqa: RUF071 - by character is right here
            while at >= 0 and len(self._literals[at]) > shared:
                at = self._shorter[at]
        return self._prefixes[at] if at >= 0 else None


def _find_parents(literals: list[str]) -> list[int]:
    """Return, for each of these sorted texts, the index of the longest other one that begins it, or -1."""
    parents: list[int] = []
    for number, literal in enumerate(literals):
        at = number - 1
        while at >= 0 and not literal.startswith(literals[at]):
            at = parents[at]
        parents.append(at)
    return parents
