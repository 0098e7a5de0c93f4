"""The loads on servers that are not ours: a no-op handler, OpenBao and etcd.

The rule of this file: a load does what our own does, with the same number of calls in flight, names and bytes.
"""

import asyncio
import base64
import itertools
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.calls import IN_FLIGHT, KIB, KINDS, Requests
from benchmarks.contestant import close
from benchmarks.foreign import OPENBAO, etcd, openbao
from benchmarks.generator import Link, Round, closed_loop
from benchmarks.http1 import connect_http1, http1_request
from benchmarks.plan import Plan
from benchmarks.servers import OUR_SOURCES, SERVER_CORE, Server, child_environment, on_core, started

_HTTP_OK = 200


@dataclass(frozen=True)
class Load:
    """64 calls in flight to one server."""

    server: Server
    connect: Callable[[], Awaitable[Link]]
    connections: int
    request: Callable[[int], bytes]
    seconds: float
    expected: int = 0
    calls: int | None = None
    """How many to make, at most; None for as many as fit into the seconds."""

    async def play(self) -> Round:
        """Play one round."""
        async with AsyncExitStack() as stack:
            links = [await self.connect() for _ in range(self.connections)]
            close(stack, links)
            return await closed_loop(
                links,
                self.request,
                in_flight=IN_FLIGHT,
                seconds=self.seconds,
                cpu=self.server.cpu_seconds,
                expected=self.expected,
                calls=self.calls,
            )

    async def store(self, requests: list[bytes]) -> None:
        """Make each record that is read."""
        ready = iter(requests)
        took = await replace(self, request=lambda _: next(ready), seconds=600.0, calls=len(requests)).play()
        assert took.good == len(requests), f"writes were answered {dict(took.statuses)}"


async def noop_loads(plan: Plan, ours: Requests, *, tuned: bool) -> dict[str, Load]:
    """Start a no-op handler, and return a load for each of its methods: "Read", "Create", and "Delete", refused."""
    answers = [(await ours.answer(kind)).hex() for kind in ("Read", "Create")]
    command = (sys.executable, str(Path(__file__).with_name("noop_server.py")), *answers, *(["tuned"] if tuned else []))
    server = plan.stack.enter_context(started(command, plan.folder / "noop-log"))
    await ours.make("Create", 1)
    requests = {kind: ours.source(kind)(0) for kind in ("Read", "Create")}
    loads = {
        kind: Load(server, partial(server.connect, kind), 1, partial(_always, request), plan.seconds)
        for kind, request in requests.items()
    }
    refused = replace(loads["Read"], connect=partial(server.connect, "Delete"), expected=KINDS["PolicyDenied"].expected)
    return loads | {"Delete": refused}


def _always(request: bytes, _: int) -> bytes:
    return request


async def foreign_loads(plan: Plan, name: str) -> dict[str, Load]:
    """Return the loads on OpenBao or etcd, which is started if it does not run yet."""
    if name not in plan.loads:
        plan.loads[name] = await (_openbao_loads if name == OPENBAO else _etcd_loads)(plan)
    return plan.loads[name]


async def _openbao_loads(plan: Plan) -> dict[str, Load]:
    """Start OpenBao, and return the loads "read", "put" and "datakey"; its records have 1 KiB in base64."""
    bao = plan.stack.enter_context(openbao(plan.folder / "openbao"))
    address, order, numbers = bao.server.address, random.Random(1), itertools.count()
    request = partial(http1_request, address=address, token=bao.token)
    value = json.dumps({"data": {"value": base64.b64encode(os.urandom(KIB)).decode()}}).encode()

    def put(name: str) -> bytes:
        return request("POST", path=f"/v1/secret/data/{name}", body=value)

    reads = [request("GET", path=f"/v1/secret/data/read/{number}") for number in range(plan.names)]
    key = request("POST", path="/v1/transit/datakey/plaintext/benchmark", body=b'{"bits": 256}')
    load = Load(bao.server, partial(connect_http1, address), IN_FLIGHT, partial(_always, key), plan.seconds, _HTTP_OK)
    await load.store([put(f"read/{number}") for number in range(plan.names)])
    return {
        "read": replace(load, request=lambda _: order.choice(reads)),
        "put": replace(load, request=lambda _: put(f"new/{next(numbers)}")),
        "datakey": load,
    }


async def _etcd_loads(plan: Plan) -> dict[str, Load]:
    """Start etcd, and return the loads "Range" and "Put"."""
    server = plan.stack.enter_context(etcd(plan.folder / "etcd"))
    order, numbers, value = random.Random(1), itertools.count(), os.urandom(KIB)

    def load(method: str, request: Callable[[int], bytes]) -> Load:
        return Load(server, partial(server.connect, f"/etcdserverpb.KV/{method}"), 1, request, plan.seconds)

    reads = [_field(1, f"read/{number}".encode()) for number in range(plan.names)]
    put = load("Put", lambda _: _field(1, f"new/{next(numbers)}".encode()) + _field(2, value))
    await put.store([read + _field(2, value) for read in reads])
    return {"Range": load("Range", lambda _: order.choice(reads)), "Put": put}


async def bare_get_item(endpoint: str, seconds: float) -> Round:
    """Play a round of GetItem calls by aioboto3 alone, in a process on the server's core."""
    command = (sys.executable, "-m", "benchmarks.bare_aws", endpoint, str(seconds))
    with on_core(SERVER_CORE):
        process = await asyncio.create_subprocess_exec(
            *command, env=child_environment({"PYTHONPATH": OUR_SOURCES}), stdout=asyncio.subprocess.PIPE
        )
    printed, _ = await process.communicate()
    assert process.returncode == 0, "the calls of aioboto3 failed"
    round_ = Round(**json.loads(printed))
    round_.statuses[round_.expected] = len(round_.latencies)
    return round_


def _field(number: int, data: bytes) -> bytes:
    """Return a field of bytes of a protobuf message, of at most 16,383 bytes."""
    size = len(data)
    length = bytes((size,)) if size < 1 << 7 else bytes((size & 127 | 128, size >> 7))
    return bytes((number << 3 | 2,)) + length + data
