"""What keeping earlier revisions costs an Update: `python -m benchmarks.history [--rounds 40]`.

Two vaults on one store, one that keeps none and one that keeps ten, update their own records in turns; each record has
more revisions than are kept, so that each Update writes a copy and removes one. A round updates each of a vault's
records once, so many at a time. The figures are the CPU time of this process for one Update, all that it starts
included, and its latency, both without its way over gRPC; the ratios are those of the medians. Write units are counted
from what is sent, 1 KB each, as DynamoDB charges them. DynamoDB and KMS are the stand-in that answers after 3 ms. The
disk is that of this folder; core 0 alone.
"""

import asyncio
import contextlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.arguments import parser_of
from benchmarks.aws_stand_in import ARN, TABLE
from benchmarks.servers import SERVER_CORE, aws_stand_in
from keyvault_api import envelope as kve1
from keyvault_server.audit.trail import Audit, AuditOptions, open_audit
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.core.vault import Vault
from keyvault_server.core.wrapped_key import DataKey
from keyvault_server.operations.composition import open_backend
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.gatekeeper import Gatekeeper, Visitor

HERE = Path(__file__).parent
KEPT = 10
RECORDS = 16
LATENCY_MS = 3.0
SIZES = {"1 KiB": 1_024, "100 kB": 100_000}
_REGION = ARN.split(":")[3]

Ports = tuple[KeyService, RecordStore, "Units | None"]


class Units(AwsClient):
    """A client of DynamoDB that counts the write units of what it sends."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client
        self.seconds, self.patience = client.seconds, client.patience
        self.written = 0
        self._sizes: dict[str, int] = {}

    async def call(self, operation: str, *needed: str, **parameters: Any) -> Mapping[str, Any]:
        """See AwsClient."""
        if operation == "put_item":
            size = item_size(parameters["Item"])
            self._sizes[parameters["Item"]["pk"]["S"]] = size
            self.written += math.ceil(size / 1024)
        elif operation == "delete_item":
            self.written += math.ceil(self._sizes.pop(parameters["Key"]["pk"]["S"], 1) / 1024)
        reply: Mapping[str, Any] = await self._client.call(operation, *needed, **parameters)
        return reply


def item_size(item: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bytes of an item: names, text and binaries as they are, two digits of a number in a byte."""
    values = [next(iter(value.items())) for value in item.values()]
    numbers = sum((len(content) + 1) // 2 + 1 for kind, content in values if kind == "N")
    return sum(map(len, item)) + numbers + sum(len(content) for kind, content in values if kind != "N")


class Records:
    """The records of one vault."""

    def __init__(self, ports: Ports, history: int, size: int, gate: Gatekeeper) -> None:
        keys, records, self._units = ports
        self._vault = Vault(keys, records, history=history)
        self._names = [f"history/{os.urandom(8).hex()}" for _ in range(RECORDS)]
        self._data = os.urandom(size)
        self._gate = gate
        self._revision = 0
        self._key: DataKey | None = None
        self.took: list[float] = []
        self.cpu: list[float] = []
        self.units: list[int] = []

    async def fill(self) -> None:
        """Write more revisions than are kept."""
        self._key = await self._vault.generate_key(self._author("GenerateKey"), "history/")
        for _ in range(KEPT + 2):
            await self.update(1)
        self.took.clear()
        self.cpu.clear()
        self.units.clear()

    async def update(self, in_flight: int) -> None:
        """Write the next revision of each record."""
        self._revision += 1
        sealed = iter([(name, self._sealed(name)) for name in self._names])
        before, cpu = self._units.written if self._units else 0, time.process_time()
        await asyncio.gather(*(self._work(sealed) for _ in range(in_flight)))
        await asyncio.sleep(0.02)  # removals run in the background
        self.cpu.append((time.process_time() - cpu) / RECORDS)
        self.units.append((self._units.written if self._units else 0) - before)

    async def _work(self, sealed: Any) -> None:
        assert self._key is not None
        for name, envelope in sealed:
            began = time.perf_counter()
            if self._revision == 1:
                await self._vault.create(self._author("Create"), name, self._key.wrapped_key, envelope)
            else:
                await self._vault.update(self._author("Update"), name, self._key.wrapped_key, envelope)
            self.took.append(time.perf_counter() - began)

    def _sealed(self, name: str) -> bytes:
        assert self._key is not None
        return kve1.seal(self._key.plaintext, self._key.tenant, name, self._revision, self._data)

    def _author(self, method: str) -> Visitor:
        return Visitor(self._gate, method, "benchmark")


async def compare(title: str, ports: Ports, size: int, in_flight: int, rounds: int, audit: Audit | None) -> None:
    """Print one row."""
    gate = Gatekeeper(audit=audit)
    pair = [Records(ports, history, size, gate) for history in (0, KEPT)]
    for records in pair:
        await records.fill()
    for _ in range(rounds):
        for records in pair:
            await records.update(in_flight)
    cpu, cpu_kept = (statistics.median(records.cpu) * 1e6 for records in pair)
    without, kept = (statistics.median(records.took) * 1_000 for records in pair)
    units = [statistics.median(records.units) / RECORDS for records in pair]
    shown = f"{units[0]:.0f} and {units[1]:.0f}" if units[0] else "-"
    print(
        f"| {title} | {cpu:,.0f} | {cpu_kept:,.0f} | {cpu_kept / cpu:.2f}"
        f" | {without:.2f} | {kept:.2f} | {kept / without:.2f} | {shown} |",
        flush=True,
    )


@contextlib.asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Ports]:
    """Open the embedded backend."""
    async with open_backend(Settings(data=folder)) as (keys, records):
        yield keys, records, None


@contextlib.asynccontextmanager
async def on_aws(url: str) -> AsyncIterator[Ports]:
    """Open the AWS backend on the stand-in."""
    options = AwsOptions(_REGION, TABLE, {"1": ARN}, url, url, None, 30.0, 64)
    async with open_clients(options) as (kms, dynamodb):
        units = Units(dynamodb)
        async with contextlib.aclosing(DynamoRecordStore(units, TABLE)) as records:
            yield KmsKeyService(kms, options.master_keys), records, units


async def main(rounds: int, folder: Path, url: str) -> None:
    """Print the table."""
    print("| Update | CPU us, none kept | ten kept | ratio | ms, none kept | ten kept | ratio | write units |")
    print(f"| --- {'| ---: ' * 7}|")
    async with open_audit(AuditOptions(folder / "audit", folder / "key")) as audit:
        for number, (words, size) in enumerate(SIZES.items()):
            for in_flight in (1, RECORDS):
                about = f"{words}, {in_flight} in flight"
                async with embedded(folder / f"data-{number}-{in_flight}") as ports:
                    await compare(f"embedded, {about}", ports, size, in_flight, rounds, None)
            for name, log in (("", None), (", audit log", audit)):
                async with on_aws(url) as ports:
                    await compare(f"AWS after 3 ms, {words}, 1 in flight{name}", ports, size, 1, rounds, log)


if __name__ == "__main__":
    parser = parser_of("history", __doc__)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as made,
        aws_stand_in(Path(made), LATENCY_MS) as settings,
    ):
        os.environ.update({name: value for name, value in settings.items() if name.startswith("AWS_")})
        os.sched_setaffinity(0, {SERVER_CORE})
        uvloop.run(main(arguments.rounds, Path(made), settings["KEYVAULT_AWS_DYNAMODB_ENDPOINT"]))
