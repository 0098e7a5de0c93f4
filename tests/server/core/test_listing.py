"""List through a fake store: pages, their tokens, and what a request may say."""

import base64

import pytest

from keyvault_api.envelope import Kind
from keyvault_server.core.errors import BadPageToken, InvalidKeyId, InvalidRequest, RecordCorrupt, VaultError
from keyvault_server.core.listing import Page, list_names
from keyvault_server.core.ports import ListedName, NamePage
from keyvault_server.core.purge import purge
from keyvault_server.core.vault import Vault
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.listed import record_of
from tests.support.refusals import refused
from tests.support.world import CALLER, NAME, TENANT, World

NAMES = ["a", "prod/a", "prod/a/x", "prod/b", "prod0", "~"]


@pytest.fixture
def world() -> World:
    return World()


def fill(world: World, names: list[str], kind: Kind = Kind.DATA) -> None:
    world.records.records.update({(TENANT, name): record_of(name, kind, number) for number, name in enumerate(names)})


def shown(page: Page) -> list[str]:
    return [name.key_id for name in page.names]


async def all_pages(world: World, prefix: str, page_size: int, *, deleted: bool = False) -> list[list[str]]:
    pages, token = [], ""
    while True:
        page = await list_names(world.vault, CALLER, prefix, page_size, token, deleted=deleted)
        pages.append(shown(page))
        token = page.next_page_token
        if not token:
            return pages


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
async def test_pages_hold_every_name_once_in_order(world: World, size: int) -> None:
    fill(world, NAMES[::-1])
    pages = await all_pages(world, "", size)
    assert [name for page in pages for name in page] == NAMES
    assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("prod/", NAMES[1:4]), ("prod", NAMES[1:5]), ("prod/a", NAMES[1:3]), ("~", ["~"]), ("prod/ab", []), ("A", [])],
)
async def test_a_prefix_is_any_beginning_of_a_name(world: World, prefix: str, expected: list[str]) -> None:
    fill(world, NAMES)
    assert await all_pages(world, prefix, 1) == ([[name] for name in expected] or [[]])
    assert await all_pages(world, prefix, 10) == [expected]


async def test_a_name_moves_from_live_to_deleted_to_neither(world: World) -> None:
    key = await world.mint()
    await world.create(key)
    (live,) = (await list_names(world.vault, CALLER, "prod/")).names
    found = await world.vault.read(CALLER, NAME)
    assert live == (NAME, found.created)
    await world.update(key, 2)
    assert (await list_names(world.vault, CALLER, "prod/")).names == [live]
    await world.delete(key, 3)
    assert await all_pages(world, "prod/", 0) == [[]]
    assert await all_pages(world, "prod/", 0, deleted=True) == [[NAME]]
    await world.create(key, 4)
    assert await all_pages(world, "prod/", 0) == [[NAME]]
    assert await all_pages(world, "prod/", 0, deleted=True) == [[]]
    await purge(world.records, CALLER, NAME)
    assert await all_pages(world, "prod/", 0) == await all_pages(world, "prod/", 0, deleted=True) == [[]]


@pytest.mark.parametrize(("asked", "given"), [(0, 100), (1, 1), (999, 999), (1_000, 1_000), (1_001, 1_000)])
async def test_a_page_has_a_hundred_names_and_never_over_a_thousand(world: World, asked: int, given: int) -> None:
    record = record_of("any")
    world.records.records = {(TENANT, f"n{number:04}"): record for number in range(1_100)}
    page = await list_names(world.vault, CALLER, "", asked)
    assert len(page.names) == given
    assert page.next_page_token


async def test_the_page_size_may_change_between_pages(world: World) -> None:
    fill(world, NAMES)
    first = await list_names(world.vault, CALLER, "", 1)
    assert shown(await list_names(world.vault, CALLER, "", 100, first.next_page_token)) == NAMES[1:]


async def test_invalid_arguments_reach_neither_policy_nor_store(world: World) -> None:
    cases: list[tuple[type[VaultError], str, str, int]] = [
        (InvalidKeyId, "prefix", "a b", 0),
        (InvalidKeyId, "prefix", "prod/*", 0),
        (InvalidKeyId, "prefix", "ä", 0),
        (InvalidKeyId, "prefix", "a" * 256, 0),
        (InvalidRequest, "page_size", "prod/", -1),
        (InvalidRequest, "page_size", "prod/", -(2**31)),
    ]
    for expected, field, prefix, size in cases:
        error = await refused(list_names(world.vault, CALLER, prefix, size))
        assert type(error) is expected
        assert error.field == field
    assert not world.records.calls


async def test_a_token_serves_its_own_listing_only(world: World) -> None:
    fill(world, NAMES)
    token = (await list_names(world.vault, CALLER, "prod", 1)).next_page_token
    world.records.calls.clear()
    for prefix, deleted in (("prod/", False), ("pro", False), ("", False), ("prod", True)):
        error = await refused(list_names(world.vault, CALLER, prefix, 1, token, deleted=deleted))
        assert type(error) is BadPageToken
        assert error.field == "page_token"
    assert not world.records.calls


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "ä",
        "=",
        "\0",
        "x" * 100_000,
        *(
            base64.urlsafe_b64encode(place).decode()
            for place in (
                b"live#prod/#",
                b"live#prod/#prod/",
                b"live#prod/#test/a",
                b"live#prod/#prod/\xc3\xa4",
                b"live#prod/#prod/a b",
                b"live#prod/#" + b"prod/" + b"a" * 251,
                b"live#prod/#prod/#a",
                b"live#prod/",
                b"prod/a",
                b"deleted#prod/#prod/a",
                b"gone#prod/#prod/a",
                b"live#prod/#prod/a\n",
            )
        ),
        base64.urlsafe_b64encode(b"live#prod/#prod/a").decode().rstrip("="),
        base64.urlsafe_b64encode(b"live#prod/#prod/ab").decode() + "\n",
        base64.urlsafe_b64encode(b"live#prod/#prod/ab").decode() + "=",
    ],
)
async def test_what_no_list_returned_is_a_bad_page_token(world: World, token: str) -> None:
    fill(world, NAMES)
    assert type(await refused(list_names(world.vault, CALLER, "prod/", 1, token))) is BadPageToken
    assert not world.records.calls


async def test_a_token_is_a_place_even_where_its_name_is_gone(world: World) -> None:
    fill(world, NAMES)
    token = (await list_names(world.vault, CALLER, "prod/", 2)).next_page_token
    del world.records.records[TENANT, "prod/a/x"]
    fill(world, ["prod/a/w", "prod/a/y"])
    assert shown(await list_names(world.vault, CALLER, "prod/", 0, token)) == ["prod/a/y", "prod/b"]


async def test_the_longest_names_go_on_to_the_next_page(world: World) -> None:
    longest = ["a" * 254 + last for last in "abc"]
    fill(world, longest)
    assert await all_pages(world, "a" * 254, 1) == [[name] for name in longest]
    assert await all_pages(world, longest[1], 1) == [[longest[1]]]


class Answering(FakeRecordStore):
    """Answers what a test says, as an index may that was written past the vault."""

    def __init__(self, page: NamePage) -> None:
        super().__init__()
        self._page = page

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        return self._page


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (["prod/c", "prod/b"], None),
        (["prod/b", "prod/b"], None),
        (["prod/a"], None),
        (["prod/0"], None),
        (["prod/b", "test/a"], None),
        (["prod/b", "prod/c d"], None),
        (["prod/b"], "prod/"),
        ([], "test/a"),
    ],
)
async def test_a_page_that_no_store_can_have_is_corrupt(names: list[str], more: str | None) -> None:
    """It would show a name twice, or one that the caller may not see."""
    token = base64.urlsafe_b64encode(b"live#prod/#prod/a").decode()
    store = Answering(NamePage([ListedName(name, 1) for name in names], more))
    error = await refused(list_names(Vault(FakeKeyService(), store), CALLER, "prod/", 10, token))
    assert type(error) is RecordCorrupt


async def test_a_page_can_be_empty_and_not_the_last() -> None:
    store = Answering(NamePage([], "prod/b"))
    page = await list_names(Vault(FakeKeyService(), store), CALLER, "prod/")
    assert page.names == []
    assert page.next_page_token


async def test_a_planted_name_is_a_corrupt_record(world: World) -> None:
    for planted in ("prod/a b", "prod/\x1b[2K", "prod/", "prod/#"):
        fill(world, ["prod/a", planted])
        assert type(await refused(list_names(world.vault, CALLER, "prod/"))) is RecordCorrupt
        world.records.records.clear()
