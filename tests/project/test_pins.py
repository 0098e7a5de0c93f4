"""What is pinned is what pyproject.toml asks for, and none of it is a package that has our name by accident."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dev
from tests.support.repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVER = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["server"]]
DEV = [*SERVER, *PROJECT["dependency-groups"]["dev"]]
FILES = sorted((ROOT / "requirements").iterdir())


def pins(name: str) -> dict[str, set[Version]]:
    """Return the pinned versions of each package; there are several where markers tell platforms apart."""
    found: dict[str, set[Version]] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;\\]+)", line):
            found.setdefault(canonicalize_name(match[1]), set()).add(Version(match[2]))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_requirements_file_names_us(path: Path) -> None:
    named = re.findall(r"^([A-Za-z0-9._-]+)", path.read_text(), re.MULTILINE)
    assert named
    assert not {canonicalize_name(name) for name in named} & set(dev.NOT_PINNED)


def test_pyproject_does_not_ask_for_us() -> None:
    assert not {canonicalize_name(Requirement(line).name) for line in DEV} & set(dev.NOT_PINNED)
    assert canonicalize_name(PROJECT["project"]["name"]) in dev.NOT_PINNED


@pytest.mark.parametrize(("name", "wanted"), [("dev.txt", DEV), ("server.txt", SERVER)])
def test_each_direct_dependency_is_pinned_as_allowed(name: str, wanted: list[str]) -> None:
    locked = pins(name)
    for requirement in map(Requirement, wanted):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_extra_for_tests_is_the_servers() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert extras["testing"] == extras["server"]


def test_the_server_ships_what_was_tested() -> None:
    tested = pins("dev.txt")
    assert {name: tested.get(name) for name in pins("server.txt")} == pins("server.txt")


def test_the_build_is_pinned_as_pyproject_asks() -> None:
    locked = pins("build.txt")
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert [f"=={version}" for version in locked[canonicalize_name(requirement.name)]] == [
            str(requirement.specifier)
        ]
    assert {
        name: versions for name, versions in locked.items() if pins("dev.txt").get(name, versions) != versions
    } == {}


def test_nothing_importable_is_called_keyvault() -> None:
    assert find_spec("keyvault") is None
