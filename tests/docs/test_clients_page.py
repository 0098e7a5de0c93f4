"""What docs/clients.md says of the server's answers is what the server answers, and its block for bare stubs runs.

Each of its steps is held by cases of the behaviour suite, or by the vectors.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import errors
from keyvault_client.exit_codes import exit_code
from keyvault_server.core.errors import RecordExists, RevisionNotFound, StaleRevision, VaultError
from tests.behaviour.suite import cases
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.pages import PORT, run_awaiting, texts_of
from tests.support.refusals import failure_of
from tests.support.repository import ROOT
from tests.support.servers import Served, on_ports

PAGE = (ROOT / "docs" / "clients.md").read_text()
ANSWERS = re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", PAGE, re.MULTILINE)


def every_error() -> Iterator[Exception]:
    """One of each that the server can meet."""
    yield RuntimeError("anything else")
    yield RecordExists(7, 1)
    yield RevisionNotFound(7)
    yield StaleRevision(7, 1)
    kinds: list[Any] = [VaultError]
    for kind in kinds:
        kinds += [each for each in kind.__subclasses__() if each.__module__ == VaultError.__module__]
    yield from (kind() for kind in kinds if kind not in (VaultError, RecordExists, RevisionNotFound, StaleRevision))


async def test_the_table_has_each_reason_with_its_status() -> None:
    records = FakeRecordStore()
    seen = set()
    async with on_ports(FakeKeyService(), records) as server:
        for error in every_error():
            records.fail_before("get", error)
            failure = await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))
            seen.add((failure.status, failure.reason))
    assert sorted(ANSWERS) == sorted(seen)


async def test_the_block_for_bare_stubs_runs(server: Served) -> None:
    (block,) = texts_of("docs/clients.md", "python")
    assert PORT in block
    names = await run_awaiting(block.replace(PORT, server.address))
    assert names["made"].scope == "prod/"


def test_each_step_is_held_by_cases_or_by_the_vectors() -> None:
    steps = re.findall(r"^(\d+)\. \*\*(.+?)\.\*\* ", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| (\d+)\. (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(steps) == 10
    assert [(number, title) for number, title, _ in rows] == steps
    held = {number: re.findall(r"`([a-z0-9-]+)`", by) for number, _, by in rows}
    assert [number for number, names in held.items() if not names] == ["3"], "the vectors hold the envelope"
    assert "kve1.json" in rows[2][2]
    assert {name for names in held.values() for name in names} == set(cases()), "every case has a step"


def test_the_page_counts_the_cases() -> None:
    assert f"{len(cases())} cases" in PAGE


def test_the_one_table_has_the_exit_codes_of_keyvault() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d) \|", PAGE, re.MULTILINE)
    assert len(rows) > 15
    for name, code in rows:
        kind = getattr(errors, name)
        error = kind.__new__(kind)
        error.reason = "" if kind is errors.InvalidRequest else "REASON"
        assert exit_code(error) == int(code), name


@pytest.mark.parametrize(
    ("path", "bounds"),
    [
        ("client/keyvault_client/transport.py", ["FIRST_WAIT, LONGEST_WAIT = 0.2, 2.0"]),
        ("sdk/go/call.go", ["firstWait   = 200 * time.Millisecond", "longestWait = 2 * time.Second"]),
        (
            "sdk/java/src/main/java/io/github/keyvaultgrpc/Calls.java",
            ["MILLISECONDS.toNanos(200)", "SECONDS.toNanos(2)"],
        ),
        ("sdk/node/src/call.ts", ["FIRST_WAIT = 200;", "LONGEST_WAIT = 2_000;"]),
    ],
)
def test_the_waits_of_the_one_table_are_those_of_the_code(path: str, bounds: list[str]) -> None:
    code = (ROOT / path).read_text()
    assert [bound for bound in bounds if bound not in code] == []
