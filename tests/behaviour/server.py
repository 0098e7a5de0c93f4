"""The player of the behaviour suite: `python -m tests.behaviour.server [CASE ...]`, without names all cases.

It prints a line of JSON for each case: where its server is, and which key the client has. The last line is
{"ready": N}. Then it reads names of cases from standard input, and prints for each what its server got and has stored.
It ends with its input.
"""

import asyncio
import json
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from tests.behaviour.suite import Case, cases
from tests.support import requests
from tests.support.certificates import Authority, dns
from tests.support.misbehaving import Misbehaving, misbehaving
from tests.support.requests import Key, mint
from tests.support.servers import Served, embedded


@dataclass(frozen=True)
class Playing:
    """A case whose server runs."""

    case: Case
    server: Served
    announced: dict[str, Any]
    peer: Misbehaving | None
    """None where nothing answers."""

    @property
    def key_id(self) -> str:
        return str(self.announced["key_id"])

    async def report(self) -> dict[str, Any]:
        """Return what the server got so far, and what is stored."""
        calls, sealed, connections = self._seen()
        return {
            "case": self.case.name,
            "calls": calls,
            "sealed": sealed,
            "connections": connections,
            "stored": await requests.stored_revision(self.server.stub, self.key_id),
        }

    def _seen(self) -> tuple[dict[str, int], list[int], int]:
        if self.peer is None:
            return {}, [], 0
        return dict(Counter(self.peer.calls)), self.peer.sealed, self.peer.relay.accepted


def scope_of(case: Case) -> str:
    """Return the name that a case is about, which is also the scope of its keys."""
    return f"behaviour/{case.name}"


class Player:
    """Plays cases before one real server, until it is closed."""

    def __init__(self, server: Served, folder: Path, stack: AsyncExitStack) -> None:
        self._server = server
        self._folder = folder
        self._stack = stack
        self._authority = Authority()

    async def play(self, case: Case) -> Playing:
        """Start the server of a case, with the record that it begins with."""
        key_id = scope_of(case)
        keys = {name: await mint(self._server.stub, key_id) for name in ("key", "new_key", "other_key")}
        await _prepare(self._server, case, key_id, keys["other_key" if case.record == "foreign" else "key"])
        peer, address = await self._listen(case, keys)
        announced = {
            "case": case.name,
            "address": address,
            "key_id": key_id,
            "key": keys["key"].file(key_id),
            "new_key": keys["new_key"].file(key_id),
            "tls": self._client_files(case),
            "token_file": self._token_file(case),
        }
        return Playing(case, self._server, announced, peer)

    async def _listen(self, case: Case, keys: Mapping[str, Key]) -> tuple[Misbehaving | None, str]:
        if case.listen != "honestly":
            taken = self._stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            if case.listen == "silent":
                taken.listen()
            return None, f"127.0.0.1:{taken.getsockname()[1]}"
        credentials = self._credentials(case) if case.tls else None
        peer = await self._stack.enter_async_context(misbehaving(self._server, case.script(), credentials, keys))
        return peer, peer.address

    def _credentials(self, case: Case) -> grpc.ServerCredentials:
        authority = Authority() if case.tls["server"] == "untrusted" else self._authority
        name = dns("elsewhere.example") if case.tls["server"] == "misnamed" else x509.IPAddress(ip_address("127.0.0.1"))
        issued = authority.issue(name)
        asks = case.tls["client"] != "anyone"
        return grpc.ssl_server_credentials(
            [(issued.private_key, issued.certificate)],
            root_certificates=self._authority.pem if asks else None,
            require_client_auth=asks,
        )

    def _client_files(self, case: Case) -> dict[str, str] | None:
        """Return the paths of the roots that the client trusts, and of the certificate that it shows, if any."""
        if not case.tls:
            return None
        folder = self._folder / case.name
        folder.mkdir()
        (folder / "ca.pem").write_bytes(self._authority.pem)
        files = {"ca": str(folder / "ca.pem"), "certificate": "", "private_key": ""}
        if case.tls["client"] in ("known", "unknown"):
            signer = self._authority if case.tls["client"] == "known" else Authority()
            certificate, key = signer.issue(dns("client")).write(folder, "client")
            files |= {"certificate": str(certificate), "private_key": str(key)}
        return files

    def _token_file(self, case: Case) -> str:
        if not case.token:
            return ""
        path = self._folder / f"{case.name}.token"
        path.write_text("expired\n")
        return str(path)


async def _prepare(server: Served, case: Case, key_id: str, key: Key) -> None:
    """Store what the case begins with: revision n has the data "at n"."""
    if case.record == "absent":
        return
    await server.stub.Create(requests.create(key, key_id, b"at 1"))
    for revision in range(2, case.revision + 1):
        await server.stub.Update(requests.update(key, key_id, revision, f"at {revision}".encode()))
    if case.record == "deleted":
        await server.stub.Delete(requests.delete(key, key_id, case.revision + 1))


@asynccontextmanager
async def player() -> AsyncIterator[Player]:
    """Give a player, whose files and servers go at the end."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="behaviour-")))
        scopes = [scope_of(case) for case in cases().values()]
        server = await stack.enter_async_context(embedded(folder / "data", reflection=False, unwrap_scopes=scopes))
        yield Player(server, folder, stack)


async def main(names: list[str]) -> None:
    """Play these cases, all if there are none, until the input ends."""
    known = cases()
    async with player() as playing:
        started = {name: await playing.play(known[name]) for name in names or known}
        for one in started.values():
            _say(one.announced)
        _say({"ready": len(started)})
        while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
            _say(await started[name].report())


def _say(content: object) -> None:
    sys.stdout.write(f"{json.dumps(content)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
