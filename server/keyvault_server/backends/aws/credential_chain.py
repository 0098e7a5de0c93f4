"""One walk of the AWS SDK's credential chain: environment, profile, web identity, SSO, process, container, instance.

The rule of this file: the clients that the SDK makes for it (of STS and SSO) have the limits that stand here, however
short those of a call are. The SDK's own lines about failed fetches are off: they have tracebacks and texts of AWS.

Source: AWS SDKs and Tools Reference Guide "Credential provider chain", "IMDS credential provider".
"""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError, InvalidConfigError, NoCredentialsError
from botocore.loaders import Loader, create_loader

from keyvault_api.files import FileStamp, stamp_of
from keyvault_server.backends.aws.tls import VerifyingConfig

ATTEMPTS = 3
"""Attempts of one request to STS or SSO: the SDK retries lost connections, 5xx, throttles and IDPCommunicationError."""
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
"""Longest wait for an answer of STS or SSO."""
METADATA_SECONDS = 2
"""Shortest time limit of a request to the instance's metadata, and number of attempts, unless more is configured."""
REGION_VARIABLES = ["AWS_REGION", "AWS_DEFAULT_REGION"]
"""As all SDKs of AWS read them; Python's knows only the second."""

for _name in ("aiobotocore.credentials", "aiobotocore.tokens"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass(slots=True)
class Walk:
    """What one walk brought."""

    frozen: ReadOnlyCredentials = field(repr=False)
    _source: Any = field(repr=False)
    _stamps: Mapping[Path, FileStamp] = field(repr=False)
    _seen: Mapping[Path, FileStamp] = field(default_factory=dict, repr=False)
    """Of the files at the last look."""

    def expires_within(self, seconds: float) -> bool:
        """See Fetched."""
        asked = getattr(self._source, "refresh_needed", None)  # static ones have none
        return asked is not None and bool(asked(refresh_in=seconds))

    def is_outdated(self) -> bool:
        """See Fetched. Two looks must find the changed files the same: half of a secret is a secret too."""
        before, self._seen = self._seen, _stamps_of(self._stamps)
        return self._seen != self._stamps and self._seen == before


class CredentialChain:
    """The chain, as the environment configures it; its clients call `region`."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._walked = False

    async def fetch(self) -> Walk:
        """Walk the chain. Raises whatever a provider raises."""
        session = new_session()
        session.set_config_variable("region", self._region)
        session.set_default_client_config(_config())
        _ask_metadata_patiently(session)
        stamps = _stamps_of(_files(session))  # before they are read: a change after it counts
        source = await session.get_credentials()
        if source is None:
            raise NoCredentialsError
        if self._walked and _asks_for_mfa(session, source):
            raise InvalidConfigError(
                error_msg="the profile's role needs an MFA code, which a server cannot ask for again"
            )
        try:
            frozen = await source.get_frozen_credentials()
        except RuntimeError:  # the SDK's word for it
            raise CredentialRetrievalError(provider=source.method, error_msg="what it gave had expired") from None
        self._walked = True
        return Walk(frozen, source, stamps)


def new_session() -> AioSession:
    """Return a session of the SDK that finds the Region where users of other SDKs put it.

    All share what is loaded of the SDK's models: to load it holds the event loop for up to 0.3 s.
    """
    session = AioSession(session_vars={"region": ("region", REGION_VARIABLES, None, None)})
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return session


@cache
def _models(data_path: str | None) -> Loader:
    return create_loader(data_path)


def _config() -> VerifyingConfig:
    return VerifyingConfig(
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
    )


def _ask_metadata_patiently(session: AioSession) -> None:
    for name in ("metadata_service_timeout", "metadata_service_num_attempts"):
        session.set_config_variable(name, max(session.get_config_variable(name), METADATA_SECONDS))


def _files(session: AioSession) -> list[Path]:
    named = (session.get_config_variable(name) for name in ("credentials_file", "config_file"))
    return [Path(os.path.expanduser(name)) for name in named if name]  # noqa: PTH111 - Path's raises without a HOME


def _stamps_of(files: Iterable[Path]) -> dict[Path, FileStamp]:
    return {path: stamp_of(path) for path in files}


def _asks_for_mfa(session: AioSession, source: Any) -> bool:
    """Return whether the role of the profile, or one that it is assumed from, needs a code from a terminal."""
    profiles, name = session.full_config["profiles"], session.get_config_variable("profile") or "default"
    seen: set[str] = set()
    while source.method == "assume-role" and name not in seen:
        seen.add(name)
        profile = profiles.get(name, {})
        if "mfa_serial" in profile:
            return True
        name = profile.get("source_profile", name)
    return False
