"""Options of the command `keyvault` that say where the server is and how to connect to it.

Each has a variable of the environment, and may be in a profile (profiles.py). The server accepts these variables in its
own (CLIENT_VARIABLES there). An empty one is refused, as the server does it: `KEYVAULT_CA=$CA` is to fail where CA is
unset, not to go without. Only an empty KEYVAULT_STATE or KEYVAULT_KEYS has a meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from cyclopts import CycloptsError, Group, Parameter, Token, convert
from cyclopts.types import ExistingFile, PositiveFloat

from keyvault_client.errors import InvalidRequest
from keyvault_client.key_ring import KeyRing
from keyvault_client.revision_file import default_path
from keyvault_client.tls import TLS
from keyvault_client.vault import KeyVault


def _convert(kind: type, tokens: Sequence[Token]) -> Any:
    """Convert a value that is not empty. Raises CycloptsError."""
    if not tokens[-1].value:
        remedy = "unset it" if tokens[-1].source == "env" else "leave it out"
        raise CycloptsError(msg=f"{tokens[-1].keyword} is empty: give it a value, or {remedy}")
    return convert(kind, tokens)


Option = partial(Parameter, converter=_convert)
"""A parameter whose value, in the environment too, may not be empty."""
_GROUP = Group("Connection", sort_key=10)  # after what is the command's own


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Address of the server, and how to connect to it."""

    profile: Annotated[
        str | None,
        Option(
            env_var="KEYVAULT_PROFILE",
            help="Take what is not given from this profile in keyvault/config.toml, in XDG_CONFIG_HOME or ~/.config. "
            "Default: its default_profile.",
        ),
    ] = None
    address: Annotated[str, Option(env_var="KEYVAULT_ADDRESS", show_default=True, help="host:port or unix:/path.")] = (
        "127.0.0.1:50051"
    )
    timeout: Annotated[
        PositiveFloat,
        Option(env_var="KEYVAULT_TIMEOUT", show_default=True, help="Seconds for the whole call, retries included."),
    ] = 10.0
    ca: Annotated[
        ExistingFile | None, Option(env_var="KEYVAULT_CA", help="PEM file of CA certificates; turns TLS on.")
    ] = None
    certificate: Annotated[
        ExistingFile | None,
        Option(env_var="KEYVAULT_CERTIFICATE", help="PEM file of this client's certificate chain; turns TLS on."),
    ] = None
    private_key: Annotated[
        ExistingFile | None,
        Option(env_var="KEYVAULT_PRIVATE_KEY", help="PEM file of this client's private key, unencrypted."),
    ] = None
    token_file: Annotated[
        ExistingFile | None,
        Option(
            env_var="KEYVAULT_TOKEN_FILE",
            help="File with a bearer token. Needs TLS unless the server is on this machine.",
        ),
    ] = None
    tls: Annotated[
        bool, Option(env_var="KEYVAULT_TLS", help="Use TLS, with the system's CA certificates unless --ca is given.")
    ] = False
    server_name: Annotated[
        str | None,
        Option(env_var="KEYVAULT_SERVER_NAME", help="Name in the server's certificate, for a forwarded port."),
    ] = None
    insecure: Annotated[
        bool, Option(env_var="KEYVAULT_INSECURE", help="Allow plaintext to another machine, keys included.")
    ] = False

    state: Annotated[
        str | None,
        Parameter(
            env_var="KEYVAULT_STATE",
            help="File that keeps the highest revisions across runs, to notice a rolled back store. "
            "Default: keyvault/revisions.json in XDG_STATE_HOME or ~/.local/state. Empty: keep none.",
        ),
    ] = None
    no_state: Annotated[bool, Parameter(help="Keep no revisions across runs.")] = False

    def tls_files(self) -> TLS | None:
        """Return the TLS that these options choose, None for plaintext. Raises InvalidRequest."""
        if (self.certificate is None) is not (self.private_key is None):
            raise InvalidRequest("--certificate and --private-key must be given together")
        if self.tls or self.ca or self.certificate:
            return TLS(self.ca, self.certificate, self.private_key, self.server_name)
        if self.server_name is not None:
            raise InvalidRequest("--server-name needs TLS: give --tls, --ca or --certificate")
        return None

    def connect(self, keys: KeyRing | None = None) -> KeyVault:
        """Return a client with these options, and with these keys. Raises InvalidRequest."""
        state_file = None if self.no_state else default_path() if self.state is None else self.state
        return KeyVault(
            self.address,
            tls=self.tls_files(),
            insecure=self.insecure,
            token_file=self.token_file,
            keys=keys,
            timeout=self.timeout,
            state_file=state_file,
        )


DEFAULT_CONNECTION = ConnectionOptions()
