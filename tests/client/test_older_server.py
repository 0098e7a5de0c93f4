"""A server that lacks a call is named in one sentence that says so, by every method and command that needs the call."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from keyvault_api.names import METHODS
from keyvault_client import DataKey, KeyVault, OutcomeUnknown, ServerFailure
from tests.support.lying import lying_server
from tests.support.shell import Shell

KEY = DataKey("acme", "prod/", b"wrapped", bytes(32))
CALLS: dict[str, Callable[[KeyVault], Awaitable[object]]] = {
    "GenerateKey": lambda vault: vault.generate_key("prod/"),
    "Create": lambda vault: vault.create("prod/db", b"x", key=KEY),
    "Read": lambda vault: vault.read("prod/db", key=KEY),
    "Update": lambda vault: vault.update("prod/db", b"x", key=KEY, revision=1),
    "Delete": lambda vault: vault.delete("prod/db", key=KEY, revision=1),
    "RewrapKey": lambda vault: vault.rewrap_key(KEY),
    "UnwrapKey": lambda vault: vault.unwrap_key(KEY),
    "BatchRead": lambda vault: vault.read_many({"prod/db": KEY}),
    "List": lambda vault: anext(vault.list("prod/")),
    "ListRevisions": lambda vault: vault.revisions("prod/db"),
    "WhoAmI": lambda vault: vault.whoami(),
}
MUTATIONS = {"Create", "Update", "Delete"}


def sentence(method: str) -> str:
    return f"the server does not know {method}: it is an older KeyVault, or another service"


async def test_each_call_that_a_server_lacks_is_named() -> None:
    assert CALLS.keys() == set(METHODS) - {"RotateKey"}  # it reads first
    async with lying_server({}) as address, KeyVault(address) as vault:
        for method, call in CALLS.items():
            with pytest.raises(OutcomeUnknown if method in MUTATIONS else ServerFailure) as failure:
                await call(vault)
            assert sentence(method) in str(failure.value)
            assert (str(failure.value) == sentence(method)) is (method not in MUTATIONS)


@pytest.mark.process
async def test_each_command_that_needs_a_newer_server_says_so(tmp_path: Path) -> None:
    async with lying_server({}) as address:
        shell = Shell(tmp_path, address)
        for line, method in (("list", "List"), ("history prod/db", "ListRevisions"), ("whoami", "WhoAmI")):
            said = await asyncio.to_thread(shell.refused, line)
            assert said == f"keyvault: {sentence(method)}\n"
