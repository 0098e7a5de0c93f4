"""What gRPC's core says of refused handshakes: counted by reason, and logged at most once in ten seconds."""

import logging

import pytest

from keyvault_server.rpc.handshakes import LOG_SECONDS, RefusedHandshakes
from tests.support.clock import Clock

NOTE = b"I1128 23:49:22.434974   29286 ssl_transport_security.cc:2563] "
EXPIRED = NOTE + (
    b"Handshake failed with error SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
    b"CERTIFICATE_VERIFY_FAILED: certificate has expired\n"
)
NO_CERTIFICATE = NOTE + (
    b"Handshake failed with error SSL_ERROR_SSL: error:100000c0:SSL routines:OPENSSL_internal:"
    b"PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context\n"
)


def test_refused_handshakes_are_counted_by_their_reason() -> None:
    refused = RefusedHandshakes(Clock())
    for line in (EXPIRED, NO_CERTIFICATE, EXPIRED, NOTE + b"Handshake failed with error SSL_ERROR_SYSCALL: x\n"):
        refused.take(line)
    assert refused.by_reason == {
        "CERTIFICATE_VERIFY_FAILED": 2,
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": 1,
        "OTHER": 1,
    }


def test_another_note_of_the_core_is_not_counted() -> None:
    refused = RefusedHandshakes(Clock())
    refused.take(NOTE + b"Handshake done\n")
    assert not refused.by_reason


def test_one_line_is_logged_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refused = RefusedHandshakes(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            refused.take(EXPIRED)
        clock.now += LOG_SECONDS
        refused.take(NO_CERTIFICATE)
    first, second = (record.__dict__ for record in caplog.records)
    assert (first["meaning"], first["not_logged"]) == ("certificate has expired", 0)
    assert (second["meaning"], second["not_logged"]) == ("the peer has no client certificate", 4)
