"""The audit log as it is written: what a line says, when it counts, and what a broken sink makes of it."""

import asyncio
import base64
import contextlib
import errno
import hashlib
import hmac
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keyvault_server.audit.entry import Call, Change, Origin
from keyvault_server.audit.file import UnusableAuditFile
from keyvault_server.audit.key import AuditKey, UnusableAuditKey, load_key
from keyvault_server.audit.recovery import _FIRST_LOOK
from keyvault_server.audit.verify import verify
from keyvault_server.core.errors import AuditUnavailable, BackendUnavailable, OperatorError
from keyvault_server.core.records import vacancy
from tests.support.repository import DOCS
from tests.support.tools import toolchain
from tests.support.trails import CALL, Trail, note, small_files, some_change

Limit = Callable[[Trail], AbstractContextManager[Callable[[], None]]]


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path)


class Syncs:
    """Counts fsyncs, and fails those that a test wants to fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fail = False
        self.before: Callable[[], None] = lambda: None

    def __call__(self, file: int) -> None:
        self.before()
        self.count += 1
        if self.fail:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(file)


# What a line says


async def test_a_mutation_leaves_an_intent_and_its_outcome(trail: Trail) -> None:
    change, record = some_change(7)
    async with trail.open(clock=lambda: 1_763_985_600.123456) as audit:
        seq = await audit.intent(CALL, change, expected=os.urandom(72))
        await audit.outcome(CALL, "OK", change=change, intent=seq)
    intent, outcome = trail.lines()[2:4]
    assert intent["seq"] == seq == outcome["intent"]
    assert (intent["phase"], outcome["phase"], outcome["status"]) == ("intent", "outcome", "OK")
    assert {intent["ts"], outcome["ts"]} == {1_763_985_600_123_456}
    for line in (intent, outcome):
        assert (line["request"], line["caller"], line["method"]) == ("req-1", "spiffe://acme/billing", "Update")
        assert (line["tenant"], line["revision"], line["kind"]) == ("acme", 7, "DATA")
        assert len(line["name"]) == len(line["envelope"]) == 32
    assert {"head", "over"} < set(intent)
    assert change == Change.of_envelope(record.envelope)


async def test_what_there_is_not_is_left_out(trail: Trail) -> None:
    async with trail.open() as audit:
        await audit.outcome(Call("req-2", "", "RewrapKey", ""), "UNAUTHENTICATED", "UNAUTHENTICATED")
        await audit.intent(CALL, some_change()[0], expected=None)
    outcome, intent = trail.lines()[2:4]
    assert list(outcome) == [
        "seq",
        "batch",
        "ts",
        "boot",
        "request",
        "phase",
        "method",
        "status",
        "reason",
        "prev",
        "mac",
    ]
    assert "over" not in intent


async def test_a_purge_can_be_noted(trail: Trail) -> None:
    async with trail.open() as audit:
        await audit.outcome(CALL, "OK", change=Change.of(vacancy(7, 1)))
    assert trail.lines()[2]["kind"] == "VACANCY"
    assert "envelope" not in trail.lines()[2]


async def test_no_name_and_no_envelope_is_in_plaintext(trail: Trail) -> None:
    """Unless the operator wants names."""
    change, record = some_change()
    async with trail.open() as audit:
        await audit.intent(CALL, change, expected=record.head)
        await audit.outcome(CALL, "OK", change=change)
    content = trail.path.read_bytes()
    assert b"prod/db" not in content
    for secret in (change.digest, change.head, change.head[40:]):
        assert secret.hex().encode() not in content
    async with trail.open(clear_names=True) as audit:
        await audit.outcome(CALL, "OK")
        await audit.outcome(CALL._replace(key_id="no name\n"), "INVALID_ARGUMENT", "INVALID_KEY_ID")
    named, unnamed = trail.lines()[-3:-1]
    assert named["key_id"] == "prod/db"
    assert named["name"] == trail.lines()[2]["name"]
    assert "key_id" not in unnamed


async def test_equal_values_are_equal_in_logs_of_one_key_only(tmp_path: Path) -> None:
    trails = [Trail(tmp_path / name) for name in "abc"]
    for trail in trails:
        trail.folder.mkdir()
    for trail in trails[:2]:
        (tmp_path / "key").exists() or AuditKey.create(tmp_path / "key")
        trail.key_path.symlink_to(tmp_path / "key")
    names = []
    for trail in trails:
        async with trail.open() as audit:
            await audit.outcome(CALL, "OK")
        names.append(trail.lines()[2]["name"])
    assert names[0] == names[1] != names[2]
    assert len({trail.lines()[0]["log"] for trail in trails}) == 3


async def test_names_have_one_reading_across_tenants(trail: Trail) -> None:
    async with trail.open() as audit:
        for tenant, key_id in (("a", "bc"), ("ab", "c"), ("abc", "x")):
            await audit.outcome(CALL._replace(tenant=tenant, key_id=key_id), "OK")
    assert len({line["name"] for line in trail.lines() if "name" in line}) == 3


HOSTILE = ['"}\n{"seq":1', "\x00\x7f\u2028", "\ud800", '","phase":"checkpoint"', "x" * 100_000, "\U0001f600" * 100_000]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_text_of_a_caller_breaks_a_line(trail: Trail, text: str) -> None:
    async with trail.open(clear_names=True) as audit:
        await audit.outcome(Call(text, text, text, text, text), text, text)
        await audit.outcome(CALL, "OK")
    async with trail.open():
        pass
    run = ["boot", "checkpoint", "outcome", "outcome", "checkpoint"]
    assert trail.phases() == run + [phase for phase in run if phase != "outcome"]
    trail.verified()


# When a line counts


async def test_a_line_counts_when_it_is_synced_and_not_before(trail: Trail) -> None:
    syncs, synced = Syncs(), []
    async with trail.open(sync=syncs) as audit:
        syncs.before = lambda: synced.append(b"req-1" in trail.path.read_bytes())
        await audit.outcome(CALL, "OK")
        assert synced == [True]


@pytest.mark.medium
async def test_a_thousand_lines_at_once_share_their_fsyncs(trail: Trail) -> None:
    """Each is there once, in order."""
    syncs = Syncs()
    async with trail.open(sync=syncs) as audit:
        before = syncs.count
        seqs = await asyncio.gather(
            *(audit.intent(CALL._replace(request=f"r{n}"), some_change()[0], expected=None) for n in range(1_000))
        )
        assert syncs.count - before <= 20
    lines = trail.lines()
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["request"]: line["seq"] for line in lines if line["phase"] == "intent"} == {
        f"r{n}": seq for n, seq in enumerate(seqs)
    }
    trail.verified()


async def test_callers_that_come_in_waves_share_fsyncs_too(trail: Trail) -> None:
    syncs = Syncs()
    async with trail.open(sync=syncs) as audit:

        async def caller(number: int) -> None:
            for _ in range(10):
                await audit.outcome(CALL._replace(request=str(number)), "OK")

        await asyncio.gather(*(caller(number) for number in range(64)))
        assert syncs.count < 640 / 8


async def test_a_batch_waits_for_as_many_lines_as_the_last_had(trail: Trail) -> None:
    """For a moment."""
    syncs, shared = Syncs(), []
    async with trail.open(sync=syncs) as audit:
        for _ in range(20):  # the moment may pass on a busy machine, but not each time
            await note(audit, 8)
            before = syncs.count
            first = asyncio.create_task(note(audit, 1))
            for _ in range(5):
                await asyncio.sleep(0)
            await asyncio.gather(first, note(audit, 7))
            shared.append(syncs.count - before == 1)
    assert any(shared)


@pytest.mark.medium
async def test_a_waiting_line_is_written_at_the_close(trail: Trail) -> None:
    syncs = Syncs()
    async with trail.open(sync=syncs) as audit:
        syncs.before = lambda: time.sleep(0.05)
        tasks = []
        for name in ("in the first batch", "behind it"):
            tasks.append(asyncio.create_task(audit.outcome(CALL._replace(request=name), "CANCELLED")))
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
    assert [line["request"] for line in trail.lines() if "request" in line] == ["in the first batch", "behind it"]
    assert trail.phases()[-1] == "checkpoint", "no line comes after that of the close"


async def test_a_cancelled_callers_line_is_written(trail: Trail) -> None:
    async with trail.open() as audit:
        task = asyncio.create_task(audit.outcome(CALL, "CANCELLED"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert trail.phases() == ["boot", "checkpoint", "outcome", "checkpoint"]


# Checkpoints


async def test_checkpoints_come_at_start_and_close_and_between(trail: Trail) -> None:
    """After so many lines."""
    async with trail.open(checkpoint_lines=5) as audit:
        await note(audit, 12)
    reasons = [line["reason"] for line in trail.lines() if line["phase"] == "checkpoint"]
    assert reasons == ["start", "lines", "lines", "close"]
    marked = [line for line in trail.path.read_bytes().splitlines(True) if b'"checkpoint"' in line]
    assert trail.checkpoints.read_bytes() == b"".join(marked)


@pytest.mark.medium
async def test_waiting_lines_get_a_checkpoint_a_quiet_log_none(trail: Trail) -> None:
    async with trail.open(checkpoint_seconds=0.01) as audit:
        await note(audit, 3)
        async with asyncio.timeout(10):
            while trail.lines()[-1].get("reason") != "time":
                await asyncio.sleep(0.01)
        size = trail.path.stat().st_size
        await asyncio.sleep(0.05)
        assert trail.path.stat().st_size == size


async def test_the_documentation_and_the_keys_suffice_to_check_a_log(trail: Trail) -> None:
    async with trail.open(checkpoint_lines=3) as audit:
        await note(audit, 10)
    content = json.loads(trail.key_path.read_bytes())
    extracted = hmac.digest(bytes(32), base64.b64decode(content["hmac_key"]), "sha256")
    chain = hmac.digest(extracted, b"keyvault audit v1 chain\x01", "sha256")
    values = hmac.digest(extracted, b"keyvault audit v1 values\x01", "sha256")
    public = load_pem_public_key(trail.key.pem.encode())
    previous, segment, signed = "0" * 64, b"", 0
    for number, line in enumerate(trail.path.read_bytes().splitlines(True), 1):
        said = json.loads(line)
        body, _, mac = line.partition(b',"mac":"')
        assert (said["seq"], said["prev"]) == (number, previous)
        assert mac == hmac.new(chain, bytes.fromhex(previous) + body + b"}", "sha256").hexdigest().encode() + b'"}\n'
        if said["phase"] == "checkpoint":
            assert said["digest"] == hashlib.sha256(segment).hexdigest()
            message = b"keyvault audit checkpoint v1\n" + body.partition(b',"signature":"')[0]
            public.verify(bytes.fromhex(said["signature"]), message)  # type: ignore[call-arg, union-attr]
            segment, signed = b"", signed + 1
        segment += line
        previous = said["mac"]
    parts = (b"name", b"acme", b"prod/db")
    counted = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert trail.lines()[2]["name"] == hmac.digest(values, counted, "sha256")[:16].hex()
    assert signed == 5


@pytest.mark.external
@pytest.mark.process
async def test_openssl_checks_a_checkpoint_with_the_public_key(trail: Trail) -> None:
    toolchain("openssl")
    async with trail.open():
        pass
    line = trail.checkpoints.read_bytes().splitlines()[0]
    body, _, rest = line.partition(b',"signature":"')
    files = {"public.pem": trail.key.pem.encode(), "message": b"keyvault audit checkpoint v1\n" + body}
    files["signature"] = bytes.fromhex(rest[:128].decode())
    for name, content in files.items():
        (trail.folder / name).write_bytes(content)
    options = ["-inkey", "public.pem", "-rawin", "-in", "message", "-sigfile", "signature"]
    command = ["openssl", "pkeyutl", "-verify", "-pubin", *options]
    done = subprocess.run(command, cwd=trail.folder, capture_output=True, text=True, check=False, timeout=30)
    assert "Signature Verified Successfully" in done.stdout, done.stderr


async def test_every_field_of_every_line_is_documented(trail: Trail) -> None:
    call = CALL._replace(origin=Origin("ipv4:192.0.2.7:51934", 0, 1000))
    async with trail.open(clear_names=True) as audit:
        seq = await audit.intent(call, some_change()[0], expected=bytes(72))
        await audit.outcome(CALL, "ABORTED", "STALE_REVISION", change=some_change()[0], intent=seq, replayed=True)
        audit.count_refused("UNAUTHENTICATED", "UNAUTHENTICATED")
    with trail.path.open("ab") as file:
        file.write(b"torn")
    async with trail.open():
        pass
    documented = (DOCS / "audit.md").read_text()
    rows = [line.split("|")[1] for line in documented.splitlines() if line.startswith("| `")]
    fields = {field for line in trail.lines() for field in line}
    assert fields - {name for row in rows for name in row.replace("`", "").replace(",", "").split()} == set()
    assert "cut" in fields


# Starts


async def test_a_restart_continues_seq_and_chain(trail: Trail) -> None:
    for count in (3, 0, 5):
        async with trail.open(checkpoint_lines=4) as audit:
            await note(audit, count)
    lines = trail.lines()
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [later["prev"] for later in lines[1:]] == [line["mac"] for line in lines[:-1]]
    boots = [line for line in lines if line["phase"] == "boot"]
    assert [boot["found"] for boot in boots] == ["new", "closed", "closed"]
    assert len({boot["boot"] for boot in boots}) == 3
    assert trail.verified().starts == 3


async def test_a_stopped_log_is_rotated_by_moving_both_files(trail: Trail) -> None:
    async with trail.open() as audit:
        await note(audit, 3)
    trail.path.rename(trail.folder / "audit-1.jsonl")
    trail.checkpoints.rename(trail.folder / "audit-1.jsonl.checkpoints")
    async with trail.open() as audit:
        await note(audit, 3)
    report = verify([trail.folder / "audit-1.jsonl", trail.path], trail.key, patience=0)
    assert report.whole, report.bad
    assert (report.starts, report.crashes) == (2, 0)


@pytest.mark.slow
async def test_a_start_is_quick_to_find_its_place_in_a_long_log(trail: Trail) -> None:
    for size in (3_000, 10, 3_000):
        async with trail.open() as audit:
            await note(audit, size, "r" * 200)
    assert trail.path.stat().st_size > 2 * 1024 * 1024
    assert trail.verified().starts == 3


@pytest.mark.parametrize("torn", [b"{", b'{"seq":6,"ts":1', b"\0" * 5_000, "last line"])
async def test_a_torn_last_line_is_truncated_and_reported_at_boot(trail: Trail, torn: bytes | str) -> None:
    async with trail.open() as audit:
        await note(audit, 2)
    whole = trail.path.read_bytes()
    torn = whole.splitlines()[-1] if isinstance(torn, str) else torn
    left = whole.removesuffix(torn + b"\n")
    trail.path.write_bytes(left + torn)
    if left != whole:
        trail.checkpoints.write_bytes(b"".join(trail.checkpoints.read_bytes().splitlines(True)[:-1]))
    async with trail.open() as audit:
        await note(audit, 1)
    boot = [line for line in trail.lines() if line["phase"] == "boot"][1]
    assert (boot["cut"], boot["found"]) == (len(torn), "closed" if left == whole else "open")
    assert trail.path.read_bytes().startswith(left)
    trail.verified()


async def test_a_start_ships_the_checkpoint_that_a_crash_kept_back(trail: Trail) -> None:
    async with trail.open() as audit:
        await note(audit, 2)
    shipped = trail.checkpoints.read_bytes()
    first, second = shipped.splitlines(True)
    for left in (b"", first, first + second[:100]):
        trail.checkpoints.write_bytes(left)
        async with trail.open():
            pass
        assert trail.checkpoints.read_bytes().startswith(shipped)
        assert trail.verified().crashes == 0, "the log was closed, also if its last checkpoint was not shipped"


@pytest.mark.parametrize("zeros", [0, 30])
async def test_another_key_truncates_no_log_without_checkpoints(trail: Trail, zeros: int) -> None:
    """Under another key each line is bad: that shows no torn end, also if a sector of the first one is missing."""
    async with trail.open() as audit:
        await note(audit, 2)
    trail.checkpoints.write_bytes(b"")
    trail.path.write_bytes(bytes(zeros) + trail.path.read_bytes()[zeros:])
    replace_key(trail)
    before = trail.path.read_bytes()
    with pytest.raises(UnusableAuditFile):
        async with trail.open():
            pass
    assert trail.path.read_bytes() == before


@pytest.mark.medium
async def test_a_long_log_that_lost_its_checkpoints_is_refused(trail: Trail) -> None:
    async with trail.open() as audit:
        await note(audit, 2)
        while trail.path.stat().st_size <= _FIRST_LOOK:
            await note(audit, 200)
    trail.checkpoints.write_bytes(b"")
    with pytest.raises(UnusableAuditFile, match="truncated or replaced"):
        async with trail.open():
            pass


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace_key(trail: Trail) -> None:
    trail.key_path.unlink()
    AuditKey.create(trail.key_path)


Spoiling = Callable[[Trail], object]
SPOILT: dict[str, tuple[Spoiling, str]] = {
    "a changed last checkpoint": (lambda trail: flip(trail.path, -300), "truncated or replaced"),
    "a line that ends in nothing": (
        lambda trail: trail.path.write_bytes(trail.path.read_bytes() + b"\n"),
        "not a valid",
    ),
    "an old line once more": (
        lambda trail: trail.path.write_bytes(trail.path.read_bytes() + trail.path.read_bytes().splitlines(True)[-1]),
        "seq 5, expected 6",
    ),
    "a log truncated before its last checkpoint": (
        lambda trail: trail.path.write_bytes(b"".join(trail.path.read_bytes().splitlines(True)[:-1])),
        "truncated or replaced",
    ),
    "an empty log": (lambda trail: trail.path.write_bytes(b""), "truncated or replaced"),
    "a log that is gone": (lambda trail: trail.path.unlink(), "missing, but its checkpoints exist"),
    "checkpoints of another log": (lambda trail: flip(trail.checkpoints, -300), "truncated or replaced"),
    "a key that is gone": (lambda trail: trail.key_path.unlink(), "missing, but its log exists"),
    "another key": (replace_key, "another audit key"),
    "a key that others can read": (lambda trail: trail.key_path.chmod(0o604), "others can read"),
    "a key that is none": (lambda trail: trail.key_path.write_bytes(b'{"version": 1}'), "not an audit key"),
    "a log that others can write": (lambda trail: trail.path.chmod(0o602), "others can write"),
    "checkpoints that others can write": (lambda trail: trail.checkpoints.chmod(0o602), "others can write"),
}


@pytest.mark.parametrize("case", SPOILT)
async def test_a_start_refuses_what_no_crash_can_have_left(trail: Trail, case: str) -> None:
    async with trail.open() as audit:
        await note(audit, 2)
    spoil, why = SPOILT[case]
    spoil(trail)
    before = {path: path.read_bytes() for path in (trail.path, trail.checkpoints) if path.exists()}
    with pytest.raises(OperatorError, match=why):
        async with trail.open():
            pass
    assert {path: path.read_bytes() for path in (trail.path, trail.checkpoints) if path.exists()} == before


BEHIND: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda lines: [*lines[:3], lines[3].replace(b'"r1"', b'"r7"'), *lines[4:]],
    "taken out": lambda lines: [*lines[:3], *lines[4:]],
    "swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "doubled": lambda lines: [*lines[:4], *lines[3:]],
}


@pytest.mark.parametrize("case", BEHIND)
async def test_a_start_refuses_a_line_that_was_touched_after_a_crash(trail: Trail, case: str) -> None:
    crashed = Trail(trail.folder / "crashed")
    async with trail.open() as audit:
        await note(audit, 4)
        shutil.copytree(trail.folder, crashed.folder)
    lines = crashed.path.read_bytes().splitlines(True)
    crashed.path.write_bytes(b"".join(BEHIND[case](lines)))
    with pytest.raises(UnusableAuditFile, match=r"after seq [34]: (its MAC|it has seq)"):
        async with crashed.open():
            pass
    crashed.path.write_bytes(b"".join(lines))
    async with crashed.open():
        pass
    assert crashed.verified().crashes == 1


@pytest.mark.medium
async def test_a_start_finds_a_checkpoint_that_is_far_back(trail: Trail) -> None:
    """After a crash."""
    crashed = Trail(trail.folder / "crashed")
    async with trail.open() as audit:
        await asyncio.gather(*(audit.outcome(CALL._replace(caller="x" * 2_000), "OK") for _ in range(900)))
        shutil.copytree(trail.folder, crashed.folder)
    assert crashed.path.stat().st_size > 2 * 1024 * 1024
    async with crashed.open():
        pass
    assert crashed.verified().crashes == 1


async def test_a_start_refuses_a_sink_that_is_not_its_own_file(trail: Trail) -> None:
    for path, why in ((Path("/dev/null"), "not a regular file"), (trail.folder, "cannot be opened")):
        other = Trail(trail.folder / "other")
        other.folder.mkdir(exist_ok=True)
        other.path.symlink_to(path)
        with pytest.raises(UnusableAuditFile, match=why):
            async with other.open():
                pass
        other.path.unlink()
    async with trail.open():
        with pytest.raises(UnusableAuditFile, match="in use"):
            async with trail.open():
                pass


async def test_key_and_log_are_for_their_owner_alone(trail: Trail) -> None:
    previous = os.umask(0)
    try:
        async with trail.open():
            pass
    finally:
        os.umask(previous)
    assert {path.stat().st_mode & 0o777 for path in trail.folder.iterdir()} == {0o600}


def test_a_key_shows_itself_in_no_repr_and_is_never_overwritten(trail: Trail) -> None:
    key = AuditKey.create(trail.key_path)
    content = json.loads(trail.key_path.read_bytes())
    assert not any(secret in repr(key) for secret in content.values() if isinstance(secret, str))
    with pytest.raises(FileExistsError):
        AuditKey.create(trail.key_path)
    (trail.folder / "public.pem").write_text(key.pem)
    assert load_key(trail.folder / "public.pem").pem == load_key(trail.key_path).pem == key.pem
    for content in ("", "-----BEGIN PUBLIC KEY-----\n"):
        (trail.folder / "none").write_text(content)
        (trail.folder / "none").chmod(0o600)
        with pytest.raises(UnusableAuditKey):
            load_key(trail.folder / "none")


@pytest.mark.parametrize("damage", [b"!", b"\\n", b"="])
def test_a_key_with_a_byte_too_many_is_refused(trail: Trail, damage: bytes) -> None:
    """A decoder that skips what is not base64 would take it."""
    AuditKey.create(trail.key_path)
    content = trail.key_path.read_bytes()
    for field in (b'": "', b"="):
        at = content.index(field) + len(field)
        trail.key_path.write_bytes(content[:at] + damage + content[at:])
        with pytest.raises(UnusableAuditKey):
            load_key(trail.key_path)


WRITER = """
import asyncio, sys
from pathlib import Path
from keyvault_server.audit.entry import Call
from keyvault_server.audit.trail import AuditOptions, open_audit

async def worker(audit, number):
    for count in range(100_000):
        name = f"{number}-{count}"
        await audit.outcome(Call(name, "c", "Read", "t", "k"), "OK")
        print(name, flush=True)

async def main(folder):
    options = AuditOptions(folder / "audit.jsonl", folder / "audit.key")
    async with open_audit(options, checkpoint_lines=50) as audit:
        await asyncio.gather(*(worker(audit, number) for number in range(32)))

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.process
@pytest.mark.parametrize("after", [1, 500, 3_000])
async def test_acknowledged_lines_survive_kill_9(trail: Trail, after: int) -> None:
    acknowledged: list[str] = []
    with subprocess.Popen([sys.executable, "-c", WRITER, trail.folder], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            while len(acknowledged) < after:
                acknowledged.append(writer.stdout.readline().strip())
        finally:
            writer.kill()
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    async with trail.open():
        pass
    written = [line.get("request") for line in trail.lines()]
    assert set(acknowledged) <= set(written)
    assert len(written) == len(set(written) - {None}) + written.count(None)
    report = trail.verified()
    assert (report.starts, report.crashes) == (2, 1)


# A sink that is full, gone or broken


@contextmanager
def small_disk(trail: Trail) -> Iterator[Callable[[], None]]:
    """Put the log on a file system of 64 KiB; yield a function that makes it larger."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(trail.folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield lambda: (subprocess.run(["mount", "-o", "remount,size=16m", trail.folder], check=True), None)[1]
    finally:
        subprocess.run(["umount", trail.folder], check=True)


@pytest.mark.process
@pytest.mark.parametrize("limited", [small_disk, small_files])
async def test_a_full_disk_takes_no_half_lines(trail: Trail, limited: Limit) -> None:
    """It goes on when there is room."""
    with limited(trail) as make_room:
        async with trail.open() as audit:
            accepted, refused = 0, 0
            while refused < 20:
                try:
                    await audit.outcome(CALL._replace(request=f"r{accepted}"), "OK")
                    accepted += 1
                except AuditUnavailable:
                    refused += 1
                assert accepted < 1_000
            assert sum(phase == "outcome" for phase in trail.phases()) == accepted
            with pytest.raises(AuditUnavailable):
                await audit.check()
            make_room()
            await audit.check()
            size = trail.path.stat().st_size
            await audit.check()
            assert trail.path.stat().st_size == size, "it is tried once, not for ever"
            await note(audit, 20, "after")
        lines = trail.lines()
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        assert sum(line["phase"] == "outcome" for line in lines) == accepted + 20
        trail.verified()


@pytest.mark.process
@pytest.mark.parametrize("limited", [small_disk, small_files])
async def test_a_batch_that_does_not_fit_is_refused_as_a_whole(trail: Trail, limited: Limit) -> None:
    with limited(trail) as make_room:
        async with trail.open() as audit:
            await note(audit, 10)
            before = trail.path.read_bytes()
            calls = (audit.outcome(CALL._replace(request="x" * 200), "OK") for _ in range(300))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(answer, AuditUnavailable) for answer in answers)
            assert trail.path.read_bytes() == before
            make_room()
        trail.verified()


@pytest.mark.process
@pytest.mark.parametrize("limited", [small_disk, small_files])
async def test_a_full_disk_at_the_start_refuses_the_start(trail: Trail, limited: Limit) -> None:
    with limited(trail):
        async with trail.open() as audit:
            while not 2_950 < trail.path.stat().st_size % 4_096 < 3_300:  # the last page has no room for a boot line
                await note(audit, 1)
        with contextlib.suppress(OSError), (trail.folder / "filler").open("wb", buffering=0) as filler:
            while limited is small_disk:
                filler.write(bytes(4096))
        if limited is small_files:
            resource.setrlimit(resource.RLIMIT_FSIZE, (trail.path.stat().st_size + 100, resource.RLIM_INFINITY))
        with pytest.raises(UnusableAuditFile, match="cannot be written"):
            async with trail.open():
                pass


def replace(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


GONE: dict[str, Spoiling] = {
    "removed": lambda trail: trail.path.unlink(),
    "moved": lambda trail: trail.path.rename(trail.folder / "elsewhere"),
    "replaced by a copy": lambda trail: replace(trail.path),
    "truncated": lambda trail: os.truncate(trail.path, 100),
    "written to by somebody else": lambda trail: trail.path.write_bytes(trail.path.read_bytes() + b"{}\n"),
    "without its checkpoints": lambda trail: trail.checkpoints.unlink(),
}


@pytest.mark.parametrize("case", GONE)
async def test_a_changed_sink_takes_no_line_until_the_next_start(trail: Trail, case: str) -> None:
    async with trail.open(checkpoint_lines=2) as audit:
        await note(audit, 2)
        GONE[case](trail)
        with pytest.raises(AuditUnavailable):
            await audit.check()
        for _ in range(2):
            with pytest.raises(AuditUnavailable):
                await audit.outcome(CALL, "OK")


async def test_a_failed_fsync_stops_the_trail_until_the_next_start(trail: Trail) -> None:
    syncs = Syncs()
    async with trail.open(sync=syncs) as audit:
        await audit.check()
        await note(audit, 3)
        syncs.fail = True
        answers = await asyncio.gather(*(audit.outcome(CALL, "OK") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(answer, AuditUnavailable) for answer in answers)
        syncs.fail = False
        size = trail.path.stat().st_size
        for _ in range(2):
            with pytest.raises(AuditUnavailable):
                await audit.outcome(CALL, "OK")
            with pytest.raises(AuditUnavailable):
                await audit.check()
    assert trail.path.stat().st_size == size, "not even a last checkpoint"
    async with trail.open() as audit:
        await note(audit, 1)
    assert trail.verified().crashes == 1


async def test_no_line_follows_a_checkpoint_that_was_not_shipped(trail: Trail) -> None:
    """Lines that no shipped checkpoint covers could be removed unnoticed."""
    async with trail.open(checkpoint_lines=1, file_bytes=3_000) as audit:
        for _ in range(30):
            await audit.outcome(CALL, "OK")
        limit = trail.checkpoints.stat().st_size + 100
        assert trail.path.stat().st_size < limit / 2, "it is rotated"
        with small_files(trail, limit) as make_room:
            await audit.outcome(CALL, "OK")
            before = trail.path.read_bytes()
            for _ in range(2):
                with pytest.raises(AuditUnavailable):
                    await audit.outcome(CALL, "OK")
            assert trail.path.read_bytes() == before
            make_room()
            await note(audit, 3)
    assert trail.verified().whole


async def test_a_start_that_cannot_sync_what_it_finds_is_refused(trail: Trail) -> None:
    async with trail.open() as audit:
        await note(audit, 3)
    syncs, before = Syncs(), trail.path.read_bytes()
    syncs.fail = True
    with pytest.raises(UnusableAuditFile, match="cannot be made durable"):
        async with trail.open(sync=syncs):
            pass
    assert trail.path.read_bytes() == before
    async with trail.open():
        pass
    trail.verified()


async def test_a_cancelled_caller_keeps_no_other_from_being_refused(trail: Trail) -> None:
    async with trail.open() as audit:
        trail.path.unlink()
        cancelled, *others = (asyncio.create_task(audit.outcome(CALL, "OK")) for _ in range(3))
        await asyncio.sleep(0)
        cancelled.cancel()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*others, return_exceptions=True)
        assert all(isinstance(answer, AuditUnavailable) for answer in answers)


async def test_a_fault_of_ours_refuses_lines_and_is_logged(trail: Trail, caplog: pytest.LogCaptureFixture) -> None:
    """No call waits for ever."""
    syncs = Syncs()

    def fail() -> None:
        raise ZeroDivisionError

    async with trail.open(sync=syncs) as audit:
        syncs.before = fail
        with pytest.raises(AuditUnavailable):
            await audit.outcome(CALL, "OK")
        syncs.before = lambda: None
    assert ("no audit line can be written", "CRITICAL") in [(one.message, one.levelname) for one in caplog.records]


async def test_a_refused_line_means_an_unknown_outcome(trail: Trail) -> None:
    """The caller is answered that the outcome is unknown."""
    async with trail.open() as audit:
        trail.path.unlink()
        with pytest.raises(BackendUnavailable, match="retry with the same bytes") as refused:
            await audit.outcome(CALL, "OK")
    assert refused.value.reason == "BACKEND_UNAVAILABLE"
