"""What the sdist and the wheel contain, built offline as a release builds them."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.metadata import Metadata

from tests.support.repository import ROOT

pytestmark = pytest.mark.process

PACKAGES = {"protos/python/keyvault_api", "server/keyvault_server", "client/keyvault_client"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def sdist(built: Path) -> set[str]:
    """Paths in the sdist, below its one folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {str(PurePosixPath(*PurePosixPath(member.name).parts[1:])) for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    """The wheel, open."""
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Metadata:
    """What a package index shows of it, validated."""
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Metadata.from_email(wheel.read(path), validate=True)


def repository() -> set[str]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_sdist_has_only_files_of_the_repository(sdist: set[str]) -> None:
    assert sdist - repository() == {"PKG-INFO"}


def test_the_sdist_has_sources_tests_and_pages(sdist: set[str]) -> None:
    expected = {name for name in repository() if re.match(r"(protos|server|client|tests(?!/project)|docs)/", name)}
    assert expected <= sdist
    assert {"README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "pyproject.toml"} <= sdist


def test_the_wheel_has_our_three_packages_and_no_more(wheel: zipfile.ZipFile) -> None:
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        str(Path(name).relative_to(Path(package).parent))
        for package in PACKAGES
        for name in repository()
        if name.startswith(f"{package}/")
    }
    assert found == expected
    assert {f"{Path(package).name}/py.typed" for package in PACKAGES} <= found


def test_the_wheel_names_the_plugin_of_pytest(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    plugin = "keyvault_client.pytest_plugin"
    assert f"[pytest11]\n{plugin} = {plugin}\n" in wheel.read(path).decode()


def test_the_metadata_names_the_repository(metadata: Metadata) -> None:
    assert metadata.name == "keyvault-grpc"
    assert metadata.author
    urls = metadata.project_urls or {}
    assert set(urls) == {"Homepage", "Repository", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://github.com/keyvault-grpc/keyvault") for url in urls.values())


def test_links_of_the_index_page_lead_to_files_of_the_tag(metadata: Metadata) -> None:
    targets = re.findall(r"]\(([^)\s]+)\)", metadata.description or "")
    ours = f"https://github.com/keyvault-grpc/keyvault/blob/v{metadata.version}/"
    assert [target for target in targets if not re.match(r"https://|#", target)] == []
    paths = [target.removeprefix(ours).partition("#")[0] for target in targets if target.startswith(ours)]
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
