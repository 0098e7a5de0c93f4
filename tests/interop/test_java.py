"""The Java library: its own tests, and a project elsewhere that gets it from a Maven repository, as users do."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.behaviour.suite import cases
from tests.interop.programs import MADE, MARKS, PLAYER, run
from tests.support.repository import ROOT
from tests.support.tools import toolchain

pytestmark = MARKS
LIBRARY = ROOT / "sdk" / "java"
GROUP, ARTIFACT = "io.github.keyvault-grpc", "keyvault-client"
VERSION = "<version>0.1.0</version>"


def java(folder: Path, *command: str | Path) -> str:
    """Run this with what a build needs; return what it said."""
    toolchain("java", "mvn")
    return run(folder, *command, **PLAYER)


@dataclass(frozen=True)
class Published:
    """The library in a Maven repository, under a version of its content."""

    repository: Path
    version: str
    said: str
    """What the build said, tests included."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Build the library as a release is built, from a copy, and lay it down in a folder.

    The version is that of the content, because Maven keeps what it once got for a version in the user's own folder.
    """
    copy = tmp_path_factory.mktemp("java")
    for part in ("sdk/java", "protos"):
        shutil.copytree(ROOT / part, copy / part, ignore=MADE)
    folder, repository = copy / "sdk" / "java", copy / "repository"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    version = f"0.0.0-test.{digest.hexdigest()[:16]}"
    described = (folder / "pom.xml").read_text()
    (folder / "pom.xml").write_text(described.replace(VERSION, f"<version>{version}</version>", 1))
    where = f"-DaltDeploymentRepository=staging::{repository.as_uri()}"
    said = java(folder, "mvn", "--quiet", "--batch-mode", "--activate-profiles", "release", "deploy", where)
    yield Published(repository, version, said)
    kept = Path.home() / ".m2" / "repository" / GROUP.replace(".", "/") / ARTIFACT / version
    shutil.rmtree(kept, ignore_errors=True)


def test_the_library_passes_its_tests_with_the_player(published: Published) -> None:
    assert f"behaviour: {len(cases())} cases, all pass\n" in published.said
    assert "kve1.json: 67 valid, 621 invalid, all agree\n" in published.said


def test_what_is_published_is_what_maven_central_asks_for(published: Published) -> None:
    folder = published.repository / GROUP.replace(".", "/") / ARTIFACT / published.version
    begin = f"{ARTIFACT}-{published.version}"
    kinds = {path.name.removeprefix(begin) for path in folder.iterdir() if path.suffix in {".jar", ".pom"}}
    assert kinds == {".jar", "-sources.jar", "-javadoc.jar", ".pom"}
    described = (LIBRARY / "pom.xml").read_text()
    asked = ("name", "description", "url", "licenses", "developers", "scm")
    assert [name for name in asked if f"<{name}>" not in described] == []


PROJECT = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example.fresh</groupId>
  <artifactId>fresh</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.release>17</maven.compiler.release>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <repositories><repository><id>staging</id><url>{url}</url></repository></repositories>
  <dependencies>
    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>
  </dependencies>
  <build><plugins>{plugins}</plugins></build>
</project>
"""
PINS = {"resources": "3.5.0", "compiler": "3.16.0", "dependency": "3.11.0"}
"""Versions of Maven's plugins that the library's build has too."""
PROGRAM = """
import static java.nio.charset.StandardCharsets.UTF_8;

import io.github.keyvaultgrpc.*;
import io.github.keyvaultgrpc.testing.InMemoryKeyVault;
import java.nio.file.Path;

public final class Main {
    public static void main(String[] args) {
        try (KeyVault vault = KeyVault.builder(args[0]).build()) {
            KeyVaultClient client = vault;
            DataKey key = client.generateKey("fresh-java/");
            client.create("fresh-java/db", "hunter2".getBytes(UTF_8), key);
            System.out.println(new String(vault.async().read("fresh-java/db", key).join().plaintext(), UTF_8));
        }
    }

    README
}
"""


def test_a_fresh_project_has_the_library_from_a_repository(published: Published, address: str, tmp_path: Path) -> None:
    """Another project requires it, compiles the code of its README, and calls a server."""
    plugin = "<plugin><artifactId>maven-{}-plugin</artifactId><version>{}</version></plugin>"
    plugins = "".join(plugin.format(*pin) for pin in PINS.items())
    url = published.repository.as_uri()
    described = PROJECT.format(url=url, group=GROUP, artifact=ARTIFACT, version=published.version, plugins=plugins)
    (tmp_path / "pom.xml").write_text(described)
    blocks = re.findall(r"```java\n(.*?)```", (LIBRARY / "README.md").read_text(), re.DOTALL)
    assert blocks
    methods = "".join(f"static void block{i}() {{\n{block}}}\n" for i, block in enumerate(blocks))
    sources = tmp_path / "src" / "main" / "java"
    sources.mkdir(parents=True)
    (sources / "Main.java").write_text(PROGRAM.replace("README", methods))
    java(tmp_path, "mvn", "--quiet", "--batch-mode", "compile", "dependency:build-classpath", "-Dmdep.outputFile=path")
    classes = f"target/classes{os.pathsep}{(tmp_path / 'path').read_text()}"
    said = java(tmp_path, "java", "-XX:TieredStopAtLevel=1", "-classpath", classes, "Main", address)
    assert said.endswith("hunter2\n")


@pytest.mark.parametrize(
    ("copy", "original"),
    [("kve1.json", "tests/vectors/kve1.json"), ("behaviour", "tests/behaviour")],
)
def test_what_travels_with_the_module_is_the_original(copy: str, original: str) -> None:
    """A module is published from its folder: the files that it tests itself with are copied into it."""
    source, copied = ROOT / original, LIBRARY / "src" / "test" / "resources" / copy
    pairs = {source: copied}
    if source.is_dir():
        pairs = {path: copied / path.name for path in sorted(source.glob("*.json"))}
        assert pairs
        assert {path.name for path in copied.iterdir()} == {path.name for path in pairs}
    differ = [path.name for path, other in pairs.items() if other.read_bytes() != path.read_bytes()]
    assert differ == [], f"copy {original} to sdk/java/src/test/resources/{copy}"
