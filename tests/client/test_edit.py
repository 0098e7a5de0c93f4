"""`keyvault edit` with editors that behave, and with those that do not: nothing is lost, and nothing is left behind."""

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from keyvault_client.editor import file_in, find_editor
from keyvault_client.errors import InvalidRequest
from tests.support.processes import BIN
from tests.support.shell import Shell, one_line, without_room

APPEND = 'printf " and more" >> "$1"'


def test_the_first_variable_that_is_set_names_the_editor() -> None:
    path = {"PATH": os.environ["PATH"]}
    assert find_editor(path | {"VISUAL": " ", "EDITOR": "cat -u 'a b'"}) == ["cat", "-u", "a b"]
    assert find_editor(path | {"VISUAL": "true", "EDITOR": "cat"}) == ["true"]
    assert find_editor(path | {"KEYVAULT_EDITOR": "env true", "VISUAL": "cat"}) == ["env", "true"]


@pytest.mark.parametrize("editor", ["cat 'unbalanced", "nonsense-editor -x", "''"])
def test_an_editor_that_cannot_be_is_refused_by_its_variable(editor: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^VISUAL: "):
        find_editor({"VISUAL": editor, "EDITOR": "true"})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("prod/db.json", "db.json"),
        ("db", "db"),
        ("a/..", "secret"),
        ("a/.exrc", "exrc"),
        ("a/-x", "x"),
        ("-", "secret"),
    ],
)
def test_the_file_ends_as_the_name_does_and_hides_nothing(name: str, file: str) -> None:
    assert file_in(Path("/folder"), name) == Path("/folder") / file
    assert len(file_in(Path("/folder"), "a" * 255).name) == 100


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory, address: str) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    Shell(folder, address).ok("generate-key edit/ --save edit.key")
    return folder / "edit.key"


class Edited:
    """A record of a test, and an editor."""

    def __init__(self, shell: Shell, name: str) -> None:
        self.shell = shell
        self.name = name
        self.line = f"edit {name} --key edit.key"

    def editor(self, script: str) -> None:
        """Let the editor be this script of a shell, with the file as $1; it notes where it was."""
        path = self.shell.directory / "editor"
        note = f'echo "$1" > {self.shell.directory}/where; '
        self.shell.environment["KEYVAULT_EDITOR"] = f"{path} --argument"
        path.touch(0o700)
        path.write_text(f"#!/bin/sh\n[ $1 = --argument ] || exit 99\nshift\n{note}{script}\n")

    def stored(self) -> bytes:
        return self.shell.ok(f"read {self.name} --key edit.key")

    def left(self) -> list[Path]:
        """Return what is left of the file and its folder."""
        path = Path((self.shell.directory / "where").read_text().strip())
        return [each for each in (path, path.parent) if os.path.lexists(each)]

    def kept(self) -> bytes:
        """Return the text that was kept, as `keyvault open` shows it."""
        (file,) = (self.shell.directory / "state" / "keyvault" / "edits").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        return self.shell.ok(f"open {self.name} --key edit.key", file.read_bytes())


@pytest.fixture
def edited(shell: Shell, key: Path, request: pytest.FixtureRequest) -> Edited:
    name = f"edit/{re.sub('[^a-z_]', '-', request.node.name)}x"
    (shell.directory / "edit.key").symlink_to(key)
    shell.environment |= {"XDG_STATE_HOME": str(shell.directory / "state")}
    shell.ok(f"create {name} --key edit.key", b"hunter2")
    return Edited(shell, name)


@pytest.mark.process
def test_a_record_is_changed_in_an_editor(edited: Edited) -> None:
    edited.editor(APPEND)
    assert edited.shell.ok(edited.line) == f"{edited.name} is at revision 2\n".encode()
    assert (edited.stored(), edited.left()) == (b"hunter2 and more", [])


@pytest.mark.process
def test_the_file_is_ours_alone_and_in_memory(edited: Edited) -> None:
    edited.editor('stat -c "%a %n" "$1" "$(dirname "$1")"; stat -f -c %T "$1"')
    file, folder, system, _ = edited.shell.ok(edited.line).decode().splitlines()
    assert (file.split()[0], folder.split()[0]) == ("600", "700")
    if Path("/dev/shm").is_dir():
        assert system == "tmpfs"


@pytest.mark.process
@pytest.mark.parametrize("script", ["true", 'echo >> "$1"', 'cp "$1" "$1.new"; mv "$1.new" "$1"'])
def test_a_text_that_is_as_before_is_not_written(edited: Edited, script: str) -> None:
    """A line end that an editor adds is no change."""
    edited.editor(script)
    assert edited.shell.ok(edited.line) == f"{edited.name} is unchanged at revision 1\n".encode()
    assert edited.left() == []


@pytest.mark.process
def test_line_ends_of_a_text_that_has_one_stay(edited: Edited) -> None:
    edited.shell.ok(f"update {edited.name} --key edit.key", b"a\n")
    edited.editor('echo >> "$1"')
    edited.shell.ok(edited.line)
    assert edited.stored() == b"a\n\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "status", "sentence"),
    [
        ('echo x > "$1"; exit 1', 1, "ended with exit code 1: nothing was changed"),
        ('echo x > "$1"; kill -9 $$', 1, "was killed by SIGKILL: nothing was changed"),
        ('rm "$1"', 1, "the editor removed the file: nothing was changed"),
        ('rm -r "$(dirname "$1")"', 1, "the editor removed the file: nothing was changed"),
        ('ln -sf /etc/hostname "$1"', 1, "the editor left no regular file of yours"),
        ('rm "$1"; mkfifo "$1"', 1, "the editor left no regular file of yours"),
        ('rm "$1"; mkdir "$1"; touch "$1/x"', 1, "the editor left no regular file of yours"),
        ('truncate -s 10G "$1"', 2, "the text is too long"),
        (': > "$1"', 2, "the text is empty: nothing was changed"),
        ('echo > "$1"', 2, "the text is empty: nothing was changed"),
    ],
)
def test_an_editor_that_fails_changes_nothing(edited: Edited, script: str, status: int, sentence: str) -> None:
    edited.editor(script)
    assert sentence in edited.shell.refused(edited.line, status)
    assert (edited.stored(), edited.left()) == (b"hunter2", [])


@pytest.mark.process
@pytest.mark.parametrize(
    "script",
    [
        'cp "$1" "$1~"; mkdir "$(dirname "$1")/.swap"; cp "$1" "$(dirname "$1")/.swap/x"',
        'chmod 000 "$1"',
        'chmod 777 "$1"; chmod 500 "$(dirname "$1")"',
    ],
)
def test_what_an_editor_leaves_next_to_the_file_is_removed(edited: Edited, script: str) -> None:
    edited.editor(f"{APPEND}; {script}")
    edited.shell.ok(edited.line)
    assert (edited.stored(), edited.left()) == (b"hunter2 and more", [])


@pytest.mark.process
def test_an_empty_text_is_stored_if_asked_for(edited: Edited) -> None:
    edited.editor(': > "$1"')
    edited.shell.ok(f"{edited.line} --allow-empty")
    assert edited.stored() == b""


@pytest.mark.process
def test_data_that_an_editor_would_damage_is_refused(edited: Edited) -> None:
    edited.editor("true")
    for data in (b"\xff", b"a\0"):
        edited.shell.ok(f"update {edited.name} --key edit.key", data)
        assert "is not text" in edited.shell.refused(edited.line)
    assert not (edited.shell.directory / "where").exists()


@pytest.mark.process
def test_a_text_that_finds_no_room_is_named_and_removed(edited: Edited) -> None:
    edited.editor("true")
    message = one_line(without_room(edited.shell, f"{edited.line} --no-state"), 1)
    assert "x: File too large" in message
    assert not Path(message.split()[1]).parent.exists()
    assert not (edited.shell.directory / "where").exists()


def _changes_it(edited: Edited, data: str) -> str:
    """A line of an editor that lets another writer go first, once."""
    once = f"{edited.shell.directory}/once"
    return (
        f"[ -e {once} ] || printf '{data}' | {BIN}/keyvault update {edited.name} "
        f"--key {edited.shell.directory}/edit.key >&2; touch {once}; {APPEND}"
    )


@pytest.mark.process
@pytest.mark.slow
def test_a_change_in_between_is_a_conflict_and_loses_nothing(edited: Edited) -> None:
    edited.editor(_changes_it(edited, "of another"))
    done = edited.shell.run(edited.line)
    *_, note, line = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (4, b"")
    assert line.startswith(f"keyvault: {edited.name} was changed while you edited revision 1: nothing was written")
    assert "your text is kept, sealed" in note
    assert (edited.stored(), edited.kept(), edited.left()) == (b"of another", b"hunter2 and more", [])


@pytest.mark.process
@pytest.mark.slow
def test_a_text_that_finds_no_server_is_kept(edited: Edited) -> None:
    token = edited.shell.directory / "token"
    token.write_text("a.token")
    edited.editor(f'{APPEND}; rm "{token}"')
    done = edited.shell.run(f"{edited.line} --token-file token")
    assert done.returncode != 0
    assert (edited.stored(), edited.kept(), edited.left()) == (b"hunter2", b"hunter2 and more", [])


@pytest.mark.process
@pytest.mark.slow
def test_a_change_in_between_is_shown_and_can_be_replaced(edited: Edited) -> None:
    edited.editor(_changes_it(edited, "of another\\033[2K"))
    with edited.shell.at_terminal(edited.line) as person:
        person.wait_for("[Y/n]")
        assert "-hunter2\r\n" in person.shown
        assert "+of another\\x1b[2K\r\n" in person.shown
        person.type(b"\n")
        assert person.end() == 0
    assert (edited.stored(), edited.left()) == (b"hunter2 and more and more", [])
    assert not (edited.shell.directory / "state" / "keyvault" / "edits").exists()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("keys", "status"), [(b"n\n", 4), (b"\x04", 4), (b"\x03", 130)])
def test_a_person_who_gives_up_keeps_the_text(edited: Edited, keys: bytes, status: int) -> None:
    edited.editor(_changes_it(edited, "of another"))
    with edited.shell.at_terminal(edited.line) as person:
        person.wait_for("[Y/n]")
        person.type(keys)
        assert person.end() == status
    assert (edited.stored(), edited.kept(), edited.left()) == (b"of another", b"hunter2 and more", [])


@pytest.mark.process
@pytest.mark.slow
def test_an_empty_text_can_be_edited_again(edited: Edited) -> None:
    edited.editor('[ -s "$1" ] && : > "$1" || echo -n newer > "$1"')
    with edited.shell.at_terminal(edited.line) as person:
        person.wait_for("the text is empty: nothing was changed")
        person.type(b"y\n")
        assert person.end() == 0
    assert (edited.stored(), edited.left()) == (b"newer", [])


@pytest.mark.process
@pytest.mark.slow
def test_ctrl_c_is_the_editors(edited: Edited) -> None:
    edited.editor(f"trap 'echo caught' INT; echo ready; sleep 20; {APPEND}")
    with edited.shell.at_terminal(edited.line) as person:
        person.wait_for("ready")
        person.type(b"\x03")
        assert person.end() == 0
        assert "caught" in person.shown
    assert (edited.stored(), edited.left()) == (b"hunter2 and more", [])


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("keys", "name"), [(b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT")])
def test_keys_that_end_the_editor_change_nothing(edited: Edited, keys: bytes, name: str) -> None:
    edited.editor(f"{APPEND}; echo ready; sleep 20")
    with edited.shell.at_terminal(edited.line) as person:
        person.wait_for("ready")
        person.type(keys)
        assert person.end() == 1
        assert f"was killed by {name}" in person.shown
    assert (edited.stored(), edited.left()) == (b"hunter2", [])


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_the_file_and_keeps_the_text(edited: Edited, number: signal.Signals) -> None:
    edited.editor(f"{APPEND}; echo ready; exec sleep 20")
    process = subprocess.Popen(
        [BIN / "keyvault", *edited.line.split()],
        cwd=edited.shell.directory,
        env=edited.shell.environment,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert (edited.stored(), edited.kept(), edited.left()) == (b"hunter2", b"hunter2 and more", [])
