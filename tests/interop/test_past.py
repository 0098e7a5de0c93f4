"""Names and earlier revisions in every language: each shows the same of one server, and none believes a lie."""

import asyncio
import re
from pathlib import Path

import pytest

from keyvault_api import envelope as kve1
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import DataKey
from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs
from tests.support.lying import lying_server

pytestmark = MARKS
NAME = "prod/db"
FORGED = "prod/x\x1b[2K\x9b1A\r\nkv: all is well\u202e\u200b"


def test_every_language_shows_the_same_of_the_past(programs: Programs, address: str, tmp_path: Path) -> None:
    clients = [programs.get(language).at(address) for language in LANGUAGES]
    names = [f"past/{language}" for language in LANGUAGES]
    keys = [tmp_path / language for language in LANGUAGES]
    for client, name, key in zip(clients, names, keys, strict=True):
        assert client.create(name, key, b"one") == 1
        assert client.update(name, key, b"two") == 2
    listed = [client.output("list", "past/") for client in clients]
    assert listed == ["".join(f"{name}\n" for name in sorted(names))] * len(clients)
    for name, key in zip(names, keys, strict=True):
        (history,) = {client.output("history", name) for client in clients}
        assert re.fullmatch(r"(revision [21]  20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ  91 bytes sealed\n){2}", history)
        assert {client.read(name, key, revision=1) for client in clients} == {b"one"}
    for client in clients:
        line = client.refused(client.word("read"), names[0], "--key", keys[0], "--revision", "3")
        assert "REVISION_NOT_FOUND" in line


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_lie_about_the_past_is_one_line(programs: Programs, language: str, tmp_path: Path) -> None:
    DataKey("acme", NAME, b"wrapped", bytes(32)).save(tmp_path / "key")
    current = pb.ReadResponse(envelope=kve1.seal(bytes(32), "acme", NAME, 3, b"three"), revision=3)
    forged = pb.ListResponse(names=[pb.ListResponse.Name(key_id=FORGED)])
    client = programs.get(language)
    earlier = (client.word("read"), NAME, "--key", tmp_path / "key", "--revision", "2")
    async with lying_server({"List": forged, "Read": current}) as address:
        there = client.at(address, timeout=5)
        for command, said in (
            (("list", "prod/"), "all is well"),
            (earlier, "it is an older KeyVault"),
            (("history", NAME), "it is an older KeyVault, or another service"),
        ):
            line = await asyncio.to_thread(there.refused, *command)
            assert said in line
            assert line.removesuffix("\n").isprintable()
