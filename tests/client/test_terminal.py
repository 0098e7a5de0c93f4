"""`keyvault` for a person at a terminal: what is typed is not shown, and what is shown controls nothing."""

import base64
import json
import re
from pathlib import Path

import pytest

from keyvault_api import envelope
from keyvault_client import DataKey
from tests.support.processes import BIN
from tests.support.shell import Shell
from tests.support.terminal import at_terminal

pytestmark = [pytest.mark.process, pytest.mark.slow]

SECRET = b"hunter2 \xc3\xa9"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A record of the test's own, on the shared server."""
    return f"prod/{re.sub('[^a-z_]', '-', request.node.name)}x"


@pytest.fixture
def key(shell: Shell) -> Path:
    """A file with a key for "prod/"."""
    shell.ok("generate-key prod/ --save prod.key")
    return shell.directory / "prod.key"


def stored(shell: Shell, name: str) -> bytes:
    return shell.ok(f"read {name} --key prod.key")


def typed(shell: Shell, line: str, keys: bytes) -> tuple[int, str]:
    """Answer the command's question; return the exit status and all that the terminal showed."""
    with shell.at_terminal(line) as person:
        person.wait_for("not shown: ")
        assert not person.echoes
        person.type(keys)
        status = person.end()
        return status, person.shown


def test_a_typed_secret_is_not_shown_and_has_no_line_end(shell: Shell, key: Path, name: str) -> None:
    status, shown = typed(shell, f"create {name} --key prod.key", SECRET + b"\r")
    assert (status, shown) == (0, f"Data of {name}, one line, not shown: \r\n{name} is at revision 1\r\n")
    assert stored(shell, name) == SECRET
    status, shown = typed(shell, f"update {name} --key prod.key", b"newer\n")
    assert status == 0
    assert "newer" not in shown
    assert stored(shell, name) == b"newer"
    status, shown = typed(shell, f"update {name} --key prod.key", b"half a line\x04\x04")
    assert status == 0
    assert stored(shell, name) == b"half a line"


def test_an_envelope_is_sealed_from_a_terminal_to_a_file(shell: Shell, key: Path) -> None:
    status, shown = typed(shell, "seal prod/x --key prod.key --revision 1 --json", b"typed\n")
    assert status == 0
    assert "typed" not in shown
    assert '"envelope"' in shown
    status, shown = typed(shell, "seal prod/x --key prod.key --revision 1", b"typed\n")
    assert status == 2
    assert "refusing to show an envelope on the screen" in shown


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (b"\n", "standard input is empty"),
        (b"\x04", "standard input is empty"),
        (b"-----BEGIN\nrm -rf x\n", "more than one line"),
        (b"-----BEGIN\nno end", "more than one line"),
        (b"-----BEGIN\r\n\r\nno end", "more than one line"),
        (b"x" * 4_095 + b"\n", "fewer than 4095 bytes"),
        (b"x" * 9_000 + b"\n", "fewer than 4095 bytes"),
    ],
    ids=["empty", "end", "lines", "half", "windows", "long", "longer"],
)
def test_what_a_terminal_cannot_hand_over_is_refused(shell: Shell, key: Path, keys: bytes, sentence: str) -> None:
    status, shown = typed(shell, "create prod/refused --key prod.key", keys)
    assert (status, sentence in shown) == (2, True), shown
    assert "rm -rf" not in shown
    assert "no such record" in shell.refused("read prod/refused --key prod.key", status=3)


@pytest.mark.parametrize("keys", [b"x" * 4_094 + b"\n", b"pasted with its end\r\n\r\n"], ids=["longest", "pasted"])
def test_a_whole_line_is_stored(shell: Shell, key: Path, name: str, keys: bytes) -> None:
    assert typed(shell, f"create {name} --key prod.key", keys)[0] == 0
    assert stored(shell, name) == keys.strip()


def test_ctrl_c_at_the_question_stores_nothing(shell: Shell, key: Path, name: str) -> None:
    with shell.at_terminal(f"create {name} --key prod.key") as person:
        person.wait_for("not shown: ")
        person.type(b"half\x03")
        assert person.end() == 130
        assert person.echoes
        assert "half" not in person.shown
        assert "Traceback" not in person.shown
    assert "no such record" in shell.refused(f"read {name} --key prod.key", status=3)


def test_the_terminal_echoes_again_afterwards(shell: Shell, key: Path, name: str) -> None:
    with shell.at_terminal(f"create {name} --key prod.key") as person:
        person.wait_for("not shown: ")
        person.type(b"x\n")
        person.wait_for("revision 1")
        assert person.echoes


def test_a_legacy_record_is_not_shown(shell: Shell) -> None:
    status, shown = typed(shell, "import-legacy prod/x --key fresh.key", b'{"secret": "hunter2"}\n')
    assert (status, "not a legacy record" in shown, "hunter2" in shown) == (2, True, False)


def sealed(key: Path, data: bytes) -> bytes:
    """Data in an envelope for prod/x."""
    owner = DataKey.load(key)
    return envelope.seal(owner.secret(), owner.tenant, "prod/x", 1, data)


def opened(shell: Shell, key: Path, data: bytes, how: str = "") -> tuple[int, str]:
    """Open an envelope from a file; return the exit status and what the terminal shows."""
    (shell.directory / "sealed").write_bytes(sealed(key, data))
    line = f"{BIN / 'keyvault'} open prod/x --key prod.key < sealed {how}"
    with at_terminal(["bash", "-c", line], shell.directory, shell.environment) as person:
        return person.end(), person.shown


SHOWN = [
    (b"s3cret", "s3cret\r\n"),
    (b"s3cret\n", "s3cret\r\n"),
    (b"two\n\tlines", "two\r\n\tlines\r\n"),
    ("Grüße 🔑".encode(), "Grüße 🔑\r\n"),
    (b"", ""),
]


@pytest.mark.parametrize(("data", "shown"), SHOWN)
def test_text_is_shown_on_lines_of_its_own(shell: Shell, key: Path, data: bytes, shown: str) -> None:
    assert opened(shell, key, data) == (0, shown)


HARMFUL = b"a\x1b[2Kb\rc\xc2\x9b1Ad\xe2\x80\xaee\x07"


def test_control_characters_are_shown_as_escapes(shell: Shell, key: Path, name: str) -> None:
    shell.ok(f"create {name} --key prod.key", HARMFUL)
    with shell.at_terminal(f"read {name} --key prod.key") as person:
        assert person.end() == 0
        note, shown = person.shown.splitlines()
    assert shown == "a\\x1b[2Kb\\rc\\x9b1Ad\\u202ee\\x07"
    assert "--raw" in note
    with shell.at_terminal(f"read {name} --key prod.key --raw") as person:
        assert (person.end(), person.shown) == (0, HARMFUL.decode())
    assert stored(shell, name) == HARMFUL
    assert shell.ok(f"read {name} --key prod.key --raw") == HARMFUL


@pytest.mark.parametrize("data", [b"\xff\xfe", b"text\0text"], ids=["bytes", "zero"])
def test_binary_data_is_not_shown(shell: Shell, key: Path, data: bytes) -> None:
    status, shown = opened(shell, key, data)
    assert (status, "refusing to show binary data on the screen" in shown) == (2, True)
    assert opened(shell, key, data, "--raw") == (0, data.decode(errors="replace"))
    assert opened(shell, key, data, "| od -An -tx1") == (0, f" {data.hex(' ')}\r\n")


def test_a_pasted_response_is_opened_and_may_have_lines(shell: Shell, key: Path) -> None:
    """Without its key it is harmless, and grpcurl prints it on several lines."""
    response = json.dumps({"envelope": base64.b64encode(sealed(key, b"s3cret")).decode(), "revision": "1"}, indent=1)
    with shell.at_terminal("open prod/x --key prod.key") as person:
        person.type(response.encode() + b"\n\x04")
        assert person.end() == 0
        assert person.shown.endswith("s3cret\r\n")
