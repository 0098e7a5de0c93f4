"""Options of the command `keyvault` that say which key to use: a key file, or a folder with a key for each name.

The rule of this file: `--key`, else `KEYVAULT_KEY`, else the key folder, which is `--keys`, else `KEYVAULT_KEYS`, else
the one of the user, if it is there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from keyvault_client.connection_options import Option
from keyvault_client.key_sources import ChosenKeys, choose_keys, folder_if_there
from keyvault_client.keys import DataKey
from keyvault_client.records import check_key_id

KeyFolder = Annotated[
    str | None,
    Parameter(
        env_var="KEYVAULT_KEYS",
        help="Folder of key files. Default: keyvault/keys in XDG_CONFIG_HOME or ~/.config. Empty: none.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class KeyOptions:
    """Which key to use."""

    key: Annotated[
        ExistingFile | None,
        Option(env_var="KEYVAULT_KEY", help="A key file, as generate-key writes it. Default: the one in --keys."),
    ] = None
    keys: KeyFolder = None

    def folder(self) -> Path | None:
        """Return the path of the key folder, None if the user's own is meant and not there."""
        return folder_if_there(self.keys)

    def choose(self, key_id: str, *, without: DataKey | None = None, output: Path | None = None) -> ChosenKeys:
        """Return the keys for a record, before anything is read or sent. `without` is a key that does not count.

        Raises InvalidRequest, KeyNotFound among them: also if `output`, or standard output, would go to a key file.
        """
        check_key_id(key_id)
        return self.choose_for_scope(key_id, without=without, output=output)

    def choose_for_scope(self, scope: str, *, without: DataKey | None = None, output: Path | None = None) -> ChosenKeys:
        """Return the keys for a name, or for a prefix that ends in "/", as `choose` does."""
        return choose_keys(scope, self.key, self.keys, without=without, output=output)

    def choose_for_names(self, names: Iterable[str], *, output: Path | None = None) -> ChosenKeys:
        """Return the keys for these names, or for none, as `choose` does. A key file is read once: it may be a pipe."""
        chosen: ChosenKeys | None = None
        for name in names:
            if chosen is None:
                chosen = self.choose(name, output=output)
            else:
                check_key_id(name)
                chosen.refuse_without_key(name)
        return chosen or ChosenKeys(None, None)


DEFAULT_KEYS = KeyOptions()
