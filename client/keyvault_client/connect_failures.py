"""Causes of a failed connection, each as one sentence that says what to do.

gRPC reports a cause only in the message of a call that failed for want of a connection. The patterns below were
observed with grpcio 1.85; a message that fits none of them gets the general sentence.
"""

import re

_REFUSED = "connection refused. Is the server running?"
_GENERAL = "check the address, the TLS settings and the client certificate"
_UNTRUSTED = "the server's certificate is not trusted. Does the CA (tls.ca, --ca) belong to this server?"
_MISNAMED = (
    "the server's certificate is for another host name. Is the address right? "
    "For a forwarded port, name the certificate's host (server_name, --server-name)"
)
_NO_TLS = "the server does not speak TLS on this address. Is the address right?"
_CLOSED_TLS = "the server closed the connection. Does it require a client certificate, and does it trust yours?"
_CLOSED_PLAINTEXT = "the server closed the connection. Does it require TLS (tls, --tls, --ca)?"
_CAUSES = (
    (r"Connection refused", _REFUSED),
    (r"No such file or directory", "no such socket. Is the server running?"),
    (r"Permission denied", "permission denied. May this user use the socket?"),
    (r"errors resolving|DNS resolution failed", "the host name does not resolve. Is the address right?"),
    (
        r"before receiving SETTINGS",
        "what accepts connections there does not answer. Is the address right, and does the server require TLS?",
    ),
    (r"unreachable|No route to host|[Tt]imed out", "the host is unreachable. Is the address right?"),
    (r"WRONG_VERSION_NUMBER", _NO_TLS),
    (r"Hostname Verification Check failed", _MISNAMED),
    (
        r"HTTP proxy returned response code",
        "the proxy of the environment (https_proxy) refused to connect. May it reach this address?",
    ),
    (r"[Pp]ing timeout|keepalive", "the server does not answer. Is it overloaded, or the network broken?"),
    (r"Expected SETTINGS frame", "there is no gRPC server on this address. Is the address right?"),
)
_PROXY_STATUS = re.compile(r"http2 header with status: (\d+)")
_LASTING = re.compile(r"CERTIFICATE_VERIFY_FAILED|Hostname Verification Check failed|WRONG_VERSION_NUMBER")
_BROKEN_HANDSHAKE = re.compile(r"CERTIFICATE_VERIFY_FAILED|handshake failed")
_CLOSED = re.compile(r"Socket closed|Connection reset|Broken pipe")
_TARGET = re.compile(r"last error: \w+: (\S+): ")


class ConnectFailures:
    """Failures of one call's attempts to connect to an address.

    A host name may stand for several addresses ("localhost": 127.0.0.1 and ::1), and gRPC reports only the one that it
    tried last. So the latest failure of each is kept, and a refused connection counts less than any other cause.
    """

    def __init__(self, address: str, *, tls: bool) -> None:
        self._address = address
        self._tls = tls
        self._causes: dict[str, str] = {}
        self._last = ""

    def explain(self, details: str) -> str:
        """Note gRPC's `details` of another failed attempt, and return the sentence for all of them."""
        self._last = details
        target = _TARGET.search(details)
        self._causes[target.group(1) if target else ""] = _cause(details, tls=self._tls)
        cause = min(self._causes.values(), key=(_GENERAL, _REFUSED).__contains__)
        return f"cannot connect to {self._address}: {cause}"

    @property
    def lasting(self) -> bool:
        """True if another attempt would fail as well: the server's certificate, or its lack of TLS, stays."""
        return _LASTING.search(self._last) is not None


def explain_answer(details: str) -> str:
    """Return what gRPC says about a call that was sent; for the answer of something in between, what to do."""
    status = _PROXY_STATUS.search(details)
    if status is None:
        return details
    return (
        f"a proxy answered with HTTP status {status[1]} instead of the server. Does the server behind it run, and does "
        "the proxy speak gRPC to it?"
    )


def _cause(details: str, *, tls: bool) -> str:
    known = next((sentence for pattern, sentence in _CAUSES if re.search(pattern, details)), None)
    if known is not None:
        return known
    if tls and _BROKEN_HANDSHAKE.search(details):
        return _UNTRUSTED
    if _CLOSED.search(details):
        return _CLOSED_TLS if tls else _CLOSED_PLAINTEXT
    return _GENERAL
