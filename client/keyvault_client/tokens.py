"""Bearer tokens, by which a server may identify its caller (docs/client.md, "Who you are").

The rule of this file: no error, log line or repr holds any part of a token.
"""

import codecs
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from keyvault_client.errors import InvalidRequest, KeyVaultError, Unavailable
from keyvault_client.file_changes import FileChanges

MAX_TOKEN = 8_000
"""Most characters in a token, the server's limit."""

TokenSource: TypeAlias = Callable[[], Awaitable[str]]
"""Returns the token for the next attempt; called before each one."""

_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{1,{MAX_TOKEN}}}", re.ASCII)  # RFC 6750, section 2.1
_log = logging.getLogger(__name__)


class TokenFile:
    """A TokenSource: the token in a file, which is reloaded when it changes.

    Surrounding white space, and the byte order mark that some editors write, do not belong to the token.
    If the changed file cannot be read or is not a token, the previous token stays in use.
    """

    def __init__(
        self,
        path: str | Path,
        clock: Callable[[], float] = time.monotonic,
        file_clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises InvalidRequest if the file cannot be read or is not a token. See FileChanges for the clocks."""
        self._path = Path(path)
        self._changes = FileChanges([self._path], clock, file_clock)
        self._token = self._read()

    async def __call__(self) -> str:
        """Return the current token."""
        if self._changes.detected():
            self._reload()
        return self._token

    def _reload(self) -> None:
        """Use the token of the changed file. What changed while it was read is read later."""
        failure = ""
        token = self._token
        try:
            token = self._read()
        except InvalidRequest as error:
            failure = str(error)
        if not self._changes.unchanged():
            return
        if failure:
            _log.error("reload failed: %s; keeping the previous token", failure)
        self._token = token

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                content = file.read(2 * MAX_TOKEN)
        except OSError as error:
            raise InvalidRequest(f"{self._path}: {error.strerror}") from None
        token = content.removeprefix(codecs.BOM_UTF8).decode("ascii", "replace").strip()
        if not _TOKEN.fullmatch(token):
            raise InvalidRequest(f"{self._path}: not a bearer token: expected one line, as the issuer gave it")
        return token


async def get_authorization(source: TokenSource) -> tuple[tuple[str, str], ...]:
    """Return the metadata of one attempt. Raises Unavailable if the source fails, InvalidRequest for a bad token."""
    try:
        token = await source()
    except KeyVaultError:
        raise
    except Exception as error:
        raise Unavailable(f"cannot get a token ({type(error).__name__}); the request was not sent") from error
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidRequest(
            "the token source returned an invalid bearer token: expected one line, as the issuer gave it"
        )
    return (("authorization", f"Bearer {token}"),)
