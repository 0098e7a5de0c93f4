"""Options of a profile, as if they had been typed.

The rule of this file: who names a profile on the command line means it, so it wins over variables, which may be of
another one. A default profile, or that of KEYVAULT_PROFILE, gives what neither options nor variables give.
"""

from typing import TYPE_CHECKING

from cyclopts import Token

from keyvault_client.profiles import load_profile

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection


def fill_in_profile(app: "App", commands: tuple[str, ...], arguments: "ArgumentCollection") -> None:
    """Add the options of the profile to a command that connects to a server. Raises InvalidRequest."""
    by_name = {argument.name: argument for argument in arguments}
    if "--profile" not in by_name:
        return
    named = by_name["--profile"].tokens
    profile = load_profile(named[-1].value if named else None)
    if profile is None:
        return
    was_typed = bool(named) and named[-1].source != "env"
    for option, value in profile.options.items():
        argument = by_name.get(f"--{option.replace('_', '-')}")
        if argument is None:  # --keys of a command that needs none
            continue
        if not argument.tokens or (was_typed and argument.tokens[-1].source == "env"):
            argument.tokens = [Token(keyword=profile.where(option), value=value, source="profile")]
