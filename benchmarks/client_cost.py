"""What a call costs a caller: our library, and a bare gRPC stub that does as much; started by the section "client".

The bare stub has no retries, no checks of what the server answers, no memory of revisions and no errors of its own.
Prints JSON: microseconds of this process's CPU time a call, by row, for the library and for the stub.
"""

import argparse
import asyncio
import itertools
import json
import os
import time
from collections.abc import Awaitable, Callable

import grpc

from keyvault_api import envelope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client import DataKey, KeyVault, Secrets

IN_FLIGHT = 16
CACHED = "read from a cache"
ROWS = ("read and open", "seal and create", "generate a key", CACHED)
_LOOKUPS = 100_000
_SCOPE = "client/"
_VALUE = os.urandom(1024)
_SECONDS = 10.0

Work = Callable[[], Awaitable[object]]


async def cost(work: Work, calls: int) -> float:
    """Return the microseconds of CPU time a call, 16 in flight."""
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await work()

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return (time.process_time() - began) / calls * 1e6


def lookup_cost(secrets: Secrets) -> float:
    """Return the microseconds of CPU time a look-up; a bare stub has to read and open the record."""
    began = time.process_time()
    for _ in range(_LOOKUPS):
        secrets[f"{_SCOPE}0"]
    return (time.process_time() - began) / _LOOKUPS * 1e6


def by_library(vault: KeyVault, key: DataKey, names: "itertools.count[int]") -> tuple[Work, ...]:
    """Return the work of each row, done by the library."""
    return (
        lambda: vault.read(f"{_SCOPE}0", key=key),
        lambda: vault.create(f"{_SCOPE}{next(names)}", _VALUE, key=key),
        lambda: vault.generate_key(_SCOPE),
    )


def by_stub(stub: KeyVaultStub, key: DataKey, names: "itertools.count[int]") -> tuple[Work, ...]:
    """Return the work of each row, done by a bare stub."""

    async def read() -> object:
        reply = await stub.Read(pb.ReadRequest(key_id=f"{_SCOPE}0"), timeout=_SECONDS)
        return envelope.open(key.secret(), key.tenant, f"{_SCOPE}0", reply.envelope)

    async def create() -> object:
        name = f"{_SCOPE}{next(names)}"
        sealed = envelope.seal(key.secret(), key.tenant, name, 1, _VALUE)
        request = pb.CreateRequest(key_id=name, wrapped_key=key.wrapped_key, envelope=sealed)
        return await stub.Create(request, timeout=_SECONDS)

    async def generate() -> object:
        return await stub.GenerateKey(pb.GenerateKeyRequest(scope=_SCOPE), timeout=_SECONDS)

    return read, create, generate


async def main(address: str, calls: int, rounds: int) -> None:
    """Measure both in turns, and print."""
    async with KeyVault(address) as vault, grpc.aio.insecure_channel(address) as channel:
        key, names = await vault.generate_key(_SCOPE), itertools.count(1)
        await vault.create(f"{_SCOPE}0", _VALUE, key=key)
        pairs = zip(by_library(vault, key, names), by_stub(KeyVaultStub(channel), key, names), strict=True)
        works = dict(zip(ROWS, pairs, strict=False))
        for pair in works.values():
            for work in pair:
                await cost(work, calls // 10)  # warms up
        took = {row: [[await cost(work, calls) for work in pair] for _ in range(rounds)] for row, pair in works.items()}
        async with vault.cache({f"{_SCOPE}0": key}) as secrets:
            took[CACHED] = [[lookup_cost(secrets), stub] for _, stub in took[ROWS[0]]]
        print(json.dumps(took))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client_cost", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("calls", type=int)
    parser.add_argument("rounds", type=int)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.address, arguments.calls, arguments.rounds))
