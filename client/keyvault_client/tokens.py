"""Bearer tokens, by which a server may know its caller (docs/client.md, "Who you are").

The rule of this file: no error, log line or repr holds anything of a token.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from keyvault_client.changes import Changes
from keyvault_client.errors import InvalidRequest, KeyVaultError, Unavailable

MAX_TOKEN = 8_000
"""Characters, the server's limit."""

TokenSource: TypeAlias = Callable[[], Awaitable[str]]
"""Gives the token of the next call; is asked before every attempt."""

_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{1,{MAX_TOKEN}}}", re.ASCII)  # RFC 6750, section 2.1
_log = logging.getLogger(__name__)


class TokenFile:
    """A TokenSource: the token in a file, white space around it apart; read again when the file changes.

    A file that cannot be read, or holds no token, leaves the last good token in use.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidRequest for a file that cannot be read or holds no token."""
        self._path = Path(path)
        self._changes = Changes([self._path], clock)
        self._token = self._read()

    async def __call__(self) -> str:
        """The token."""
        if self._changes.seen():
            try:
                self._token = self._read()
            except InvalidRequest as error:
                _log.error("%s: the token that was read before stays in use", error)
        return self._token

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                content = file.read(2 * MAX_TOKEN)
        except OSError as error:
            raise InvalidRequest(f"{self._path}: {error.strerror}") from None
        token = content.decode("ascii", "replace").strip()
        if not _TOKEN.fullmatch(token):
            raise InvalidRequest(f"{self._path} holds no bearer token: one line, as its issuer gave it")
        return token


async def authorization(source: TokenSource) -> tuple[tuple[str, str], ...]:
    """The metadata of one attempt. Raises Unavailable if the source fails, InvalidRequest if it gives no token."""
    try:
        token = await source()
    except KeyVaultError:
        raise
    except Exception as error:
        raise Unavailable(f"no token was to be had ({type(error).__name__}): nothing was sent") from error
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidRequest("what the token source gave is no bearer token: one line, as its issuer gave it")
    return (("authorization", f"Bearer {token}"),)
