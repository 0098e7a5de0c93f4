"""Text of others, made fit for a terminal or a report: what a server, a store or a certificate says.

The rule of this file: what is returned moves no cursor, begins no line, and hides or reorders nothing. Escaped once or
twice, it is the same.
"""

import re

# Characters that str.isprintable() takes and a terminal does not show: Default_Ignorable_Code_Point of Unicode
# (UCD, DerivedCoreProperties.txt) without those of category Cf, which isprintable() knows.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with everything that is not visible as an escape such as \n, \x1b or \u202e.

    Escaped are control characters (C0 and C1), line and paragraph separators, white space but the blank, what reorders
    text or has no width, code points without a meaning, and bytes that did not decode (surrogateescape). The characters
    of `keep` stay as they are.
    """
    return "".join(one if _is_visible(one) or one in keep else _escaped(one) for one in text)


def _is_visible(one: str) -> bool:
    return one.isprintable() and not _INVISIBLE.match(one)


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
