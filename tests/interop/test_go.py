"""The Go library: its own tests, and a project elsewhere that has it from a module proxy, as its users have it."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.programs import MARKS, PLAYER, Programs
from tests.support.environment import for_downloads
from tests.support.repository import ROOT
from tests.support.tools import toolchain

pytestmark = MARKS
LIBRARY = ROOT / "sdk" / "go"
REQUIRED = "v0.1.0"
"""Version of the envelope that the library requires."""
OWNER = "github.com/keyvault-grpc"
MODULE = f"{OWNER}/keyvault/sdk/go"
MODULES = {MODULE: (LIBRARY, {"kve1", "tools"}), f"{MODULE}/kve1": (LIBRARY / "kve1", set[str]())}
"""Modules that are published, with their folders, and the folders in them that belong to other modules."""


def go(folder: Path, *arguments: str, **environment: str) -> str:
    """Run `go`; return what it said."""
    toolchain("go")
    done = subprocess.run(
        ["go", *arguments],
        cwd=folder,
        env=for_downloads() | PLAYER | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


CHECKS = {"vet": ("vet",)} | {
    name: ("tool", f"-modfile={LIBRARY}/tools/go.mod", name) for name in ("staticcheck", "go-errorlint")
}
"""What reads the code: `go vet`, and linters of the versions that tools/go.mod pins."""
FAULTS = {
    "vet": 'fmt.Printf("%d: %v", "text", failed)',
    "staticcheck": "for true { fmt.Println(failed) }",
    "go-errorlint": "if failed == os.ErrNotExist { fmt.Println(failed) }",
}
"""What each of them finds, in line 10 of FAULTY."""
FAULTY = """package main

import (
	"fmt"
	"os"
)

func main() {
	_, failed := os.Stat("x")
	%s
}
"""


@pytest.mark.parametrize("folder", ["sdk/go", "sdk/go/kve1", "examples/go"])
@pytest.mark.parametrize("check", CHECKS)
def test_a_check_finds_nothing(check: str, folder: str) -> None:
    assert go(ROOT / folder, *CHECKS[check], "./...") == ""


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_finds_a_fault(check: str, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.com/faulty\n\ngo 1.26.0\n")
    (tmp_path / "main.go").write_text(FAULTY % FAULTS[check])
    with pytest.raises(AssertionError, match=r"main\.go:10"):
        go(tmp_path, *CHECKS[check], "./...")


def test_the_library_has_no_data_races() -> None:
    """Without the behaviour suite, which waits, and without `vet`: `make race` has all. A cold build is most of it."""
    go(LIBRARY, "test", "-race", "-vet=off", "-count=1", "-skip=TestBehaviour", ".")


def test_the_library_passes_its_tests_with_the_player() -> None:
    said = go(LIBRARY, "test", "-count=1", "-v", "./...")
    assert "--- PASS: TestBehaviour/" in said
    assert "--- FAIL" not in said


def test_the_program_passes_its_tests() -> None:
    go(ROOT / "examples" / "go", "test", "-count=1", "./...")


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("kve1/testdata", "tests/vectors/kve1.json"),
        ("testdata/behaviour", "tests/behaviour"),
        ("keyvaultv1/*.json", "protos/python/keyvault_api/v1/keyvault_service_config.json"),
    ],
)
def test_what_travels_with_the_module_is_the_original(copy: str, original: str) -> None:
    """A module is published from its folder: the files that it tests itself with are copied into it."""
    source = ROOT / original
    files = [source] if source.is_file() else sorted(source.glob("*.json"))
    assert files
    copies = LIBRARY.glob(copy if "*" in copy else f"{copy}/*")
    content = {path.name: path.read_bytes() for path in files}
    assert {path.name: path.read_bytes() for path in copies} == content, f"copy {original} to sdk/go/{copy}"


def test_the_program_shares_the_revisions_of_keyvault(programs: Programs, address: str, tmp_path: Path) -> None:
    """Both find the record's entry in the file, by the same name of it."""
    state, key = tmp_path / "state" / "revisions.json", tmp_path / "a.key"
    python, go_program = (programs.get(language).at(address, state=state) for language in ("python", "go"))
    assert python.create("state/shared", key, b"one") == 1
    assert go_program.update("state/shared", key, b"two") == 2
    assert list(json.loads(state.read_bytes())["revisions"].values()) == [2]
    assert python.update("state/shared", key, b"three") == 3
    assert list(json.loads(state.read_bytes())["revisions"].values()) == [3]
    state.write_text(state.read_text().replace(": 3", ": 4"))
    assert "the store was rolled back" in go_program.refused("get", "state/shared", "--key", key)


def test_commands_at_once_make_one_key_file(programs: Programs, address: str, tmp_path: Path) -> None:
    """Four that create the record and its key, then four that rotate it to the same new one: none fails."""
    client, key, new_key = programs.get("go").at(address), tmp_path / "a.key", tmp_path / "b.key"

    def at_once(*command: str | Path) -> list[str]:
        with ThreadPoolExecutor() as threads:
            runs = [threads.submit(client.run, *command, given=b"data") for _ in range(4)]
        done = [run.result() for run in runs]
        assert not any(one.returncode for one in done), [one.stderr for one in done]
        return sorted(one.stdout.decode() for one in done)

    puts = at_once("put", "once/record", "--key", key)
    assert puts == [f"once/record is at revision {revision}\n" for revision in (1, 2, 3, 4)]
    rotations = at_once("rotate", "once/record", "--key", key, "--new-key", new_key)
    assert rotations == ["once/record is at revision 5\n"] * 4
    assert client.read("once/record", new_key) == b"data"
    assert {path.name for path in tmp_path.iterdir()} == {"a.key", "b.key"}


PROGRAM = """
package main_test

import (
	"testing"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

func TestARecordIsReadBack(t *testing.T) {
	var vault keyvault.Vault = kvtest.NewServer(t).Client(t)
	key, err := vault.GenerateKey(t.Context(), "prod/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Create(t.Context(), "prod/db", []byte("hunter2"), key); err != nil {
		t.Fatal(err)
	}
	record, err := vault.Read(t.Context(), "prod/db", key)
	if err != nil || string(record.Plaintext) != "hunter2" || len(record.Plaintext) > kve1.MaxPlaintext {
		t.Fatal(record, err)
	}
}
"""


def test_a_fresh_project_has_the_module_from_a_proxy(tmp_path: Path) -> None:
    """Another project requires the module, which comes from a zip, and runs the module's vectors too.

    The version is that of the content, because the cache of modules keeps what it once got for a version. The cache is
    the machine's: with one of its own, gRPC would be compiled again.
    """
    proxy, project = tmp_path / "proxy", tmp_path / "project"
    digest = hashlib.sha256(b"".join((LIBRARY / path).read_bytes() for path in files_of(LIBRARY))).hexdigest()
    version = f"v0.0.0-test.{digest[:16]}"
    for module, (folder, others) in MODULES.items():
        publish(proxy, module, version, folder, others)
    project.mkdir()
    found = json.loads(go(project, "env", "-json", "GOMODCACHE", "GOPROXY"))
    cache = Path(found["GOMODCACHE"])
    (project / "go.mod").write_text(f"module example.com/fresh\n\ngo 1.26.0\n\nrequire {MODULE} {version}\n")
    (project / "main_test.go").write_text(PROGRAM)
    environment = {
        "GOPROXY": f"file://{proxy},file://{cache}/cache/download,{found['GOPROXY']}",
        "GONOSUMDB": f"{OWNER}/*",
        "GOFLAGS": "-mod=mod -modcacherw",
    }
    try:
        go(project, "test", "-count=1", ".", f"{MODULE}/kve1", **environment)
    finally:
        for path in (
            cache / f"{MODULE}@{version}",
            cache / f"{MODULE}/kve1@{version}",
            cache / "cache/download" / OWNER,
        ):
            shutil.rmtree(path, ignore_errors=True)


def publish(proxy: Path, module: str, version: str, folder: Path, others: set[str]) -> None:
    """Lay a module down as a module proxy has it: its go.mod, a zip of its files, and what versions there are."""
    listed = proxy / module / "@v"
    listed.mkdir(parents=True)
    (listed / "list").write_text(f"{version}\n")
    (listed / f"{version}.info").write_text(json.dumps({"Version": version}))
    described = (folder / "go.mod").read_text().replace(f"/kve1 {REQUIRED}", f"/kve1 {version}")
    (listed / f"{version}.mod").write_text(described)
    with zipfile.ZipFile(listed / f"{version}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in files_of(folder):
            if path.parts[0] in others:
                continue
            content = described if path == Path("go.mod") else (folder / path).read_bytes()
            archive.writestr(f"{module}@{version}/{path.as_posix()}", content)


def files_of(folder: Path) -> Sequence[Path]:
    """Return the files below a folder, relative to it: those that a tag publishes."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert Path("LICENSE") in found
    return found
