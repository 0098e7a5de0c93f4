"""`vault.list`: names over pages, and what a server may not say of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.names import MAX_PAGE
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import BadPageToken, Denied, InvalidRequest, KeyVault, KeyVaultError, ListedName, ServerFailure
from tests.support.lying import Answer, Refused, lying_server
from tests.support.servers import grpc_server
from tests.support.shell import Shell, in_shell, one_line

FORGED = "a\x1b[2J\nkeyvault: all is well"


def page(*names: str, token: str = "") -> pb.ListResponse:
    return pb.ListResponse(names=[pb.ListResponse.Name(key_id=name) for name in names], next_page_token=token)


async def listed(*pages: Answer, prefix: str = "") -> list[str]:
    """The names that a client takes from a server which answers with these pages."""
    async with lying_server({"List": pages}) as address, KeyVault(address) as vault:
        return [name.key_id async for name in vault.list(prefix)]


async def refused(*pages: Answer, prefix: str = "") -> KeyVaultError:
    """Why a client does not take these pages, in one line."""
    with pytest.raises(KeyVaultError) as error:
        await listed(*pages, prefix=prefix)
    assert str(error.value).isprintable()
    return error.value


@asynccontextmanager
async def serving(*pages: pb.ListResponse) -> AsyncIterator[tuple[KeyVault, list[pb.ListRequest]]]:
    """A client of a server that answers with these pages, and what it was asked for."""
    asked: list[pb.ListRequest] = []

    async def answer(request: pb.ListRequest, _: Any) -> pb.ListResponse:
        asked.append(request)
        return pages[len(asked) - 1]

    method = grpc.unary_unary_rpc_method_handler(answer, pb.ListRequest.FromString, pb.ListResponse.SerializeToString)
    handler = grpc.method_handlers_generic_handler("keyvault.v1.KeyVault", {"List": method})
    async with (
        grpc_server(lambda server: server.add_generic_rpc_handlers((handler,))) as port,
        KeyVault(f"127.0.0.1:{port}") as vault,
    ):
        yield vault, asked


@pytest.mark.slow
async def test_names_of_a_real_server_are_listed(vault: KeyVault) -> None:
    """More than a page of them."""
    key = await vault.generate_key("p/")
    names = sorted(f"p/{number}" for number in range(MAX_PAGE + 1))
    await asyncio.gather(*(vault.create(name, b"", key=key, timeout=60) for name in names))
    await vault.delete("p/0", key=key)
    assert [name.key_id async for name in vault.list()] == names[1:]
    assert [name.key_id async for name in vault.list("p/99")] == [name for name in names if name.startswith("p/99")]
    assert [name.key_id async for name in vault.list("p/", deleted=True)] == ["p/0"]
    assert [name async for name in vault.list("q/")] == []


async def test_pages_are_asked_for_as_names_are_taken() -> None:
    async with serving(page("p/a", "p/b", token="1"), page(token="2"), page("p/c")) as (vault, sent):
        names = vault.list("p/", deleted=True)
        assert [(await anext(names)).key_id, (await anext(names)).key_id] == ["p/a", "p/b"]
        assert len(sent) == 1
        assert [name.key_id async for name in names] == ["p/c"]
    asked = [(each.prefix, each.page_size, each.page_token, each.deleted) for each in sent]
    assert asked == [("p/", MAX_PAGE, token, True) for token in ("", "1", "2")]


async def test_a_name_has_the_time_of_its_record() -> None:
    answer = page("a")
    answer.names[0].create_time.FromDatetime(datetime(2026, 11, 29, 12, tzinfo=UTC))
    async with serving(answer) as (vault, _):
        (name,) = [name async for name in vault.list()]
    assert name == ListedName("a", datetime(2026, 11, 29, 12, tzinfo=UTC))
    assert name.to_json() == {"key_id": "a", "create_time": "2026-11-29T12:00:00Z"}


@pytest.mark.parametrize("prefix", ["a b", "a*", "x" * 256, FORGED])
async def test_a_prefix_that_no_name_has_is_not_sent(prefix: str) -> None:
    async with KeyVault("127.0.0.1:1") as vault:
        with pytest.raises(InvalidRequest, match="invalid prefix"):
            vault.list(prefix)


LIES = {
    "prefix": [page("p/a", "q/a")],
    "shorter": [page("p")],
    "folder": [page("p/a", "p/b/")],
    "control": [page("p/a", "p/" + FORGED)],
    "nothing": [page("")],
    "twice": [page("p/a", "p/a")],
    "order": [page("p/b", "p/a")],
    "repeated": [page("p/a", "p/b", token="1"), page("p/b")],
    "back": [page("p/b", token="1"), page(token="2"), page("p/a")],
    "long": [page(*(f"p/{number:04}" for number in range(MAX_PAGE + 1)))],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_page_that_cannot_be_is_refused(lie: str) -> None:
    assert isinstance(await refused(*LIES[lie], prefix="p/"), ServerFailure)


async def test_a_listing_whose_token_stays_the_same_is_given_up() -> None:
    async with serving(page("a", token="1"), page("b", token="1")) as (vault, sent):
        with pytest.raises(ServerFailure, match="does not go on"):
            [name async for name in vault.list()]
    assert len(sent) == 2


@pytest.mark.medium
async def test_a_listing_without_names_comes_to_an_end() -> None:
    """Pages without a name are counted in a row."""
    pages = [page(token=str(number)) for number in range(100)]
    for prefix, wanted, before in (
        ("", "all names", []),
        ("a", "names that begin with 'a'", [page(token="x"), page("a", token="y")]),
    ):
        async with serving(*before, *pages) as (vault, sent):
            with pytest.raises(ServerFailure, match=f"list of {wanted} does not go on"):
                [name async for name in vault.list(prefix)]
        assert len(sent) == len(before) + 100


async def test_a_full_page_and_a_page_of_none_are_taken() -> None:
    names = [f"{number:04}" for number in range(MAX_PAGE)]
    assert await listed(page(*names, token="1"), page()) == names
    assert await listed(page()) == []


async def test_a_refused_page_token_has_its_exception() -> None:
    bad = Refused(grpc.StatusCode.INVALID_ARGUMENT, "not a page token of this list", "BAD_PAGE_TOKEN")
    error = await refused(page("a", token="1"), bad)
    assert isinstance(error, BadPageToken)
    assert isinstance(error, InvalidRequest)


async def test_a_denied_listing_says_so() -> None:
    denied = Refused(grpc.StatusCode.PERMISSION_DENIED, "the policy does not allow List", "POLICY_DENIED")
    assert isinstance(await refused(denied), Denied)


# The command.


@pytest.mark.process
@pytest.mark.slow
def test_the_command_writes_a_name_a_line_or_json(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    for name in ("prod/b", "prod/a"):
        shell.ok(f"create {name} --key prod.key", b"x")
    shell.ok("delete prod/b --key prod.key")
    assert shell.ok("list prod/") == b"prod/a\n"
    assert shell.ok("list --deleted") == b"prod/b\n"
    assert shell.ok("list q") == b""
    (line,) = shell.ok("list --json").splitlines()
    assert set(json.loads(line)) == {"key_id", "create_time"}
    assert "invalid prefix 'prod/*'" in shell.refused("list prod/*", status=2)


@pytest.mark.process
@pytest.mark.slow
def test_a_reader_that_has_enough_ends_a_list_quietly(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    shell.ok("create prod/enough --key prod.key", b"x")
    done = in_shell(shell, "keyvault list | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "No space left" in one_line(in_shell(shell, "keyvault list > /dev/full"), 1)
    assert "closed" in one_line(in_shell(shell, "keyvault list >&-"), 2)


@pytest.mark.process
async def test_the_command_shows_no_forged_name(tmp_path: Path) -> None:
    async with lying_server({"List": [page("a", token="1"), page(FORGED)]}) as address:
        done = await asyncio.to_thread(Shell(tmp_path, address).run, "list")
    assert (done.returncode, done.stdout) == (1, b"a\n")
    assert done.stderr.startswith(b"keyvault: the server listed 'a\\x1b[2J")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("reason", ["POLICY_DENIED", "UNAUTHENTICATED"])
async def test_the_command_says_what_a_list_needs(tmp_path: Path, reason: str) -> None:
    denied = Refused(grpc.StatusCode.PERMISSION_DENIED, "not allowed", reason, {"request_id": "r-1"})
    async with lying_server({"List": denied}) as address:
        line = await asyncio.to_thread(Shell(tmp_path, address).refused, "list", status=5)
    assert line.startswith("keyvault: not allowed")
    assert line.endswith(f" [{reason} r-1]\n")
    assert ("`keyvault whoami` shows them" in line) == (reason == "POLICY_DENIED")
