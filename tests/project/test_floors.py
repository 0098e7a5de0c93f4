"""No version of a dependency that has a known fault which matters here is admitted, and none is pinned."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.project.test_pins import pins
from tests.support.repository import ROOT

UNSAFE = [
    # Decompress 268 MB from 261 kB before a caller is known (measured; tests/server/rpc/test_compression.py).
    ("grpcio", "1.81.1"),
    ("grpcio", "1.81.2"),
    ("grpcio", "1.82.1"),
    ("grpcio", "1.83.0"),
    # CVE-2026-128131: a server can block its client by a reply of many compressed streams.
    ("aiohttp", "3.14.3"),
]
SAFE = [("grpcio", "1.82.2"), ("grpcio", "1.83.1"), ("aiohttp", "3.14.4")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = {
    str(canonicalize_name(requirement.name)): requirement.specifier
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"]])
}


@pytest.mark.parametrize(("name", "version"), UNSAFE)
def test_an_unsafe_version_is_not_admitted(name: str, version: str) -> None:
    assert not WANTED[name].contains(version)
    assert Version(version) not in pins("server.txt")[name] | pins("dev.txt")[name]


@pytest.mark.parametrize(("name", "version"), SAFE)
def test_a_floor_is_the_first_safe_version(name: str, version: str) -> None:
    assert WANTED[name].contains(version)


@pytest.mark.parametrize("name", sorted(WANTED))
def test_every_pin_is_within_the_range(name: str) -> None:
    assert all(WANTED[name].contains(version) for version in pins("server.txt")[name])
