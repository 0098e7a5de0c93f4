"""Commands of `keyvault` for keys themselves: new ones, other versions of one, and a folder of them.

The rule of this file: no command shows a key. One that makes a key knows where it goes before it asks for it.
"""

from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.types import ExistingFile, NonExistentPath

from keyvault_api.files import sync_directory
from keyvault_client.cli_key_options import KeyFolder
from keyvault_client.cli_parameters import AsJson, AsJsonLines, InPlace, KeyFile, NewFile
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest
from keyvault_client.key_folder import NEW_SUFFIX, StoredKey, read_folder
from keyvault_client.key_ring import KeyRing
from keyvault_client.key_sources import folder_of, open_ring_if_there
from keyvault_client.keys import DataKey
from keyvault_client.terminal import (
    check_key_output,
    load_key,
    load_key_to_change,
    until_output_is_closed,
    write_changed_key,
    write_key,
)

app = App(
    name="keys",
    help="List the keys in the key folder: scope, tenant and file, never the key.\n\nExample: `keyvault keys`",
)


async def generate_key(
    scope: Annotated[
        str, Parameter(help='A key_id, or a prefix ending in "/". Default: a key_id that the server generates.')
    ] = "",
    /,
    *,
    without_plaintext: Annotated[bool, Parameter(help="Leave out plaintext_key; unwrap-key can get it back.")] = False,
    save: Annotated[
        NonExistentPath | None,
        Parameter(help="Save the key to this new file. Default: the key folder, if it is there."),
    ] = None,
    stdout: Annotated[
        bool, Parameter(help="Write the key to standard output, whether there is a key folder or not.")
    ] = False,
    keys: KeyFolder = None,
    json: Annotated[bool, Parameter(help="Write where the key was saved as JSON.")] = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Save a new data key: `keyvault generate-key prod/ --save prod.key`.

    Without --save it goes to the key folder, and without a key folder to standard output.
    """
    if stdout and save is not None:
        raise InvalidRequest("--stdout and --save exclude each other")
    ring = None if stdout or save else open_ring_if_there(keys)
    if ring is None:
        check_key_output(save)
    async with connection.connect() as vault:
        key = await vault.generate_key(scope)
    key = key.without_plaintext() if without_plaintext else key
    if ring is not None:
        _report(key, ring.save(key), json=json)
        return
    write_key(key, save)
    if json and save is not None:
        _report(key, save, json=json)


async def rewrap_key(
    *,
    key: KeyFile,
    save: NewFile = None,
    in_place: InPlace = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Wrap a key under the server's current master key. The key goes to standard output, --save or --in-place.

    Example: `keyvault rewrap-key --key prod.key --in-place`
    """
    old = load_key_to_change(key, save, in_place=in_place)
    async with connection.connect() as vault:
        write_changed_key(await vault.rewrap_key(old), old, key, save, in_place=in_place)


async def unwrap_key(
    *,
    key: KeyFile,
    save: NewFile = None,
    in_place: InPlace = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Get a key's plaintext, if the server allows that. The key goes to standard output, --save or --in-place.

    Example: `keyvault unwrap-key --key prod.key --save whole.key`
    """
    old = load_key_to_change(key, save, in_place=in_place)
    async with connection.connect() as vault:
        write_changed_key(await vault.unwrap_key(old), old, key, save, in_place=in_place)


@app.default
def list_keys(*, json: AsJsonLines = False, keys: KeyFolder = None) -> None:
    """List the keys in the key folder: scope, tenant and file, never the key."""
    folder = read_folder(folder_of(keys, "no key folder:"))
    with until_output_is_closed():
        for one in folder.keys:
            print(dumps(one.to_json()) if json else one)
    if folder.problems:
        raise InvalidRequest("; ".join(folder.problems))


@app.command
def add(
    file: Annotated[ExistingFile, Parameter(help="A key file, as generate-key writes it.")],
    /,
    *,
    keys: KeyFolder = None,
    json: AsJson = False,
) -> None:
    """Copy a key file into the key folder, which is made if it is not there: `keyvault keys add prod.key`."""
    key, folder = load_key(file), folder_of(keys, "no key folder:")
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        sync_directory(folder.parent)
    _report(key, KeyRing(folder).save(key), json=json)


def _report(key: DataKey, path: Path, *, json: bool) -> None:
    """Say where a key was saved."""
    stored = StoredKey(path, key, is_new=path.name.endswith(NEW_SUFFIX))
    print(dumps(stored.to_json()) if json else f"saved the key for {key.scope} in {path}")
