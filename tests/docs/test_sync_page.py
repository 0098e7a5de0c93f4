"""The examples of docs/sync.md run, each in a process of its own."""

from pathlib import Path

import pytest

from tests.support.pages import Reader, blocks_of
from tests.support.processes import server_process

FIRST, CACHE, FLASK, DJANGO, LAMBDA = (text for _, text in blocks_of("docs/sync.md"))
POST = """
reply = app.test_client().post("/sign", data=b"hello")
assert (reply.status_code, len(reply.text)) == (200, 64)
vault.close()
assert app.test_client().post("/sign", data=b"hello").status_code == 503
"""
READ = """
assert DATABASES["default"]["PASSWORD"] == "s3cret"
"""
CALL = """
assert [handler({}, None), handler({}, None)] == [1, 1]
vault.update("prod/db", b"newer", key=key)
assert handler({}, None) == 2
"""


@pytest.mark.process
@pytest.mark.external
@pytest.mark.slow
def test_every_example_runs(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        reader = Reader(tmp_path, server.address)
        assert reader.run("python", FIRST) == "prod/db b's3cret'\n"
        assert reader.run("python", CACHE) == "b's3cret'\n"
        for block, check in ((FLASK, POST), (DJANGO, READ), (LAMBDA, CALL)):
            reader.run("python", block + check)
