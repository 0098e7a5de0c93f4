"""Every block of docs/debugging.md runs, in order, and shows what the page says that it shows.

The page is one session of a shell, and another one for each server that it starts. A section that needs a server of
its own, one with a policy say, begins with its block of `keyvault-server serve`, and is tested by being there.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.pages import Reader, blocks_of, shows, started
from tests.support.processes import server_process
from tests.support.repository import ROOT
from tests.support.tools import TOOLS, tool, toolchain

LISTEN = re.compile(r"(?<=--listen )127\.0\.0\.1:\d+")


def sessions() -> list[list[tuple[str, str]]]:
    """The page's blocks, cut before each that starts a server; of each, what is shown after it, or "..."."""
    cut: list[list[tuple[str, str]]] = [[]]
    for language, block in blocks_of("docs/debugging.md"):
        if language == "text":
            cut[-1][-1] = (cut[-1][-1][0], block)
        elif "keyvault-server serve" in block:
            cut.append([(block, "...")])
        else:
            cut[-1].append((block, "..."))
    return cut


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader in what the page needs of a checkout, with a running server."""
    toolchain("openssl")
    grpcurl = tool("grpcurl", "bin/grpcurl")
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".tools").symlink_to(TOOLS)
    with server_process(tmp_path / "data") as server:
        reader = Reader(tmp_path, server.address)
        reader.add_to_path(grpcurl)
        yield reader


@pytest.mark.process
@pytest.mark.external
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_shows_what_a_screen_shows(reader: Reader) -> None:
    first, *beside_servers = sessions()
    compare(reader, first)
    with ExitStack() as servers:
        for (server, _), *session in beside_servers:
            (address,) = LISTEN.findall(server)
            block = LISTEN.sub("127.0.0.1:0", server)
            reader.moved[address] = servers.enter_context(started(block, reader.folder))
            compare(reader, session)


def compare(reader: Reader, session: list[tuple[str, str]]) -> None:
    screens = reader.show(block for block, _ in session)
    for (block, expected), screen in zip(session, screens, strict=True):
        assert shows(screen, expected), f"{block}\nshowed\n{screen}"


def test_a_page_that_says_something_else_is_found_out() -> None:
    assert shows('{\n  "a": "1",\n\t"b": "xyz"\n}\n', '{\n  "a": "1",\n  "b": "..."\n}\n')
    assert not shows('{"a": "2"}', '{"a": "1"}')
    assert not shows("one two", "one")
    assert not shows("one", "one\n...two")
