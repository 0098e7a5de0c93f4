"""Every client against a server that lies: no wrong key is saved, and nothing that it says controls the terminal."""

import asyncio
from pathlib import Path

import grpc
import pytest

from keyvault_api.names import MAX_WRAPPED_KEY
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import DataKey
from tests.interop.clients import KeyvaultCommand
from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs
from tests.support.lying import Refused, lying_server

pytestmark = MARKS
NAME = "prod/db"
TRUE = {"tenant": "acme", "scope": NAME, "plaintext_key": bytes(32), "wrapped_key": b"wrapped"}
LIES: dict[str, dict[str, object]] = {
    "wider scope": {"scope": "prod/"},
    "other scope": {"scope": "prod/other"},
    "no tenant": {"tenant": ""},
    "short key": {"plaintext_key": bytes(31)},
    "no wrapped key": {"wrapped_key": b""},
    "long wrapped key": {"wrapped_key": bytes(MAX_WRAPPED_KEY + 1)},
}
FORGED = "x\x1b[2K\x9b1A\r\nkv: all is well\u202e\u200b"


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("lie", LIES)
async def test_a_key_that_was_not_asked_for_is_not_saved(
    programs: Programs, language: str, lie: str, tmp_path: Path
) -> None:
    client = programs.get(language)
    generated = pb.GenerateKeyResponse(**(TRUE | LIES[lie]))  # type: ignore[arg-type]
    arguments = ["generate-key", NAME, "--save"] if isinstance(client, KeyvaultCommand) else ["put", NAME, "--key"]
    async with lying_server({"GenerateKey": generated}) as address:
        there = client.at(address, timeout=5)
        line = await asyncio.to_thread(there.refused, *arguments, tmp_path / "new.key", given=b"x")
    assert "GenerateKey" in line
    assert not (tmp_path / "new.key").exists()


async def test_what_the_server_says_controls_no_terminal(programs: Programs, language: str, tmp_path: Path) -> None:
    client = programs.get(language)
    DataKey("acme", NAME, b"wrapped", bytes(32)).save(tmp_path / "key")
    says = Refused(grpc.StatusCode.NOT_FOUND, FORGED, "RECORD_NOT_FOUND", {"request_id": FORGED})
    async with lying_server({"Read": says}) as address:
        there = client.at(address, timeout=5)
        line = await asyncio.to_thread(there.refused, client.word("read"), NAME, "--key", tmp_path / "key")
    assert "all is well" in line
    assert line.removesuffix("\n").isprintable()
