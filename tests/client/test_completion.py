"""What a shell is given to complete the command."""

import re
import subprocess

import pytest

from keyvault_client.cli import COMMANDS
from tests.support.shell import Shell

SHELLS = ("bash", "zsh", "fish")
COMPLETE = """
source {script}
complete_of() {{ COMP_WORDS=(keyvault "$@"); COMP_CWORD=$#; COMPREPLY=(); _keyvault; echo "${{COMPREPLY[*]}}"; }}
complete_of re
complete_of read --js
complete_of completion z
complete -p keyvault
"""


@pytest.mark.process
@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_gets_every_command(shell: Shell, name: str) -> None:
    script = shell.ok(f"completion {name}").decode()
    assert set(re.findall(r"[\w-]+", script)) >= {*COMMANDS, *SHELLS}
    assert "token-file" in script


@pytest.mark.process
def test_bash_completes_commands_options_and_values(shell: Shell) -> None:
    shell.ok("completion bash", out="script")
    lines = COMPLETE.format(script=shell.directory / "script")
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=30, check=True)
    commands, option, value, registered = done.stdout.splitlines()
    assert set(commands.split()) == {name for name in COMMANDS if name.startswith("re")}
    assert (option, value, done.stderr) == ("--json", "zsh", "")
    assert "_keyvault" in registered


@pytest.mark.process
def test_another_shell_is_refused(shell: Shell) -> None:
    assert "tcsh" in shell.refused("completion tcsh", status=2)
