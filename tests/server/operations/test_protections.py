"""Secure by default: on a non-loopback address each missing protection refuses the start and names its flag."""

from pathlib import Path
from typing import Any

import pytest

from keyvault_server.operations.environment import BadSettings, load_settings
from keyvault_server.operations.protections import PROTECTIONS, RELEASED, Unprotected, refuse_unprotected, what_is_off
from keyvault_server.operations.settings import Settings


@pytest.fixture
def complete(tmp_path: Path) -> dict[str, Any]:
    """Settings that lack nothing on a non-loopback address."""
    pem = tmp_path / "pem"
    pem.write_text("x")
    return {
        "listen": "0.0.0.0:50051",
        "backend": "aws",
        "tls_certificate": pem,
        "tls_private_key": pem,
        "tls_client_ca": pem,
        "policy": pem,
        "audit_file": tmp_path / "audit.jsonl",
    }


MISSING: dict[str, dict[str, Any]] = {
    "insecure_plaintext": {"tls_certificate": None, "tls_private_key": None, "tls_client_ca": None},
    "insecure_anonymous": {"tls_client_ca": None},
    "insecure_no_policy": {"policy": None, "tls_client_ca": None, "insecure_anonymous": True},
    "insecure_no_audit": {"audit_file": None},
    "insecure_embedded_keys": {"backend": "embedded"},
    "insecure_reflection": {"reflection": True},
}


def test_nothing_is_refused_where_nothing_is_missing(complete: dict[str, Any]) -> None:
    assert not what_is_off(load_settings(**complete))


@pytest.mark.parametrize("flag", MISSING)
@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "10.1.2.3:1", "vault.example:1"])
def test_each_missing_protection_has_one_flag_that_allows_it(complete: dict[str, Any], flag: str, address: str) -> None:
    """Without the flag the start is refused."""
    lacking = complete | MISSING[flag] | {"listen": address}
    option = "--" + flag.replace("_", "-")
    if flag == "insecure_plaintext":
        lacking["insecure_anonymous"] = True
    with pytest.raises(Unprotected, match=option) as refused:
        load_settings(**lacking)
    assert "\n" not in str(refused.value)
    for other in MISSING:
        if other != flag:
            with pytest.raises(Unprotected, match=option):
                load_settings(**lacking | {other: True})
    assert what_is_off(load_settings(**lacking | {flag: True}))


def test_all_that_is_missing_is_said_at_once() -> None:
    """Five starts would else be needed to learn five flags."""
    with pytest.raises(Unprotected, match="5 protections are missing") as refused:
        load_settings(listen="0.0.0.0:1")
    options = ["--" + flag.replace("_", "-") for flag in MISSING if flag != "insecure_reflection"]
    assert [option for option in options if option not in str(refused.value)] == []
    assert "\n" not in str(refused.value)
    waived: dict[str, Any] = {flag: True for flag in MISSING if flag != "insecure_no_audit"}
    with pytest.raises(Unprotected, match="one protection is missing: an audit log: set KEYVAULT_AUDIT_FILE, or add"):
        load_settings(listen="0.0.0.0:1", **waived)


def test_a_flag_that_would_not_help_is_not_offered(complete: dict[str, Any]) -> None:
    """Authentication needs a policy anywhere."""
    with pytest.raises(Unprotected, match=r"KEYVAULT_POLICY.*KEYVAULT_AUDIT_FILE") as refused:
        load_settings(**complete | {"policy": None, "audit_file": None})
    assert "insecure-no-policy" not in str(refused.value)


def test_every_protection_is_tested() -> None:
    assert {protection.flag for protection in PROTECTIONS} == set(MISSING)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/keyvault"])
def test_on_loopback_nothing_is_asked_and_what_is_off_is_said(address: str) -> None:
    assert what_is_off(load_settings(listen=address)) == [
        "TLS",
        "authentication",
        "a policy",
        "an audit log",
        "master keys in KMS",
    ]


def test_authentication_without_a_policy_is_refused_everywhere(complete: dict[str, Any]) -> None:
    with pytest.raises(Unprotected, match="KEYVAULT_POLICY"):
        load_settings(**complete | {"policy": None, "listen": "127.0.0.1:1", "insecure_no_policy": True})


def test_tokens_do_not_travel_in_clear(complete: dict[str, Any]) -> None:
    tokens = {"jwt_keys": "keys.json", "jwt_issuer": "https://issuer.example", "jwt_audience": "keyvault"}
    lacking = complete | MISSING["insecure_plaintext"] | tokens
    with pytest.raises(BadSettings, match="KEYVAULT_JWT_KEYS needs KEYVAULT_TLS_CERTIFICATE"):
        load_settings(**lacking, insecure_plaintext=True)


def test_a_clock_that_stands_before_the_release_is_refused() -> None:
    with pytest.raises(Unprotected, match="clock"):
        refuse_unprotected(Settings(), now=lambda: RELEASED - 1)
