"""The command `keyvault completion`: what a shell needs to complete the other commands.

The rule of this file: the script knows all commands and options, so that a shell asks no program while a person waits.
"""

from typing import Annotated, Literal

from cyclopts import Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell that completes.")], /
) -> None:
    """Write the completion of a shell to standard output.

    Example: `keyvault completion bash > ~/.local/share/bash-completion/completions/keyvault`
    """
    from keyvault_client import cli_app  # which imports this module with all others

    cli_app.import_commands()
    print(cli_app.app.generate_completion(shell=shell), end="")
