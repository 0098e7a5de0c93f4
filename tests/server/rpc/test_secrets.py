"""No secret of a full session, at DEBUG level and with gRPC's core talking, is in anything that the server writes."""

import base64
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.backends.aws.options import AwsOptions
from tests.support import requests
from tests.support.connections import bearer
from tests.support.engines import variables_of
from tests.support.forked import run_forked
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.processes import BIN, STARTED, server_process
from tests.support.refusals import failure_of

pytestmark = pytest.mark.process

PLAINTEXT, NEWER = b"hunter2-the-plaintext-itself", b"hunter3-the-plaintext-after-it"
NAME = "prod/db"
POLICY = """
[[caller]]
identity = "jwt:service-7"
tenant = "acme"
[[caller.allow]]
methods = ["*"]
names = ["*"]
[[caller.allow]]
methods = ["UnwrapKey"]
names = ["prod/db"]
"""


def spellings(secret: bytes) -> Iterator[bytes]:
    """The ways in which a log would show bytes."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    for start in range(3):  # base64 of a text that has it somewhere within
        inner = base64.b64encode(bytes(start) + secret)[4:-4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
    escaped = "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in secret)  # protobuf's text format
    yield escaped.encode()


def changed(sealed: bytes) -> bytes:
    """Return the bytes with another last one."""
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


async def session(address: str, ca: bytes, token: str) -> list[bytes]:
    """Every method, and every way to fail that holds a secret; returns all secrets that were used."""
    credentials = grpc.ssl_channel_credentials(ca)
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = KeyVaultStub(channel)
        mine = bearer(token)
        made = [await stub.GenerateKey(pb.GenerateKeyRequest(scope=NAME), metadata=mine) for _ in range(3)]
        key, new, other = (requests.Key(one.plaintext_key, one.wrapped_key, one.tenant) for one in made)
        created = requests.create(key, NAME, PLAINTEXT)
        await stub.Create(created, metadata=mine)
        await stub.Create(created, metadata=mine)
        await stub.Read(pb.ReadRequest(key_id=NAME), metadata=mine)
        await stub.Update(requests.update(key, NAME, 2, NEWER), metadata=mine)
        await failure_of(stub.Update(requests.update(key, NAME, 9, NEWER), metadata=mine))
        await failure_of(stub.Update(requests.update(other, NAME, 3, NEWER), metadata=mine))
        broken = requests.update(key, NAME, 3, NEWER)
        broken.envelope = changed(broken.envelope)
        await failure_of(stub.Update(broken, metadata=mine))
        broken.wrapped_key = changed(broken.wrapped_key)
        await failure_of(stub.Update(broken, metadata=mine))
        broken.envelope = PLAINTEXT
        await failure_of(stub.Update(broken, metadata=mine))
        await failure_of(stub.Read(pb.ReadRequest(key_id=PLAINTEXT.decode() + " "), metadata=mine))
        await failure_of(stub.Read(pb.ReadRequest(key_id=NAME), metadata=bearer(token + "x")))
        raw: Any = channel.unary_unary("/keyvault.v1.KeyVault/Create")
        await failure_of(raw(PLAINTEXT + key.plaintext, metadata=mine))
        await stub.RotateKey(requests.rotate(key, new, NAME, 3, NEWER), metadata=mine)
        await stub.RewrapKey(pb.RewrapKeyRequest(wrapped_key=new.wrapped), metadata=mine)
        await stub.UnwrapKey(pb.UnwrapKeyRequest(wrapped_key=new.wrapped), metadata=mine)
        await stub.Delete(requests.delete(new, NAME, 4), metadata=mine)
        secrets = [part for one in (key, new, other) for part in (one.plaintext, one.wrapped[-40:])]
        return [*secrets, PLAINTEXT, NEWER, token.encode()]


def found(secrets: Iterable[bytes], places: Iterable[Path]) -> list[str]:
    """Where a secret is, said without it."""
    return [
        f"secret {number} is in {place.name}"
        for place in places
        for content in [place.read_bytes()]
        for number, secret in enumerate(secrets)
        if any(spelling in content for spelling in spellings(secret))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["embedded", "aws"])
async def test_no_secret_is_in_what_a_server_writes(tmp_path: Path, moto_options: AwsOptions, backend: str) -> None:
    made = run_forked([*STARTED, "dev-certs", tmp_path / "certs"], environment=os.environ, timeout=30)
    assert made.returncode == 0
    issuer = Issuer()
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    (tmp_path / "policy.toml").write_text(POLICY)
    token = issuer.token()
    settings = {
        "KEYVAULT_LOG_LEVEL": "DEBUG",
        "GRPC_VERBOSITY": "DEBUG",
        "KEYVAULT_TLS_CERTIFICATE": str(tmp_path / "certs" / "server.pem"),
        "KEYVAULT_TLS_PRIVATE_KEY": str(tmp_path / "certs" / "server.key"),
        "KEYVAULT_JWT_KEYS": str(tmp_path / "keys.json"),
        "KEYVAULT_JWT_ISSUER": ISSUER,
        "KEYVAULT_JWT_AUDIENCE": AUDIENCE,
        "KEYVAULT_POLICY": str(tmp_path / "policy.toml"),
        "KEYVAULT_AUDIT_FILE": str(tmp_path / "audit.jsonl"),
        "KEYVAULT_UNWRAP_SCOPES": f'["{NAME}"]',
    }
    if backend == "aws":
        settings |= variables_of(moto_options)
    with server_process(tmp_path / "data", **settings) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        secrets = await session(address, (tmp_path / "certs" / "ca.pem").read_bytes(), token)
        assert server.stop() == 0
        assert server.process.stdout
        (tmp_path / "stdout").write_text(server.process.stdout.read())
    for secret_file in (tmp_path / "certs" / "server.key", tmp_path / "audit.jsonl.key"):
        secrets += [line for line in secret_file.read_bytes().split(b"\n") if len(line) > 40]
    places = [tmp_path / "stdout", server.log, tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.checkpoints"]
    assert server.log.stat().st_size > 1_000
    told = found(secrets, places)
    assert not told
    (tmp_path / "planted").write_bytes(b"..." + base64.b64encode(b"x" + secrets[0]) + b"...")
    told = found(secrets, [tmp_path / "planted"])
    assert told, "a secret would be found"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own view is in /proc")
def test_no_other_user_and_no_core_file_has_the_memory(tmp_path: Path) -> None:
    """What nobody may look into belongs to root in /proc, user and group, no matter who runs it."""
    group = str(os.getgid() or 54_321)  # only its group distinguishes root from nobody
    as_group = "import os, sys; os.setgid(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    program = (sys.executable, "-c", as_group, group, BIN / "keyvault-server")
    with server_process(tmp_path / "data", program=program) as server:
        process = Path(f"/proc/{server.process.pid}")
        for name in ("mem", "environ", "maps", "fd"):
            status = (process / name).stat()
            assert (name, status.st_uid, status.st_gid) == (name, 0, 0)
        (core,) = [line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core file")]
        assert core.split()[4:6] == ["0", "0"]
