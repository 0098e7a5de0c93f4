"""`TLS()` trusts what OpenSSL on this machine trusts: SSL_CERT_FILE, SSL_CERT_DIR, and nothing of gRPC's own."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyvault_client import TLS, InvalidRequest, KeyVault, Unavailable
from keyvault_client.file_changes import LOOK_SECONDS
from keyvault_client.system_roots import read_system_roots
from keyvault_server.access.identity import Identifier
from keyvault_server.access.tls import ServerTls, TlsFiles
from tests.support.certificates import LOCALHOST, Authority, replace
from tests.support.identity_server import IdentityServer, identity_server
from tests.support.meters import RecordedMeter
from tests.support.processes import BIN

AUTHORITY, OTHER = Authority(), Authority("another CA")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[IdentityServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    files = AUTHORITY.issue(*LOCALHOST).write(folder, "server")
    async with identity_server(
        ServerTls(TlsFiles(*files), meter=RecordedMeter()).credentials(), Identifier(certificates=False)
    ) as served:
        yield served


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SSL_CERT_FILE names it, and SSL_CERT_DIR an empty folder: the machine's own roots do not count."""
    (tmp_path / "folder").mkdir()
    replace(tmp_path / "roots.pem", AUTHORITY.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "folder"))
    return tmp_path / "roots.pem"


@pytest.mark.slow
async def test_a_root_in_ssl_cert_file_is_trusted_and_followed(server: IdentityServer, roots: Path) -> None:
    async with KeyVault(server.address, tls=TLS()) as vault:
        await vault.generate_key("prod/")
    replace(roots, OTHER.pem)
    async with KeyVault(server.address, tls=TLS(), timeout=2) as vault:
        with pytest.raises(Unavailable, match="certificate is not trusted"):
            await vault.generate_key("prod/")
        replace(roots, OTHER.pem + AUTHORITY.pem)
        await asyncio.sleep(LOOK_SECONDS)
        await vault.generate_key("prod/", timeout=10)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False])
async def test_grpcs_own_roots_do_not_count(server: IdentityServer, roots: Path, tmp_path: Path, trusted: bool) -> None:
    own, other = (AUTHORITY.pem, OTHER.pem) if trusted else (OTHER.pem, AUTHORITY.pem)
    replace(roots, own)
    replace(tmp_path / "grpc.pem", other)
    seconds = "20" if trusted else "6"  # it is tried until then
    process = await asyncio.create_subprocess_exec(
        *(BIN / "keyvault", "generate-key", "prod/", "--tls", "--address", server.address, "--timeout", seconds),
        env=os.environ | {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "grpc.pem")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert (process.returncode, b"not trusted" in err) == ((0, False) if trusted else (6, True)), err


def test_roots_of_a_folder_count_by_their_hashed_names(roots: Path, tmp_path: Path) -> None:
    replace(tmp_path / "folder" / "1a2b3c4d.0", OTHER.pem)
    replace(tmp_path / "folder" / "5a2b3c4d.1", AUTHORITY.pem)
    replace(tmp_path / "folder" / "plain.pem", Authority("a third CA").pem)
    assert read_system_roots().strip() == AUTHORITY.pem.strip() + b"\n" + OTHER.pem.strip()


def test_no_roots_at_all_are_refused(roots: Path) -> None:
    replace(roots, b"")
    with pytest.raises(InvalidRequest, match=r"no CA certificates of the system in .*roots.pem.*folder"):
        KeyVault("localhost:1", tls=TLS())
    roots.unlink()
    with pytest.raises(InvalidRequest, match=r"SSL_CERT_FILE: .*roots\.pem: no such file"):
        KeyVault("localhost:1", tls=TLS())
