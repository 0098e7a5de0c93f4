"""The client's side of TLS: its files, and whether they are usable.

The rules of this file:

* The server is always verified. Files that gRPC could only fail to connect with are refused before anything is sent.
* cryptography.x509 is imported where a certificate is looked at: most callers show none, and it takes as long to import
  as the rest of this library.
"""

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from keyvault_client.errors import InvalidRequest
from keyvault_client.system_roots import read_system_roots, system_root_paths


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files of a TLS connection. The server is always verified, against the system's roots if `ca` is None.

    The files are reloaded when they change: the next call then uses a new connection. The system's roots are what
    OpenSSL finds, SSL_CERT_FILE and SSL_CERT_DIR included.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    """The client's chain, where the server requires one; needs `private_key`."""
    private_key: str | Path | None = None
    server_name: str | None = None
    """Name in the server's certificate, where the address has another one: for a port that is forwarded."""

    def paths(self) -> list[Path]:
        """Return the paths whose changes count."""
        files = [Path(path) for path in (self.ca, self.certificate, self.private_key) if path is not None]
        return files if self.ca is not None else files + system_root_paths()

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return the options of a channel that verifies the server against `server_name`."""
        if self.server_name is None:
            return ()
        return ("grpc.ssl_target_name_override", self.server_name), ("grpc.default_authority", self.server_name)

    def check(self) -> None:
        """Raise InvalidRequest if a connection cannot succeed with these files."""
        self._load()

    def credentials(self) -> grpc.ChannelCredentials:
        """Load the files for a channel. Raises InvalidRequest if they are unusable."""
        return grpc.ssl_channel_credentials(*self._load())

    def expiry(self) -> datetime.datetime | None:
        """Return when the client's certificate expires; None if that cannot be said."""
        if self.certificate is None:
            return None
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificates(Path(self.certificate).read_bytes())[0].not_valid_after_utc
        except (OSError, ValueError):  # replaced since it was checked, or odd but good enough for OpenSSL
            return None

    def _load(self) -> tuple[bytes, bytes | None, bytes | None]:
        """Return the roots, the private key and the certificate chain, after these checks.

        1. Certificate and key are given together, and the files can be read.
        2. The CA file holds certificates.
        3. The client's certificate is one, is valid now, and belongs to the key.
        """
        # 1.
        if self.server_name == "":
            raise InvalidRequest("the server name is empty: give the name in the server's certificate, or none")
        if (self.certificate is None) is not (self.private_key is None):
            raise InvalidRequest("a client certificate and its private key must be given together")
        try:
            ca, key, chain = (
                None if path is None else Path(path).read_bytes()
                for path in (self.ca, self.private_key, self.certificate)
            )
        except OSError as error:
            raise InvalidRequest(f"{error.filename}: {error.strerror}") from None
        # 2.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except OSError:  # ssl.SSLError is one
            raise InvalidRequest(f"{self.ca}: not a PEM certificate") from None
        # 3.
        if chain is not None:
            self._check_chain(context, chain)
        return read_system_roots() if ca is None else ca, key, chain

    def _check_chain(self, context: ssl.SSLContext, chain: bytes) -> None:
        from cryptography import x509

        assert self.certificate is not None
        try:
            context.load_cert_chain(self.certificate, self.private_key, password=lambda: "")
        except OSError as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                raise InvalidRequest(
                    f"{self.private_key} is not the private key of the certificate {self.certificate}"
                ) from None
            raise InvalidRequest(
                f"{self.certificate} and {self.private_key}: not a PEM certificate and its unencrypted private key"
            ) from None
        try:
            certificate = x509.load_pem_x509_certificates(chain)[0]
        except ValueError:  # OpenSSL takes it, so the server may too
            return
        now = datetime.datetime.now(datetime.UTC)
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if until < now:
            raise InvalidRequest(f"{self.certificate}: the certificate expired at {until}: get a new one")
        if since > now:
            raise InvalidRequest(f"{self.certificate}: not valid before {since}. Is this machine's clock right?")
