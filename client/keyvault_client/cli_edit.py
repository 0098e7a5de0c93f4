"""The command `keyvault edit`: change a record in an editor.

The rules of this file:

* What is written replaces the revision that was read, by compare-and-swap. A change in between is shown, and the text
  is offered to the editor again.
* What was typed is not lost: text that could not be stored is kept on the disk, sealed as a record is.
* A text that is empty, or as it was, is not stored.
"""

import os
import secrets
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import NoReturn

from keyvault_api.envelope import MAX_PLAINTEXT
from keyvault_api.printable import printable
from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import AllowEmpty, AsJson, KeyId
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.differences import differences
from keyvault_client.editor import edit_text, file_in, find_editor, private_folder, read_text, save_text
from keyvault_client.errors import Conflict, InvalidRequest, KeyVaultError
from keyvault_client.key_files import save_new_file
from keyvault_client.key_sources import ChosenKeys
from keyvault_client.prompt import agrees, is_interactive
from keyvault_client.records import Record, seal
from keyvault_client.terminal import print_error
from keyvault_client.user_folders import state_folder


async def edit(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    allow_empty: AllowEmpty = False,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Change a record in your editor: KEYVAULT_EDITOR, VISUAL or EDITOR, which may have arguments.

    If somebody else changed the record while you edited, the change is shown, and you can edit again. A line end that
    your editor adds to the end of the text is not stored.

    Example: `EDITOR=nano keyvault edit prod/db`
    """
    editor, owner = find_editor(os.environ), keys.choose(key_id)
    record = await _read(key_id, owner, connection)
    with private_folder() as folder:
        path = file_in(folder, key_id)
        save_text(path, record.plaintext)
        while True:
            text = _edit(editor, path, record, owner)
            if text == record.plaintext:
                _report(key_id, record.revision, changed=False, json=json)
                return
            if not _accepts(text, allow_empty=allow_empty):
                continue
            try:
                revision = await _store(key_id, owner, record, text, connection)
            except Conflict as conflict:
                record = await _offer_again(conflict, record, owner, text, connection)
                continue
            _report(key_id, revision, changed=True, json=json)
            return


def _report(key_id: str, revision: int, *, changed: bool, json: bool) -> None:
    if json:
        print(dumps({"key_id": key_id, "revision": revision, "changed": changed}))
    else:
        print(f"{key_id} is {'' if changed else 'unchanged '}at revision {revision}")


async def _read(key_id: str, owner: ChosenKeys, connection: ConnectionOptions) -> Record:
    """Read the record. Raises KeyVaultError, also for data that an editor would damage."""
    async with connection.connect(owner.ring) as vault:
        record = await vault.read(key_id, key=owner.key)
    try:
        is_text = "\0" not in record.plaintext.decode()
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise KeyVaultError(f"{key_id} is not text, which an editor could damage: use `keyvault read` and `update`")
    return record


def _edit(editor: Sequence[str], path: Path, record: Record, owner: ChosenKeys) -> bytes:
    """Return the text that the person saved. If a signal ends this process before, keep what was saved by then."""
    try:
        return _as_before(record.plaintext, edit_text(editor, path))
    except SystemExit:
        text = _as_before(record.plaintext, read_text(path))
        if text not in (b"", record.plaintext):
            _keep(owner, record, text)
        raise


def _as_before(before: bytes, text: bytes) -> bytes:
    """Return the text without the line end that editors add to the last line, if it had none before."""
    return text if before.endswith(b"\n") else text.removesuffix(b"\n")


def _accepts(text: bytes, *, allow_empty: bool) -> bool:
    """Return whether to store the text, False if the person wants to edit it again first. Raises InvalidRequest."""
    if not text and not allow_empty:
        refusal = InvalidRequest("the text is empty: nothing was changed. Give --allow-empty to store 0 bytes")
    elif len(text) > MAX_PLAINTEXT:
        refusal = InvalidRequest(f"the text is too long: a record holds at most {MAX_PLAINTEXT} bytes")
    else:
        return True
    if not is_interactive() or not agrees(f"keyvault: {refusal}. Edit it again? [Y/n] "):
        raise refusal
    return False


async def _store(key_id: str, owner: ChosenKeys, record: Record, text: bytes, connection: ConnectionOptions) -> int:
    """Replace the record that was read. Keep the text if that fails for anything but a change in between."""
    try:
        async with connection.connect(owner.ring) as vault:
            return (await vault.update(key_id, text, key=owner.key, revision=record.revision)).revision
    except Conflict:
        raise
    except BaseException:  # Ctrl-C too
        _keep(owner, record, text)
        raise


async def _offer_again(
    conflict: Conflict, record: Record, owner: ChosenKeys, text: bytes, connection: ConnectionOptions
) -> Record:
    """Show the change in between, and return the record as it is now if the person wants to edit again."""
    try:
        if not is_interactive():
            _give_up(conflict, record)
        current = await _read(record.key_id, owner, connection)
        print_error(f"keyvault: {record.key_id} was changed to revision {current.revision} while you edited:")
        for line in differences(record, current):
            print_error(printable(line, keep="\t"))
        if not agrees("Edit your text again, to replace that revision? [Y/n] "):
            _give_up(conflict, record)
    except BaseException:
        _keep(owner, record, text)
        raise
    return current


def _give_up(conflict: Conflict, record: Record) -> NoReturn:
    conflict.args = (f"{record.key_id} was changed while you edited revision {record.revision}: nothing was written",)
    raise conflict


def _keep(owner: ChosenKeys, record: Record, text: bytes) -> None:
    """Keep a text on the disk, sealed as its next revision, and say how to get it."""
    key = owner.ring.candidates(record.key_id)[0].key if owner.ring else owner.find(record.key_id)
    state = state_folder()
    folder = state / "edits" if state else Path.cwd()
    name = record.key_id.replace("/", "-")[-150:]
    kept = folder / f"{name}.{secrets.token_hex(4)}.kve"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_new_file(kept, seal(key, record.key_id, record.revision + 1, text))
    except OSError as error:
        print_error(f"keyvault: your text could not be kept: {kept}: {error.strerror}")
        return
    print_error(f"keyvault: your text is kept, sealed: `keyvault open {record.key_id} < {kept}` shows it")
