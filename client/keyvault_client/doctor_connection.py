"""The way to the server, step by step: the host's name, TCP, TLS. It says at which step a connection fails.

The rules of this file:

* Nothing is sent but a TLS handshake. Python's own TLS does it, with the files and the checks of tls.py: it says more
  about a failure than gRPC does.
* An invalid certificate is fetched once more without verifying it, to show its dates; then the connection is closed.
"""

import datetime
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509

from keyvault_api.address import socket_path
from keyvault_client.system_roots import read_system_roots
from keyvault_client.tls import TLS

Endpoint: TypeAlias = tuple[socket.AddressFamily, Any]
"""Family and address, as sockets have them."""

_SOON = datetime.timedelta(days=7)
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME, _OTHER_IP = 10, 9, 62, 64  # X509_verify_cert_error_string(3)


class Broken(Exception):
    """A step failed; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The dates of a certificate."""

    since: datetime.datetime
    until: datetime.datetime

    @classmethod
    def of_der(cls, der: bytes) -> "Certificate":
        """Return those of a certificate in DER. Raises ValueError."""
        found = x509.load_der_x509_certificate(der)
        return cls(found.not_valid_before_utc, found.not_valid_after_utc)

    def describe(self) -> str:
        """Return until when it is valid, and whether that is soon."""
        left = self.until - datetime.datetime.now(datetime.UTC)
        return f"valid until {self.until:%Y-%m-%d %H:%M} UTC{', which is soon' if left < _SOON else ''}"


def resolve(address: str) -> list[Endpoint]:
    """Return what host:port or unix:/path stands for. Raises Broken."""
    if address.startswith("unix:"):
        return [(socket.AF_UNIX, socket_path(address))]
    host, port = host_and_port(address)
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a valid name"
        raise Broken(f"{host} does not resolve: {why}. Is the address right, and the DNS reachable?") from None
    return list(dict.fromkeys((family, there) for family, _, _, _, there in found))


def host_and_port(address: str) -> tuple[str, str]:
    """Return the parts of host:port or dns:///host:port; an IPv6 address stays in its brackets."""
    host, _, port = address.removeprefix("dns:///").rpartition(":")
    return host, port


def show(endpoint: Endpoint) -> str:
    """Return the IP address, or the path."""
    return str(endpoint[1] if isinstance(endpoint[1], str) else endpoint[1][0])


def connect(endpoints: Sequence[Endpoint], seconds: float) -> Endpoint:
    """Return the first that accepts a connection. Raises Broken with the reason of each."""
    reasons = []
    for endpoint in endpoints:
        try:
            with _connected(endpoint, seconds):
                return endpoint
        except OSError as error:
            reasons.append(f"{show(endpoint)}: {_why_unconnected(error)}")
    raise Broken("; ".join(reasons))


def handshake(endpoint: Endpoint, host: str, tls: TLS, seconds: float) -> Certificate:
    """Connect with TLS as gRPC does; return the server's certificate. Raises Broken, InvalidRequest for unusable files.

    In TLS 1.3 a server refuses the client's certificate after the handshake, so its first bytes are awaited.
    """
    tls.check()
    name = tls.server_name or host
    try:
        with _tls_connected(_context(tls), endpoint, name, seconds) as connection:
            if not connection.recv(1):
                raise Broken(_why_closed(tls))
            return Certificate.of_der(connection.getpeercert(binary_form=True) or b"")
    except ssl.SSLCertVerificationError as error:
        raise Broken(_why_untrusted(error, endpoint, name, tls, seconds)) from None
    except ssl.SSLError as error:
        raise Broken(_why_no_tls(error)) from None
    except TimeoutError:
        raise Broken(f"no answer within {seconds:g} s. Does the server speak TLS on this address?") from None
    except OSError:
        raise Broken(_why_closed(tls)) from None


def _why_unconnected(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return "connection refused. Is the server running, and is the port right?"
        case FileNotFoundError():
            return "no such socket. Is the server running?"
        case PermissionError():
            return "permission denied. May this user use the socket?"
        case TimeoutError():
            return "no answer. Does a firewall drop it?"
    return f"{(error.strerror or 'failed').lower()}. Is the address right?"


@contextmanager
def _connected(endpoint: Endpoint, seconds: float) -> Iterator[socket.socket]:
    family, there = endpoint
    with socket.socket(family, socket.SOCK_STREAM) as plain:
        plain.settimeout(seconds)
        plain.connect(there)
        yield plain


@contextmanager
def _tls_connected(context: ssl.SSLContext, endpoint: Endpoint, name: str, seconds: float) -> Iterator[ssl.SSLSocket]:
    with _connected(endpoint, seconds) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
        yield connection


def _context(tls: TLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["h2"])
    roots = read_system_roots() if tls.ca is None else Path(tls.ca).read_bytes()
    context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context


def _why_untrusted(error: ssl.SSLCertVerificationError, endpoint: Endpoint, name: str, tls: TLS, seconds: float) -> str:
    match error.verify_code:
        case code if code in (_EXPIRED, _NOT_YET_VALID):
            dates = _dates_of(endpoint, name, seconds)
            verb = "has expired" if code == _EXPIRED else "is not valid yet"
            return f"the server's certificate, or its CA's, {verb}{dates}. Renew it; or is this machine's clock wrong?"
        case code if code in (_OTHER_NAME, _OTHER_IP):
            return f"the server's certificate is not for {name}. For a forwarded port, name its host (--server-name)"
    ca = f"the CA {tls.ca}" if tls.ca else "a CA of the system"
    return f"the server's certificate is not signed by {ca}. Does the CA (--ca) belong to this server?"


def _dates_of(endpoint: Endpoint, name: str, seconds: float) -> str:
    """Return the dates of a certificate that is not accepted, in brackets; "" if they are not to be had."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _tls_connected(context, endpoint, name, seconds) as connection:
            found = Certificate.of_der(connection.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return ""
    return f" ({found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC)"


def _why_closed(tls: TLS) -> str:
    """Return why a server may have closed a connection without a word, as gRPC's do."""
    closed = "the server closed the connection after the handshake"
    if tls.certificate is None:
        return f"{closed}. Does it require a client certificate? Give one (--certificate, --private-key)"
    return f"{closed}. Does it trust the client certificate {tls.certificate}?"


def _why_no_tls(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"):
        return "the server does not speak TLS on this address. Is the address right? A local server may be in plaintext"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        what = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
        return f"the server refused the client certificate ({what}): give one that it trusts"
    return f"the handshake failed ({reason.replace('_', ' ').lower() or 'no reason given'})"
