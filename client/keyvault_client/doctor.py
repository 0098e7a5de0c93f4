"""Find out why the server cannot be used: each step of the way to it, what is wrong there, and what to do.

The rules of this file:

* Nothing is changed, on either side: the one call to the server is WhoAmI.
* A step that needs an earlier one is skipped if that one failed; every other step is tried.
* No finding has any part of a key or a token but its dates.
"""

import asyncio
import base64
import datetime
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from keyvault_api.files import why_unsafe
from keyvault_api.printable import printable
from keyvault_client.addresses import check_address
from keyvault_client.caller_identity import CallerIdentity
from keyvault_client.doctor_connection import (
    Broken,
    Certificate,
    Endpoint,
    connect,
    handshake,
    host_and_port,
    resolve,
    show,
)
from keyvault_client.errors import Denied, InvalidRequest, KeyVaultError
from keyvault_client.key_folder import read_folder
from keyvault_client.keys import DataKey
from keyvault_client.tls import TLS
from keyvault_client.tokens import MAX_TOKEN
from keyvault_client.vault import KeyVault

State = Literal["ok", "problem", "skipped"]

_RELEASED = 1_795_564_800  # 2026-11-25; an earlier clock is wrong
_SLACK = 30.0
"""Seconds by which two clocks may differ before it is a problem."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found."""

    check: str
    """Name of the step."""
    state: State
    text: str
    """One line; for a problem, what is wrong and what to do."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self)

    def __str__(self) -> str:
        """Return a line for a person."""
        return f"{self.state:8} {self.check:10} {printable(self.text)}"


@dataclass(slots=True)
class Examination:
    """How the server is to be reached, and what is known so far."""

    address: str
    tls: TLS | None = None
    insecure: bool = False
    token_file: Path | None = None
    key_files: Sequence[Path] = ()
    key_folder: Path | None = None
    seconds: float = 10.0
    """Longest time of a step."""
    now: Callable[[], float] = time.time
    endpoints: list[Endpoint] = field(default_factory=list)
    endpoint: Endpoint | None = None
    reachable: bool = False
    """Whether a call may reach the server."""
    you: CallerIdentity | None = None
    evidence: list[tuple[str, float]] = field(default_factory=list)
    """What began at which time, in seconds since 1970: the clock must not be before that."""

    async def findings(self) -> list[Finding]:
        """Take all steps, in order."""
        steps: tuple[tuple[str, Callable[[], Awaitable[str]]], ...] = (
            ("address", self._address),
            ("name", self._name),
            ("tcp", self._tcp),
            ("tls", self._tls),
            ("identity", self._identity),
            ("policy", self._policy),
            ("clock", self._clock),
        )
        found = [await _take(name, step) for name, step in steps]
        return [*found, *self._files()]

    async def _address(self) -> str:
        check_address(self.address, tls=self.tls is not None, insecure=self.insecure)
        return f"{self.address}, {'TLS' if self.tls else 'plaintext'}"

    async def _name(self) -> str:
        try:
            check_address(self.address, tls=True, insecure=True)
        except InvalidRequest:
            raise _Skip("the address is invalid") from None
        self.endpoints = await asyncio.to_thread(resolve, self.address)
        return ", ".join(show(endpoint) for endpoint in self.endpoints)

    async def _tcp(self) -> str:
        if not self.endpoints:
            raise _Skip("needs an IP address or a socket")
        try:
            self.endpoint = await asyncio.to_thread(connect, self.endpoints, self.seconds)
        except Broken as broken:
            self.reachable = bool(_proxy()) and self.tls is not None
            through = f". The client goes through {_proxy()} of the environment, this step does not"
            raise Broken(f"{broken}{through if self.reachable else ''}") from None
        self.reachable = self.tls is None
        return f"connected to {show(self.endpoint)}"

    async def _tls(self) -> str:
        if self.tls is None:
            raise _Skip("plaintext was chosen; --tls, --ca or --certificate turn TLS on")
        self.tls.check()
        if self.endpoint is None:
            raise _Skip("needs a connection")
        host = _host_of(self.address)
        endpoint, seconds = self.endpoint, min(self.seconds, 5.0)
        certificate = await asyncio.to_thread(handshake, endpoint, host, self.tls, seconds)
        self.reachable = True
        self._note("the server's certificate", certificate)
        return f"the server's certificate is trusted, and {certificate.describe()}"

    def _note(self, what: str, certificate: Certificate) -> None:
        self.evidence.append((what, certificate.since.timestamp()))

    async def _identity(self) -> str:
        if not self.reachable:
            raise _Skip("needs a connection")
        vault = KeyVault(
            self.address, tls=self.tls, insecure=self.insecure, token_file=self.token_file, timeout=self.seconds
        )
        async with vault:
            try:
                self.you = await vault.whoami()
            except Denied as denied:
                raise Broken(f"{denied}. {self._remedy()}") from None
        return f"{self.you.identity}, as the server ({self.you.server_version}) sees you"

    def _remedy(self) -> str:
        if self.token_file is not None:
            return f"Get a new token into {self.token_file}, for this server's issuer and audience"
        return "Give a token (--token-file) or a client certificate (--certificate) that the server knows"

    async def _policy(self) -> str:
        if self.you is None:
            raise _Skip("needs an identity")
        if not self.you.tenant:
            raise Broken(f"it does not know {self.you.identity}: ask the operator for an entry (docs/policy.md)")
        if not self.you.rules:
            raise Broken(f"the entry of {self.you.identity} allows nothing: ask the operator for a rule")
        rules = "; ".join(f"{', '.join(rule.methods)} on {', '.join(rule.names)}" for rule in self.you.rules)
        return f"tenant {self.you.tenant}: {rules}"

    async def _clock(self) -> str:
        now = self.now()
        shown = f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
        if now < _RELEASED:
            raise Broken(f"{shown} is before this release: set this machine's clock")
        expiry = self._expiry_of_token()
        for what, since in self.evidence:
            if since > now + _SLACK:
                behind = datetime.timedelta(seconds=round(since - now))
                raise Broken(f"{shown} is {behind} before {what} began: set this machine's clock, or its maker's")
        if expiry is not None and expiry < now:
            ago = datetime.timedelta(seconds=round(now - expiry))
            raise Broken(f"{shown}: the token expired {ago} ago: get a new one, or set this machine's clock")
        known = ", ".join(what for what, _ in self.evidence)
        return f"{shown}, {f'after the begin of {known}' if known else 'with nothing to compare it with'}"

    def _expiry_of_token(self) -> float | None:
        """Note when the token begins; return when it expires. None for one that is opaque to its bearer."""
        if self.token_file is None:
            return None
        try:
            with self.token_file.open("rb") as file:
                claims = _claims(file.read(2 * MAX_TOKEN))
        except (OSError, ValueError, IndexError, RecursionError):
            return None
        for name in ("nbf", "iat"):
            if (since := _number(claims.get(name))) is not None:
                self.evidence.append(("the token", since))
                break
        return _number(claims.get("exp"))

    def _files(self) -> Iterator[Finding]:
        """Yield a finding for each file with a secret."""
        secrets = [self.token_file, Path(self.tls.private_key) if self.tls and self.tls.private_key else None]
        for path in filter(None, secrets):
            yield _file_finding("file", path, _check_private)
        for path in self.key_files:
            yield _file_finding("key file", path, _load_key)
        if self.key_folder is not None:
            yield from _key_folder_findings(self.key_folder)


class _Skip(Exception):
    """A step needs an earlier one, or was not asked for."""


async def _take(name: str, step: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "ok", await step())
    except _Skip as why:
        return Finding(name, "skipped", str(why))
    except (Broken, KeyVaultError) as error:
        return Finding(name, "problem", str(error))


def _key_folder_findings(folder: Path) -> Iterator[Finding]:
    """Yield a finding for the folder, or for each file in it that cannot be used."""
    try:
        found = read_folder(folder)
    except InvalidRequest as error:
        yield Finding("key folder", "problem", str(error))
        return
    for problem in found.problems:
        yield Finding("key folder", "problem", problem)
    if not found.problems:
        scopes = ", ".join(dict.fromkeys(one.key.scope for one in found.keys)) or "no key yet"
        yield Finding("key folder", "ok", f"{folder}: {scopes}")


def _file_finding(check: str, path: Path, look: Callable[[Path], str]) -> Finding:
    try:
        return Finding(check, "ok", look(path))
    except OSError as error:
        return Finding(check, "problem", f"{path}: {error.strerror}")
    except KeyVaultError as error:
        return Finding(check, "problem", str(error))


def _check_private(path: Path) -> str:
    """Return a sentence about a file that only its owner can use. Raises OSError, InvalidRequest."""
    with path.open("rb") as file:
        why = why_unsafe(path, file.fileno(), secret=True)
    if why:
        raise InvalidRequest(why)
    return f"{path}: nobody else can read or write it"


def _host_of(address: str) -> str:
    """Return the name that the server's certificate has to be for; of a unix socket gRPC's, which is localhost."""
    if address.startswith("unix:"):
        return "localhost"
    return host_and_port(address)[0].strip("[]")


def _proxy() -> str:
    """Return the variable by which gRPC finds a proxy; "" if there is none."""
    return next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")


def _load_key(path: Path) -> str:
    """Return a sentence about a key file. Raises OSError, InvalidRequest."""
    key = DataKey.load(path)
    lacks = "" if key.plaintext_key else ", without its plaintext: `keyvault unwrap-key` may get it"
    return f"{path}: a key of tenant {key.tenant} for {key.scope}{lacks}"


def _claims(token: bytes) -> dict[str, Any]:
    """Return the claims of a JWT, which nobody has verified. Raises ValueError, IndexError, RecursionError."""
    part = token.strip().split(b".")[1]
    found = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    """Return a time of a token, None if it is not a possible one."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e11 else None
