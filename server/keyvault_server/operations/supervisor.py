"""The parent of several workers: it starts them, watches them, replaces those that end, and stops them in order.

The workers are new processes of the same command, which serve the service's address together: the system spreads the
connections (SO_REUSEPORT). The parent serves what there is once: health on the admin address, and all metrics.

The rules of this file:

- The address is open once all workers are prepared. If one is refused, the start is, once, with its sentence.
- A worker that ends is replaced, after a pause that grows while it happens again; the others go on.
- Workers stop when the parent ends, however it does: their line to it ends.
"""

import asyncio
import contextlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from keyvault_server.audit.worker_logs import prepare_key
from keyvault_server.core.background import in_background
from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.channel import Order, Report
from keyvault_server.operations.composition import audit_key_path
from keyvault_server.operations.lifecycle import Orders, Running
from keyvault_server.operations.listening import bind, refuse_taken, reserved
from keyvault_server.operations.open_files import room_for_connections
from keyvault_server.operations.settings import Settings
from keyvault_server.operations.started_worker import StartedWorker, WorkerEnded
from keyvault_server.rpc.connections import MaxConnections, OpenConnections
from keyvault_server.rpc.health import Readiness
from keyvault_server.rpc.metadata import MetadataLimit
from keyvault_server.rpc.metrics_port import serve_metrics
from keyvault_server.rpc.server import CONNECTION_LIMITS, admin_server
from keyvault_server.rpc.shared_metrics import AllWorkers, forget_gauges

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before a worker that ended is replaced: doubled each time, up to the second."""
STEADY_SECONDS = 60.0
"""A worker that ended after so long was no failure of its start: the pauses begin again."""
LATE_SECONDS = 30.0
"""How much longer than its drain a worker may take to stop before it is killed."""

_log = logging.getLogger(__name__)


class NoMetricsFolder(OperatorError):
    """There is no folder in which the workers can share their metrics."""


class NoWorkerReady(Exception):
    """No worker serves whose backends answered lately."""


class Supervisor:
    """The workers of one server."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        metrics: Path | None = None,
        pause: float = FIRST_PAUSE,
        late: float = LATE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`command` starts a worker; `metrics` is the folder of their numbers.

        In seconds, `pause` is the first one before a replacement, and `late` how much longer than its drain a stop may
        take.
        """
        self.ended = 0
        """Workers that ended without being asked to."""
        self._settings = settings
        self._command = command
        self._metrics = metrics
        self._first_pause = pause
        self._late = late
        self._clock = clock
        self._workers: dict[int, StartedWorker] = {}

    @property
    def serving(self) -> int:
        """How many workers serve."""
        return sum(worker.serves for worker in self._workers.values())

    @property
    def alive(self) -> bool:
        """Whether no worker hangs."""
        return not any(worker.hangs for worker in self._workers.values())

    async def check(self) -> None:
        """See Backend: ready while at least one worker is. Raises NoWorkerReady."""
        if not any(worker.ready for worker in self._workers.values()):
            raise NoWorkerReady

    async def start(self, address: str) -> None:
        """Start all workers; let them listen when all are prepared. Raises WorkerEnded, OSError."""
        numbers = range(1, self._settings.workers + 1)
        await _all(self._start(number) for number in numbers)
        await _all(self._serve(worker, address) for worker in self._workers.values())

    @contextlib.asynccontextmanager
    async def replacing(self, address: str) -> AsyncIterator[None]:
        """Replace workers that end while the body runs."""
        async with contextlib.AsyncExitStack() as kept:
            for number in self._workers:
                await kept.enter_async_context(in_background(self._keep(number, address)))
            yield

    def send(self, order: Order) -> None:
        """Ask all workers for something."""
        for worker in self._workers.values():
            worker.send(order)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stop all workers, each in order; kill those that take far too long."""
        self.send(Order.STOP)
        async with in_background(self._pass_on(hurry, Order.HURRY)):
            ends = [asyncio.create_task(worker.end()) for worker in self._workers.values()]
            longest = self._settings.drain_delay_seconds + self._settings.drain_seconds + self._late
            if ends:
                await asyncio.wait(ends, timeout=longest)
            for worker in self._workers.values():
                if worker.status is None:
                    _log.error("worker killed: it did not stop", extra={"worker": worker.number, "pid": worker.pid})
                    worker.kill()
            await asyncio.gather(*ends)

    async def _pass_on(self, event: asyncio.Event, order: Order) -> None:
        await event.wait()
        self.send(order)

    async def _start(self, number: int) -> StartedWorker:
        worker = self._workers[number] = await StartedWorker.start(self._command, number, self._metrics, self._clock)
        await worker.reach(Report.PREPARED)
        return worker

    async def _serve(self, worker: StartedWorker, address: str) -> None:
        worker.send(Order.LISTEN, address)
        await worker.reach(Report.SERVING)
        _log.info("worker serves", extra={"worker": worker.number, "pid": worker.pid})

    async def _keep(self, number: int, address: str) -> None:
        pause = self._first_pause
        while True:
            worker, since = self._workers[number], self._clock()
            await worker.end()
            self.ended += 1
            if self._metrics:
                forget_gauges(self._metrics, number)
            if self._clock() - since >= STEADY_SECONDS:
                pause = self._first_pause
            details = {"worker": number, "pid": worker.pid, "status": worker.status, "cause": worker.refusal}
            _log.error("a worker ended: it is replaced", extra=details | {"pause_seconds": pause})
            replaced = False
            while not replaced:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                replaced = await self._replace(number, address)

    async def _replace(self, number: int, address: str) -> bool:
        """Start a new worker in place of one that ended; return False if the system does not let us."""
        try:
            await self._serve(await self._start(number), address)
        except WorkerEnded:
            return True  # it was started, and its end is handled as any other
        except OSError as error:
            _log.error("a worker cannot be started", extra={"worker": number, "cause": error.strerror})
            return False
        return True


async def supervise(settings: Settings, command: Sequence[str], announce: Callable[[Running], None]) -> None:
    """Serve by several workers until SIGTERM or SIGINT; a second one cuts the drain short. SIGHUP reaches all workers.

    `command` starts a worker. Raises OperatorError: of the parent, or of the first worker that is refused.
    """
    orders = Orders()
    orders.follow_signals(orders.stop_or_hurry)
    if settings.admin_listen:
        refuse_taken(settings.admin_listen)
    if settings.audit_file:
        prepare_key(settings.audit_file, audit_key_path(settings, settings.audit_file))
    with reserved(settings.listen) as address, _metrics_folder(settings) as folder:
        workers = Supervisor(settings, command, folder)
        numbers = AllWorkers(folder, lambda: workers.serving, lambda: workers.ended) if folder else None
        with serve_metrics(numbers, settings.metrics_listen) as metrics_port:
            try:
                if await _unless(orders.stop, workers.start(address)):
                    await _watch(settings, workers, address, metrics_port, orders, announce)
            finally:
                await workers.stop(orders.hurry)
    _log.info("stopped")


async def _watch(
    settings: Settings,
    workers: Supervisor,
    address: str,
    metrics_port: int | None,
    orders: Orders,
    announce: Callable[[Running], None],
) -> None:
    """Serve health and replace workers until the orders say stop."""

    async def reload() -> None:
        _log.info("SIGHUP: the workers reload")
        workers.send(Order.RELOAD)

    readiness = Readiness(workers, interval=1.0, alive=lambda: workers.alive)
    async with readiness.watching(), _serving_health(settings, readiness) as admin_port:
        async with workers.replacing(address), in_background(orders.reload_when_asked(reload)):
            announce(Running(int(address.rpartition(":")[2]), admin_port, metrics_port))
            await orders.stop.wait()
            _log.info("stopping")
        readiness.leave()
        await workers.stop(orders.hurry)


@contextlib.asynccontextmanager
async def _serving_health(settings: Settings, readiness: Readiness) -> AsyncIterator[int | None]:
    """Serve health on the admin address while the body runs; yield its port."""
    if settings.admin_listen is None:
        yield None
        return
    room, cuts = room_for_connections(settings), Counter[str]()
    connections = OpenConnections(lambda: (), cuts)
    limits = replace(CONNECTION_LIMITS, accepted=room.admin)
    server = admin_server(readiness.servicer, MetadataLimit(cuts), limits)
    try:
        port = bind(server, settings.admin_listen, settings.socket_mode)
        await server.start()
        most = MaxConnections({port: settings.connections or room.admin}, settings.connections_per_address)
        async with connections.watching(most):
            yield port
    finally:
        await server.stop(None)


@contextlib.contextmanager
def _metrics_folder(settings: Settings) -> Iterator[Path | None]:
    """Make a folder for the workers' numbers, of this user alone; None if nobody scrapes. Raises NoMetricsFolder."""
    if settings.metrics_listen is None:
        yield None
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="keyvault-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        why = error.strerror or "there is none"
        remedy = "set TMPDIR, or unset KEYVAULT_METRICS_LISTEN"
        raise NoMetricsFolder(f"the workers cannot share metrics in a temporary folder: {why}: {remedy}") from None
    with made as folder:
        yield Path(folder)


async def _all(work: "Iterator[Coroutine[object, object, object]]") -> None:
    """Do all at the same time; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except* (OperatorError, OSError) as errors:
        first = errors.exceptions[0]
    else:
        return
    raise first


async def _unless(stopped: asyncio.Event, work: Coroutine[object, object, None]) -> bool:
    """Do the work, unless the event comes first; return whether it was done. Raises as the work."""
    task, stop = asyncio.create_task(work), asyncio.create_task(stopped.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return False
    task.result()
    return True
