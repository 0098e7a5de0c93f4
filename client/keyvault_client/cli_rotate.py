"""Commands of `keyvault` that exchange many keys: after a key has leaked, and after the server's master key changed.

The rules of this file:

* Nothing is changed without --yes; a run without it says what would be.
* A run that ended early is given once more, and goes on where it was. What it had done is said.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from keyvault_api.names import covers
from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import AsJson
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest, KeyVaultError, NotAuthorized, NotFound
from keyvault_client.key_folder import StoredKey, read_folder
from keyvault_client.key_sources import folder_of
from keyvault_client.keys import DataKey
from keyvault_client.new_keys import OLD, NewKeyEach, NewKeyInFile, NewKeyInFolder
from keyvault_client.progress import Progress
from keyvault_client.rotation import NewKeys, Survey, rotate, survey
from keyvault_client.terminal import print_error
from keyvault_client.vault import KeyVault

Yes = Annotated[bool, Parameter(help="Do it. Default: only say what would be done.")]


async def rotate_records(
    prefix: Annotated[str, Parameter(help='A prefix ending in "/", or one name.')],
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    new_key: Annotated[
        Path | None,
        Parameter(help="File of the new key; it is made if it is not there. Default: the key folder."),
    ] = None,
    each: Annotated[bool, Parameter(help="Give each record a key of its own, in the key folder.")] = False,
    yes: Yes = False,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Hand every record of a leaked key to a new key: `keyvault rotate prod/`. Give --yes to do it."""
    chosen = keys.choose_for_scope(prefix)
    ring = chosen.ring
    if new_key is None and ring is None:
        raise InvalidRequest("--key and KEYVAULT_KEY need --new-key FILE, the file of the new key")
    if each and (ring is None or new_key is not None or not prefix.endswith("/")):
        raise InvalidRequest("--each needs a prefix and a key folder, and excludes --key and --new-key")
    old = chosen.find(prefix)
    old.secret()
    if not covers(old.scope, prefix):
        raise InvalidRequest(f"the key's scope {old.scope} does not cover {prefix}: use a key for it")
    async with connection.connect() as vault:
        new_keys: NewKeys
        if ring is None or new_key is not None:
            assert new_key is not None
            new_keys = NewKeyInFile(vault, prefix, new_key)
        elif each:
            new_keys = NewKeyEach(vault, prefix, old, ring)
        else:
            new_keys = NewKeyInFolder(vault, prefix, old, ring)
        await _Rotation(vault, prefix, old, new_keys).run(yes=yes, json=json)


class _Rotation:
    """One run of the command."""

    def __init__(self, vault: KeyVault, prefix: str, old: DataKey, new_keys: NewKeys) -> None:
        self._vault = vault
        self._prefix = prefix
        self._old = old
        self._new_keys = new_keys
        self._known: set[str] = set()
        self._found = Survey()

    async def run(self, *, yes: bool, json: bool) -> None:
        """Say which key each record has; if the user said so, rotate those of the old one. Raises KeyVaultError.

        1. Which records there are, and which key each has.
        2. Records that have the old key get a new one, and so do those that were created during this.
        3. The new key becomes the current one.
        4. Once more for what was created before others noticed that.
        """
        # 1.
        await self._look()
        if not self._prefix.endswith("/") and not self._found:
            raise NotFound(f"no such record: {self._prefix}; nothing was changed")
        saved: list[Path] = []
        if yes:
            with _saying_what_is_done(self._found):
                # 2.
                await self._new_keys.begin(self._found.new)
                await self._rotate()
                # 3.
                if not self._found.failed:
                    saved = self._new_keys.finish()
                    # 4.
                    await self._look()
                    await self._rotate()
        self._report(saved, yes=yes, json=json)

    async def _look(self) -> None:
        """Find out which key each record has that was not known yet."""
        names = [self._prefix]
        if self._prefix.endswith("/"):
            names = [one.key_id async for one in self._vault.list(self._prefix)]
        added = [name for name in names if name not in self._known]
        self._found.add(await survey(self._vault, added, self._old, self._new_keys))
        self._known.update(added)

    async def _rotate(self) -> None:
        while self._found.old:
            with Progress("rotated", len(self._found.old)) as progress:
                await rotate(self._vault, self._found, self._old, self._new_keys, progress.step)
            await self._look()

    def _report(self, saved: list[Path], *, yes: bool, json: bool) -> None:
        """Print what was found or done. Raises KeyVaultError if a record failed."""
        found = self._found
        if json:
            files = {"saved": [str(path) for path in saved], "done": bool(saved)}
            print(dumps({"prefix": self._prefix, **found.to_json(), **files}))
        else:
            old, new, other = map(len, (found.old, found.new, found.other))
            print(f"records of {self._prefix}: {old} have the old key, {new} a new key, {other} another key")
            if not yes:
                print("nothing was changed: give --yes to rotate")
            for path in saved:
                kind = "new keys" if path.is_dir() else "old key, for deleted names" if OLD in path.name else "new key"
                print(f"{kind}: {path}")
        for name, why in found.failed.items():
            raise KeyVaultError(f"{len(found.failed)} records were not rotated, {name} first: {why}")


@contextmanager
def _saying_what_is_done(found: Survey) -> Iterator[None]:
    """Add a line to a failure, Ctrl-C included, that says how far the rotation is."""
    before = len(found.new)
    try:
        yield
    except BaseException:
        done, left = len(found.new) - before, len(found.old)
        print_error(f"keyvault: rotated {done} records, {left} are left: give the same command again to go on")
        raise


async def rewrap_keys(
    folder: Annotated[
        str | None,
        Parameter(env_var="KEYVAULT_KEYS", help="The folder. Default: keyvault/keys in XDG_CONFIG_HOME or ~/.config."),
    ] = None,
    /,
    *,
    yes: Yes = False,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Wrap every key of a folder under the server's current master key. Give --yes to do it.

    Example: `keyvault rewrap-keys ~/.config/keyvault/keys --yes`
    """
    path = folder_of(folder, "no key folder:")
    found = read_folder(path)
    if found.problems:
        raise InvalidRequest("; ".join(found.problems))
    done: list[str] = []
    failed: dict[str, str] = {}
    if yes:
        async with connection.connect() as vault:
            await rewrap(vault, found.keys, done, failed)
    if json:
        print(dumps({"folder": str(path), "keys": len(found.keys), "rewrapped": done, "failed": failed}))
    elif yes:
        print(f"rewrapped {len(done)} of {len(found.keys)} keys in {path}")
    else:
        print(f"{len(found.keys)} keys in {path}; nothing was changed: give --yes to rewrap them")
    for name, why in failed.items():
        raise KeyVaultError(f"{len(failed)} keys were not rewrapped, {name} first: {why}")


async def rewrap(vault: KeyVault, keys: Sequence[StoredKey], done: list[str], failed: dict[str, str]) -> None:
    """Replace each file by its rewrapped key; each is whole, the old or the new one, whatever ends this run."""
    try:
        with Progress("rewrapped", len(keys)) as progress:
            for one in keys:
                try:
                    (await vault.rewrap_key(one.key)).replace(one.path, old=one.key)
                    done.append(str(one.path))
                except (NotAuthorized, InvalidRequest) as error:
                    failed[str(one.path)] = str(error)
                progress.step()
    except BaseException:
        print_error(f"keyvault: rewrapped {len(done)} of {len(keys)} keys: give the same command again for the others")
        raise
