"""What each language says when it is refused: one line with the server's reason, and no secret."""

import json
from pathlib import Path

import pytest

from tests.interop.clients import Client, KeyvaultCommand
from tests.interop.languages import LANGUAGES
from tests.interop.programs import TOGETHER, Programs
from tests.support.processes import BIN

pytestmark = [*TOGETHER, pytest.mark.parametrize("language", LANGUAGES)]


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
    line = client.refused(client.reading, name, "--key", key)
    assert says(client, line, "NOT_FOUND", "RECORD_NOT_FOUND", key)


def test_the_key_of_another(
    language: str, programs: Programs, address: str, owner: KeyvaultCommand, tmp_path: Path
) -> None:
    client = programs.get(language).at(address)
    name, key, mine = f"errors/taken-{language}", tmp_path / "a.key", tmp_path / "b.key"
    owner.create(name, key, b"theirs")
    owner.generate(name, mine)
    for arguments in ((client.updating, name, "--key", mine), ("delete", name, "--key", mine)):
        line = client.refused(*arguments, given=b"ours")
        assert says(client, line, "PERMISSION_DENIED", "NOT_AUTHORIZED", key, mine)
    assert owner.read(name, key) == b"theirs"


def says(client: Client, line: str, status: str, reason: str, *keys: Path) -> bool:
    """Whether a line has the reason, and the status where the program names it, and nothing of these keys."""
    secrets = [value for key in keys for name, value in json.loads(key.read_bytes()).items() if name.endswith("_key")]
    assert secrets
    assert not any(secret in line for secret in secrets), "a key is in the line"
    if isinstance(client, KeyvaultCommand):
        return f"[{reason} " in line
    return line.startswith(f"kv: {status} {reason}: ")
