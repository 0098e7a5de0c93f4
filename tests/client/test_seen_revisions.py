"""The memory of proved revisions: the highest of each name, and of the names that were used last."""

import inspect

import pytest

from keyvault_client import DataKey, KeyVault, RolledBack
from keyvault_client.seen_revisions import SeenRevisions, refuse_rollback

KEY = DataKey("acme", "prod/", b"w", bytes(32))
OTHER = DataKey("other", "prod/", b"w", bytes(32))


def test_the_highest_revision_of_each_name_is_remembered() -> None:
    seen = SeenRevisions(10)
    for revision in (3, 5, 4):
        seen.note(KEY, "prod/a", revision)
    seen.note(KEY, "prod/b", 1)
    seen.note(OTHER, "prod/a", 9)
    assert [seen.get(KEY, name) for name in ("prod/a", "prod/b", "prod/c")] == [5, 1, 0]
    assert seen.get(OTHER, "prod/a") == 9


def test_the_name_that_was_used_longest_ago_is_forgotten() -> None:
    seen = SeenRevisions(2)
    seen.note(KEY, "prod/a", 1)
    seen.note(KEY, "prod/b", 1)
    assert [seen.get(KEY, name) for name in ("prod/a", "prod/b")] == [1, 1], "as many as the limit are kept"
    seen.note(KEY, "prod/a", 1)
    seen.note(KEY, "prod/c", 1)
    assert [seen.get(KEY, name) for name in ("prod/a", "prod/b", "prod/c")] == [1, 0, 1]
    seen.note(KEY, "prod/d", 1)
    assert [seen.get(KEY, name) for name in ("prod/a", "prod/c", "prod/d")] == [0, 1, 1]


def test_the_same_or_a_later_revision_is_not_rolled_back() -> None:
    refuse_rollback("prod/a", 5, 5)
    refuse_rollback("prod/a", 6, 5)
    with pytest.raises(RolledBack):
        refuse_rollback("prod/a", 4, 5)


def test_a_client_remembers_ten_thousand_names_by_default() -> None:
    assert inspect.signature(KeyVault).parameters["remember"].default == 10_000
