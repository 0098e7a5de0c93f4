"""Who calls: one name for each caller, from its certificate or its token.

    spiffe://domain/path    the certificate's SPIFFE ID, as it is
    uri:...                 its URI subject alternative name, if it has exactly one
    dns:...                 else its DNS subject alternative name, if it has exactly one; never the common name
    jwt:...                 the `sub` of a valid JWT in the metadata `authorization: Bearer ...`
    anonymous               everybody, where no authentication is configured

The rules of this file: where tokens are configured, a token that is sent has to be valid and decides; where they are
not, it is not looked at. With any authentication configured, nobody is let in without a name. A name is at most
MAX_IDENTITY visible ASCII characters, so that it is safe in a log and in a policy. Names are read from the certificate
itself: gRPC's own reading of them (peer_spiffe_id, peer_uri, peer_dns) ends at a NUL, so that "spiffe://a/b<NUL>.c",
which a CA may sign for c, would be "spiffe://a/b". Sources: SPIFFE-ID (the standard's sections 2.1 and 2.2), X509-SVID,
RFC 6750.
"""

import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cryptography import x509

from keyvault_server.access.spiffe import is_spiffe_id
from keyvault_server.access.tokens import Tokens
from keyvault_server.core.caller import ANONYMOUS, MAX_IDENTITY
from keyvault_server.core.errors import Unauthenticated

_VISIBLE = re.compile(rf"[!-~]{{1,{MAX_IDENTITY}}}", re.ASCII)

AuthContext = Mapping[str, Iterable[bytes]]
Metadata = Iterable[tuple[str, str | bytes]]


class Identifier:
    """Names the caller of each call; does no input or output, and never waits."""

    def __init__(
        self, *, certificates: bool, tokens: Tokens | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`certificates`: clients have to show one, so the handshake has checked it. `tokens`: callers may send one."""
        self.certificates = certificates
        """Whether `identify` looks at the authentication context, which costs more to ask for than all the rest."""
        self._tokens = tokens
        self._clock = clock

    def identify(self, auth_context: AuthContext, metadata: Metadata | None) -> str:
        """The caller's identity, from `context.auth_context()` and the call's metadata.

        Raises Unauthenticated; TokenKeysTooOld, where nobody can tell.
        """
        if self._tokens is not None and (token := _bearer_token(metadata or ())) is not None:
            return f"jwt:{self._tokens.subject(token)}"
        if self.certificates:
            self._refuse_resumed_after_expiry(auth_context)
            return certificate_identity(auth_context)
        if self._tokens is not None:
            raise Unauthenticated("send a JWT in the metadata, as `authorization: Bearer ...`")
        return ANONYMOUS

    def _refuse_resumed_after_expiry(self, auth_context: AuthContext) -> None:
        """Resuming a TLS session, which is good for days, checks no certificate: it may have expired meanwhile."""
        if b"true" not in auth_context.get("ssl_session_reused", ()):
            return
        if any(self._clock() > _read(pem).expires for pem in auth_context.get("x509_pem_cert", ())):
            raise Unauthenticated("the client certificate has expired since this TLS session began: connect anew")


class _Certificate(NamedTuple):
    """What counts of a client's certificate."""

    uris: frozenset[str]
    dns: frozenset[str]
    expires: float


@functools.lru_cache(1024)
def _read(pem: bytes) -> _Certificate:
    """A certificate that TLS has verified; a subject alternative name that cannot be read makes it nobody's."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        found = [one.value for one in certificate.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise Unauthenticated("an extension of the client certificate, its names perhaps, cannot be read") from None
    uris, dns = (
        frozenset(name for names in found for name in names.get_values_for_type(kind))
        for kind in (x509.UniformResourceIdentifier, x509.DNSName)
    )
    return _Certificate(uris, dns, certificate.not_valid_after_utc.timestamp())


def certificate_identity(auth_context: AuthContext) -> str:
    """The one name of the caller's certificate, as its subject alternative names give it. Raises Unauthenticated."""
    certificate = _read(next(iter(auth_context.get("x509_pem_cert", ())), b""))
    uris, names = map(_visible, (certificate.uris, certificate.dns))
    if any(uri.lower().startswith("spiffe:") for uri in uris):
        return _spiffe_id(uris)
    if uris:
        return f"uri:{_only(uris, 'URI')}"
    if not names:
        raise Unauthenticated("the client certificate names nobody: it needs a URI (a SPIFFE ID) or a DNS name")
    if any("*" in name for name in names):
        raise Unauthenticated("the client certificate names a wildcard: it needs the name of one caller")
    return f"dns:{_only(names, 'DNS name')}"


def _spiffe_id(uris: frozenset[str]) -> str:
    """By X509-SVID an SVID has one URI; what looks like a SPIFFE ID and breaks its rules is no other name either."""
    uri = _only(uris, "URI")
    if not is_spiffe_id(uri):
        raise Unauthenticated("the client certificate's SPIFFE ID is malformed: spiffe://trust-domain/path")
    return uri


def _visible(names: frozenset[str]) -> frozenset[str]:
    if not all(map(_VISIBLE.fullmatch, names)):
        raise Unauthenticated(
            "a name of the client certificate is too long, or has spaces, control or non-ASCII characters"
        )
    return names


def _only(names: frozenset[str], kind: str) -> str:
    if len(names) != 1:
        raise Unauthenticated(f"the client certificate has more than one {kind}: which one calls is not to be guessed")
    return next(iter(names))


def _bearer_token(metadata: Metadata) -> str | None:
    """The token that was sent; None if there was none. Raises Unauthenticated for anything else in its place."""
    values = [value for name, value in metadata if name == "authorization"]
    if not values:
        return None
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send one token in the metadata, as `authorization: Bearer ...`, or none")
    return token
