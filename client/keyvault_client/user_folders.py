"""Where a user's programs keep what is theirs.

Source: XDG Base Directory Specification.
"""

import os
from pathlib import Path


def config_folder() -> Path | None:
    """Return the folder of KeyVault's configuration, as XDG_CONFIG_HOME or ~/.config has it; None without a home."""
    return _folder("XDG_CONFIG_HOME", ".config")


def state_folder() -> Path | None:
    """Return the folder of KeyVault's state, as XDG_STATE_HOME or ~/.local/state has it; None without a home."""
    return _folder("XDG_STATE_HOME", ".local/state")


def _folder(variable: str, otherwise: str) -> Path | None:
    """Return keyvault/ in the folder of a variable, which counts if it is absolute, or in this one of the home."""
    base = Path(os.environ.get(variable, ""))
    if not base.is_absolute():
        try:
            base = Path.home() / otherwise
        except RuntimeError:
            return None
    return base / "keyvault"
