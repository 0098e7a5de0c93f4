"""The access log on a stream that nobody reads: lines may be lost, a call never is."""

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.rpc.access_log import MAX_LINES, AccessLog
from tests.support.processes import BIN
from tests.support.refusals import failure_of

MANY = 1_000
"""Lines, more than a pipe holds."""


@contextmanager
def pipe() -> Iterator[tuple[IO[bytes], TextIO]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "w", encoding="utf-8") as writer:
        yield reader, writer


def note(log: AccessLog, lines: range) -> None:
    for number in lines:
        log.add("Read", "OK", "", "a" * 200, "", "ipv4:127.0.0.1:1", str(number), 0.001)


def read(reader: IO[bytes], last: int) -> list[int]:
    """The numbers of the lines up to the last one."""
    numbers: list[int] = []
    while not numbers or numbers[-1] != last:
        numbers.append(int(json.loads(reader.readline())["request_id"]))
    return numbers


@pytest.mark.medium
async def test_what_a_full_pipe_does_not_take_is_written_later() -> None:
    """When the pipe is read."""
    with pipe() as (reader, writer):
        log = AccessLog(writer)
        note(log, range(MANY))
        log.flush()
        assert await asyncio.wait_for(asyncio.to_thread(read, reader, MANY - 1), 20) == list(range(MANY))


@pytest.mark.slow
async def test_of_more_than_it_keeps_the_oldest_lines_are_lost() -> None:
    with pipe() as (reader, writer):
        log = AccessLog(writer)
        note(log, range(MANY))
        log.flush()
        note(log, range(MANY, MANY + 2 * MAX_LINES))
        numbers = await asyncio.wait_for(asyncio.to_thread(read, reader, MANY + 2 * MAX_LINES - 1), 20)
    assert numbers == sorted(numbers)
    assert MAX_LINES < len(numbers) < MAX_LINES + MANY


@pytest.mark.slow
async def test_at_the_end_a_reader_has_a_moment_and_no_more() -> None:
    with pipe() as (reader, writer):
        log = AccessLog(writer)
        note(log, range(MANY))
        log.close()
        note(log, range(MANY, 2 * MANY))
        reading = threading.Timer(0.1, read, (reader, 2 * MANY - 1))
        reading.start()
        log.close()
        reading.join(20)
        assert not reading.is_alive()


@pytest.mark.process
@pytest.mark.slow
async def test_a_server_whose_log_nobody_reads_answers_and_stops(tmp_path: Path) -> None:
    command: list[str | Path] = [
        BIN / "keyvault-server",
        "serve",
        "--data",
        tmp_path / "data",
        "--listen",
        "127.0.0.1:0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    with process, process.stdout, process.stderr:
        try:
            ready = re.search(r"ready on (\S+)", process.stdout.readline())
            assert ready
            async with grpc.aio.insecure_channel(ready[1]) as channel:
                stub = KeyVaultStub(channel)
                for _ in range(MANY):
                    failure = await failure_of(stub.Read(pb.ReadRequest(key_id="a"), timeout=20))
                    assert failure.status == "NOT_FOUND"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
        finally:
            process.kill()
