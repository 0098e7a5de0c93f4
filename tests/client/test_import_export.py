"""`keyvault import`, `export` and `diff`, and files for input and output."""

import asyncio
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_client import KeyVault
from keyvault_client.differences import END_MISSING, differences
from keyvault_client.errors import InvalidRequest
from keyvault_client.many_records import parse_values, render_json, render_variables
from keyvault_client.records import Record
from tests.support.misbehaving import hangs, honest, misbehaving
from tests.support.servers import Served
from tests.support.shell import Shell, in_shell, one_line, without_room

NOW = datetime.now(UTC)


@pytest.mark.medium
@given(st.dictionaries(st.text(), st.binary() | st.text().map(str.encode)))
def test_json_that_is_written_is_read_as_it_was(values: dict[str, bytes]) -> None:
    assert parse_values(render_json(values).encode()) == values


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"hunter2', "the input is not valid JSON"),
        (b'{"A": "hunter2", "A": "hunter2"}', "a name that is given twice"),
        (b'{"A": 2}', "'A': the value must be a text"),
        (b'{"A": %s}' % (b"2" * 5000), "'A': the value must be a text"),
        (b'{"A": {"base64": "hunter2", "x": 1}}', "'A': the value must be a text"),
        (b'{"A": {"base64": "hunter"}}', "'A': invalid base64"),
        (b'{"A": "\\ud800"}', "'A': half of a surrogate pair is not text"),
        (b"{" * 100_000, "the input is not valid JSON"),
        (b"A=\xff", "the input is not UTF-8"),
        (b"hunter2", "line 1: expected NAME=VALUE"),
    ],
)
def test_invalid_input_is_one_sentence_without_values(content: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        parse_values(content)
    assert "hunter" not in str(refused.value)


def test_names_become_variables() -> None:
    assert render_variables({"db-password": b"a b", "2fa": b"c"}, export=False) == "DB_PASSWORD='a b'\n_2FA=c\n"
    assert render_variables({"web/token": b""}, export=True) == "export WEB_TOKEN=''\n"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"a-b": b"1", "a_b": b"2"}, "a-b and a_b are both A_B: give --format json"),
        ({"a": b"\xff"}, "a is not UTF-8: give --format json"),
        ({"a": b"\0"}, "a has a NUL byte"),
    ],
)
def test_what_no_variable_can_be_is_refused(values: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        render_variables(values, export=False)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (b"a\n", b"a\n", []),
        (b"a", b"a\n", ["-a", END_MISSING, "+a"]),
        (b"a\r\n-- \n", b"a\n-- \n", ["-a\r", "+a", " -- "]),
        (b"", b"b\x0cc\n", ["+b\x0cc"]),
        (b"-- x\n", b"", ["--- x"]),
    ],
)
def test_a_diff_shows_every_difference(old: bytes, new: bytes, lines: list[str]) -> None:
    shown = differences(*(Record("prod/db", data, number, NOW, NOW) for number, data in ((3, old), (5, new))))
    assert shown[3:] == lines
    assert shown[:2] == (["--- prod/db at revision 3", "+++ prod/db at revision 5"] if lines else [])


@pytest.fixture
def prefix(shell: Shell, request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own, with a key in `a.key`."""
    prefix = f"many/{request.node.name.split('[')[0]}/"
    shell.ok(f"generate-key {prefix} --save a.key")
    return prefix


@pytest.mark.process
@pytest.mark.slow
def test_an_import_shows_first_and_writes_if_asked_for(shell: Shell, prefix: str) -> None:
    (shell.directory / "a.env").write_text("A=hunter2\nB='two\nlines'\n")
    done = shell.run(f"import {prefix} --key a.key --from-file a.env")
    assert (done.returncode, done.stdout.decode().split()) == (0, ["create", f"{prefix}A", "create", f"{prefix}B"])
    assert done.stderr == b"keyvault: nothing was written: give --apply to write these records\n"
    assert shell.ok(f"list {prefix}") == b""
    written = shell.ok(f"import {prefix} --key a.key --apply", b"A=hunter2\nB='two\nlines'\n").decode().splitlines()
    assert written == [f"created    {prefix}{name} at revision 1" for name in "AB"]
    assert shell.ok(f"read {prefix}B --key a.key") == b"two\nlines"
    again = shell.run(f"import {prefix} --key a.key --json", b'{"A": "newer", "B": "two\\nlines", "C": ""}')
    assert "C is empty: give --allow-empty" in one_line(again, 2)
    after = shell.ok(f"import {prefix} --key a.key --json --apply", b'{"A": "newer", "B": "two\\nlines"}')
    assert json.loads(after) == {"key_id": f"{prefix}A", "action": "updated", "revision": 2}


@pytest.mark.process
@pytest.mark.slow
def test_an_import_that_is_stopped_says_what_is_done(shell: Shell, prefix: str) -> None:
    """The server refuses a name whose owner is another key."""
    shell.ok(f"generate-key {prefix} --save other.key")
    shell.ok(f"create {prefix}B --key other.key", b"x")
    line = f"import {prefix} --key a.key --apply"
    assert f"{prefix}B: " in shell.refused(line, given=b"A=1\nB=2\n")
    assert shell.ok(f"list {prefix}").decode().split() == [f"{prefix}B"]


@pytest.mark.process
@pytest.mark.slow
def test_an_export_is_imported_as_it_was(shell: Shell, prefix: str) -> None:
    values = {"a": "it's $HOME", "b-c": "two\nlines\n", "d/e": {"base64": "/w=="}}
    shell.ok(f"import {prefix} --key a.key --apply", json.dumps(values).encode())
    assert json.loads(shell.ok(f"export {prefix} --key a.key --format json")) == values
    message = f"no record begins with '{prefix}typo': nothing was exported"
    assert message in shell.refused(f"export {prefix}typo --key a.key -o typo.env", 3)
    assert not (shell.directory / "typo.env").exists()
    assert "d/e is not UTF-8" in shell.refused(f"export {prefix} --key a.key -o out.env", 2)
    assert not (shell.directory / "out.env").exists()
    shell.ok(f"delete {prefix}d/e --key a.key")
    shell.ok(f"export {prefix} --key a.key --format shell -o out.sh")
    assert stat.S_IMODE((shell.directory / "out.sh").stat().st_mode) == 0o600
    done = in_shell(shell, '. ./out.sh; sh -c \'printf "%s,%s" "$A" "$B_C"\'')
    assert done.stdout == b"it's $HOME,two\nlines\n"
    assert shell.ok(f"export {prefix}b --key a.key --format dotenv") == b"B_C='two\nlines\n'\n"


@pytest.mark.process
def test_a_diff_of_revisions_is_shown(shell: Shell, prefix: str) -> None:
    for data, verb in ((b"a\nb\n", "create"), (b"a\nc\n", "update"), (b"a\nc\n", "update"), (b"\xff", "update")):
        shell.ok(f"{verb} {prefix}x --key a.key", data)
    line = f"diff {prefix}x --key a.key"
    assert shell.ok(f"{line} 1 2").decode().splitlines()[2:] == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]
    assert shell.ok(f"{line} 2 3") == b""
    found = json.loads(shell.ok(f"{line} 3 2 --json"))
    assert found == {"key_id": f"{prefix}x", "old": 3, "new": 2, "lines": []}
    assert "is not text" in shell.refused(f"{line} 1")
    shell.refused(f"{line} 1 9", status=3)


@pytest.mark.process
@pytest.mark.slow
def test_files_take_and_give_data_as_it_is(shell: Shell, prefix: str) -> None:
    data = bytes(range(256))
    (shell.directory / "in").write_bytes(data)
    shell.ok(f"create {prefix}x --key a.key --from-file in")
    assert shell.ok(f"read {prefix}x --key a.key -o out") == b""
    out = shell.directory / "out"
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (data, 0o600)
    shell.ok(f"update {prefix}x --key a.key --from-file /dev/null --allow-empty")
    out.chmod(0o644)
    shell.ok(f"read {prefix}x --key a.key --output out")
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (b"", 0o600)
    (shell.directory / "empty").touch()
    assert "--allow-empty" in shell.refused(f"update {prefix}x --key a.key --from-file empty", 2)
    assert "nosuch" in shell.refused(f"update {prefix}x --key a.key --from-file nosuch", 2)
    assert "is too long" in shell.refused(f"update {prefix}x --key a.key --from-file /dev/zero", 2)


@pytest.mark.process
def test_output_that_has_no_place_leaves_what_was_there(shell: Shell, prefix: str) -> None:
    shell.ok(f"create {prefix}x --key a.key", b"x")
    kept = (shell.directory / "a.key").read_bytes()
    assert "is the key file" in shell.refused(f"read {prefix}x --key a.key -o a.key", 2)
    assert (shell.directory / "a.key").read_bytes() == kept
    assert "nosuch/out: No such file" in shell.refused(f"read {prefix}x --key a.key -o nosuch/out")
    (shell.directory / "loop").symlink_to("loop")
    shell.ok(f"read {prefix}x --key a.key -o loop")
    assert "/dev/full: No space left" in shell.refused(f"read {prefix}x --key a.key -o /dev/full")
    (shell.directory / "out").write_text("old")
    done = without_room(shell, f"read {prefix}x --key a.key -o out --no-state")
    assert "out: File too large" in one_line(done, 1)
    assert (shell.directory / "out").read_text() == "old"
    assert not list(shell.directory.glob(".out*"))


@pytest.mark.process
@pytest.mark.slow
async def test_ctrl_c_in_an_import_says_what_is_done(server: Served, tmp_path: Path) -> None:
    async with KeyVault(server.address) as vault:
        (await vault.generate_key("many/stopped/")).save(tmp_path / "a.key")
    (tmp_path / "a.env").write_text("A=1\nB=2\n")
    line = "import many/stopped/ --key a.key --from-file a.env --apply"

    def interrupted(address: str) -> tuple[int, str]:
        with Shell(tmp_path, address).at_terminal(line) as person:
            person.wait_for("created")
            person.type(b"\x03")
            return person.end(), person.shown

    async with misbehaving(server, {"Create": [honest, hangs]}) as peer:
        status, shown = await asyncio.to_thread(interrupted, peer.address)
    assert status == 130
    assert "1 of 2 records were written; the same command does the rest" in shown
