"""Patterns of a policy: an exact text, or a literal prefix and one final "*".

Code points are compared, which is to compare UTF-8 bytes; nothing is normalised. Rule of the file: no text that a
caller chose takes more than linear time, times the steps of one binary search among the patterns.
"""

import os.path
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple

from keyvault_api.names import is_scope
from keyvault_server.access.spiffe import SCHEME, is_spiffe_id, is_spiffe_prefix
from keyvault_server.core.caller import ANONYMOUS, MAX_IDENTITY


class Pattern(NamedTuple):
    """One pattern."""

    literal: str
    open: bool
    """True: every text that begins with `literal`; False: that text alone."""

    def __str__(self) -> str:
        return self.literal + "*" * self.open

    def matches(self, text: str) -> bool:
        """True if the text is meant."""
        return text.startswith(self.literal) if self.open else text == self.literal


def _pattern(text: str) -> Pattern:
    return Pattern(text.removesuffix("*"), text.endswith("*"))


def name_pattern(text: str) -> Pattern:
    """A pattern of key_ids and scopes. Raises ValueError, with a sentence for the operator."""
    pattern = _pattern(text)
    if text == "*" or is_scope(pattern.literal):
        return pattern
    raise ValueError('a name is 1 to 255 characters of [A-Za-z0-9._~:@/+=-], or the beginning of one and a final "*"')


def identity_pattern(text: str) -> Pattern:
    """A pattern of identities. Raises ValueError, with a sentence, also for one that admits strangers by mistake."""
    pattern = _pattern(text)
    if len(text) > MAX_IDENTITY or "*" in pattern.literal or not text.isprintable():
        raise ValueError(f'an identity is at most {MAX_IDENTITY} printable characters; a "*" stands at its end alone')
    if text == ANONYMOUS:
        return pattern
    for kind, check in _KINDS.items():
        if pattern.literal.startswith(kind):
            check(pattern.literal.removeprefix(kind), pattern.open)
            return pattern
    raise ValueError(
        f"an identity begins with {', '.join(_KINDS)} in full, or is {ANONYMOUS}: nothing admits all kinds"
    )


def _check_spiffe(rest: str, is_open: bool) -> None:
    literal = SCHEME + rest
    if not (is_spiffe_prefix(literal) if is_open else is_spiffe_id(literal)):
        raise ValueError(
            'a SPIFFE ID is spiffe://TRUST-DOMAIN/PATH; a "*" comes after the "/" that ends the trust domain'
        )


def _check_uri(rest: str, is_open: bool) -> None:
    scheme, _, after = rest.partition(":")
    within_host = after in {"", "/"} or (after.startswith("//") and "/" not in after[2:])
    if not scheme or not after or (is_open and within_host):
        raise ValueError('a URI is uri:SCHEME:REST; a "*" comes after the scheme and the "/" that ends the host')


def _check_dns(rest: str, is_open: bool) -> None:
    if not rest or is_open:
        raise ValueError("a DNS name ends in its domain, so a beginning of one says nothing: write each out, dns:NAME")


def _check_subject(rest: str, is_open: bool) -> None:
    if not rest and not is_open:
        raise ValueError("a subject has at least one character: jwt:SUBJECT")


_KINDS: dict[str, Callable[[str, bool], None]] = {
    SCHEME: _check_spiffe,
    "uri:": _check_uri,
    "dns:": _check_dns,
    "jwt:": _check_subject,
}


class AnyOf:
    """Many patterns as one: does any of them mean the text?"""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = set(patterns)
        self._exact = frozenset(pattern.literal for pattern in patterns if not pattern.open)
        self._prefixes: list[str] = []  # sorted, without those that begin with another
        for prefix in sorted(pattern.literal for pattern in patterns if pattern.open):
            if not self._prefixes or not prefix.startswith(self._prefixes[-1]):
                self._prefixes.append(prefix)

    def matches(self, text: str) -> bool:
        """True if one does. A prefix of the text can only be the last of the prefixes that are not after it."""
        if text in self._exact:
            return True
        at = bisect_right(self._prefixes, text)
        return at > 0 and text.startswith(self._prefixes[at - 1])


class MostSpecific:
    """Many patterns, of which a text belongs to the exact one, else to the longest prefix."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = tuple(patterns)
        self._exact = {pattern.literal: pattern for pattern in patterns if not pattern.open}
        self._open = sorted(pattern for pattern in patterns if pattern.open)
        self._literals = [pattern.literal for pattern in self._open]
        self._shorter = _parents(self._literals)

    def find(self, text: str) -> Pattern | None:
        """The pattern to which the text belongs; None if it belongs to none.

        Every prefix of the text begins the last of the prefixes that are not after it, and is no longer than what that
        one shares with the text.
        """
        exact = self._exact.get(text)
        if exact is not None:
            return exact
        at = bisect_right(self._literals, text) - 1
        if at >= 0 and not text.startswith(self._literals[at]):
            shared = len(os.path.commonprefix((text, self._literals[at])))  # noqa: RUF071 - by character is right here
            while at >= 0 and len(self._literals[at]) > shared:
                at = self._shorter[at]
        return self._open[at] if at >= 0 else None


def _parents(literals: list[str]) -> list[int]:
    """For each of these sorted texts, where the longest other one is that begins it; -1: nowhere."""
    parents: list[int] = []
    for number, literal in enumerate(literals):
        at = number - 1
        while at >= 0 and not literal.startswith(literals[at]):
            at = parents[at]
        parents.append(at)
    return parents
