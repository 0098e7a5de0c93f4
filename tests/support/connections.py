"""Channels of a test's own: each is a new connection, in plaintext or in TLS."""

from typing import Any

import grpc

from tests.support.certificates import Issued


def channel(address: str, ca: bytes | None, client: Issued | None = None, sessions: Any = None) -> grpc.aio.Channel:
    """Return a new connection, in TLS if there is a `ca`; with `sessions` it resumes an earlier TLS session."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if sessions is not None:
        options.append(("grpc.ssl_session_cache", sessions))
    if ca is None:
        return grpc.aio.insecure_channel(address, options=options)
    shown = (client.private_key, client.certificate) if client else (None, None)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *shown), options=options)


def bearer(token: str) -> grpc.aio.Metadata:
    """Return the metadata of a call that shows this token."""
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"))
