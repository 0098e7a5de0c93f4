"""The client's side of TLS: its files, and whether they are usable.

The rule of this file: the server is always verified.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from keyvault_client.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files of a TLS connection. The server is always verified, against the system's roots if `ca` is None.

    The files are reloaded when they change: the next call then uses a new connection.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    """The client's chain, where the server requires one; needs `private_key`."""
    private_key: str | Path | None = None

    def paths(self) -> list[Path]:
        """Return the paths that are set."""
        return [Path(path) for path in (self.ca, self.certificate, self.private_key) if path is not None]

    def credentials(self) -> grpc.ChannelCredentials:
        """Load the files for a channel. Raises InvalidRequest if they are unusable: gRPC would only fail to connect."""
        if (self.certificate is None) is not (self.private_key is None):
            raise InvalidRequest("a client certificate and its private key must be given together")
        try:
            read = [Path(path).read_bytes() if path else None for path in (self.ca, self.private_key, self.certificate)]
        except OSError as error:
            raise InvalidRequest(f"{error.filename}: {error.strerror}") from None
        self._check()
        return grpc.ssl_channel_credentials(*read)

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except OSError:  # ssl.SSLError is one
            raise InvalidRequest(f"{self.ca}: not a PEM certificate") from None
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.private_key, password=lambda: "")
        except OSError:
            raise InvalidRequest(
                f"{self.certificate} and {self.private_key}: not a PEM certificate and its unencrypted private key"
            ) from None
