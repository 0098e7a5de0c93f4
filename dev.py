"""Set KeyVault up in `.venv` next to this file and run it. Needs Python 3.11 or newer and nothing else.

    python3 dev.py serve [...]         the embedded server, data in ./data; arguments go to `keyvault-server serve`
    python3 dev.py test [...]          all tests, on five workers; arguments go to pytest
    python3 dev.py test --unit [...]   the fast tier: no process, no network but loopback
    python3 dev.py test --coverage     all tests with branch coverage, processes included; fails under 95 %
    python3 dev.py setup               the environment alone, with the development tools
    python3 dev.py tools               programs that some tests need, into ./.tools: grpcurl (Go) and dynalite (Node)
    python3 dev.py pin                 compile requirements/*.txt from pyproject.toml

Every package is checked against the hash in requirements/*.txt, and nothing outside this folder is changed.
"""

# Python 3.7 has to parse this file, so that every older version gets the sentence below instead of a traceback.
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
OLDEST = (3, 11)
SUPPORTED = ("3.14", "3.13", "3.12", "3.11")
NOT_PINNED = ("keyvault-grpc", "keyvault")
"""Our distribution, and the unrelated project that has the name of our command on the package index."""
USERS, DEVELOPERS = ("build", "server"), ("build", "dev")
UNIT = ("-n", "2", "-m", "not process and not external and not slow and not medium")
"""Its tests compute more than they wait: a third worker would only collect them once more."""
MEMORY, ROOM = Path("/dev/shm"), 1 << 30  # noqa: S108 - what is made there has a name of its own and mode 0700
"""The unit tier's files are in memory, where there is so much of it: syncs of a disk are a fifth of its time."""
COVERAGE = ("--cov", "--cov-report=term:skip-covered")
WORKERS = ("-n", "5", "--dist", "worksteal")
"""More than the two cores: tests wait for processes and timers half of the time. With four, the cores idled for a
seventh of the run. None idles while another has tests."""
TOOLS = {
    "go": ("go", "install", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"),
    "npm": ("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", ".tools/dynalite", "dynalite@4.0.0"),
}


def main(command: str, *arguments: str) -> int:
    """Run one command; return its exit status."""
    # Container images set it, and then each of the hundreds of processes of the tests compiles its imports again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if command == "serve":
        set_up(USERS)
        environment = {"KEYVAULT_DATA": str(ROOT / "data"), **os.environ}
        os.execve(BIN / "keyvault-server", ["keyvault-server", "serve", *arguments], environment)
    if command == "test":
        set_up(DEVELOPERS)
        return test(*arguments)
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


def test(*arguments: str) -> int:
    """Run the tests: all of them, or the unit tier for `--unit`; `-n 0` among the arguments turns the workers off."""
    options: list[str] = []
    for argument in arguments:
        options += {"--unit": UNIT, "--coverage": COVERAGE}.get(argument, (argument,))
    command: tuple[str | Path, ...] = (PYTHON, "-m", "pytest", *WORKERS, *options)
    if "--unit" not in arguments or not has_room(MEMORY):
        return run(*command)
    with tempfile.TemporaryDirectory(prefix="keyvault-", dir=MEMORY) as folder:
        return run(*command, environment={**os.environ, "TMPDIR": folder})


def has_room(folder: Path) -> bool:
    """Return whether this is a folder where the files of the unit tier find their place."""
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= ROOM


def set_up(requirements: tuple[str, ...]) -> None:
    """Make `.venv` and install what is missing; a stamp of the files' hashes makes the second time quick."""
    files = [ROOT / "requirements" / f"{name}.txt" for name in requirements]
    stamp = VENV / f"installed-{requirements[-1]}"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in (*files, ROOT / "pyproject.toml"))).hexdigest()
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    with Step(1, "environment in .venv"):
        if not PYTHON.exists() and run(sys.executable, "-m", "venv", VENV):
            sys.exit("dev.py: this Python cannot make a virtual environment: on Debian, apt-get install python3-venv")
    # Most modules are never imported; the others are compiled when they first are.
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile")
    with Step(2, "pinned packages (about a minute the first time)"):
        for file in files:
            check(*pip, "--require-hashes", "--requirement", file)
    with Step(3, "KeyVault itself"):
        check(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    stamp.write_text(wanted)


class Step:
    """One of the three steps of the set-up, with its seconds."""

    def __init__(self, number: int, name: str) -> None:
        self._title = f"dev.py: {number}/3 {name}"

    def __enter__(self) -> None:
        print(f"{self._title} ...", file=sys.stderr, flush=True)
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        print(f"{self._title}: {time.monotonic() - self._began:.0f} s", file=sys.stderr, flush=True)


def tools() -> int:
    """Install each tool whose toolchain is available; name those that are missing."""
    missing = 0
    for program, command in TOOLS.items():
        if shutil.which(program):
            check(*command, environment={**os.environ, "GOBIN": str(ROOT / ".tools" / "bin")})
        else:
            print(f"dev.py: {program} not found: {command[-1]} is not installed, its tests skip", file=sys.stderr)
            missing = 1
    return missing


def pin() -> int:
    """Compile the pins; dev.txt comes first and constrains server.txt, so that what ships is what was tested."""
    folder = ROOT / "requirements"
    with tempfile.TemporaryDirectory() as temporary:
        constraints = Path(temporary, "constraints.txt")
        # No version is below 0: a requirement that leads back to us fails here instead of installing another's package.
        impossible = [f"{name}<0" for name in NOT_PINNED]
        constraints.write_text("\n".join(impossible))
        pin_one(constraints, folder / "dev.txt", "--extra", "server", "--group", "dev", "pyproject.toml")
        lines = (folder / "dev.txt").read_text().splitlines()
        pinned = [line.removesuffix(" \\") for line in lines if line[:1].strip()]
        constraints.write_text("\n".join([*impossible, *pinned]))
        pin_one(constraints, folder / "server.txt", "--extra", "server", "pyproject.toml")
        pin_one(constraints, folder / "build.txt", str(folder / "build.in"))
    return 0


def pin_one(constraints: Path, output: Path, *sources: str) -> None:
    """Compile one file of pins with hashes, for every platform and each supported Python."""
    compile_ = (PYTHON, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11")
    plain = ("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate")
    check(*compile_, *plain, "--constraints", constraints, *sources, "--output-file", output)


def check(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run a command that has to succeed."""
    status = run(*command, environment=environment)
    if status:
        sys.exit(f"dev.py: `{' '.join(map(str, command[:6]))} ...` failed with status {status}")


def run(*command: str | Path, environment: dict[str, str] | None = None) -> int:
    """Run a command in this folder; return its exit status."""
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def use_newer_python() -> None:
    """Continue with a supported Python if this one is too old and one is on the PATH; else say what is needed."""
    for version in SUPPORTED:
        found = shutil.which(f"python{version}")
        if found and makes_environments(found):
            os.execv(found, [found, *sys.argv])
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"dev.py: KeyVault needs Python 3.11 or newer; this is {found}, and no newer one is on the PATH")


def makes_environments(python: str) -> bool:
    """Say whether this Python runs and has what an environment needs.

    The shim of a version manager exists for versions that are not active; Debian splits ensurepip from the rest.
    """
    trial = (python, "-c", "import ensurepip, venv")
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        use_newer_python()
    sys.exit(main(*(sys.argv[1:] or ["help"])))
