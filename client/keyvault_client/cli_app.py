"""The arguments of `keyvault`, and its pages of help, by cyclopts.

The rule of this file: a command's module is imported when the command runs, or when --help lists all of them.
"""

import sys
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from keyvault_client.cli import COMMANDS
from keyvault_client.errors import InvalidRequest
from keyvault_client.exit_codes import HELP
from keyvault_client.profile_source import fill_in_profile

app = App(
    name="keyvault",
    help="Keep secrets in a KeyVault server that cannot read them. Data comes from standard input; a terminal asks for "
    f"it.\n\n{HELP}",
    version=lambda: version("keyvault-grpc"),
    default_parameter=Parameter(negative="", show_default=False),
    config=fill_in_profile,
    suppress_keyboard_interrupt=False,
)
for _name, _function in COMMANDS.items():
    app.command(f"keyvault_client.{_function}", name=_name)


def import_commands() -> None:
    """Import the modules of all commands, without which --help has no line about each."""
    for name in COMMANDS:
        app[name]


def run() -> None:
    """Run the command that the program's arguments name. Raises InvalidRequest for bad usage."""
    if not COMMANDS.keys() & sys.argv[1:2]:
        import_commands()
    try:
        app(exit_on_error=False, print_error=False)
    except UnusedCliTokensError:
        raise InvalidRequest(
            "too many arguments: send data to standard input; other users of this machine can see arguments"
        ) from None
    except CycloptsError as error:
        hint = " (options of the program follow --)" if sys.argv[1:2] == ["run"] and "--" not in sys.argv else ""
        raise InvalidRequest(f"{error}{hint}") from None
