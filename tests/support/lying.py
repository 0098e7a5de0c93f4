"""A server that says what a test wants, without a vault: true or not, possible or not."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from tests.support.misbehaving import refusal
from tests.support.servers import grpc_server


@dataclass(frozen=True)
class Refused:
    """An error with KeyVault's details."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: Mapping[str, object] = field(default_factory=dict)


Answer: TypeAlias = Message | bytes | Refused


@asynccontextmanager
async def lying_server(answers: Mapping[str, Answer | Sequence[Answer]]) -> AsyncIterator[str]:
    """Serve these answers, by method, whatever is asked; yield the address. Several come in turn, the last again."""
    async with grpc_server(lambda added: added.add_generic_rpc_handlers((_Methods(answers),))) as port:
        yield f"127.0.0.1:{port}"


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, answers: Mapping[str, Answer | Sequence[Answer]]) -> None:
        self._answers = {
            method: [said] if isinstance(said, Message | bytes | Refused) else list(said)
            for method, said in answers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        called: Any = handler_call_details.method
        answers = self._answers.get(called.rpartition("/")[2])
        if answers is None:
            return None
        answer = answers.pop(0) if len(answers) > 1 else answers[0]

        async def play(_: bytes, context: Any) -> bytes:
            if isinstance(answer, Refused):
                trailer = refusal(answer.code, answer.reason, 0, answer.metadata, message=answer.message)
                await context.abort(answer.code, answer.message, (("grpc-status-details-bin", trailer),))
                raise AssertionError
            return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(play)
