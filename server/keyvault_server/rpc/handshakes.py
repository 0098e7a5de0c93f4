"""Refused TLS handshakes: counted by their reason, and logged, one line in ten seconds.

gRPC reports them on standard error only, in lines like this one:

    I1128 23:49:22.434974   29286 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL:
    error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired

The rule of this file: a peer that has not shown a valid certificate costs a number, not a line of our log.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable

LOG_SECONDS = 10.0
"""At most one line is logged in this time."""

_REFUSED = re.compile(rb"\] Handshake failed with error \w+: (?:error:\w*:[^:]*:\w*:([A-Z0-9_]+): )?(.*)")
_MEANINGS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer has no client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not accept our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS",
}

_log = logging.getLogger(__name__)


class RefusedHandshakes:
    """Counts them. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.by_reason: Counter[str] = Counter()
        """Refused handshakes for each of BoringSSL's reasons, such as CERTIFICATE_VERIFY_FAILED."""
        self._clock = clock
        self._next_line = clock()
        self._unlogged = 0

    def take(self, line: bytes) -> None:
        """Count the handshake that a line of gRPC's core reports; ignore any other line."""
        refused = _REFUSED.search(line)
        if refused is None:
            return
        reason = (refused[1] or b"OTHER").decode()
        self.by_reason[reason] += 1
        if self._clock() < self._next_line:
            self._unlogged += 1
            return
        detail = refused[2].decode(errors="replace").strip()
        fields = {"reason": reason, "meaning": _MEANINGS.get(reason, detail), "not_logged": self._unlogged}
        _log.warning("TLS handshake refused", extra=fields)
        self._next_line = self._clock() + LOG_SECONDS
        self._unlogged = 0
