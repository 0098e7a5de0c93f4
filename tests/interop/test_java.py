"""The Java library: its own tests, and a project elsewhere that gets it from a Maven repository, as users do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.behaviour.suite import cases
from tests.interop.programs import MADE, MARKS, MAVEN
from tests.support.environment import for_downloads
from tests.support.repository import ROOT
from tests.support.tools import toolchain

pytestmark = MARKS
LIBRARY = ROOT / "sdk" / "java"


def maven(folder: Path, *arguments: str) -> str:
    """Run `mvn`; return what it said."""
    toolchain("java", "mvn")
    given = {
        "KEYVAULT_PLAYER": f"{sys.executable} -m tests.behaviour.server",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MAVEN_OPTS": " ".join(MAVEN),
    }
    done = subprocess.run(
        ["mvn", "--batch-mode", *arguments],
        cwd=folder,
        env=for_downloads() | given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what the library is built from, so that no build writes into the checkout."""
    copy = tmp_path_factory.mktemp("java")
    for part in ("sdk/java", "protos"):
        shutil.copytree(ROOT / part, copy / part, ignore=MADE)
    return copy


def test_the_library_passes_its_tests_with_the_player(checkout: Path) -> None:
    said = maven(checkout / "sdk" / "java", "--quiet", "test")
    assert f"behaviour: {len(cases())} cases, all pass\n" in said


@pytest.mark.parametrize(
    ("copy", "original"),
    [("kve1.json", "tests/vectors/kve1.json"), ("behaviour", "tests/behaviour")],
)
def test_what_travels_with_the_module_is_the_original(copy: str, original: str) -> None:
    """A module is published from its folder: the files that it tests itself with are copied into it."""
    source = ROOT / original
    files = [source] if source.is_file() else sorted(source.glob("*.json"))
    copies = LIBRARY / "src" / "test" / "resources" / copy
    folder = copies.parent if copies.is_file() else copies
    assert files
    assert copies.is_file() or {path.name for path in folder.iterdir()} == {path.name for path in files}
    differ = [path.name for path in files if (folder / path.name).read_bytes() != path.read_bytes()]
    assert differ == [], f"copy {original} to sdk/java/src/test/resources/{copy}"
