"""dev.py under Pythons that are too old: it finds a newer one, or says in one sentence what is needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dev
from tests.support.repository import ROOT

SOURCE = (ROOT / "dev.py").read_text()
# As an old Python runs the file. It never reaches `main`: a newer Python takes over, or there is none.
OLD = """
import runpy, sys
sys.version_info = (3, 8, 18, "final", 0)
sys.argv = ["dev.py", "help"]
runpy.run_path({path!r}, run_name="__main__")
"""


def run_as_old_python(*folders: Path) -> "subprocess.CompletedProcess[str]":
    """Run `dev.py help` as Python 3.8 does, with these folders on the PATH and nothing else."""
    command = [sys.executable, "-c", OLD.format(path=str(ROOT / "dev.py"))]
    environment = {"PATH": os.pathsep.join(map(str, folders))}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def python(folder: Path, version: str, script: str) -> Path:
    """Write a program called python3.X into a folder; return the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / f"python{version}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize("version", [(3, 8), (3, 9), (3, 10)])
def test_old_pythons_can_parse_it(version: tuple[int, int]) -> None:
    ast.parse(SOURCE, feature_version=version)


@pytest.mark.process
def test_an_old_python_alone_gets_one_sentence(tmp_path: Path) -> None:
    finished = run_as_old_python(tmp_path)
    assert finished.returncode == 1
    assert finished.stderr == (
        "dev.py: KeyVault needs Python 3.11 or newer; this is 3.8, and no newer one is on the PATH\n"
    )


@pytest.mark.process
def test_the_newest_python_that_runs_takes_over(tmp_path: Path) -> None:
    answers = 'case "$1" in -c) exit 0;; esac; echo "$0 $*"'
    python(tmp_path / "bin", "3.14", "exit 127")  # the shim of a version that is not active
    python(tmp_path / "bin", "3.13", answers)
    python(tmp_path / "bin", "3.12", answers)
    finished = run_as_old_python(tmp_path / "bin")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"{tmp_path / 'bin' / 'python3.13'} {ROOT / 'dev.py'} help\n"


@pytest.mark.process
def test_an_unsupported_python_is_not_chosen(tmp_path: Path) -> None:
    assert run_as_old_python(python(tmp_path / "bin", "3.10", "exit 0")).returncode == 1


@pytest.mark.process
def test_an_unknown_command_prints_the_usage() -> None:
    command = [sys.executable, "dev.py", "nonsense"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stdout.strip() == (dev.__doc__ or "").strip()


def test_what_it_starts_keeps_its_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every process of the tests compiles the sources again: that was a fifth of a run."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert dev.main("help") == 2
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("-q",), ["-q"]),
        (("--unit", "-x"), [*dev.UNIT, "-x"]),
        (("-q", "--coverage"), ["-q", *dev.COVERAGE]),
    ],
)
def test_its_own_options_become_those_of_pytest(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], options: list[str]
) -> None:
    monkeypatch.setattr(dev, "run", lambda *command, environment=None: command)
    assert dev.test(*arguments) == (dev.PYTHON, "-m", "pytest", *dev.WORKERS, *options)  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(("room", "in_memory"), [(0, True), (1 << 60, False)])
def test_files_of_the_unit_tier_are_in_memory_where_it_has_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: int, *, in_memory: bool
) -> None:
    seen: list[str] = []

    def run(*command: object, environment: dict[str, str] | None = None) -> int:
        seen.extend([environment["TMPDIR"]] if environment else [])
        assert all(Path(folder).is_dir() for folder in seen)
        return 0

    for name, value in {"run": run, "MEMORY": tmp_path, "ROOM": room}.items():
        monkeypatch.setattr(dev, name, value)
    assert dev.test() == dev.test("--unit") == 0
    assert [Path(folder).parent for folder in seen] == [tmp_path] * in_memory
    assert not list(tmp_path.iterdir())
