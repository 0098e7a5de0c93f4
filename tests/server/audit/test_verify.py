"""Verifying audit logs: every tampering is found, the first bad line is named, and nothing else is complained of."""

import asyncio
import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault_server.audit.key import AuditKey, PublicAuditKey, load_key
from keyvault_server.audit.line import COUNTED_REFUSALS, BadLine, Chain, parse_line
from keyvault_server.audit.verify import Report, verify
from tests.support.properties import trials
from tests.support.trails import CALL, Trail, note, some_change

SEED = 20_251_124
TAMPERINGS = trials(10_000)
Lines = list[bytes]


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path)


async def write_a_day(trail: Trail) -> None:
    """Three starts, intents and outcomes, a checkpoint after each six lines."""
    for day in range(3):
        async with trail.open(checkpoint_lines=6) as audit:
            for number in range(4):
                change, record = some_change(number + 1)
                call = CALL._replace(request=f"d{day}-{number}")
                seq = await audit.intent(call, change, expected=record.head if number else None)
                await audit.outcome(call, "OK", change=change, intent=seq)
            await audit.outcome(CALL, "NOT_FOUND", "RECORD_NOT_FOUND")


class Logs:
    """A log, its shipped checkpoints, and another log of the same key, as lines; made once, and spoilt in copies."""

    def __init__(self, trail: Trail, other: Trail) -> None:
        self.folder = trail.folder
        self.key = trail.key
        (trail.folder / "public.pem").write_text(trail.key.pem)
        self.public = load_key(trail.folder / "public.pem")
        self.lines = trail.path.read_bytes().splitlines(True)
        self.checkpoints = trail.checkpoints.read_bytes().splitlines(True)
        self.other = other.path.read_bytes().splitlines(True)
        self.other_checkpoints = other.checkpoints.read_bytes().splitlines(True)

    def verified(self, log: bytes, checkpoints: bytes, key: PublicAuditKey | None = None) -> Report:
        path, shipped = self.folder / "spoilt", self.folder / "shipped"
        for file, content in ((path, log), (shipped, checkpoints)):
            file.unlink(missing_ok=True)  # some file systems flush what is written over an old file
            file.write_bytes(content)
        return verify([path], key or self.key, [shipped], patience=0)


@pytest.fixture(scope="module")
async def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    trail, other = (Trail(tmp_path_factory.mktemp(name)) for name in ("log", "other"))
    await write_a_day(trail)
    shutil.copy(trail.key_path, other.key_path)
    await write_a_day(other)
    return Logs(trail, other)


def test_an_untouched_log_is_whole_under_either_key(logs: Logs) -> None:
    for key in (logs.key, logs.public):
        report = logs.verified(b"".join(logs.lines), b"".join(logs.checkpoints), key)
        assert report.whole, report.bad
        assert (report.lines, report.checkpoints) == (len(logs.lines), len(logs.checkpoints))
        assert (report.starts, report.crashes, report.unshipped, report.unproved) == (3, 0, 0, 0)


# Random tamperings


def flip_a_bit(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    content = bytearray(b"".join(lines))
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def edit_a_line(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    """Another value, one more member or one less, in the very form that the vault writes."""
    at = dice.randrange(len(lines))
    fields = json.loads(lines[at])
    name = dice.choice(list(fields))
    match dice.randrange(4):
        case 0:
            del fields[name]
        case 1:
            fields["x" * dice.randint(1, 9)] = dice.randrange(10)
        case 2 if isinstance(fields[name], int):
            fields[name] += dice.choice([-1, 1])
        case _:
            fields[name] = dice.choice([1, "OK", "UNAVAILABLE", "intent", "outcome", "checkpoint", "a" * 32, "0" * 64])
    lines[at] = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    return b"".join(lines)


def respell_a_line(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    """Says the same to every JSON parser, in other bytes."""
    at = dice.randrange(len(lines))
    fields = json.loads(lines[at])
    match dice.randrange(3):
        case 0:
            lines[at] = json.dumps(fields).encode() + b"\n"
        case 1:
            lines[at] = lines[at].replace(b'"boot"', b'"\\u0062oot"', 1)
        case _:
            lines[at] = b" " + lines[at]
    return b"".join(lines)


def take_lines_out(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    first = dice.randrange(len(lines))
    del lines[first : first + dice.randint(1, len(lines))]
    return b"".join(lines)


def swap_lines(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    one, two = dice.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def double_lines(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    first = dice.randrange(len(lines))
    taken = lines[first : first + dice.randint(1, 5)]
    to = dice.randint(0, len(lines))
    return b"".join(lines[:to] + taken + lines[to:])


def insert_from_another_log(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    """Of the same key; in place of lines of the same numbers, or between them."""
    first = dice.randrange(len(other))
    count = dice.randint(1, 5)
    return b"".join(lines[:first] + other[first : first + count] + lines[first + dice.choice([0, count]) :])


def replace_by_another_log(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    at = dice.randrange(len(lines))
    return b"".join(dice.choice([other, lines[:at] + other[at:], other[:at] + lines[at:], lines + other]))


def truncated(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    """Anywhere: the last line is a checkpoint."""
    content = b"".join(lines)
    return content[: dice.randrange(len(content))]


def truncated_between_lines(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    return b"".join(lines[: dice.randrange(len(lines))])


def tear_a_line(lines: Lines, other: Lines, dice: random.Random) -> bytes:
    at = dice.randrange(len(lines))
    left = dice.randrange(len(lines[at]))
    lines[at] = dice.choice([lines[at][:left], lines[at][:left] + b"\n", lines[at][left:], bytes(left) + b"\n"])
    return b"".join(lines)


TAMPER = (
    flip_a_bit,
    edit_a_line,
    respell_a_line,
    take_lines_out,
    swap_lines,
    double_lines,
    insert_from_another_log,
    replace_by_another_log,
    truncated,
    truncated_between_lines,
    tear_a_line,
)


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("spoilt", ["log", "checkpoints"])
def test_no_random_tampering_goes_undetected(logs: Logs, spoilt: str) -> None:
    print(f"seed {SEED}, {TAMPERINGS // 2} tamperings of the {spoilt}")  # noqa: T201
    dice = random.Random(f"{SEED}-{spoilt}")
    whole = {"log": b"".join(logs.lines), "checkpoints": b"".join(logs.checkpoints)}
    undetected, done = [], 0
    while done < TAMPERINGS // 2:
        tamper = TAMPER[done % len(TAMPER)]
        if spoilt == "log":
            made = whole | {"log": tamper(list(logs.lines), logs.other, dice)}
        else:
            made = whole | {"checkpoints": tamper(list(logs.checkpoints), logs.other_checkpoints, dice)}
        if made == whole:  # an edit to what was there
            continue
        done += 1
        report = logs.verified(made["log"], made["checkpoints"])
        # Checkpoints whose last ones are missing are no proof of anything: a copy may be old. They are counted.
        if report.whole and not report.unshipped:
            undetected.append(f"{tamper.__name__} {done}")
    assert undetected == []


@pytest.mark.slow
def test_the_public_key_alone_finds_tamperings_too(logs: Logs) -> None:
    print(f"seed {SEED}")  # noqa: T201
    dice = random.Random(SEED)
    whole, shipped = b"".join(logs.lines), b"".join(logs.checkpoints)
    for number in range(1_100):
        spoilt = TAMPER[number % len(TAMPER)](list(logs.lines), logs.other, dice)
        assert spoilt == whole or not logs.verified(spoilt, shipped, logs.public).whole


# What is said of it


def without(lines: Lines, number: int) -> Lines:
    return lines[: number - 1] + lines[number:]


def swapped(lines: Lines, number: int) -> Lines:
    return [*lines[: number - 1], lines[number], lines[number - 1], *lines[number + 1 :]]


def changed(lines: Lines, number: int) -> Lines:
    return [*lines[: number - 1], lines[number - 1].replace(b'"OK"', b'"NO"'), *lines[number:]]


SAID: dict[str, tuple[Callable[[Lines], Lines], int, str]] = {
    "edited": (lambda lines: changed(lines, 4), 4, "its MAC does not match"),
    "taken out": (lambda lines: without(lines, 4), 4, "it has seq 5, expected 4"),
    "first taken out": (lambda lines: without(lines, 1), 1, "it has seq 2, expected 1"),
    "swapped": (lambda lines: swapped(lines, 4), 4, "it has seq 5, expected 4"),
    "doubled": (lambda lines: [*lines[:5], *lines[4:]], 6, "it has seq 5, expected 6"),
    "no JSON": (lambda lines: [*lines[:5], b"\xff\n", *lines[5:]], 6, "not a valid audit log line"),
    "deep JSON": (lambda lines: [*lines[:5], b"[" * 60_000 + b"\n"], 6, "not a valid audit log line"),
    "torn": (lambda lines: [*lines[:5], lines[5][:-1]], 6, "it has no end"),
    "endless": (lambda lines: [*lines[:5], b"x" * 200_000], 6, "it has no end"),
    "empty": (lambda lines: [], 1, "the file is empty"),
    "truncated": (lambda lines: lines[:8], 8, "is a checkpoint of seq 9: it was truncated"),
}


@pytest.mark.parametrize("case", SAID)
def test_the_first_bad_line_is_named(logs: Logs, case: str) -> None:
    spoil, number, why = SAID[case]
    report = logs.verified(b"".join(spoil(logs.lines)), b"".join(logs.checkpoints))
    assert report.bad is not None
    assert (report.bad.place.path.name, report.bad.place.number) == ("spoilt", number)
    assert why in str(report.bad)
    assert "\n" not in str(report.bad)


def test_a_line_of_another_log_is_named(logs: Logs) -> None:
    lines = [*logs.lines[:5], logs.other[5], *logs.lines[6:]]
    bad = logs.verified(b"".join(lines), b"".join(logs.checkpoints)).bad
    assert str(bad) == f"{logs.folder / 'spoilt'} line 6: it does not follow the line before it"


SAID_OF_CHECKPOINTS: dict[str, tuple[Callable[[Logs], Lines], int, str]] = {
    "edited": (lambda logs: [logs.checkpoints[0].replace(b"start", b"staRt"), *logs.checkpoints[1:]], 1, "no such"),
    "taken out": (lambda logs: without(logs.checkpoints, 2), 2, "the checkpoint of seq 9 is missing before it"),
    "swapped": (lambda logs: swapped(logs.checkpoints, 2), 2, "the checkpoint of seq 9 is missing before it"),
    "doubled": (lambda logs: [*logs.checkpoints[:2], *logs.checkpoints[1:]], 3, "no such checkpoint"),
    "doubled at the end": (lambda logs: [*logs.checkpoints, logs.checkpoints[-1]], -1, "no such checkpoint"),
    "of another log": (lambda logs: [*logs.checkpoints, logs.other_checkpoints[0]], -1, "a log that was not named"),
    "of nobody": (lambda logs: [*logs.checkpoints, forged(logs)], -1, "signature is not by this audit key"),
    "a line": (lambda logs: [*logs.checkpoints, logs.lines[3]], -1, "not a checkpoint"),
    "none": (lambda logs: [], 0, "there is no checkpoint of"),
}


def forged(logs: Logs) -> bytes:
    """A checkpoint of what never was, by somebody without a key."""
    return logs.checkpoints[-1].replace(b'{"seq":', b'{"seq":9')


@pytest.mark.parametrize("case", SAID_OF_CHECKPOINTS)
def test_a_bad_shipped_checkpoint_is_named(logs: Logs, case: str) -> None:
    make, number, why = SAID_OF_CHECKPOINTS[case]
    report = logs.verified(b"".join(logs.lines), b"".join(make(logs)))
    assert report.bad is not None
    number = len(logs.checkpoints) + 1 if number == -1 else number
    assert (report.bad.place.path.name, report.bad.place.number) == ("shipped", number), str(report.bad)
    assert why in str(report.bad)


def test_shipped_checkpoints_that_lag_are_counted_and_no_fault(logs: Logs) -> None:
    report = logs.verified(b"".join(logs.lines), b"".join(logs.checkpoints[:-2]))
    assert report.whole
    assert report.unshipped == 2


def test_a_file_that_is_gone_is_named(logs: Logs) -> None:
    path, shipped = logs.folder / "audit.jsonl", logs.folder / "gone"
    for paths, checkpoints in (([shipped], [path]), ([path], [shipped])):
        report = verify(paths, logs.key, checkpoints, patience=0)
        assert str(report.bad) == f"{shipped}: cannot be read: No such file or directory"


@pytest.mark.medium
async def test_without_shipped_checkpoints_the_logs_own_are_compared(tmp_path: Path) -> None:
    """Those next to each log."""
    trails = [Trail(tmp_path / name) for name in "ab"]
    for trail in trails:
        trail.folder.mkdir()
    AuditKey.create(trails[0].key_path)
    shutil.copy(trails[0].key_path, trails[1].key_path)
    for trail in trails:
        await write_a_day(trail)
    key, paths = trails[0].key, [trail.path for trail in trails]
    report = verify(paths, key, patience=0)
    assert report.whole, report.bad
    assert (report.starts, report.unshipped) == (6, 0)
    both = tmp_path / "both"
    both.write_bytes(trails[1].checkpoints.read_bytes() + trails[0].checkpoints.read_bytes())
    report = verify(paths, key, [both], patience=0)
    assert report.whole, report.bad
    assert "log that was not named" in str(verify(paths[:1], key, [both], patience=0).bad)
    assert verify([paths[0], paths[0]], key, patience=0).lines == 39, "once"
    shutil.copy(paths[0], tmp_path / "copy")
    assert "name each file once" in str(verify([paths[0], tmp_path / "copy"], key, patience=0).bad)
    trails[1].checkpoints.unlink()
    assert "cannot be read" in str(verify(paths, key, patience=0).bad)


@pytest.mark.medium
async def test_a_log_can_be_verified_while_it_is_written(trail: Trail) -> None:
    async with trail.open(checkpoint_lines=20) as audit:
        key, stop = trail.key, asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await note(audit, 7, "x" * 200)

        writing = asyncio.create_task(write())
        for _ in range(20):
            report = await asyncio.to_thread(verify, [trail.path], key)
            assert report.whole, report.bad
        stop.set()
        await writing


@pytest.mark.medium
async def test_a_line_that_is_being_written_is_waited_for(trail: Trail) -> None:
    async with trail.open() as audit:
        await note(audit, 3)
    content = trail.path.read_bytes()
    trail.path.write_bytes(content[:-100])
    verifying = asyncio.create_task(asyncio.to_thread(verify, [trail.path], trail.key, None, patience=30))
    await asyncio.sleep(0.1)
    with trail.path.open("ab") as file:
        file.write(content[-100:])
    report = await verifying
    assert report.whole, report.bad


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_log(trail: Trail) -> None:
    async with trail.open() as audit:
        for part in "ab":
            await note(audit, 2_500, part + "x" * 199)
    key, size = trail.key, trail.path.stat().st_size
    assert size > 2_500_000
    tracemalloc.start()
    report = verify([trail.path], key)
    peak = tracemalloc.get_traced_memory()[1]
    os.truncate(trail.path, 0)
    os.truncate(trail.path, size)  # one line of zeros that does not end
    assert not verify([trail.path], key, patience=0).whole
    peak = max(peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert report.lines > 5_000
    assert peak < 500_000


# What an attacker with keys can do


def rewritten(lines: Lines, key: AuditKey, log: str = "") -> Lines:
    """The lines written again, one answer changed, by somebody who has the whole key."""
    chain, made = Chain(log or json.loads(lines[0])["log"]), []
    for line in lines:
        fields = {name: value for name, value in json.loads(line).items() if name not in ("seq", "prev", "mac")}
        if fields.get("request") == "d0-1" and fields["phase"] == "outcome":
            fields["status"] = "NOT_FOUND"
        if fields["phase"] == "checkpoint":
            for name in ("log", "digest", "signature"):
                del fields[name]
            made.append(chain.add_checkpoint(key, json.dumps(fields, separators=(",", ":"))[1:-1]))
        else:
            made.append(chain.add(key, json.dumps(fields, separators=(",", ":"))[1:-1]))
    return made


def test_the_whole_key_cannot_rewrite_shipped_checkpoints(logs: Logs) -> None:
    """Nor what they cover."""
    made = rewritten(logs.lines, logs.key)
    own = [line for line in made if b'"phase":"checkpoint"' in line]
    assert len(own) == len(logs.checkpoints)
    assert logs.verified(b"".join(made), b"".join(own)).whole, "the attack works where nothing was shipped"
    report = logs.verified(b"".join(made), b"".join(logs.checkpoints))
    assert report.bad is not None
    assert report.bad.place.path.name == "shipped"
    assert logs.verified(b"".join(made), b"".join(logs.checkpoints[:1])).whole, "nor behind what was shipped"


def test_the_hmac_key_cannot_rewrite_what_a_checkpoint_covers(logs: Logs) -> None:
    """The HMAC key alone."""
    content = json.loads((logs.folder / "audit.key").read_bytes())
    stolen = logs.folder / "stolen.key"
    if not stolen.exists():
        AuditKey.create(stolen)
    stolen.write_text(json.dumps(json.loads(stolen.read_bytes()) | {"hmac_key": content["hmac_key"]}))
    made = rewritten(logs.lines, AuditKey.load(stolen))
    own = b"".join(line for line in made if b'"phase":"checkpoint"' in line)
    for shipped in (own, b"".join(logs.checkpoints)):
        report = logs.verified(b"".join(made), shipped)
        assert "signature is not by this audit key" in str(report.bad)
    kept = [new if b'"phase":"checkpoint"' not in new else old for new, old in zip(made, logs.lines, strict=True)]
    assert not logs.verified(b"".join(kept), b"".join(logs.checkpoints)).whole


async def test_a_log_without_checkpoints_is_no_way_round_them(trail: Trail) -> None:
    async with trail.open() as audit:
        await note(audit, 10)
    chain, key = Chain("0" * 32), trail.key
    lines = [chain.add(key, '"phase":"boot","log":"' + "0" * 32 + '"')]
    lines += [chain.add(key, '"phase":"outcome"') for _ in range(1_000)]
    trail.path.write_bytes(b"".join(lines))
    trail.checkpoints.write_bytes(b"")
    why = "there is no checkpoint in the 1000 lines before it"
    assert str(verify([trail.path], key, patience=0).bad) == f"{trail.path} line 1001: {why}"


@pytest.mark.parametrize(
    ("texts", "number", "why"),
    [
        (['"phase":"outcome"'], 1, "not a boot line, with which every log begins"),
        (['"phase":"boot","log":"a"', '"phase":"boot","log":"b"'], 2, "it belongs to another log"),
    ],
)
def test_a_log_keeps_its_name(trail: Trail, texts: list[str], number: int, why: str) -> None:
    key, chain = AuditKey.create(trail.key_path), Chain()
    trail.path.write_bytes(b"".join(chain.add(key, text) for text in texts))
    trail.checkpoints.write_bytes(b"")
    assert str(verify([trail.path], key, patience=0).bad) == f"{trail.path} line {number}: {why}"


def test_a_key_file_of_either_kind_verifies(logs: Logs) -> None:
    for key in (logs.public, load_key(logs.folder / "audit.key")):
        assert logs.verified(b"".join(logs.lines), b"".join(logs.checkpoints), key).whole
    other = logs.folder / "other.key"
    if not other.exists():
        AuditKey.create(other)
    report = logs.verified(b"".join(logs.lines), b"".join(logs.checkpoints), load_key(other))
    assert "another audit key" in str(report.bad)


async def test_counted_refusals_are_added_up(trail: Trail) -> None:
    for _ in range(2):
        async with trail.open() as audit:
            for _ in range(3):
                audit.count_refused("UNAUTHENTICATED", "UNAUTHENTICATED")
            audit.count_refused("PERMISSION_DENIED", "POLICY_DENIED")
    counted = [line["count"] for line in trail.lines() if line["phase"] == COUNTED_REFUSALS]
    assert counted == [3, 1] * 2
    assert trail.verified().refused == 8


@pytest.mark.parametrize("count", [1, 2**40])
def test_a_line_of_refusals_counts_one_or_more(count: int) -> None:
    assert parse_line(refusals(count))["count"] == count


@pytest.mark.parametrize("count", [0, -1, True, "1", 1.0, None])
def test_a_line_of_refusals_with_no_count_is_not_valid(count: object) -> None:
    with pytest.raises(BadLine):
        parse_line(refusals(count))


NOT_LINES = {
    "a list": [],
    "a number": 1,
    "nothing": {},
    "a seq of another type": {"seq": "1", "prev": "", "phase": "boot"},
    "a seq that is a truth value": {"seq": True, "prev": "", "phase": "boot"},
    "no phase": {"seq": 1, "prev": ""},
    "no prev": {"seq": 1, "phase": "boot"},
    "a prev of another type": {"seq": 1, "prev": 1, "phase": "boot"},
    "a log of another type": {"seq": 1, "prev": "", "phase": "boot", "log": 1},
    "a checkpoint without its log": {"seq": 1, "prev": "", "phase": "checkpoint", "digest": ""},
    "a checkpoint without its digest": {"seq": 1, "prev": "", "phase": "checkpoint", "log": ""},
}


@pytest.mark.parametrize("case", NOT_LINES)
def test_what_no_vault_can_have_written_is_not_a_line(case: str) -> None:
    with pytest.raises(BadLine, match="not a valid audit log line"):
        parse_line(json.dumps(NOT_LINES[case]).encode())


def refusals(count: object) -> bytes:
    return json.dumps({"seq": 1, "prev": "", "phase": COUNTED_REFUSALS, "count": count}).encode()
