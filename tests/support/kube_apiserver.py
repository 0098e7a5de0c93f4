"""The key set of kube-apiserver, as it answers for it: one media type, and for those only who show a token.

Source: Kubernetes' "Service Account Issuer Discovery"; `/openid/v1/jwks` has the type application/jwk-set+json and is
for the group system:serviceaccounts.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.server.backends.aws.wire import Reply, listening, read_message

JWKS_TYPE = "application/jwk-set+json"


@dataclass
class KubeApiserver:
    """A server that negotiates: 406 without its media type, 403 without a token, 401 with one it does not know."""

    key_set: bytes
    token: str | None
    address: str = ""
    authorizations: list[str | None] = field(default_factory=list)
    """What each request sent."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_message(reader)
        self.authorizations.append(request.headers.get("authorization"))
        writer.write(bytes(self._answer(request.headers.get("accept", "*/*"), request.headers.get("authorization"))))
        await writer.drain()

    def _answer(self, accept: str, authorization: str | None) -> Reply:
        if self.token is not None and authorization != f"Bearer {self.token}":
            return Reply(401 if authorization else 403, b"s3cret", {"connection": "close"})
        accepted = {part.partition(";")[0].strip() for part in accept.split(",")}
        if not accepted & {JWKS_TYPE, "application/*", "*/*"}:
            return Reply(406, b"", {"connection": "close"})
        return Reply(200, self.key_set, {"content-type": JWKS_TYPE, "connection": "close"})


@asynccontextmanager
async def kube_apiserver(key_set: bytes, token: str | None = None) -> AsyncIterator[KubeApiserver]:
    """Serve on loopback while the body runs; callers need the token, if there is one."""
    served = KubeApiserver(key_set, token)
    async with listening(served.serve) as port:
        served.address = f"http://127.0.0.1:{port}/openid/v1/jwks"
        yield served
