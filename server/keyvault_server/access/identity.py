"""The caller's identity: one name for each caller, from its certificate or its token.

    spiffe://domain/path    the certificate's SPIFFE ID, as it is
    uri:...                 its URI subject alternative name (SAN), if it has exactly one
    dns:...                 without a URI: its DNS SAN, if it has exactly one; never the common name
    jwt:...                 the `sub` of a valid JWT in the metadata `authorization: Bearer ...`
    anonymous               every caller, where no authentication is configured

The rules of this file:

- Where tokens are configured, a token that is sent must be valid, and decides. Elsewhere tokens are ignored.
- With any authentication configured, a caller without an identity is rejected; there is no default identity.
- An identity is at most MAX_IDENTITY visible ASCII characters, so that it is safe in a log and in a policy.
- A certificate that TLS accepts is nobody's if it is a CA's, has an RSA key below MIN_RSA_BITS, or was signed with a
  broken hash. With a CA's key one could sign other callers.
- Names are read from the certificate itself. gRPC's own fields (peer_spiffe_id, peer_uri, peer_dns) end at a NUL:
  "spiffe://a/b<NUL>.c", which a CA may sign for c, would be "spiffe://a/b".

Sources: SPIFFE-ID (sections 2.1 and 2.2), X509-SVID (section 4.1), RFC 6750, NIST SP 800-131A.
"""

import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from keyvault_server.access.rsa_strength import MIN_RSA_BITS
from keyvault_server.access.spiffe import is_spiffe_id
from keyvault_server.access.tokens import Tokens
from keyvault_server.core.caller import ANONYMOUS, MAX_IDENTITY
from keyvault_server.core.errors import Unauthenticated

_VISIBLE = re.compile(rf"[!-~]{{1,{MAX_IDENTITY}}}", re.ASCII)

_BROKEN_HASHES = frozenset({"md5", "sha1"})

AuthContext = Mapping[str, Iterable[bytes]]
Metadata = Iterable[tuple[str, str | bytes]]


class Identifier:
    """Identifies the caller of each call, in memory: no input or output, no waiting."""

    def __init__(
        self, *, certificates: bool, tokens: Tokens | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`certificates`: TLS requires a client certificate and has verified it. `tokens`: callers may send one."""
        self.certificates = certificates
        """Whether `identify` needs the authentication context, which costs more to get than all the rest."""
        self.tokens = tokens
        """The verifier of tokens; None: tokens are ignored."""
        self._clock = clock

    def identify(self, auth_context: AuthContext, metadata: Metadata | None) -> str:
        """Return the caller's identity, from `context.auth_context()` and the call's metadata.

        Raises Unauthenticated; TokenKeysTooOld if the token cannot be verified now.
        """
        if self.tokens is not None and (token := _find_bearer_token(metadata or ())) is not None:
            return f"jwt:{self.tokens.subject(token)}"
        if self.certificates:
            self._refuse_resumed_after_expiry(auth_context)
            return certificate_identity(auth_context)
        if self.tokens is not None:
            raise Unauthenticated("a token is required: send a JWT in the metadata, as `authorization: Bearer ...`")
        return ANONYMOUS

    def _refuse_resumed_after_expiry(self, auth_context: AuthContext) -> None:
        """Raise Unauthenticated if the certificate expired after the TLS session began.

        A TLS session can be resumed for days, and resuming it does not check the certificate.
        """
        if b"true" not in auth_context.get("ssl_session_reused", ()):
            return
        if any(self._clock() > _parse_certificate(pem).expires for pem in auth_context.get("x509_pem_cert", ())):
            raise Unauthenticated(
                "the client certificate has expired since this TLS session began: connect with a valid one"
            )


class _Certificate(NamedTuple):
    """The fields of a client certificate that an identity depends on."""

    uris: frozenset[str]
    dns: frozenset[str]
    expires: float


@functools.lru_cache(1024)
def _parse_certificate(pem: bytes) -> _Certificate:
    """Parse a certificate that TLS has verified. Raises Unauthenticated for one that is nobody's."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extensions = [one.value for one in certificate.extensions]
        _refuse_weak(certificate)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm):
        raise Unauthenticated("cannot parse the client certificate: check its subject alternative names") from None
    if any(one.ca for one in extensions if isinstance(one, x509.BasicConstraints)):
        raise Unauthenticated("the client certificate is a CA's (its basic constraints say so): use one of a caller")
    found = [one for one in extensions if isinstance(one, x509.SubjectAlternativeName)]
    uris, dns = (
        frozenset(name for names in found for name in names.get_values_for_type(kind))
        for kind in (x509.UniformResourceIdentifier, x509.DNSName)
    )
    return _Certificate(uris, dns, certificate.not_valid_after_utc.timestamp())


def _refuse_weak(certificate: x509.Certificate) -> None:
    """Raise Unauthenticated for a key or a signature that can be forged; ValueError, UnsupportedAlgorithm."""
    key = certificate.public_key()
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise Unauthenticated(
            f"the client certificate has an RSA key of {key.key_size} bits; at least {MIN_RSA_BITS} are required"
        )
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and algorithm.name in _BROKEN_HASHES:
        raise Unauthenticated(f"the client certificate is signed with {algorithm.name.upper()}: use SHA-256 or better")


def certificate_identity(auth_context: AuthContext) -> str:
    """Return the identity that the SANs of the caller's certificate give. Raises Unauthenticated."""
    identity, refusal = _judge(next(iter(auth_context.get("x509_pem_cert", ())), b""))
    if refusal:
        raise Unauthenticated(refusal)
    return identity


@functools.lru_cache(1024)
def _judge(pem: bytes) -> tuple[str, str]:
    """Return a certificate's identity, or why it has none: a caller that is refused may come back at once."""
    try:
        return _identity_in(_parse_certificate(pem)), ""
    except Unauthenticated as error:
        return "", str(error)


def _identity_in(certificate: _Certificate) -> str:
    """Return the identity that the SANs give. Raises Unauthenticated."""
    uris, names = certificate.uris, certificate.dns
    _check_visible(uris | names)
    if any(uri.lower().startswith("spiffe:") for uri in uris):
        return _parse_spiffe_id(uris)
    if uris:
        return f"uri:{_get_only(uris, 'URI')}"
    if not names:
        raise Unauthenticated("the client certificate has no URI SAN (such as a SPIFFE ID) and no DNS SAN: add one")
    if any("*" in name for name in names):
        raise Unauthenticated("the client certificate has a wildcard DNS SAN: it must name one caller")
    return f"dns:{_get_only(names, 'DNS')}"


def _parse_spiffe_id(uris: frozenset[str]) -> str:
    """Return the one SPIFFE ID (X509-SVID allows no second URI); a malformed one is no `uri:` identity either."""
    uri = _get_only(uris, "URI")
    if not is_spiffe_id(uri):
        raise Unauthenticated("the client certificate's SPIFFE ID is malformed: expected spiffe://TRUST-DOMAIN/PATH")
    return uri


def _check_visible(names: frozenset[str]) -> None:
    if not all(map(_VISIBLE.fullmatch, names)):
        raise Unauthenticated(
            f"a SAN of the client certificate is longer than {MAX_IDENTITY} characters,"
            " or has spaces, control or non-ASCII characters"
        )


def _get_only(names: frozenset[str], kind: str) -> str:
    if len(names) != 1:
        raise Unauthenticated(f"the client certificate has more than one {kind} SAN; exactly one is required")
    return next(iter(names))


def _find_bearer_token(metadata: Metadata) -> str | None:
    """Return the token that was sent, or None. Raises Unauthenticated for any other authorization."""
    values = [value for name, value in metadata if name == "authorization"]
    if not values:
        return None
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthenticated("invalid authorization: send one token, as `authorization: Bearer ...`, or none")
    return token
