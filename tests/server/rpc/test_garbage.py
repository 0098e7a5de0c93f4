"""Nothing that a caller sends is answered by UNKNOWN or INTERNAL, and the server goes on serving.

Mutated messages to every RPC, 10,000 in `make prove`: valid requests with bytes flipped, cut, repeated or inserted,
fields grown and random bytes. The seed is fixed, so a failure can be repeated.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from keyvault_api.names import METHODS
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from tests.support.processes import server_process
from tests.support.properties import trials
from tests.support.refusals import read_failure
from tests.support.requests import create, delete, mint, rotate, update

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.sampled]

MESSAGES = trials(10_000)
ANSWERS = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED", "PERMISSION_DENIED"
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
async def test_mutated_messages_are_answered_by_a_documented_status(tmp_path: Path, method: str) -> None:
    draw = random.Random(f"garbage {method}")
    with server_process(tmp_path / "data", KEYVAULT_ACCESS_LOG="false") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            valid = (await _valid_requests(KeyVaultStub(channel)))[method]
            garbage = [_mutated(draw, valid) for _ in range(MESSAGES)]
            call: Any = channel.unary_unary(f"/keyvault.v1.KeyVault/{method}")
            answers = await _send_all(call, garbage)
            assert await KeyVaultStub(channel).GenerateKey(pb.GenerateKeyRequest(), timeout=30)
        assert server.stop() == 0
        assert "unexpected error" not in server.log.read_text()
    assert sum(answers.values()) == MESSAGES
    assert set(answers) <= ANSWERS, answers
    assert len(answers) > 1 or method == "UnwrapKey", "the mutations reached nothing but the first check"


async def _valid_requests(stub: KeyVaultStub) -> dict[str, list[bytes]]:
    key, other = await mint(stub, "g/"), await mint(stub, "g/a")
    await stub.Create(create(key, "g/a"))
    requests: dict[str, list[Message]] = {
        "GenerateKey": [pb.GenerateKeyRequest(scope="g/a"), pb.GenerateKeyRequest()],
        "Create": [create(key, "g/new"), create(key, "g/a")],
        "Read": [pb.ReadRequest(key_id="g/a"), pb.ReadRequest(key_id="g/a", known_revision=1, include_deleted=True)],
        "Update": [update(key, "g/a", 2), update(other, "g/a", 2), update(key, "g/none", 2)],
        "Delete": [delete(key, "g/a", 2), delete(other, "g/a", 3)],
        "RotateKey": [rotate(key, other, "g/a", 2), rotate(key, key, "g/a", 2)],
        "RewrapKey": [pb.RewrapKeyRequest(wrapped_key=key.wrapped)],
        "UnwrapKey": [pb.UnwrapKeyRequest(wrapped_key=key.wrapped)],
        "BatchRead": [pb.BatchReadRequest(items=[pb.BatchReadRequest.Item(key_id=name) for name in ("g/a", "g/none")])],
        "List": [pb.ListRequest(prefix="g/", page_size=1), pb.ListRequest(deleted=True, page_token="bGl2ZSMjYQ==")],
        "ListRevisions": [pb.ListRevisionsRequest(key_id="g/a"), pb.ListRevisionsRequest(key_id="g/none")],
        "WhoAmI": [pb.WhoAmIRequest()],
    }
    return {method: [request.SerializeToString() for request in several] for method, several in requests.items()}


def _mutated(draw: random.Random, valid: list[bytes]) -> bytes:
    message = bytearray(draw.choice(valid))
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(message) + 1)
        match draw.randrange(6):
            case 0 if message:
                message[at % len(message)] ^= 1 << draw.randrange(8)
            case 1 if message:
                message[at % len(message)] = draw.choice((0x00, 0x7F, 0x80, 0xFF))
            case 2:
                del message[at : at + draw.randrange(1, 64)]
            case 3:
                message[at:at] = draw.randbytes(draw.randrange(1, 64))
            case 4:
                message += message[at : at + draw.randrange(1, 200)]
            case _:
                message = bytearray(draw.randbytes(draw.randrange(200))) if draw.random() < 0.1 else message
    return bytes(message)


async def _send_all(call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], messages: list[bytes]) -> Counter[str]:
    answers: Counter[str] = Counter()

    async def worker() -> None:
        while messages:
            try:
                await call(messages.pop(), timeout=30)
                answers["OK"] += 1
            except grpc.aio.AioRpcError as failed:
                failure = read_failure(failed)
                assert failure.kinds.count("ErrorInfo") == 1
                answers[failure.status] += 1

    await asyncio.gather(*(worker() for _ in range(64)))
    return answers
