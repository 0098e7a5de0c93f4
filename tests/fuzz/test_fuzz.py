"""A short round of each sort of fuzzing, every input that was once worth keeping, and bugs that the fuzzing finds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_server.core.ports import KeyService, RecordStore, WrappedBlob
from keyvault_server.core.records import StoredHead
from tests.fuzz.edits import LENGTHS, edited
from tests.fuzz.formats import CHECKS, checked, seeds
from tests.fuzz.lane import KNOWN_NAME, Report, minted, opened
from tests.fuzz.rule import Fate
from tests.fuzz.run import fuzzed
from tests.fuzz.targets import in_process, wire
from tests.support.production_server import production_server
from tests.support.properties import examples
from tests.support.requests import create

CORPUS = {path.name: json.loads(path.read_text()) for path in Path(__file__).with_name("corpus").iterdir()}
CASES = pytest.mark.parametrize("name", sorted(name for name, kept in CORPUS.items() if "recipes" in kept))
FORMATS = pytest.mark.parametrize("name", sorted(name for name, kept in CORPUS.items() if "format" in kept))
GOOD = seeds()
PLACES = st.integers(0, 500)
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "set"]), PLACES, st.integers(0, 7))
    | st.tuples(st.sampled_from(["cut", "end", "repeat", "swap"]), PLACES, st.sampled_from(LENGTHS))
    | st.tuples(st.just("insert"), PLACES, st.binary(max_size=40).map(bytes.hex)),
    max_size=4,
)


@CASES
async def test_a_kept_sequence_is_answered_as_it_says(tmp_path: Path, name: str) -> None:
    report = Report()
    async with in_process(tmp_path) as target:
        owner = await minted(target, "alice", KNOWN_NAME)
        known = create(owner.key, KNOWN_NAME, b"known")
        await target.send("Create", "alice", known.SerializeToString())
        lane = await opened(target, "kept", (owner, known.envelope), report)
        for number, recipe in enumerate(CORPUS[name]["recipes"]):
            answer = await lane.send(recipe)
            assert [answer.status, answer.reason] == recipe["expected"], f"{number}: {recipe}"
    assert report.wrong == []


@FORMATS
def test_a_kept_input_is_what_it_says(name: str) -> None:
    check = CHECKS[CORPUS[name]["format"]]
    for expected, data in CORPUS[name]["inputs"]:
        assert check(bytes.fromhex(data)) == expected, data


@pytest.mark.slow
async def test_messages_to_the_service_are_answered_as_the_rule_has_it(tmp_path: Path) -> None:
    async with in_process(tmp_path) as target:
        report = await fuzzed(target, 4_000, seed=1, lanes=8)
    assert report.wrong == []
    assert report.intact
    assert set(report.fates) == set(Fate), "the messages do not reach everything"
    assert {"NOT_AUTHORIZED", "ENVELOPE_NOT_UNDER_KEY", "STALE_REVISION"} <= {reason for _, reason in report.answers}


@pytest.mark.process
@pytest.mark.slow
async def test_messages_over_the_wire_are_answered_as_the_rule_has_it(tmp_path: Path) -> None:
    with production_server(tmp_path) as server:
        async with wire(server) as target:
            report = await fuzzed(target, 1_500, seed=1, lanes=8)
        assert server.server.stop() == 0
        assert "unexpected error" not in server.server.log.read_text()
    assert report.wrong == []
    assert report.intact
    assert {Fate.REFUSED, Fate.OK, Fate.WRITTEN} <= set(report.fates)


@pytest.mark.slow
def test_inputs_of_every_format_are_read_alike_by_two_readers() -> None:
    found, wrong = checked(6_000, seed=1)
    assert wrong == []
    assert len(found) == 8, "not everything that an input can be was met"


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKS)
@examples(200)
@given(data=st.data())
def test_any_edits_of_a_good_input_are_read_alike_by_two_readers(kind: str, data: st.DataObject) -> None:
    changed = data.draw(st.sampled_from(GOOD[kind]))
    for edit in data.draw(EDITS):
        changed = edited(changed, list(edit))
    CHECKS[kind](changed)


class Instead:
    """A port of which a test replaces one method."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Forgetful(Instead):
    """A store that keeps no ring, so that nothing is known again."""

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        head: StoredHead | None = await self._real.get_head(tenant, key_id)
        return head and dataclasses.replace(head, ring=bytes(16))


class WrongCopies(Instead):
    """A store whose copies are those of the record before."""

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        copy: bytes | None = await self._real.get_copy(tenant, key_id, revision - 1)
        return copy


class Fragile(Instead):
    """A key service that no blob of another length had reached in its tests."""

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        assert len(wrapped.blob) == 104
        data_key: bytes = await self._real.unwrap(tenant, scope, wrapped)
        return data_key


class Careless(Instead):
    """A key service that gives everybody the same data key."""

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        data_key: bytes = await self._real.unwrap(tenant, scope, wrapped)
        self._first: bytes = getattr(self, "_first", data_key)
        return self._first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "keys", "sentence"),
    [
        (Forgetful, Instead, "not replayed"),
        (WrongCopies, Instead, "DATA_LOSS RECORD_CORRUPT, not answered"),
        (Instead, Fragile, "INTERNAL: internal error"),
        (Instead, Careless, "ENVELOPE_NOT_UNDER_KEY, not written"),
    ],
)
async def test_a_bug_of_a_port_is_found(
    tmp_path: Path, store: type[Instead], keys: type[Instead], sentence: str
) -> None:
    def spoilt(real_keys: KeyService, real_store: RecordStore) -> tuple[KeyService, RecordStore]:
        other_keys: Any = keys(real_keys)
        other_store: Any = store(real_store)
        return other_keys, other_store

    async with in_process(tmp_path, spoilt) as target:
        report = await fuzzed(target, 4_000, seed=1, lanes=8)
    assert any(sentence in wrong for wrong in report.wrong), report.wrong[:3]
