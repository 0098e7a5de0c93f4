"""How a message is made: a good one for what is stored, and what is wrong with it. JSON, so that one can be kept.

    {"method": "Update", "name": 2}                                        the author's own next revision
    {"method": "Update", "name": 2, "key": 1}                              under another key
    {"method": "Update", "name": 2, "sealed": {"revision": 2, "kind": 2}}  sealed two revisions on, as a tombstone
    {"method": "Update", "name": 2, "old": 3}                              the envelope of four writes ago
    {"method": "Update", "name": 2, "edits": [["envelope", "flip", 40, 0]]}
    {"method": "Update", "raw": "0a0130"}

The rule of this file: it knows no key and no record; `lane.py` makes bytes of a recipe.
"""

import random
from collections.abc import Callable
from typing import Any, TypedDict

from keyvault_api.names import METHODS
from tests.fuzz.edits import draw_edit

KNOWN = -1
"""As a name: the record that everybody may see and nobody here may change."""
NAMES = 4
KEYS = 7
_WEIGHTS = (1, 4, 3, 5, 2, 4, 1, 1, 1, 1, 1, 1)
MAX_REVISION = 2**63 - 1
SIZES = (0, 1, 40, 1_000, 16_383, 16_384, 16_385)
LARGE = (300_000, 380_000, 380_001, 390_000)
ODD_NAMES = (
    "", "/", "a//", "a/", "l/", "ä", "\N{FULLWIDTH SOLIDUS}", "\0", "a\n", "..", "a" * 255, "a" * 256, "*", "a b",
    "x" * 70_000, "\U0001f511", "acme#l0/0"
)  # fmt: skip


class Recipe(TypedDict, total=False):
    """What is not said is as it should be."""

    method: str
    caller: str
    """A client of `dev-certs`."""
    name: int | str
    """One of the lane's names, KNOWN, or any text."""
    key: int
    """One of the lane's keys; unless said, the one that owns the record."""
    new_key: int
    sealed: dict[str, Any]
    """How the envelope is: revision (added to the stored one; a text: itself), kind, name, key, tenant, size."""
    permit: dict[str, Any]
    """The same for the authorization of RotateKey."""
    old: int
    """An envelope that was accepted before, this many writes ago."""
    known_revision: int
    include_deleted: bool
    back: int
    """Of a Read: how many revisions before the stored one it asks for."""
    page: list[Any]
    """Of a List: its page size, and whether it goes on with the lane's last token."""
    edits: list[list[Any]]
    """A field, or "message", and an edit of it."""
    raw: str
    """The whole message, in hex."""
    expected: list[str]
    """In the corpus: status and reason."""


def draw(chance: random.Random) -> Recipe:
    """Any recipe; every third is a good one."""
    recipe = Recipe(method=chance.choices(METHODS, _WEIGHTS)[0], name=chance.randrange(NAMES))
    if chance.random() < 0.2:
        recipe["caller"] = "bob"
    if chance.random() < 0.3:
        recipe["sealed"] = {"size": _size(chance)}
    for _ in range(chance.choices((0, 1, 2, 4), (35, 40, 15, 10))[0]):
        chance.choice(_FAULTS)(chance, recipe)
    return recipe


def _size(chance: random.Random) -> int:
    return chance.choice(LARGE) if chance.random() < 0.01 else chance.choice(SIZES)


def _key(chance: random.Random, recipe: Recipe) -> None:
    recipe["key"] = chance.randrange(KEYS)


def _new_key(chance: random.Random, recipe: Recipe) -> None:
    recipe["new_key"] = chance.randrange(KEYS)


def _name(chance: random.Random, recipe: Recipe) -> None:
    recipe["name"] = chance.choice((KNOWN, chance.randrange(NAMES), chance.choice(ODD_NAMES)))


def _sealed(chance: random.Random, recipe: Recipe) -> None:
    recipe.setdefault("sealed", {}).update(_otherwise(chance))


def _permit(chance: random.Random, recipe: Recipe) -> None:
    recipe["permit"] = _otherwise(chance)


def _otherwise(chance: random.Random) -> dict[str, Any]:
    what = chance.choice(("revision", "kind", "name", "key", "tenant", "size"))
    values: dict[str, Any] = {
        "revision": chance.choice((-1, 0, 2, 16, "1", "4294967296", str(MAX_REVISION))),
        "kind": chance.choice((1, 2, 3)),
        "name": chance.choice((KNOWN, chance.randrange(NAMES))),
        "key": chance.randrange(KEYS),
        "tenant": chance.choice(("beta", "acme", "")),
        "size": _size(chance),
    }
    return {what: values[what]}


def _old(chance: random.Random, recipe: Recipe) -> None:
    recipe["old"] = chance.choice((0, 1, 2, 14, 15, 16, 17, 30))


def _read(chance: random.Random, recipe: Recipe) -> None:
    recipe["known_revision"] = chance.choice((0, 1, 2, -1, MAX_REVISION, -(2**63)))
    recipe["include_deleted"] = chance.random() < 0.5


def _back(chance: random.Random, recipe: Recipe) -> None:
    recipe["back"] = chance.choice((-1, 0, 1, 1, 2, 3, 9, 10, 11, 16, MAX_REVISION))


def _page(chance: random.Random, recipe: Recipe) -> None:
    recipe["page"] = [chance.choice((0, 1, 2, 1_001, 2**31 - 1, -1, -(2**31))), chance.random() < 0.5]
    recipe["include_deleted"] = chance.random() < 0.5


def _edit(chance: random.Random, recipe: Recipe) -> None:
    fields = (
        "message",
        "envelope",
        "wrapped_key",
        "authorization",
        "new_wrapped_key",
        "key_id",
        "scope",
        "prefix",
        "page_token",
    )
    recipe.setdefault("edits", []).append([chance.choice(fields), *draw_edit(chance)])


def _raw(chance: random.Random, recipe: Recipe) -> None:
    if chance.random() < 0.3:
        recipe["raw"] = chance.randbytes(chance.choice((0, 1, 2, 10, 100, 2_000))).hex()


_FAULTS: tuple[Callable[[random.Random, Recipe], None], ...] = (
    _key, _new_key, _name, _sealed, _sealed, _permit, _old, _read, _back, _back, _page, _edit, _edit, _edit, _raw
)  # fmt: skip
