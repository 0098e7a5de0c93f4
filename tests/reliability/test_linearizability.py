"""The checker, on histories known to be good and bad, and against a search that tries everything."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_api.envelope import Kind
from tests.reliability.history import (
    Answer,
    Done,
    Got,
    History,
    Kept,
    ListRevisions,
    Look,
    Operation,
    OperatorError,
    Purge,
    Read,
    Request,
    Rotate,
    Sealed,
    Seen,
    Unknown,
    Write,
)
from tests.reliability.linearizability import SAYS_NOTHING, NotLinearizable, check, explain
from tests.reliability.model import RING, State, apply
from tests.support.properties import examples

NAME, OTHER = "prod/a", "prod/b"
NOT_FOUND, NOT_AUTHORIZED = OperatorError("RECORD_NOT_FOUND"), OperatorError("NOT_AUTHORIZED")
NEVER = math.inf


def sealed(revision: int, key: str = "k1", name: str = "", kind: Kind = Kind.DATA, record: str = NAME) -> Sealed:
    return Sealed(name or f"e{revision}", kind, revision, key, record)


def create(envelope: Sealed, key: str = "") -> Write:
    return Write("create", key or envelope.key, envelope)


def update(envelope: Sealed, key: str = "", keeping: int = 0) -> Write:
    return Write("update", key or envelope.key, envelope, keeping)


def delete(revision: int, key: str = "k1") -> Write:
    return Write("delete", key, sealed(revision, key, kind=Kind.TOMBSTONE))


def rotate(revision: int, key: str, new: str, permits: str = "", permit_key: str = "") -> Rotate:
    envelope = sealed(revision, new)
    permit = Sealed("permit", Kind.REKEY, revision, permit_key or key, NAME, permits or envelope.name)
    return Rotate(key, permit, new, envelope)


def op(called: float, returned: float, request: Request, answer: Answer, record: str = NAME) -> Operation:
    return Operation(record, request, answer, called, NEVER if isinstance(answer, Unknown) else returned)


def one_after_the_other(*steps: tuple[Request, Answer]) -> History:
    return [op(2 * at, 2 * at + 1, request, answer) for at, (request, answer) in enumerate(steps)]


LIST, GONE = ListRevisions(), (Read(revision=1), OperatorError("REVISION_NOT_FOUND", 2))
E1, E2, E3 = sealed(1), sealed(2), sealed(3)
STEPS = [(create(E1), Done(1)), *((update(sealed(n)), Done(n)) for n in range(2, RING + 1))]
"""As many writes as a ring holds."""

GOOD: dict[str, History] = {
    "nothing happens": [],
    "what was created is read": one_after_the_other((create(E1), Done(1)), (Read(), Got(1, "e1"))),
    "a read during a create finds nothing": [op(0, 9, create(E1), Done(1)), op(1, 2, Read(), NOT_FOUND)],
    "a read during a create finds it": [op(0, 9, create(E1), Done(1)), op(1, 2, Read(), Got(1, "e1"))],
    "reads during an update see it one after the other": [
        op(0, 1, create(E1), Done(1)),
        op(2, 9, update(E2), Done(2)),
        op(3, 6, Read(), Got(2, "e2")),
        op(4, 5, Read(), Got(1, "e1")),
    ],
    "of two creates one is refused": [
        op(0, 5, create(E1), Done(1)),
        op(1, 4, create(sealed(1, "k2", "f1")), OperatorError("RECORD_EXISTS", 1)),
    ],
    "of two updates one is stale": [
        op(0, 1, create(E1), Done(1)),
        op(2, 5, update(E2), Done(2)),
        op(3, 4, update(sealed(2, name="f2")), OperatorError("STALE_REVISION", 2)),
    ],
    "an item that did not fit into a batch says nothing": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, Read(), OperatorError("BATCH_FULL")),
    ],
    "an update keeps what it replaces": one_after_the_other(
        (create(E1), Done(1)), (update(E2, keeping=1), Done(2)), (Read(revision=1), Got(1, "e1")), (LIST, Kept((2, 1)))
    ),
    "the current revision is read": one_after_the_other((create(E1), Done(1)), (Read(revision=1), Got(1, "e1"))),
    "an update keeps no more than its server is set to": one_after_the_other(
        (create(E1), Done(1)), (update(E2, keeping=9), Done(2)), (update(E3, keeping=1), Done(3)), (LIST, Kept((3, 2)))
    ),
    "what is not kept cannot be kept again": one_after_the_other(
        (create(E1), Done(1)), (update(E2), Done(2)), (update(E3, keeping=9), Done(3)), (LIST, Kept((3, 2)))
    ),
    "an earlier revision is not found": one_after_the_other((create(E1), Done(1)), (update(E2), Done(2)), GONE),
    "a rotation drops the history": one_after_the_other(
        (create(E1), Done(1)), (rotate(2, "k1", "k2"), Done(2)), (LIST, Kept((2,))), GONE
    ),
    "a deleted record has no history": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (Read(revision=2), NOT_FOUND), (LIST, NOT_FOUND)
    ),
    "a record begins again without a history": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (create(E3), Done(3)), (LIST, Kept((3,)))
    ),
    "of two updates of unknown outcome the one that keeps landed": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(2, 3, update(E2, keeping=1), Unknown()),
        op(4, 5, Read(revision=1), Got(1, "e1")),
    ],
    "a live name is listed, and a deleted one elsewhere": one_after_the_other(
        (Look(), Seen(False)),
        (create(E1), Done(1)),
        (Look(), Seen(True)),
        (Look(deleted=True), Seen(False)),
        (delete(2), Done(2)),
        (Look(), Seen(False)),
        (Look(deleted=True), Seen(True)),
        (Purge(), Done(2)),
        (Look(deleted=True), Seen(False)),
    ),
    "a new name may be missing in a listing": [
        op(0, 2, create(E1), Done(1)),
        op(1, 3, Look(), Seen(False)),
    ],
    "a lost write is never seen": [op(0, 1, create(E1), Unknown()), op(2, 3, Read(), NOT_FOUND)],
    "a write whose reply was lost is seen": [op(0, 1, create(E1), Unknown()), op(2, 3, Read(), Got(1, "e1"))],
    "a write lands long after it was given up": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(4, 5, Read(), Got(1, "e1")),
        op(6, 7, Read(), Got(1, "e1")),
        op(8, 9, Read(), Got(2, "e2")),
    ],
    "a retry finds that the first attempt was applied": [
        op(0, 1, create(E1), Unknown()),
        op(2, 3, create(E1), Done(1, replayed=True)),
    ],
    "a retry is applied since the first attempt was lost": [
        op(0, 1, create(E1), Unknown()),
        op(2, 3, create(E1), Done(1)),
        op(4, 5, Read(), Got(1, "e1")),
    ],
    "a retry is known after somebody else wrote": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(4, 5, update(E3), Done(3)),
        op(6, 7, update(E2), Done(2, replayed=True)),
    ],
    "an update is known again after the delete": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (create(E1), Done(1, replayed=True)), (Read(), NOT_FOUND)
    ),
    "one of two writes of unknown outcome landed": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(2, 3, update(sealed(2, name="f2")), Unknown()),
        op(4, 5, Read(), Got(2, "f2")),
    ],
    "three writes of unknown outcome landed in the order of their revisions": [
        op(0, 1, update(E3), Unknown()),
        op(0, 1, update(E2), Unknown()),
        op(0, 1, create(E1), Unknown()),
        op(4, 5, Read(), Got(3, "e3")),
    ],
    "a deleted name is created again by its owner": one_after_the_other(
        (create(E1), Done(1)),
        (delete(2), Done(2)),
        (Read(include_deleted=True), Got(2, "e2", deleted=True)),
        (create(sealed(3, "k2", "f3")), NOT_AUTHORIZED),
        (create(E3), Done(3)),
    ),
    "a purged name is created again by anyone": one_after_the_other(
        (create(E1), Done(1)),
        (Purge(), Done(1)),
        (Read(include_deleted=True), NOT_FOUND),
        (create(E1), OperatorError("STALE_REVISION", 1)),
        (create(sealed(2, "k2")), Done(2)),
    ),
    "a rotation hands the record over": one_after_the_other(
        (create(E1), Done(1)),
        (rotate(2, "k1", "k2"), Done(2)),
        (update(E3), NOT_AUTHORIZED),
        (update(sealed(3, "k2")), Done(3)),
        (rotate(2, "k1", "k2"), Done(2, replayed=True)),
    ),
    "an envelope is known for 16 revisions": one_after_the_other(*STEPS, (create(E1), Done(1, replayed=True))),
    "an envelope is forgotten after 16 newer ones": one_after_the_other(
        *STEPS, (update(sealed(RING + 1)), Done(RING + 1)), (create(E1), OperatorError("RECORD_EXISTS", RING + 1))
    ),
    "a refusal of the backend says nothing of the record": one_after_the_other(
        (create(E1), OperatorError("BACKEND_THROTTLED")), (Read(), NOT_FOUND), (create(E1), Done(1))
    ),
    "a known revision is not modified": one_after_the_other((create(E1), Done(1)), (Read(1), Got(1, ""))),
    "bytes are retried before the first are answered": [
        op(0, 9, create(E1), Done(1)),
        op(1, 2, create(E1), Unknown()),
        op(10, 11, update(E2), Done(2)),
    ],
    "two purges of unknown outcome landed": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, Purge(), Unknown()),
        op(2, 3, Purge(), Unknown()),
        op(4, 5, create(E2), Done(2)),
        op(8, 9, Read(), NOT_FOUND),
    ],
    "a purge landed before a create": [
        *one_after_the_other((create(E1), Done(1)), (delete(2), Done(2))),
        op(5, 6, Purge(), Unknown()),
        op(5, 6, create(E3), Unknown()),
        op(7, 8, Read(), Got(3, "e3")),
        op(9, 10, update(sealed(4)), Done(4)),
        op(11, 12, create(E1), OperatorError("RECORD_EXISTS", 4)),
    ],
    "a purge landed after a create": [
        *one_after_the_other((create(E1), Done(1)), (delete(2), Done(2))),
        op(5, 6, Purge(), Unknown()),
        op(5, 6, create(E3), Unknown()),
        op(7, 8, create(sealed(4, "k2")), Done(4)),
    ],
    "records do not know of one another": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, create(sealed(1, record=OTHER)), Done(1), OTHER),
    ],
}

BAD: dict[str, History] = {
    "an acknowledged create is not read": one_after_the_other((create(E1), Done(1)), (Read(), NOT_FOUND)),
    "an acknowledged update is gone": one_after_the_other(
        (create(E1), Done(1)), (update(E2), Done(2)), (Read(), Got(1, "e1"))
    ),
    "both of two creates are done": [
        op(0, 5, create(E1), Done(1)),
        op(1, 4, create(sealed(1, "k2", "f1")), Done(1)),
    ],
    "an update is lost": [
        op(0, 1, create(E1), Done(1)),
        op(2, 5, update(E2), Done(2)),
        op(3, 4, update(sealed(2, name="f2")), Done(2)),
    ],
    "a read goes back": [
        op(0, 1, create(E1), Done(1)),
        op(2, 9, update(E2), Done(2)),
        op(3, 4, Read(), Got(2, "e2")),
        op(5, 6, Read(), Got(1, "e1")),
    ],
    "a write of unknown outcome comes and goes": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(4, 5, Read(), Got(2, "e2")),
        op(6, 7, Read(), Got(1, "e1")),
    ],
    "a write takes effect before it was called": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, Read(), Got(2, "e2")),
        op(4, 5, update(E2), Unknown()),
    ],
    "both of two writes of unknown outcome at one revision landed": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(2, 3, update(sealed(2, name="f2")), Unknown()),
        op(4, 5, Read(), Got(2, "f2")),
        op(6, 7, Read(), Got(2, "e2")),
    ],
    "a retry of an applied update is stale": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(E2), Unknown()),
        op(4, 5, update(E2), OperatorError("STALE_REVISION", 2)),
    ],
    "a retry of an applied create gets RECORD_EXISTS": [
        op(0, 1, create(E1), Unknown()),
        op(2, 3, create(E1), OperatorError("RECORD_EXISTS", 1)),
    ],
    "an envelope is written twice": one_after_the_other((create(E1), Done(1)), (create(E1), Done(1))),
    "a replay of what was never written": one_after_the_other((create(E1), Done(1, replayed=True))),
    "a revision is read that is not kept": one_after_the_other(
        (create(E1), Done(1)), (update(E2), Done(2)), (Read(revision=1), Got(1, "e1"))
    ),
    "a kept revision is lost": one_after_the_other((create(E1), Done(1)), (update(E2, keeping=1), Done(2)), GONE),
    "an earlier revision has the bytes of the current one": one_after_the_other(
        (create(E1), Done(1)), (update(E2, keeping=1), Done(2)), (Read(revision=1), Got(1, "e2"))
    ),
    "the history is readable after a rotation": one_after_the_other(
        (create(E1), Done(1)), (rotate(2, "k1", "k2"), Done(2)), (Read(revision=1), Got(1, "e1"))
    ),
    "the history is readable after a delete and a create": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (create(E3), Done(3)), (Read(revision=1), Got(1, "e1"))
    ),
    "a deleted record is listed": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (Look(), Seen(True))
    ),
    "a live record is missing in a listing": one_after_the_other((create(E1), Done(1)), (Look(), Seen(False))),
    "a vacancy is listed": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (Purge(), Done(2)), (Look(deleted=True), Seen(True))
    ),
    "a replay is known for longer than 16 revisions": one_after_the_other(
        *STEPS, (update(sealed(RING + 1)), Done(RING + 1)), (create(E1), Done(1, replayed=True))
    ),
    "a replay is forgotten before": one_after_the_other(*STEPS, (create(E1), OperatorError("RECORD_EXISTS", RING))),
    "a replay is answered to a caller that cannot open it": one_after_the_other(
        (create(E1), Done(1)), (create(E1, "k2"), Done(1, replayed=True))
    ),
    "a refusal names a revision before it was written": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, update(sealed(2, name="f2")), OperatorError("STALE_REVISION", 2)),
        op(4, 5, update(E2), Done(2)),
    ],
    "a deleted record is updated": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (update(E3), Done(3))
    ),
    "a deleted name begins again": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (create(sealed(1, name="f1")), Done(1))
    ),
    "another key creates on a tombstone": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (create(sealed(3, "k2")), Done(3))
    ),
    "a deleted record is read": one_after_the_other(
        (create(E1), Done(1)), (delete(2), Done(2)), (Read(2), Got(2, "", deleted=True))
    ),
    "a purged name begins again": one_after_the_other(
        (create(E1), Done(1)), (Purge(), Done(1)), (create(sealed(1, "k2", "f1")), Done(1))
    ),
    "another key updates": one_after_the_other((create(E1), Done(1)), (update(sealed(2, "k2")), Done(2))),
    "an envelope of another key is stored": one_after_the_other(
        (create(E1), Done(1)), (update(sealed(2, "k2"), "k1"), Done(2))
    ),
    "an envelope of another record is stored": one_after_the_other((create(sealed(1, record=OTHER)), Done(1))),
    "a forged wrapped key is accepted": one_after_the_other((create(sealed(1, "x-scope")), Done(1))),
    "a rotation by a permit for other bytes": one_after_the_other(
        (create(E1), Done(1)), (rotate(2, "k1", "k2", permits="e9"), Done(2))
    ),
    "a rotation by a permit of another key": one_after_the_other(
        (create(E1), Done(1)), (rotate(2, "k1", "k2", permit_key="k2"), Done(2))
    ),
    "a rotation to the same key": one_after_the_other((create(E1), Done(1)), (rotate(2, "k1", "k1"), Done(2))),
    "a write is seen that was surely not done": one_after_the_other(
        (create(E1), OperatorError("BACKEND_THROTTLED")), (Read(), Got(1, "e1"))
    ),
    "bytes are read that nobody wrote": one_after_the_other((create(E1), Done(1)), (Read(), Got(1, "e7"))),
    "a fault of ours": one_after_the_other((Read(), OperatorError("INTERNAL"))),
    "one record of two is wrong": [
        op(0, 1, create(E1), Done(1)),
        op(2, 3, Read(), Got(1, "e1")),
        op(0, 1, create(sealed(1, record=OTHER)), Done(1), OTHER),
        op(2, 3, Read(), NOT_FOUND, OTHER),
    ],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_is_linearizable(history: History) -> None:
    check(history)


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_is_not_linearizable(history: History) -> None:
    with pytest.raises(NotLinearizable):
        check(history)


def test_what_is_wrong_is_reported_readably() -> None:
    with pytest.raises(NotLinearizable) as wrong:
        check(BAD["an acknowledged update is gone"])
    text = str(wrong.value)
    assert "places 2 operations" in text
    assert text.endswith("  4.0000 -  5.0000           prod/a: read: e1 at 1")


def exists_an_order(history: Sequence[Operation], state: State | None = None) -> bool:
    """Tries everything: the definition itself, for histories of a few operations."""
    state = state or State()
    if all(isinstance(one.answer, Unknown) for one in history):
        return True
    for at, one in enumerate(history):
        rest = [*history[:at], *history[at + 1 :]]
        if any(other.returned < one.called for other in rest):
            continue
        after, answer = apply(one.record, state, one.request)
        if isinstance(one.answer, OperatorError) and one.answer.reason in SAYS_NOTHING:
            after, answer = state, one.answer
        if (isinstance(one.answer, Unknown) or one.answer == answer) and exists_an_order(rest, after):
            return True
    return False


def is_accepted(history: Sequence[Operation]) -> bool:
    try:
        check(history)
    except NotLinearizable:
        return False
    return True


keys = st.sampled_from(["k1", "k1", "k1", "k2", "x1"])


METHODS = ("create", "update", "update", "delete", "rotate", "read", "earlier", "look", "purge", "again")


@st.composite
def requests(draw: st.DrawFn, state: State, sent: list[Request]) -> Request:
    """What a caller may send when this is stored: mostly what fits, sometimes what was sent before."""
    method = draw(st.sampled_from(METHODS))
    if method == "again" and sent:
        return draw(st.sampled_from(sent))
    if method in ("read", "again"):
        return Read(draw(st.sampled_from([0, state.revision])), draw(st.booleans()))
    if method == "look":
        looks: list[Request] = [ListRevisions(), Look(), Look(deleted=True)]
        return draw(st.sampled_from(looks))
    if method == "earlier":
        return Read(revision=max(1, state.revision - draw(st.integers(-1, 3))))
    if method == "purge":
        return Purge()
    revision = max(1, state.revision + draw(st.sampled_from([0, 1, 1, 1, 2])))
    key, new, number = draw(keys), draw(keys), len(sent)
    record = draw(st.sampled_from([NAME, NAME, NAME, OTHER]))
    if method == "rotate":
        envelope = Sealed(f"e{number}", Kind.DATA, revision, new, record)
        return Rotate(key, Sealed(f"p{number}", Kind.REKEY, revision, key, NAME, envelope.name), new, envelope)
    kind = Kind.TOMBSTONE if method == "delete" else Kind.DATA
    keeping = draw(st.integers(0, 2)) if method == "update" else 0
    return Write(method, key, Sealed(f"e{number}", kind, revision, draw(keys), record), keeping)


@st.composite
def sequential_runs(draw: st.DrawFn, longest: int) -> History:
    """Operations one after the other, each stretched over its neighbours; some answers are lost, and some requests."""
    state, sent, history = State(), list[Request](), History()
    for at in range(draw(st.integers(1, longest))):
        request = draw(requests(state, sent))
        sent.append(request)
        called, returned = at * 10 - draw(st.integers(0, 25)), at * 10 + draw(st.integers(0, 25))
        if draw(st.integers(0, 9)) == 0:
            history.append(Operation(NAME, request, Unknown("request lost"), called))
            continue
        state, answer = apply(NAME, state, request)
        if draw(st.integers(0, 5)) == 0:
            history.append(Operation(NAME, request, Unknown("reply lost"), called))
        else:
            history.append(Operation(NAME, request, answer, called, returned))
    return history


@pytest.mark.slow
@given(sequential_runs(longest=40))
def test_whatever_a_record_does_in_some_order_is_accepted(history: History) -> None:
    order = explain(history)
    state = State()
    for one in order:
        state, answer = apply(NAME, state, one.request)
        assert isinstance(one.answer, Unknown) or one.answer == answer
    for at, later in enumerate(order):
        assert not any(after.returned < later.called for after in order[at + 1 :])
    assert sum(1 for one in order if not isinstance(one.answer, Unknown)) == sum(
        1 for one in history if not isinstance(one.answer, Unknown)
    )


def other_answers(history: History) -> st.SearchStrategy[Answer]:
    """An answer of the same history, or one that is made up."""
    made_up = st.one_of(
        st.builds(Done, st.integers(1, 4), st.booleans()),
        st.builds(Got, st.integers(1, 4), st.sampled_from(["e0", "e1", "e2", ""]), st.booleans()),
        st.builds(OperatorError, st.sampled_from(["STALE_REVISION", "REVISION_NOT_FOUND"]), st.integers(0, 4)),
        st.builds(Kept, st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)),
        st.builds(Seen, st.booleans()),
        st.builds(OperatorError, st.sampled_from(["RECORD_NOT_FOUND", "NOT_AUTHORIZED", "BACKEND_THROTTLED"])),
    )
    return st.one_of(st.sampled_from([one.answer for one in history]), made_up)


@pytest.mark.slow
@examples(400)
@given(sequential_runs(longest=6), st.data())
def test_one_wrong_answer_is_judged_as_brute_force_judges_it(history: History, data: st.DataObject) -> None:
    """Brute force tries every order."""
    at = data.draw(st.integers(0, len(history) - 1))
    answer = data.draw(other_answers(history))
    returned = NEVER if isinstance(answer, Unknown) else min(history[at].returned, history[at].called + 20)
    history[at] = replace(history[at], answer=answer, returned=returned)
    assert is_accepted(history) == exists_an_order(history)


@pytest.mark.slow
@examples(400)
@given(st.lists(sequential_runs(longest=4), min_size=2, max_size=2))
def test_shuffled_runs_are_judged_as_brute_force_judges_them(runs: list[History]) -> None:
    """Two runs are shuffled into one; brute force tries every order."""
    history = [*runs[0], *runs[1]][:7]
    assert is_accepted(history) == exists_an_order(history)
