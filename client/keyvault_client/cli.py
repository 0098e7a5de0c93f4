"""The command `keyvault`: the client library from a shell.

The rules of this file:

* A secret goes through files, standard input and standard output, never through an argument.
* A failure is one line on standard error and an exit code that exit_codes.py chooses. There is no traceback.
* A command starts fast. So this module imports neither the commands nor the parser of arguments; what runs is imported
  when it is known. A new command is a function in a module of its own and one line in COMMANDS. A plain `read` goes a
  short way, cli_quick_read.py.
"""

import gc
import os
import sys
from typing import NoReturn

from keyvault_api.envelope import MalformedEnvelope
from keyvault_api.printable import printable
from keyvault_api.process import close_memory
from keyvault_client.errors import InvalidRequest, KeyVaultError
from keyvault_client.exit_codes import exit_code, sentence_of
from keyvault_client.terminal import flush_output, print_error, quiet_grpc

COMMANDS = {
    "completion": "cli_completion:completion",
    "create": "cli_records:create",
    "delete": "cli_records:delete",
    "diff": "cli_diff:diff",
    "doctor": "cli_doctor:doctor",
    "edit": "cli_edit:edit",
    "export": "cli_export:export",
    "generate-key": "cli_keys:generate_key",
    "history": "cli_keyless:history",
    "import": "cli_import:import_records",
    "import-legacy": "cli_legacy:import_legacy",
    "inspect": "cli_offline:inspect",
    "keys": "cli_keys:app",
    "list": "cli_keyless:list_names",
    "open": "cli_offline:open_envelope",
    "read": "cli_records:read",
    "restore": "cli_records:restore",
    "rewrap-key": "cli_keys:rewrap_key",
    "rewrap-keys": "cli_rotate:rewrap_keys",
    "rotate": "cli_rotate:rotate_records",
    "rotate-key": "cli_records:rotate_key",
    "run": "cli_run:run",
    "seal": "cli_offline:seal_envelope",
    "unwrap-key": "cli_keys:unwrap_key",
    "update": "cli_records:update",
    "whoami": "cli_keyless:whoami",
}
"""The function of each command, as module:name in this package, and imported when it runs."""


def main() -> None:
    """Run the command; the entry point."""
    close_memory(for_good=False)
    quiet_grpc()
    try:
        _run()
    except KeyVaultError as error:
        _exit(sentence_of(error), exit_code(error))
    except MalformedEnvelope as error:
        _exit(str(error), exit_code(error))
    except OSError as error:
        _exit(f"{error.filename or 'output'}: {error.strerror}", exit_code(error))
    except KeyboardInterrupt as error:
        _exit("interrupted: a change that was sent may have taken effect", exit_code(error))


def _run() -> None:
    done = False
    try:
        done = sys.argv[1:2] == ["read"] and _read_quickly()
        if not done:
            _run_by_cyclopts()
    finally:
        flush_output()
    if done:
        os._exit(0)  # to take down the interpreter would take a tenth of the time


def _run_by_cyclopts() -> None:
    try:
        from keyvault_client import cli_app
    except ModuleNotFoundError as missing:
        if missing.name != "cyclopts":
            raise
        raise InvalidRequest("the command needs cyclopts: pip install 'keyvault-grpc[cli]'") from None
    cli_app.run()


def _read_quickly() -> bool:
    """Run a plain `keyvault read` and return True; False if the line is left to cyclopts."""
    gc.disable()  # the process ends before there is something to collect
    from keyvault_client import cli_quick_read

    done = cli_quick_read.run(sys.argv[2:], os.environ)
    gc.enable()
    return done


def _exit(sentence: str, code: int) -> NoReturn:
    print_error(f"keyvault: {printable(' '.join(sentence.split()))}")
    sys.exit(code)
