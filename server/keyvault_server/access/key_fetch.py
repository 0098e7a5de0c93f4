"""One fetch of a key set from a URL.

The rules of this file:

- A URL is https, or http to this machine. Redirects and proxies are not followed, nothing is unpacked.
- A bearer token comes from a file, and the server is verified against the CAs in another. Both are watched: the kubelet
  replaces the token while it is valid, and the CAs when the cluster's change. No message shows the token. Other users
  may read the files, as Kubernetes mounts them, but not write them.

Sources: RFC 7517, section 8.5 (media type); RFC 6750; Kubernetes, Service Account Issuer Discovery, whose server
answers 406 to a request that does not accept the media type.
"""

import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from keyvault_api.address import is_loopback
from keyvault_server.access.key_set import BadKeySet
from keyvault_server.core.meter import Meter
from keyvault_server.disk.watched import Watched, read_file

MAX_KEY_SET = 256 * 1024
"""Bytes of a JWKS."""
MAX_TOKEN_FILE = 16 * 1024
"""Bytes of a file with a bearer token."""

_ACCEPT = "application/jwk-set+json, application/json;q=0.9, */*;q=0.1"
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeySetUrl:
    """Where a key set is published, and what a fetch needs."""

    url: str
    ca: Path | None = None
    """PEM file of the CAs that an https server is verified against. None: the system's."""
    token_file: Path | None = None
    """File with a bearer token to send. None: none is sent."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What was read of the files that a fetch needs."""

    tls: ssl.SSLContext | None
    token: str | None = field(repr=False)


class KeyFetch:
    """Fetches one URL, again and again. Raises BadKeySet, Unreadable and UnsafeFile when it is made."""

    def __init__(self, source: KeySetUrl, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        """`meter` counts the readings of "token fetch"."""
        self.shown = _check_url(source.url)
        """The URL without its query."""
        self._source = source
        self._ca = source.ca if self.shown.startswith("https:") else None
        paths = [path for path in (self._ca, source.token_file) if path is not None]
        self.files = Watched("token fetch", paths, self._read, meter, clock=clock) if paths else None
        """`files.watching()` notices changes; None: a fetch needs no files."""
        self._without_files = self._read() if self.files is None else self.files.last

    async def get(self) -> bytes:
        """Return the body of a 200, of at most MAX_KEY_SET bytes. Raises BadKeySet and OSError."""
        import aiohttp  # takes 0.1 s, and only servers with tokens from a URL need it

        files = self._without_files if self.files is None else self.files.last
        connector = aiohttp.TCPConnector(ssl=files.tls if files.tls is not None else True)
        headers = {"accept": _ACCEPT, "accept-encoding": "identity"}
        if files.token is not None:
            headers["authorization"] = f"Bearer {files.token}"
        try:
            async with (
                aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False) as session,
                session.get(self._source.url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise BadKeySet(self._explain(response.status))
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > MAX_KEY_SET:
                        raise BadKeySet(f"the key set is larger than {MAX_KEY_SET} bytes")
                return bytes(content)
        except aiohttp.ClientError as error:
            raise OSError(type(error).__name__) from None

    def _read(self) -> _Files:
        token = None if self._source.token_file is None else _read_token(self._source.token_file)
        return _Files(self._tls(), token)

    def _tls(self) -> ssl.SSLContext | None:
        return _tls_context(self._ca) if self.shown.startswith("https:") else None

    def _explain(self, status: int) -> str:
        """Return a sentence about an answer that is not the key set."""
        if status not in (401, 403):
            return f"HTTP status {status}, expected 200"
        if self._source.token_file is None:
            return f"HTTP status {status}: set KEYVAULT_JWT_KEYS_TOKEN_FILE if the issuer asks for a bearer token"
        return f"HTTP status {status}: the token of {self._source.token_file} was not accepted"


def _read_token(path: Path) -> str:
    """Return the token of a file, without white space around it and a byte order mark. Raises as KeyFetch."""
    content = read_file(path, MAX_TOKEN_FILE)
    token = content.decode("utf-8-sig", errors="replace").strip()
    if not token:
        raise BadKeySet(f"{path} is empty: it must hold a bearer token")
    if not _BEARER.fullmatch(token):
        raise BadKeySet(f"{path}: not a bearer token: expected one line of visible ASCII characters")
    return token


def _check_url(url: str) -> str:
    """Return the URL without its query, to be shown. Raises BadKeySet for one that must not be fetched."""
    try:
        parts = urlsplit(url)
        address = f"[{parts.hostname}]:{parts.port or 0}"
        (parts.hostname or "").encode("idna")  # as the resolver does
    except ValueError:
        raise BadKeySet("the key set's URL is malformed: expected https://host/path") from None
    if parts.username is not None or not parts.hostname:
        raise BadKeySet("the key set's URL must have a host, and no user or password: expected https://host/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(address)):
        raise BadKeySet("the key set's URL must be https: anyone who can change an answer can forge tokens")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    if ca is not None:
        read_file(ca)  # refuses one that others may write
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError:
        raise BadKeySet(f"{ca}: not a PEM file of CA certificates") from None
