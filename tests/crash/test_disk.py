"""A real server on a disk that is full, or that cannot sync: what it says, what it serves, and what is left."""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.backends.embedded.data_directory import DataDirectory
from keyvault_server.backends.embedded.keyring import Keyring
from tests.crash.cycles import WRITERS, Ledger, Writer, look, whole
from tests.crash.power import Disk, Recorder, recording
from tests.support.forked import operate, run_forked
from tests.support.processes import BIN, ServerProcess, server_process
from tests.support.refusals import read_failure
from tests.support.requests import Key, create, mint, update
from tests.support.servers import embedded
from tests.support.trails import Trail

pytestmark = pytest.mark.process

SIZE = 100_000


@dataclass(frozen=True)
class Place:
    """Where a server keeps its data on a disk that a test breaks and repairs."""

    folder: Path
    recorder: Recorder

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def trail(self) -> Trail:
        """In the folder that is recorded."""
        return Trail(self.data)

    def breaks(self, how: str) -> None:
        """See RECORD_FAULT."""
        draft = self.folder / "draft"
        draft.write_text(how)
        draft.replace(self.folder / "fault")

    def repair(self) -> None:
        (self.folder / "fault").unlink()

    @asynccontextmanager
    async def served(self, *, audited: bool = False) -> AsyncIterator[tuple[ServerProcess, KeyVaultStub]]:
        environment = self.recorder.environment(self.data, self.log, fault=self.folder / "fault")
        if audited:
            environment["KEYVAULT_AUDIT_FILE"] = str(self.trail.path)
            environment["KEYVAULT_AUDIT_KEY"] = str(self.trail.key_path)
        with server_process(self.data, **environment, KEYVAULT_READINESS_SECONDS="0.05") as server:
            async with grpc.aio.insecure_channel(server.address) as channel:
                yield server, KeyVaultStub(channel)

    async def after_power_cut(self, key: Key, names: Iterable[str]) -> dict[str, bytes]:
        """What a power cut now would leave under these names."""
        disk, left = Disk(self.data), self.folder / "left"
        for entry in recording(self.log):
            disk.apply(entry)
        disk.cut(left, None)
        found = {}
        async with embedded(left) as served:
            for name in names:
                found[name] = key.open(name, (await served.stub.Read(pb.ReadRequest(key_id=name))).envelope)
        return found


@pytest.fixture
def place(tmp_path: Path, recorder: Recorder) -> Place:
    return Place(tmp_path, recorder)


async def answers_of(stub: KeyVaultStub, requests: Iterable[pb.CreateRequest]) -> Counter[str]:
    """The reasons that so many Creates at once are given; OK, or replayed, for those that succeed."""

    async def one(request: pb.CreateRequest) -> str:
        try:
            return "replayed" if (await stub.Create(request, timeout=20)).replayed else "OK"
        except grpc.aio.AioRpcError as failed:
            return read_failure(failed).reason

    return Counter(await asyncio.gather(*map(one, requests)))


async def opened(stub: KeyVaultStub, key: Key, names: Iterable[str]) -> set[bytes]:
    return {key.open(name, (await stub.Read(pb.ReadRequest(key_id=name), timeout=20)).envelope) for name in names}


def requests(key: Key, names: Iterable[str]) -> list[pb.CreateRequest]:
    return [create(key, name, bytes(SIZE)) for name in names]


EARLY = [f"d/early/{number}" for number in range(8)]
LATE = [f"d/late/{number}" for number in range(16)]
ALL = {bytes(SIZE)}


async def test_a_full_disk_refuses_writes_and_serves_reads(
    place: Place,
) -> None:
    """It takes the same bytes when there is room."""
    async with place.served() as (server, stub):
        key = await mint(stub, "d/")
        assert await answers_of(stub, requests(key, EARLY)) == {"OK": len(EARLY)}
        place.breaks("full")
        late = requests(key, LATE)
        assert await answers_of(stub, late) == {"STORE_FULL": len(LATE)}
        assert await opened(stub, key, EARLY) == ALL
        for name in LATE:
            with pytest.raises(grpc.aio.AioRpcError, match="no such record"):
                await stub.Read(pb.ReadRequest(key_id=name))
        place.repair()
        assert await answers_of(stub, late) == {"OK": len(LATE)}
        assert server.stop() == 0
    async with embedded(place.data) as again:
        assert await opened(again.stub, key, EARLY + LATE) == ALL


async def test_what_a_full_disk_refused_is_not_there_after_a_kill(place: Place) -> None:
    """All else is."""
    async with place.served() as (server, stub):
        key = await mint(stub, "d/")
        assert await answers_of(stub, requests(key, EARLY)) == {"OK": len(EARLY)}
        place.breaks("full")
        assert await answers_of(stub, requests(key, LATE)) == {"STORE_FULL": len(LATE)}
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert whole(place.data / "records.sqlite3")
    async with embedded(place.data) as again:
        assert await opened(again.stub, key, EARLY) == ALL
        assert await answers_of(again.stub, requests(key, LATE)) == {"OK": len(LATE)}


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("repaired", [True, False])
async def test_a_failing_fsync_stops_writes_until_a_restart(place: Place, end: signal.Signals, repaired: bool) -> None:
    """Reads go on."""
    async with place.served() as (server, stub):
        key = await mint(stub, "d/")
        assert await answers_of(stub, requests(key, EARLY)) == {"OK": len(EARLY)}
        place.breaks("sync")
        late = requests(key, LATE)
        assert await answers_of(stub, late) == {"BACKEND_UNAVAILABLE": len(LATE)}
        assert await opened(stub, key, EARLY) == ALL
        if repaired:
            place.repair()
        assert await answers_of(stub, late) == {"BACKEND_UNAVAILABLE": len(LATE)}
        await not_serving(server)
        assert server.stop(end) == (0 if end is signal.SIGTERM else -end)
    if not repaired:
        place.repair()
    async with place.served() as (server, stub):
        assert await opened(stub, key, EARLY) == ALL
        again = await answers_of(stub, late)
        assert set(again) <= {"OK", "replayed"}, "a retry with the same bytes takes effect once"
        assert await opened(stub, key, LATE) == ALL
        assert (await stub.Update(update(key, LATE[0], 2, bytes(SIZE)))).revision == 2
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert set((await place.after_power_cut(key, EARLY + LATE)).values()) == ALL


async def not_serving(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel, asyncio.timeout(10):
        health = health_pb2_grpc.HealthStub(channel)
        while (
            await health.Check(health_pb2.HealthCheckRequest())
        ).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", ["sync", "kill"])
async def test_a_restart_syncs_an_unknown_write_before_it_is_seen(place: Place, fault: str) -> None:
    """What a restart finds of an unknown write is durable before anybody sees it."""
    async with place.served() as (server, stub):
        key = await mint(stub, "d/")
        assert await answers_of(stub, requests(key, EARLY)) == {"OK": len(EARLY)}
        place.breaks(fault)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Create(create(key, "d/unknown", b"written, not synced"))
        if fault == "sync":
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert server.process.wait(10) == -signal.SIGKILL
    place.repair()
    async with place.served() as (server, stub):
        read = await stub.Read(pb.ReadRequest(key_id="d/unknown"))
        assert key.open("d/unknown", read.envelope) == b"written, not synced", "the test needs that it is there"
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert (await place.after_power_cut(key, ["d/unknown"])) == {"d/unknown": b"written, not synced"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sync", "kill"])
@pytest.mark.parametrize("last", ["line", "checkpoint", "copy of a checkpoint"])
async def test_no_power_cut_costs_a_line_that_a_restart_built_on(place: Place, fault: str, last: str) -> None:
    """The first server's `last` bytes were written and not synced; a cut comes after each thing the next one does."""
    async with place.served(audited=True) as (server, stub):
        key = await mint(stub, "d/")
        place.breaks(f"{fault}.checkpoints" if last == "copy of a checkpoint" else fault)
        if last == "line":
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Create(create(key, "d/unknown", b"written, not synced"))
            server.process.kill()
        else:
            server.process.terminate()
        assert server.process.wait(30) == (0 if fault == "sync" and last != "line" else -signal.SIGKILL)
    found = place.trail.lines()
    assert found[-1]["phase"] == ("intent" if last == "line" else "checkpoint"), "the test needs that it is there"
    place.repair()
    start, acknowledged = place.log.stat().st_size, {}
    async with place.served(audited=True) as (server, stub):
        for name in ("r1", "r2", "r3"):
            await stub.GenerateKey(pb.GenerateKeyRequest(scope="d/"), metadata=(("x-request-id", name),))
            acknowledged[name] = place.log.stat().st_size
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    disk, left = Disk(place.data), Trail(place.folder / "left")
    for entry in recording(place.log):
        disk.apply(entry)
        if entry.end > start and "audit" in entry.path:
            disk.cut(left.folder, None)
            async with left.open():
                pass
            left.verified()
            requests = {line.get("request") for line in left.lines()}
            assert requests >= {name for name, end in acknowledged.items() if end <= entry.end}
            assert left.lines()[: len(found)] == found or entry.end < acknowledged["r1"]
            shutil.rmtree(left.folder)


@pytest.mark.slow
async def test_a_stop_does_not_wait_for_an_audit_disk_that_hangs(place: Place) -> None:
    async with place.served(audited=True) as (server, stub):
        await mint(stub, "d/")
        place.breaks("hang.jsonl")
        for name in ("one", "two"):
            with pytest.raises(grpc.aio.AioRpcError, match="audit log"):
                await stub.Read(pb.ReadRequest(key_id=name), timeout=20)
        assert server.stop() == 0
    assert '"lines": 2' in server.log.read_text()
    place.repair()
    async with place.served(audited=True) as (server, stub):
        await mint(stub, "d/")
        assert server.stop() == 0
    assert place.trail.verified().crashes == 1


@pytest.mark.slow
async def test_an_audit_key_that_a_start_finds_outlives_a_power_cut(tmp_path: Path, recorder: Recorder) -> None:
    """The process that made it died before it synced the folder, which need not be the log's."""
    keys, recorded, fault = tmp_path / "keys", tmp_path / "log", tmp_path / "fault"
    keys.mkdir()
    fault.write_text("kill/keys")
    environment = recorder.environment(keys, recorded, fault=fault)
    trail = {"KEYVAULT_AUDIT_FILE": str(tmp_path / "audit.jsonl"), "KEYVAULT_AUDIT_KEY": str(keys / "audit.key")}
    command: list[str | Path] = [BIN / "keyvault-server", "serve", "--data", tmp_path / "data"]
    command += ["--listen", "127.0.0.1:0"]
    died = run_forked(command, environment=os.environ | environment | trail, timeout=30)
    assert died.returncode == -signal.SIGKILL
    made = (keys / "audit.key").read_bytes()
    fault.unlink()
    with server_process(tmp_path / "data", **environment, **trail) as server:
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    disk = Disk(keys)
    for entry in recording(recorded):
        disk.apply(entry)
    disk.cut(tmp_path / "left", None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "left").iterdir()} == {"audit.key": made}


async def fill(stub: KeyVaultStub, key: Key, prefix: str) -> None:
    """Creates records until it is refused: names that are only written again need no more room than they have."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        for number in itertools.count():
            await stub.Create(create(key, f"{prefix}{number}", bytes(SIZE)), timeout=10)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "sync"])
@pytest.mark.parametrize("seed", [31, 32])
async def test_nothing_acknowledged_is_lost_when_a_disk_fails(place: Place, fault: str, seed: int) -> None:
    """The disk fails under load."""
    chance = random.Random(seed)
    async with place.served() as (server, stub):
        keys = await mint(stub, "k/"), await mint(stub, "k/")
        writers = [Writer(stub, f"k/{n}", keys, chance.getrandbits(32), place.log) for n in range(WRITERS)]
        asyncio.get_running_loop().call_later(chance.uniform(0.05, 0.6), place.breaks, fault)
        async with asyncio.timeout(60):
            await asyncio.gather(*(writer.run() for writer in writers), fill(stub, keys[0], "k/new/"))
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    ledger = Ledger({f"k/{number}": writer.writes for number, writer in enumerate(writers)})
    disk = Disk(place.data)
    for entry in recording(place.log):
        disk.apply(entry)
    for kind, torn in (("cut", None), ("torn", chance)):
        disk.cut(place.folder / kind, torn)
    for data in (place.folder / "cut", place.folder / "torn", place.data):
        verdict = await look(data, ledger)
        assert verdict.acknowledged
        assert (verdict.lost, verdict.wrong) == (0, []), data.name


@pytest.mark.parametrize("fault", ["full", "sync"])
@pytest.mark.parametrize("made_before", [False, True])
def test_a_disk_that_fails_at_the_start_is_one_line(place: Place, fault: str, made_before: bool) -> None:
    if made_before:
        place.data.mkdir(mode=0o700)
        Keyring.create(DataDirectory(place.data).keyring)
    place.breaks(fault)
    environment = place.recorder.environment(place.data, place.log, fault=place.folder / "fault")
    made = operate(["init", "--data", place.data], environment)
    assert made.returncode == 1
    assert made.stderr.count("\n") == 1
    assert "disk" in made.stderr
    assert "backup" not in made.stderr
