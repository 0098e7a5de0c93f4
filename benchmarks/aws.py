"""What our client of AWS adds to bare aioboto3: `python -m benchmarks.aws [--rounds 7] [--calls 1000]`.

Both run in this process against a stand-in in another one that answers at once, in alternating rounds of 64 calls in
flight. The figure is the CPU time of this process a call. Bare aioboto3 has our fixed user agent and no retries.

Two versions of the server with the aws backend: `python -m benchmarks.compare --before COMMIT --shape aws-3ms`.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aioboto3
import uvloop
from aiobotocore.config import AioConfig

from benchmarks.arguments import parser_of
from benchmarks.aws_stand_in import ARN, TABLE
from benchmarks.servers import aws_stand_in
from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.options import AwsOptions

IN_FLIGHT = 64
_REGION = ARN.split(":")[3]
_GET: dict[str, Any] = {"TableName": TABLE, "Key": {"pk": {"S": "a#b"}}, "ConsistentRead": True}
_PUT: dict[str, Any] = {"TableName": TABLE, "Item": {"pk": {"S": "a#b"}, "body": {"B": bytes(1024)}}}
_GENERATE: dict[str, Any] = {"KeyId": ARN, "KeySpec": "AES_256", "EncryptionContext": {"a": "b"}}

Call = Callable[[], Awaitable[object]]


async def cpu_microseconds(call: Call, calls: int) -> float:
    """Keep 64 calls in flight; return the CPU time of one."""
    left = iter(range(calls))

    async def one_after_the_other() -> None:
        for _ in left:
            await call()

    before = time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
    return (time.process_time() - before) / calls * 1e6


async def compare(url: str, rounds: int, calls: int) -> None:
    """Print a line for each operation: bare, ours, and the median of their differences."""
    options = AwsOptions(_REGION, TABLE, {"1": ARN}, url, url, None, 30.0, IN_FLIGHT)
    config = AioConfig(retries={"total_max_attempts": 1}, max_pool_connections=IN_FLIGHT, user_agent="keyvault")
    session, where = aioboto3.Session(), {"region_name": _REGION, "endpoint_url": url, "config": config}
    async with (
        open_clients(options) as (kms, dynamodb),
        session.client("kms", **where) as bare_kms,
        session.client("dynamodb", **where) as bare_dynamodb,
    ):
        pairs: dict[str, tuple[Call, Call]] = {
            "put_item": (lambda: bare_dynamodb.put_item(**_PUT), lambda: dynamodb.call("put_item", **_PUT)),
            "get_item": (lambda: bare_dynamodb.get_item(**_GET), lambda: dynamodb.call("get_item", **_GET)),
            "generate_data_key": (
                lambda: bare_kms.generate_data_key(**_GENERATE),
                lambda: kms.call("generate_data_key", **_GENERATE),
            ),
        }
        print(f"{'CPU us a call':20}{'bare':>8}{'ours':>8}{'more':>8}{'ratio':>8}")
        for name, pair in pairs.items():
            took = [[await cpu_microseconds(call, calls) for call in pair] for _ in range(rounds + 1)][1:]
            bare, ours = (statistics.median(side) for side in zip(*took, strict=True))
            more = statistics.median(ours - bare for bare, ours in took)
            print(f"{name:20}{bare:8.0f}{ours:8.0f}{more:8.0f}{ours / bare:8.2f}", flush=True)


def main() -> None:
    """Read the arguments, and compare."""
    parser = parser_of("aws", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1_000, help="of one round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, aws_stand_in(Path(folder), 0.0) as settings:
        os.environ.update({name: value for name, value in settings.items() if name.startswith("AWS_")})
        url = settings["KEYVAULT_AWS_DYNAMODB_ENDPOINT"]
        uvloop.run(compare(url, arguments.rounds, arguments.calls))


if __name__ == "__main__":
    main()
