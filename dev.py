"""Sets KeyVault up in `.venv` beside this file and runs it. It needs Python 3.11 or newer and nothing else.

    python3 dev.py serve [...]    the embedded server, data in ./data; arguments go to `keyvault-server serve`
    python3 dev.py test [...]     all tests; arguments go to pytest
    python3 dev.py setup          the environment alone, with the tools of development
    python3 dev.py tools          what some tests need beside Python, into ./.tools: grpcurl (Go), dynalite (Node)
    python3 dev.py pin            writes requirements/*.txt anew from pyproject.toml

Every package comes with the hash that requirements/*.txt records, and nothing outside this folder is changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
USERS, DEVELOPERS = ("build", "server"), ("build", "dev")
TOOLS = {
    "go": ("go", "install", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"),
    "npm": ("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", ".tools/dynalite", "dynalite@4.0.0"),
}


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
    if command == "tools":
        return tools()
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


def tools() -> int:
    """Gets each tool whose toolchain is here; says which are missing."""
    missing = 0
    for program, command in TOOLS.items():
        if shutil.which(program):
            check(*command, env=os.environ | {"GOBIN": str(ROOT / ".tools" / "bin")})
        else:
            print(f"dev.py: no {program}, hence no {command[-1]}: the tests that need it are skipped", file=sys.stderr)
            missing = 1
    return missing


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


def check(*command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a command that has to succeed."""
    status = run(*command, env=env)
    if status:
        sys.exit(f"dev.py: `{' '.join(map(str, command[:6]))} ...` failed with status {status}")


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> int:
    """Runs a command here; returns its exit status."""
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - told plainly to those who have an older one
        sys.exit("dev.py: KeyVault needs Python 3.11 or newer")
    sys.exit(main(*(sys.argv[1:] or ["help"])))
