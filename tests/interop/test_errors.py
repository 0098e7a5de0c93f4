"""What each language says when it is refused: one line with the server's reason, and no secret."""

import json
from pathlib import Path

import pytest

from tests.interop.clients import Client, KeyvaultCommand
from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs
from tests.support.processes import BIN

pytestmark = [*MARKS, pytest.mark.parametrize("language", LANGUAGES)]


@pytest.fixture
def owner(address: str) -> KeyvaultCommand:
    """Somebody else, who makes keys and owns records."""
    return KeyvaultCommand((BIN / "keyvault",), {"KEYVAULT_ADDRESS": address})


def test_an_unknown_name(
    language: str, programs: Programs, address: str, owner: KeyvaultCommand, tmp_path: Path
) -> None:
    client = programs.get(language).at(address)
    name, key = f"errors/absent-{language}", tmp_path / "a.key"
    owner.generate(name, key)
    line = client.refused(client.word("read"), name, "--key", key)
    assert says(client, line, "NOT_FOUND", "RECORD_NOT_FOUND", key)


def test_the_key_of_another(
    language: str, programs: Programs, address: str, owner: KeyvaultCommand, tmp_path: Path
) -> None:
    client = programs.get(language).at(address)
    name, key, mine = f"errors/taken-{language}", tmp_path / "a.key", tmp_path / "b.key"
    owner.create(name, key, b"theirs")
    owner.generate(name, mine)
    for arguments in ((client.word("update"), name, "--key", mine), ("delete", name, "--key", mine)):
        line = client.refused(*arguments, given=b"ours")
        assert "does not open" in line, "sealed for a revision that the key does not prove"
        assert not discloses(line, key, mine)
    assert owner.read(name, key) == b"theirs"


def says(client: Client, line: str, status: str, reason: str, *keys: Path) -> bool:
    """Whether a line has the reason, and the status where the program names it, and nothing of these keys."""
    assert not discloses(line, *keys)
    if isinstance(client, KeyvaultCommand):
        return f"[{reason} " in line
    return line.startswith(f"kv: {status} {reason}: ")


def discloses(line: str, *keys: Path) -> bool:
    """Whether a line has a secret of these key files."""
    secrets = [value for key in keys for name, value in json.loads(key.read_bytes()).items() if name.endswith("_key")]
    assert secrets
    return any(secret in line for secret in secrets)
