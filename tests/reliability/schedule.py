"""One seed, run: who calls what and when, what each message meets, who crashes.

Only the random bytes in envelopes and keys differ from run to run, and nothing is decided by them.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from keyvault_server.core.errors import VaultError
from keyvault_server.core.ports import HeadChanged, WrappedBlob
from keyvault_server.core.purge import purge
from keyvault_server.core.wrapped_key import WrappedKey, parse_wrapped_key
from tests.reliability.clients import Caller, Message, Scene, Way
from tests.reliability.deployment import CALLER, TENANT, Deployment, FarStore, Server, ask, refusal
from tests.reliability.history import (
    Answer,
    Done,
    History,
    Kept,
    ListRevisions,
    OperatorError,
    Purge,
    Read,
    Recorder,
    Request,
)
from tests.reliability.listings import Lister
from tests.reliability.network import Network, Weather
from tests.reliability.readers import Reader
from tests.reliability.virtual_time import run
from tests.support.requests import Key

RECORDS = ("prod/a", "prod/b", "prod/c", "prod/d")
SMALL, LARGE = 4, 350_000
"""Bytes in an envelope; of the large ones two fit into the reply to a BatchRead."""
READINGS, LISTINGS = 5, 4
"""Of each reader and of each lister."""
PREFIXES, SIZES = ("", "prod/"), (1, 2, 3, 10)
"""What is listed, and how many names of it on a page."""
LAG = 0.03
"""Seconds by which an index of names is behind, where it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed is about, in the large."""

    weather: Weather
    records: tuple[str, ...]
    servers: int
    callers: int
    operations: int
    """Of each caller."""
    purges: int
    sweeps: int
    readers: int
    """Callers who read all records at a time."""
    listers: int
    """Callers who list names."""
    lag: float
    """Seconds by which the index of names is behind at most."""
    data: int
    """Bytes in an envelope."""


def plan(rng: random.Random) -> Plan:
    """Mostly short histories in bad weather, where races are; some long ones, where a ring runs over.

    A few have more records, some of such a size that they do not all fit into one reply.
    """
    weather = rng.choice((Weather(0, 0), Weather(0.1, 0.5), Weather(0.3, 2), Weather(0.15, 8)))
    lag = rng.choice((0.0, LAG))
    if rng.random() < 0.08:
        large = rng.random() < 0.4
        purges, listers, size = (0, 0, LARGE) if large else (rng.randint(0, 3), 2, SMALL)
        return Plan(weather, RECORDS, rng.randint(1, 2), 6, 5, purges, rng.randint(0, 2), 3, listers, lag, size)
    records = RECORDS[:1] if rng.random() < 0.8 else RECORDS[:2]
    callers, operations = rng.choice(((2, 6), (3, 5), (4, 4), (6, 3), (2, 10), (1, 12), (2, 30)))
    sweeps, listers = rng.choice((0, 1, 3)), rng.choice((0, 0, 0, 1))
    servers, purges, readers = rng.randint(1, 3), int(rng.random() < 0.2), rng.choice((0, 0, 1, 2))
    return Plan(weather, records, servers, callers, operations, purges, sweeps, readers, listers, lag, SMALL)


class Simulation:
    """One seed, run."""

    def __init__(self, seed: int, deployment: Deployment) -> None:
        rng = random.Random(seed)
        self._plan = plan(rng)
        self._deployment = deployment
        self.network = Network(rng, self._plan.weather)
        self._engine = deployment.engine()
        if self._plan.lag:
            self._engine.delay_index(lambda: rng.uniform(0, self._plan.lag))
        self._keys = deployment.key_service()
        self._servers = [Server(self.network, deployment, self._keys, self._engine) for _ in range(self._plan.servers)]
        self.recorder = Recorder(asyncio.get_running_loop().time)

    async def run(self) -> History:
        """Callers, an operator and disaster side by side; then, when all has landed, one look at each record."""
        scene = await self._scene()
        sends = [Way(partial(server.send, scene=scene), server.history) for server in self._servers]
        callers = [
            Caller(f"c{number}", scene, self.recorder, sends, think=0.01, wait=0.01, patience=3).run(
                self._plan.operations
            )
            for number in range(1, self._plan.callers + 1)
        ]
        readings = [partial(server.read_many, scene=scene) for server in self._servers]
        pages = [server.list_page for server in self._servers]
        recorders = dict.fromkeys(scene.records, self.recorder)
        readers = [
            Reader(f"r{number}", scene.rng, recorders, readings).run(READINGS, think=0.005)
            for number in range(1, self._plan.readers + 1)
        ]
        listers = [
            Lister(f"l{number}", scene.rng, recorders, pages, PREFIXES, self._plan.lag).run(LISTINGS, 0.005, SIZES)
            for number in range(1, self._plan.listers + 1)
        ]
        operators = [self._operate(scene) for _ in range(self._plan.purges)]
        operators += [self._sweep() for _ in range(self._plan.sweeps)]
        disaster = asyncio.create_task(self._disaster())
        await asyncio.gather(*callers, *readers, *listers, *operators)
        disaster.cancel()
        await self.network.quiet()
        await self._look(scene)
        return self.recorder.history

    async def _scene(self) -> Scene:
        keys = [await self._mint("prod/", TENANT) for _ in range(3)]
        others, dev = await self._mint("prod/", "other"), await self._mint("dev/", TENANT)
        torn = await self._mint("prod/", TENANT)
        blob = parse_wrapped_key(torn.wrapped).wrapped
        forged = {
            "x-tenant": replace(others, tenant=TENANT),
            "x-scope": replace(dev, wrapped=bytes(WrappedKey("prod/", parse_wrapped_key(dev.wrapped).wrapped))),
            "x-torn": replace(torn, wrapped=bytes(WrappedKey("prod/", WrappedBlob(blob.label, blob.blob[:-1])))),
        }
        return Scene(self.network.rng, self._plan.records, keys, forged, bytes(self._plan.data))

    async def _mint(self, scope: str, tenant: str) -> Key:
        made = await self._keys.generate(tenant, scope)
        return Key(made.plaintext, bytes(WrappedKey(scope, made.wrapped)), tenant)

    async def _operate(self, scene: Scene) -> None:
        """An operator purges a name."""
        rng = self.network.rng
        await asyncio.sleep(rng.uniform(0, 0.2))
        record = rng.choice(scene.records)
        await self.recorder.record("operator", record, Purge(), self._purge(record))

    async def _purge(self, record: str) -> Answer:
        try:
            return Done(await purge(FarStore(self.network, self._engine), CALLER, record))
        except HeadChanged:
            return OperatorError("HEAD_CHANGED")
        except VaultError as error:
            return refusal(error)

    async def _sweep(self) -> None:
        """An operator removes copies that are not needed."""
        await asyncio.sleep(self.network.rng.uniform(0, 0.4))
        with suppress(VaultError):
            swept = await self._deployment.sweep(FarStore(self.network, self._engine))
            self.network.met["copy swept"] += swept.removed

    async def _disaster(self) -> None:
        """Servers crash and come again, and so does the store."""
        rng, rate = self.network.rng, self._plan.weather.crashes
        while rate:
            await asyncio.sleep(rng.expovariate(rate))
            if rng.random() < 0.3:
                self.network.met["store crashed"] += 1
                self._engine.crash()
                continue
            server = rng.choice(self._servers)
            self.network.met["server crashed"] += 1
            server.crash()
            await asyncio.sleep(rng.uniform(0, 0.1))
            server.restart()

    async def _look(self, scene: Scene) -> None:
        """Reads what is stored in the end, earlier revisions too, past the network, and after a last sweep."""
        await self._deployment.sweep(self._engine)
        vault = self._deployment.start(self._keys, self._engine, 0)

        async def end(record: str, request: Request) -> Answer:
            return await self.recorder.record("end", record, request, ask(vault, Message(request, record), scene))

        for record in scene.records:
            await end(record, Read(0, include_deleted=True))
            kept = await end(record, ListRevisions())
            for revision in kept.revisions if isinstance(kept, Kept) else ():
                await end(record, Read(revision=revision))
            self._note_leftovers(record, kept)

    def _note_leftovers(self, record: str, kept: Answer) -> None:
        """After a sweep there are copies of what can be read, and no others."""
        copies = {name.revision for name in self._engine.copies if name.key_id == record}
        if copies - set(kept.revisions if isinstance(kept, Kept) else ()):
            wrong = OperatorError(f"LEFTOVER {sorted(copies)}")
            self.recorder.note("end", record, ListRevisions(), wrong, self.recorder.now())


def simulate(seed: int, deployment: Deployment) -> tuple[History, Counter[str]]:
    """The history of one seed, and what was met on the way."""

    async def main() -> tuple[History, Counter[str]]:
        simulation = Simulation(seed, deployment)
        history = await simulation.run()
        return history, simulation.network.met

    return run(main())
