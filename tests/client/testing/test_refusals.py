"""Refusals that are played are those of the server."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.rpc import status_pb2

from keyvault_client import (
    AlreadyExists,
    BadPageToken,
    Busy,
    Conflict,
    Denied,
    InvalidRequest,
    KeyVaultError,
    MasterKeyUnusable,
    NotAuthorized,
    NotFound,
    OutcomeUnknown,
    RecordDamaged,
    RevisionNotFound,
    RolledBack,
    ServerFailure,
    Unavailable,
    WrongEventLoop,
)
from keyvault_client.status import error_of
from keyvault_client.testing.refusals import ANSWERS, Refusal
from keyvault_server.core import errors
from keyvault_server.rpc.status import _STATUS, details_of, message_of, status_of

CLASSES: list[type[KeyVaultError]] = [
    AlreadyExists,
    BadPageToken,
    Busy,
    Conflict,
    Denied,
    InvalidRequest,
    MasterKeyUnusable,
    NotAuthorized,
    NotFound,
    RecordDamaged,
    RevisionNotFound,
    ServerFailure,
    Unavailable,
]


ARGUMENTS = {errors.RecordExists: (1, 1), errors.StaleRevision: (1, 1), errors.RevisionNotFound: (1,)}


def classes_below(kind: type[errors.VaultError]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from classes_below(one)


def errors_of_server() -> dict[str, errors.VaultError]:
    """One error of each reason, of the class that names it."""
    found: dict[str, errors.VaultError] = {}
    for one in classes_below(errors.VaultError):
        if one.__module__.startswith("keyvault_server.") and one.reason not in found:
            found[one.reason] = one(*ARGUMENTS.get(one, ()))
    return found


SERVER = errors_of_server()


def test_every_reason_of_a_status_can_be_played() -> None:
    assert set(ANSWERS) == set(_STATUS) - {"BATCH_FULL"}  # which only items have


@pytest.mark.parametrize("reason", ANSWERS)
def test_a_refusal_is_what_the_server_sends(reason: str) -> None:
    error = SERVER[reason]
    code, message, retry_after = ANSWERS[reason]
    assert (code, message, retry_after) == (status_of(error), message_of(error), error.retry_after)
    played = Refusal(reason, message, retry_after, error.metadata).details("r-1")
    assert status_pb2.Status.FromString(played) == status_pb2.Status.FromString(details_of(error, "r-1"))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_refused_with_what_makes_it(kind: type[KeyVaultError]) -> None:
    refusal = Refusal.of(kind)
    raised = error_of(refusal.code, refusal.message, refusal.reason, refusal.metadata, refusal.retry_after or 0)
    assert type(raised) is kind
    assert raised.reason == refusal.reason


def test_an_instance_chooses_what_the_server_says() -> None:
    busy = Refusal.of(Busy("slow down", reason="BACKEND_THROTTLED", retry_after=5))
    assert (busy.reason, busy.message, busy.retry_after) == ("BACKEND_THROTTLED", "slow down", 5)
    assert Refusal.of(Busy("")).retry_after is None
    assert Refusal.of(Busy("")).message == "too many requests: retry later"
    stale = Refusal.of(Conflict("changed", current_revision=7, remembered_since=2, vacant=True))
    assert stale.metadata == {"current_revision": "7", "remembered_since": "2", "vacant": "true"}
    assert Refusal.of(RevisionNotFound("gone", current_revision=4)).metadata == {"current_revision": "4"}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OutcomeUnknown, r"a server does not refuse with OutcomeUnknown: .* cut_after_commit"),
        (RolledBack("prod/db", revision=1, seen=2), "a server does not refuse with RolledBack: the client finds it"),
        (WrongEventLoop, "a server does not refuse with WrongEventLoop"),
        (KeyVaultError, "a server does not refuse with KeyVaultError"),
        (Busy("", reason="BUSY"), "unknown reason 'BUSY': keyvault.proto lists them"),
        (Busy("", reason="INTERNAL"), "reason INTERNAL is a ServerFailure, not a Busy"),
    ],
)
def test_an_error_of_no_answer_is_not_refused(error: KeyVaultError | type[KeyVaultError], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Refusal.of(error)
