"""The parent of workers, with workers that are small programs: what they report and how they end is the test's."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keyvault_server.operations.channel import Order
from keyvault_server.operations.settings import Settings
from keyvault_server.operations.started_worker import SILENT_SECONDS, WorkerEnded
from keyvault_server.operations.supervisor import NoWorkerReady, Supervisor
from tests.support.clock import Clock

pytestmark = pytest.mark.process

LINE = """
import socket, sys
worker, channel = (int(word.rpartition("=")[2]) for word in sys.argv[-2:])
line = socket.socket(fileno=channel)
orders = line.makefile()
say = lambda text: line.sendall((text + "\\n").encode())
"""
"""What each program begins with."""
SERVES = LINE + 'say("prepared"); orders.readline(); say("ready"); say("serving")\n'
WAITS = SERVES + "list(iter(orders.readline, 'stop\\n'))\n"


@asynccontextmanager
async def supervised(program: str, **seams: object) -> AsyncIterator[Supervisor]:
    """Two workers that run this program."""
    settings = Settings(backend="aws", workers=2, drain_seconds=0.1)
    supervisor = Supervisor(settings, [sys.executable, "-S", "-c", program], **seams)  # type: ignore[arg-type]
    try:
        yield supervisor
    finally:
        await supervisor.stop(asyncio.Event())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_no_worker_listens_before_all_are_prepared(tmp_path: Path) -> None:
    """The second one is prepared once a file exists; the first one has waited for its turn."""
    program = (
        LINE
        + f"import os, time, pathlib\nwhile worker == 2 and not os.path.exists('{tmp_path}/go'): time.sleep(0.01)\n"
    )
    program += f"say('prepared'); pathlib.Path(f'{tmp_path}/prepared-{{worker}}').touch()\n"
    program += f"address = orders.readline(); pathlib.Path(f'{tmp_path}/listens-{{worker}}').write_text(address)\n"
    program += "say('serving'); orders.readline()\n"
    async with supervised(program) as supervisor:
        starting = asyncio.create_task(supervisor.start("127.0.0.1:7"))
        await until((tmp_path / "prepared-1").exists)
        await asyncio.sleep(0.05)
        assert not (tmp_path / "listens-1").exists()
        (tmp_path / "go").touch()
        await starting
        assert supervisor.serving == 2
        assert [(tmp_path / f"listens-{worker}").read_text() for worker in (1, 2)] == ["listen 127.0.0.1:7\n"] * 2


async def test_the_refusal_of_a_worker_is_that_of_the_start() -> None:
    async with supervised(LINE + 'say("refused the table is missing"); sys.exit(1)') as supervisor:
        with pytest.raises(WorkerEnded, match=r"^the table is missing$"):
            await supervisor.start("127.0.0.1:7")


async def test_a_worker_that_ends_without_a_word_is_named() -> None:
    async with supervised(LINE + "sys.exit(3 if worker == 2 else orders.readline() and 0)") as supervisor:
        with pytest.raises(WorkerEnded, match="worker 2 ended with status 3"):
            await supervisor.start("127.0.0.1:7")


async def test_a_worker_that_ends_often_is_replaced_later_each_time(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(SERVES + "worker == 1 or orders.readline()", pause=0.01) as supervisor:
        await supervisor.start("127.0.0.1:7")
        async with supervisor.replacing("127.0.0.1:7"):
            await until(lambda: supervisor.ended >= 4)
            assert supervisor.serving >= 1
    ended = [record.__dict__ for record in caplog.records if record.message.startswith("a worker ended")]
    assert [line["pause_seconds"] for line in ended[:4]] == [0.01, 0.02, 0.04, 0.08]
    assert {(line["worker"], line["status"]) for line in ended} == {(1, 0)}


async def test_a_replacement_that_is_refused_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As when a file was broken since the start: the others serve, and the log says why."""
    broken = f"import os\nif os.path.exists('{tmp_path}/broken'): say('refused bad file'); sys.exit(1)\n"
    ends = SERVES.replace(LINE, LINE + broken) + "while orders.readline() not in ('reload\\n', 'stop\\n', ''): pass\n"
    async with supervised(ends, pause=0.01) as supervisor:
        await supervisor.start("127.0.0.1:7")
        async with supervisor.replacing("127.0.0.1:7"):
            (tmp_path / "broken").touch()
            supervisor.send(Order.RELOAD)
            await until(lambda: supervisor.ended >= 4)
            (tmp_path / "broken").unlink()
            await until(lambda: supervisor.serving == 2)
    assert "bad file" in {record.__dict__.get("cause") for record in caplog.records}


async def test_a_server_is_ready_while_one_worker_is() -> None:
    async with supervised(SERVES + "say('unready') if worker == 1 else 0\n" + WAITS.removeprefix(SERVES)) as supervisor:
        with pytest.raises(NoWorkerReady):
            await supervisor.check()
        await supervisor.start("127.0.0.1:7")
        await supervisor.check()


async def test_a_worker_that_reports_nothing_hangs() -> None:
    clock = Clock()
    async with supervised(WAITS, clock=clock) as supervisor:
        await supervisor.start("127.0.0.1:7")
        clock.now += SILENT_SECONDS
        assert supervisor.alive
        clock.now += 0.1
        assert not supervisor.alive


async def test_a_stop_ends_all_workers_and_counts_none() -> None:
    async with supervised(WAITS) as supervisor:
        await supervisor.start("127.0.0.1:7")
        await supervisor.stop(asyncio.Event())
        assert supervisor.serving == 0
        assert supervisor.ended == 0


async def test_workers_that_hurry_do_not_wait() -> None:
    program = SERVES + "list(iter(orders.readline, 'hurry\\n'))\n"
    async with supervised(program) as supervisor:
        await supervisor.start("127.0.0.1:7")
        hurry = asyncio.Event()
        stopping = asyncio.create_task(supervisor.stop(hurry))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        hurry.set()
        async with asyncio.timeout(10):
            await stopping


async def test_a_worker_that_does_not_stop_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(SERVES + "import time; time.sleep(60)", late=0.05) as supervisor:
        await supervisor.start("127.0.0.1:7")
        async with asyncio.timeout(10):
            await supervisor.stop(asyncio.Event())
        assert supervisor.serving == 0
    assert [record.message for record in caplog.records].count("worker killed: it did not stop") == 2
