"""TLS to AWS, for our clients and for those that the SDK makes by itself to fetch credentials.

The rule of this file: a server that answers us has shown a certificate for the host's name. aiobotocore before 3.9
does not check the name, and behind an HTTPS_PROXY it checks nothing at all.
"""

import ssl
from collections.abc import Mapping
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession


class VerifyingSession(AIOHTTPSession):  # type: ignore[misc]
    """The SDK's HTTP session, with TLS that checks the certificate and its host name, also behind a proxy."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._get_ssl_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        return context

    def _setup_proxy_ssl_context(self, proxy_url: str) -> ssl.SSLContext:
        """Return the TLS context for the server behind the proxy; the SDK's own would check nothing."""
        return super()._setup_proxy_ssl_context(proxy_url) or self._get_ssl_context()


class VerifyingConfig(AioConfig):  # type: ignore[misc]
    """A configuration that keeps the verifying session when the SDK merges another one into it."""

    def __init__(self, connector_args: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(connector_args, VerifyingSession, **options)

    def merge(self, other_config: Any) -> "VerifyingConfig":
        """See botocore.config.Config; aiobotocore's `merge` loses the session's class."""
        return VerifyingConfig(self.connector_args, **super().merge(other_config)._user_provided_options)
