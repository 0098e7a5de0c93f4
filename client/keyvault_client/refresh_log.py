"""What a cache says of failures: one line for each change, however many names and refreshes it lasts."""

import logging
from collections.abc import Collection, Iterable, Mapping

from keyvault_client.errors import KeyVaultError, NotRefreshed

SHOWN = 20
"""Names, and different failures, that a message has at most."""

_log = logging.getLogger(__name__)


class RefreshLog:
    """The failures that were logged. A name is logged when it starts to fail, fails otherwise, or is well again."""

    def __init__(self) -> None:
        self._logged: dict[str, type[KeyVaultError]] = {}

    def note(self, failures: Mapping[str, KeyVaultError], with_value: Collection[str]) -> None:
        """Log what changed: `failures` are all that there are now, `with_value` the names that have a value."""
        new = {name: error for name, error in failures.items() if self._logged.get(name) is not type(error)}
        kept = {name: error for name, error in new.items() if name in with_value}
        lost = {name: error for name, error in new.items() if name not in with_value}
        if kept:
            _log.warning("refresh failed, the last values stay in use: %s", summary(kept))
        if lost:
            _log.warning("refresh failed, there is no value: %s", summary(lost))
        if well := [name for name in self._logged if name not in failures]:
            _log.info("refreshed again: %s", _names(well))
        self._logged = {name: type(error) for name, error in failures.items()}


def not_refreshed(failures: Mapping[str, KeyVaultError], names: int) -> NotRefreshed:
    """Return the error that names what failed, of so many names."""
    many = f"{len(failures)} of {names} names were not refreshed"
    return NotRefreshed(f"{many}: {summary(failures)}", failures=failures)


def summary(failures: Mapping[str, KeyVaultError]) -> str:
    """Return the failures as one line; names that fail alike share a sentence."""
    alike: dict[str, list[str]] = {}
    for name, error in failures.items():
        alike.setdefault(str(error), []).append(name)
    shown = [f"{_names(names)}: {text}" for text, names in list(alike.items())[:SHOWN]]
    more = [f"and {len(alike) - SHOWN} more failures"] if len(alike) > SHOWN else []
    return "; ".join(shown + more)


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(names[:SHOWN] + more)
