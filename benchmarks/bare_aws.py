"""The cost of one DynamoDB GetItem by aioboto3 alone, 64 in flight: what the AWS backend cannot be cheaper than.

Started on the server's core by the section "aws". Prints a round as JSON. The item has what a record of 1 KiB has.
"""

import argparse
import asyncio
import json
import os
import time

import aioboto3
import uvloop
from botocore.config import Config

from benchmarks.aws_stand_in import REGION, TABLE
from benchmarks.calls import IN_FLIGHT, KIB

_KEY = {"pk": {"S": "benchmark#read"}}
_ITEM = (
    _KEY
    | {"format": {"N": "1"}, "created": {"N": "1795943625"}, "updated": {"N": "1795943625"}}
    | {
        "head": {"B": os.urandom(72)},
        "ring": {"B": os.urandom(16)},
        "body": {"B": os.urandom(KIB)},
    }
)


async def main(endpoint: str, seconds: float) -> None:
    """Warm up, make calls for so many seconds, and print."""
    config = Config(max_pool_connections=IN_FLIGHT)
    session = aioboto3.Session(aws_access_key_id="benchmark", aws_secret_access_key="benchmark", region_name=REGION)
    async with session.client("dynamodb", endpoint_url=endpoint, config=config) as dynamodb:
        await dynamodb.put_item(TableName=TABLE, Item=_ITEM)

        async def worker(until: float) -> list[float]:
            took = []
            while (began := time.perf_counter()) < until:
                await dynamodb.get_item(TableName=TABLE, Key=_KEY, ConsistentRead=True)
                took.append(time.perf_counter() - began)
            return took

        async def load(seconds: float) -> list[float]:
            until = time.perf_counter() + seconds
            return [one for took in await asyncio.gather(*(worker(until) for _ in range(IN_FLIGHT))) for one in took]

        await load(seconds / 4)
        began, before = time.perf_counter(), time.process_time()
        latencies = await load(seconds)
        cpu, took = time.process_time() - before, time.perf_counter() - began
        print(json.dumps({"seconds": took, "cpu_seconds": cpu, "latencies": latencies}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_aws", description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.endpoint, arguments.seconds))
