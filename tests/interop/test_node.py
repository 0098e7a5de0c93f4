"""The Node library: its tests and linter, and a project elsewhere that has it from `npm pack`, as its users have it."""

import json
import re
from pathlib import Path

import pytest

from tests.interop.programs import MARKS, PLAYER, Programs, run
from tests.support.repository import ROOT

pytestmark = MARKS
LIBRARY = ROOT / "sdk" / "node"
PACKAGE = "@keyvault-grpc/keyvault"


@pytest.fixture
def library(programs: Programs) -> Path:
    """Return the folder of the built library."""
    return programs.library_of("node")


def node(folder: Path, *command: str | Path, **environment: str) -> str:
    """Run a command of Node's; return what it said."""
    return run(folder, *command, **PLAYER | environment)


def test_the_library_passes_its_tests_with_the_player(library: Path) -> None:
    said = node(library, "npm", "--silent", "test")
    assert "✔ half-open-connection " in said
    assert "ℹ skipped 1\n" in said, "only Wycheproof's vectors, which another test brings"  # noqa: RUF001 - Node's own


def test_the_linter_and_the_reference_have_no_complaint(library: Path) -> None:
    assert node(library, "npm", "run", "--silent", "lint") == ""
    node(library, "npm", "run", "--silent", "docs")


def test_the_program_passes_its_tests(library: Path) -> None:
    node(library.parents[1] / "examples" / "node", "npm", "--silent", "test")


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("testdata/kve1.json", "tests/vectors/kve1.json"),
        ("testdata/behaviour", "tests/behaviour"),
        ("LICENSE", "LICENSE"),
    ],
)
def test_what_travels_with_the_package_is_the_original(copy: str, original: str) -> None:
    """A package is published from its folder: the files that it tests itself with are copied into it."""
    source, copied = ROOT / original, LIBRARY / copy
    files = {path.name: path.read_bytes() for path in (source.glob("*.json") if source.is_dir() else [source])}
    found = {path.name: path.read_bytes() for path in (copied.iterdir() if copied.is_dir() else [copied])}
    assert files
    assert found == files, f"copy {original} to sdk/node/{copy}"


PROGRAM = """
import { KeyVaultClient } from "@keyvault-grpc/keyvault";
import { MIN_ENVELOPE } from "@keyvault-grpc/keyvault/kve1";

using vault = new KeyVaultClient({ address: process.env["KEYVAULT_ADDRESS"] ?? "" });
const key = await vault.generateKey("fresh-node/");
await vault.create("fresh-node/db", Buffer.from("hunter2"), { key });
const record = await vault.read("fresh-node/db", { key });
const size: number | undefined = (await vault.revisions("fresh-node/db"))[0]?.size;
console.log(record.revision === 1n && record.text(), (size ?? 0) > MIN_ENVELOPE, key);
"""


def test_a_fresh_project_has_the_package_from_a_file(library: Path, address: str, tmp_path: Path) -> None:
    """Another project installs what `npm publish` would upload, compiles against its types, and runs.

    The blocks of the README compile there, too, and the vectors that travel with the package agree.
    """
    packed = json.loads(node(library, "npm", "pack", "--json", "--pack-destination", tmp_path))[0]
    files = {one["path"] for one in packed["files"]}
    assert {"LICENSE", "README.md", "dist/index.d.ts", "testdata/kve1.json"} <= files
    assert not [
        path for path in files if not re.match(r"(dist|testdata)/[^.]|LICENSE$|README\.md$|package\.json$", path)
    ]
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"type": "module"}')
    quick = ("--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--silent")
    node(project, "npm", "install", *quick, tmp_path / packed["filename"])
    blocks = re.findall(r"```ts\n(.*?)```", (LIBRARY / "README.md").read_text(), re.DOTALL)
    assert len(blocks) > 1
    for i, block in enumerate([PROGRAM, *blocks]):
        (project / f"block{i}.ts").write_text(f"{block}export {{}};\n")
    compiler = library / "node_modules" / ".bin" / "tsc"
    options = ["--strict", "--target", "es2022", "--lib", "es2023,esnext.disposable", "--module", "nodenext"]
    types = ["--types", "node", "--typeRoots", str(library / "node_modules" / "@types")]
    node(project, compiler, *options, *types, *(path.name for path in project.glob("*.ts")))
    said = node(project, "node", "block0.js", KEYVAULT_ADDRESS=address)
    assert said == "hunter2 true [data key of default for fresh-node/]\n"
    assert node(project, "node", f"block{len(blocks)}.js") == "true\n", "the last block of the README"
    said = node(project, "node", "--test", f"node_modules/{PACKAGE}/dist/test/kve1.test.js")
    assert "all agree" in said
