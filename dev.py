"""Sets KeyVault up in `.venv` beside this file and runs it. It needs Python 3.11 or newer and nothing else.

    python3 dev.py serve [...]    the embedded server, data in ./data; arguments go to `keyvault-server serve`
    python3 dev.py test [...]     all tests; arguments go to pytest
    python3 dev.py setup          the environment alone, with the tools of development
    python3 dev.py pin            writes requirements/*.txt anew from pyproject.toml

Every package comes with the hash that requirements/*.txt records, and nothing outside this folder is changed.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
USERS, DEVELOPERS = ("build", "server"), ("build", "dev")


def main(command: str, *arguments: str) -> int:
    """Runs one command; returns its exit status."""
    if command == "serve":
        set_up(USERS)
        environment = {"KEYVAULT_DATA": str(ROOT / "data")} | os.environ
        os.execve(BIN / "keyvault-server", ["keyvault-server", "serve", *arguments], environment)  # noqa: S606
    if command == "test":
        set_up(DEVELOPERS)
        return run(PYTHON, "-m", "pytest", *arguments)
    if command == "setup":
        set_up(DEVELOPERS)
        return 0
    if command == "pin":
        set_up(DEVELOPERS)
        return pin()
    print(__doc__)
    return 2


def set_up(requirements: tuple[str, ...]) -> None:
    """Makes `.venv` and installs what is missing; a mark of the files' hashes makes the second time quick."""
    if not PYTHON.exists() and run(sys.executable, "-m", "venv", VENV):
        sys.exit("dev.py: this Python cannot make a virtual environment: on Debian, apt-get install python3-venv")
    files = [ROOT / "requirements" / f"{name}.txt" for name in requirements]
    mark = VENV / f"installed-{requirements[-1]}"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in (*files, ROOT / "pyproject.toml"))).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return
    print("setting up .venv; the first time takes a minute", file=sys.stderr, flush=True)
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    for file in files:
        check(*pip, "--require-hashes", "--requirement", file)
    check(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    mark.write_text(wanted)


def pin() -> int:
    """The server's pins are the tested ones: dev.txt comes first and binds server.txt."""
    compile_ = (PYTHON, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11")
    plain = ("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate")
    folder = ROOT / "requirements"
    check(*compile_, *plain, "--extra", "server", "--group", "dev", "pyproject.toml", "-o", folder / "dev.txt")
    pins = folder / "pins.tmp"
    lines = (folder / "dev.txt").read_text().splitlines()
    pins.write_text("\n".join(line.removesuffix(" \\") for line in lines if line and not line.startswith(" ")))
    try:
        constrained = (*compile_, *plain, "--constraints", pins)
        check(*constrained, "--extra", "server", "pyproject.toml", "-o", folder / "server.txt")
    finally:
        pins.unlink()
    check(*compile_, *plain, folder / "build.in", "-o", folder / "build.txt")
    return 0


def check(*command: str | Path) -> None:
    """Runs a command that has to succeed."""
    status = run(*command)
    if status:
        sys.exit(f"dev.py: `{' '.join(map(str, command[:6]))} ...` failed with status {status}")


def run(*command: str | Path) -> int:
    """Runs a command here; returns its exit status."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - told plainly to those who have an older one
        sys.exit("dev.py: KeyVault needs Python 3.11 or newer")
    sys.exit(main(*(sys.argv[1:] or ["help"])))
