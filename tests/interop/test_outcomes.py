"""Every client against a peer that loses answers, lies, cuts connections and forgets them: what it then reports.

What is tested is docs/clients.md: which answers settle a mutation, and which revision to seal for. `tried` holds for
each command that its report fits what is stored, and that it sealed for no revision that was not proved.
"""

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import repeat
from pathlib import Path

import grpc
import pytest

from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs
from tests.support.middlebox import Middlebox
from tests.support.misbehaving import Call, Step, answers, claims, cuts, forgets, hangs
from tests.support.outcomes import FAILED, UNKNOWN, Ended, Prepare, Record, Script, done_at, run, tried
from tests.support.servers import Served, embedded

pytestmark = MARKS
Code = grpc.StatusCode
HIGHEST = 2**63 - 1
MUTATIONS = ("Create", "Update", "Delete", "RotateKey")
SHORT = 8.0
"""Seconds of a command that cannot succeed and tries until the end; a busy machine takes some of them to connect."""
Try = Callable[..., Awaitable[dict[str, Ended]]]

PROXYS = {
    "UNKNOWN": answers(Code.UNKNOWN, commit=True),
    "INTERNAL": answers(Code.INTERNAL, commit=True),
    "UNAVAILABLE": answers(Code.UNAVAILABLE, commit=True),
    "CANCELLED": answers(Code.CANCELLED, commit=True),
    "BACKEND_UNAVAILABLE": answers(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE", commit=True),
    "RST": cuts("RST"),
    "FIN": cuts("FIN"),
}
"""Ways to lose an answer after the commit that a retry with the same bytes may settle."""
FINAL = {
    "INTERNAL with an ErrorInfo": answers(Code.INTERNAL, "INTERNAL", commit=True),
    "PERMISSION_DENIED": answers(Code.PERMISSION_DENIED, commit=True),
    "UNAUTHENTICATED": answers(Code.UNAUTHENTICATED, commit=True),
    "UNIMPLEMENTED": answers(Code.UNIMPLEMENTED, commit=True),
    "RESOURCE_EXHAUSTED": answers(Code.RESOURCE_EXHAUSTED, commit=True),
    "ABORTED": answers(Code.ABORTED, commit=True),
    "another revision": claims(7),
}
"""Ways to lose it that are not retried."""
UNSETTLING = {
    "RATE_LIMITED": answers(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=60),
    "POLICY_DENIED": answers(Code.PERMISSION_DENIED, "POLICY_DENIED"),
    "UNAUTHENTICATED": answers(Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    "NOT_AUTHORIZED": answers(Code.PERMISSION_DENIED, "NOT_AUTHORIZED"),
    "RECORD_CORRUPT": answers(Code.DATA_LOSS, "RECORD_CORRUPT", current_revision=1),
    "exists": answers(Code.ALREADY_EXISTS, "RECORD_EXISTS", current_revision=1),
    "exists, forgotten": answers(Code.ALREADY_EXISTS, "RECORD_EXISTS", current_revision=9, remembered_since=2),
    "stale, forgotten": answers(Code.ABORTED, "STALE_REVISION", current_revision=9, remembered_since=2),
    "purged": answers(Code.ABORTED, "STALE_REVISION", current_revision=1, remembered_since=2, vacant="true"),
    "still possible": answers(Code.ABORTED, "STALE_REVISION", current_revision=0, remembered_since=0),
    "no numbers": answers(Code.ABORTED, "STALE_REVISION", current_revision="9" * 5_000, remembered_since="-1"),
}
"""Answers of KeyVault that settle nothing once an attempt is unknown."""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with embedded(tmp_path_factory.mktemp("outcomes") / "data", reflection=False) as served:
        yield served


@pytest.fixture
def every(programs: Programs, server: Served, tmp_path: Path) -> Try:
    """Try a command of every language at the same time, each on a record and a peer of its own."""

    async def try_all(verb: str, script: Script, prepare: Prepare, seconds: float = 30) -> dict[str, Ended]:
        clients = {language: programs.get(language) for language in LANGUAGES}
        runs = []
        for language, client in clients.items():
            folder = Path(tempfile.mkdtemp(prefix=language, dir=tmp_path))
            record = await Record.make(server, f"outcomes/{tmp_path.name}/{folder.name}", folder)
            runs.append(tried(client, verb, record, script, prepare, seconds))
        return dict(zip(clients, await asyncio.gather(*runs), strict=True))

    return try_all


async def absent(_: Record) -> None:
    """Nothing is stored under the name."""


async def live(record: Record) -> None:
    await record.create()


async def deleted(record: Record) -> None:
    await record.create()
    await record.delete(2)


def all_are(ended: dict[str, Ended], outcome: str) -> bool:
    """Whether every language reported this; the assertion shows the lines of those that did not."""
    wrong = {language: end for language, end in ended.items() if end.outcome != outcome}
    assert not wrong, wrong
    return True


@pytest.mark.parametrize("lost", PROXYS)
async def test_an_answer_lost_once_is_got_by_a_retry(every: Try, lost: str) -> None:
    ended = await every("create", lambda _: {"Create": [PROXYS[lost]]}, absent)
    assert all_are(ended, done_at(1))
    assert [end.calls for end in ended.values()] == [["Create", "Create"]] * len(ended)
    assert all(end.sealed == [1] for end in ended.values()), "not the same bytes"


@pytest.mark.parametrize("lost", ["UNKNOWN", "INTERNAL", "BACKEND_UNAVAILABLE", "RST", "FIN"])
async def test_an_answer_that_stays_lost_is_an_unknown_outcome(every: Try, lost: str) -> None:
    ended = await every("create", lambda _: {"Create": repeat(PROXYS[lost])}, absent, SHORT)
    assert all_are(ended, UNKNOWN)
    assert all(end.sealed == [1] for end in ended.values()), "sealed again"


@pytest.mark.parametrize("verb", ["update", "delete", "rotate"])
async def test_every_mutation_has_an_unknown_outcome(every: Try, verb: str) -> None:
    steps = (PROXYS["UNKNOWN"], FINAL["UNIMPLEMENTED"])
    assert all_are(await every(verb, lambda _: dict.fromkeys(MUTATIONS, steps), live), UNKNOWN)


@pytest.mark.parametrize("lost", FINAL)
async def test_a_strange_answer_is_not_asked_for_again(every: Try, lost: str) -> None:
    ended = await every("create", lambda _: {"Create": [FINAL[lost]]}, absent)
    assert all_are(ended, UNKNOWN)
    assert [end.calls for end in ended.values()] == [["Create"]] * len(ended)


@pytest.mark.parametrize("answer", UNSETTLING)
async def test_an_unknown_outcome_stays_unknown(every: Try, answer: str) -> None:
    ended = await every("create", lambda _: {"Create": [PROXYS["UNKNOWN"], UNSETTLING[answer]]}, absent)
    assert all_are(ended, UNKNOWN)
    assert all(end.sealed == [1] for end in ended.values()), "sealed again"


async def test_a_change_that_is_never_answered_is_unknown(every: Try) -> None:
    assert all_are(await every("create", lambda _: {"Create": repeat(hangs)}, absent, SHORT), UNKNOWN)


async def test_a_refusal_that_would_know_the_envelope_settles(every: Try) -> None:
    refused = answers(Code.ALREADY_EXISTS, "RECORD_EXISTS", current_revision=1, remembered_since=1)
    ended = await every("create", lambda _: {"Create": [answers(Code.UNKNOWN), refused]}, absent)
    assert all_are(ended, FAILED)


@pytest.mark.parametrize("reason", ["RATE_LIMITED", "SERVER_STOPPING"])
async def test_what_was_surely_not_done_is_a_failure(every: Try, reason: str) -> None:
    code = Code.UNAVAILABLE if reason == "SERVER_STOPPING" else Code.RESOURCE_EXHAUSTED
    once = await every("create", lambda _: {"Create": [answers(code, reason)]}, absent)
    assert all_are(once, done_at(1))
    always = await every("create", lambda _: {"Create": repeat(answers(code, reason))}, absent, SHORT)
    assert all_are(always, FAILED)


@pytest.mark.parametrize("verb", ["create", "update", "delete", "rotate"])
async def test_a_made_up_revision_is_not_sealed_for(every: Try, verb: str) -> None:
    lie = answers(Code.ABORTED, "STALE_REVISION", current_revision=HIGHEST, remembered_since=HIGHEST - 15)
    ended = await every(verb, lambda _: dict.fromkeys(MUTATIONS, repeat(lie)), absent if verb == "create" else live)
    assert all_are(ended, FAILED)


@pytest.mark.parametrize("verb", ["update", "delete", "rotate"])
async def test_a_made_up_read_is_not_sealed_for(every: Try, verb: str) -> None:
    ended = await every(verb, lambda _: {"Read": repeat(claims(HIGHEST - 1))}, live)
    assert all_are(ended, FAILED)


@pytest.mark.parametrize("verb", ["create", "update", "delete", "rotate"])
async def test_a_purged_name_is_not_gone_over_unasked(every: Try, verb: str) -> None:
    lie = answers(Code.ABORTED, "STALE_REVISION", current_revision=9_000, remembered_since=9_001, vacant="true")
    ended = await every(verb, lambda _: dict.fromkeys(MUTATIONS, repeat(lie)), absent if verb == "create" else live)
    assert all_are(ended, FAILED)


async def test_a_deleted_name_is_created_again_after_its_tombstone(every: Try) -> None:
    ended = await every("create", lambda _: {}, deleted)
    assert all_are(ended, done_at(3))
    assert all(end.sealed == [1, 3] for end in ended.values())


@pytest.mark.parametrize("verb", ["update", "delete", "rotate"])
async def test_another_writer_who_was_faster_is_followed(every: Try, verb: str) -> None:
    def overtaken(record: Record) -> dict[str, tuple[Step, ...]]:
        async def first(call: Call) -> bytes:
            await record.update(2)
            return await call.forward()

        return dict.fromkeys(("Update", "Delete", "RotateKey"), (first,))

    assert all_are(await every(verb, overtaken, live), done_at(3))


async def test_a_half_open_connection_is_left(every: Try) -> None:
    begin = time.monotonic()
    ended = await every("create", lambda _: {"Create": [forgets]}, absent, seconds=40)
    assert all_are(ended, done_at(1))
    assert all(end.connections >= 2 for end in ended.values())
    assert time.monotonic() - begin < 35


@pytest.mark.parametrize("language", LANGUAGES)
async def test_what_was_never_sent_failed(programs: Programs, server: Served, tmp_path: Path, language: str) -> None:
    client = programs.get(language)
    record = await Record.make(server, f"outcomes/unsent/{language}", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:  # accepts; refuses
        closed.bind(("127.0.0.1", 0))
        for listener in (silent, closed):
            begin = time.monotonic()
            address = "{}:{}".format(*listener.getsockname())
            outcome, line = await run(client.at(address, timeout=3), "create", record)
            assert outcome == FAILED, line
            assert 1 < time.monotonic() - begin < 20, "the deadline is the only bound"


async def test_a_server_that_comes_back_in_time_is_no_error(programs: Programs, server: Served, tmp_path: Path) -> None:
    clients = {language: programs.get(language) for language in LANGUAGES}
    box = Middlebox(int(server.address.rpartition(":")[2]))
    with socket.socket() as down:
        down.bind(("127.0.0.1", 0))  # refuses connections until it listens
        address = "{}:{}".format(*down.getsockname())
        runs = []
        for language, client in clients.items():
            folder = Path(tempfile.mkdtemp(prefix=language, dir=tmp_path))
            record = await Record.make(server, f"outcomes/late/{language}", folder)
            runs.append(asyncio.create_task(run(client.at(address, timeout=20), "create", record)))
        await asyncio.sleep(6)
        assert not any(each.done() for each in runs), runs
        async with await asyncio.start_server(box.pass_on, sock=down):
            outcomes = dict(zip(clients, await asyncio.gather(*runs), strict=True))
    assert outcomes == dict.fromkeys(clients, (done_at(1), ""))
