"""Every language creates a record, and every other one reads, updates, rotates and deletes it."""

from pathlib import Path

import pytest

from tests.interop.clients import Client
from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs

pytestmark = MARKS
EVERY_BYTE = bytes(range(256)) + b"\r\n\x00\n"
TWO_CHUNKS_AND_MORE = bytes(i % 251 for i in range(40_000))


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("other", LANGUAGES)
@pytest.mark.parametrize("creator", LANGUAGES)
def test_what_one_language_creates_another_one_uses(
    creator: str, other: str, programs: Programs, address: str, tmp_path: Path
) -> None:
    first, second = (programs.get(language).at(address) for language in (creator, other))
    pass_to_and_fro(first, second, f"interop/{creator}-{other}", tmp_path)


def pass_to_and_fro(first: Client, second: Client, name: str, folder: Path) -> None:
    """The life of a record, both keys in files that one program writes and the other reads."""
    key, new_key = folder / "first.key", folder / "second.key"
    assert first.create(name, key, EVERY_BYTE) == 1
    assert second.read(name, key) == EVERY_BYTE
    assert second.update(name, key, TWO_CHUNKS_AND_MORE) == 2
    assert first.read(name, key) == TWO_CHUNKS_AND_MORE
    assert second.rotate(name, key, new_key) == 3
    assert first.read(name, new_key) == TWO_CHUNKS_AND_MORE
    assert first.update(name, new_key, b"") == 4
    assert second.read(name, new_key) == b""
    assert second.delete(name, new_key) == 5
    assert "RECORD_NOT_FOUND" in first.refused(first.word("read"), name, "--key", new_key)
    assert {file.stat().st_mode & 0o777 for file in (key, new_key)} == {0o600}
