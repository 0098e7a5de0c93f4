"""Settings: what is refused, in one line that names the setting and never its value."""

from pathlib import Path
from typing import Any

import pytest

from keyvault_server.operations.environment import BadSettings, load_settings
from keyvault_server.operations.settings import Settings
from tests.support.repository import DOCS


def test_the_default_is_embedded_on_loopback() -> None:
    settings = load_settings()
    assert (settings.backend, settings.listen) == ("embedded", "127.0.0.1:50051")


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_LISTEN", "127.0.0.1:1")
    assert load_settings().listen == "127.0.0.1:1"
    assert load_settings(listen="127.0.0.1:2").listen == "127.0.0.1:2"
    assert load_settings(listen=None).listen == "127.0.0.1:1"


def test_an_unknown_variable_is_refused_the_commands_own_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_ADDRESS", "127.0.0.1:1")
    load_settings()
    monkeypatch.setenv("KEYVAULT_LISTNE", "s3cret")
    with pytest.raises(BadSettings, match="unknown setting KEYVAULT_LISTNE") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["keyvault_insecure_no_audit", "KeyVault_Policy", "Keyvault_Nonsense"])
def test_a_variable_in_small_letters_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(BadSettings, match=f"unknown setting {name}"):
        load_settings()


LINKS = {
    "KEYVAULT_SERVICE_HOST": "10.0.0.1",
    "KEYVAULT_SERVICE_PORT": "50051",
    "KEYVAULT_SERVICE_PORT_GRPC_TLS": "50051",
    "KEYVAULT_PORT": "tcp://10.0.0.1:50051",
    "KEYVAULT_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "KEYVAULT_PORT_50051_TCP_PROTO": "tcp",
    "KEYVAULT_PORT_50051_TCP_PORT": "50051",
    "KEYVAULT_PORT_50051_TCP_ADDR": "10.0.0.1",
    "KEYVAULT_PORT_53_UDP": "udp://[fd00::1]:53",
    "KEYVAULT_METRICS_SERVICE_HOST": "10.0.0.2",
    "KEYVAULT_METRICS_PORT": "tcp://10.0.0.2:9100",
    "KEYVAULT_METRICS_PORT_9100_TCP_ADDR": "10.0.0.2",
}
"""What Kubernetes passes to every pod about the Services `keyvault` and `keyvault-metrics` in its namespace."""


def test_what_kubernetes_says_of_services_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "50051"),
        ("PORT", ""),
        ("METRICS_PORT", "9100"),
        ("LISTEN_PORT", "127.0.0.1:50051"),
        ("PORT_50051", "tcp://10.0.0.1:50051"),
        ("PORT_HTTP_TCP", "tcp://10.0.0.1:50051"),
        ("PORT_50051_TCP_NAME", "x"),
        ("SERVICE_HOSTS", "10.0.0.1"),
        ("SERVICE", "10.0.0.1"),
        ("SERVICE_PORT_", "50051"),
        ("ADDR", "tcp://10.0.0.1:50051"),
    ],
)
def test_what_only_resembles_it_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"KEYVAULT_{name}", value)
    with pytest.raises(BadSettings, match=f"unknown setting KEYVAULT_{name}"):
        load_settings()


@pytest.mark.parametrize("name", ["AUDIT_FILE", "JWT_KEYS", "DATA", "POLICY"])
def test_an_empty_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KEYVAULT_CA", "")
    load_settings()
    monkeypatch.setenv(f"KEYVAULT_{name}", "")
    with pytest.raises(BadSettings, match=f"KEYVAULT_{name} is empty"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIT_FILE", "."),
        ("BACKEND", "s3cret"),
        ("LISTEN", "s3cret"),
        ("LISTEN", "127.0.0.1:99999"),
        ("LISTEN", "unix:"),
        ("LISTEN", "::1:50051"),
        ("METRICS_LISTEN", "unix:/s3cret"),
        ("CONCURRENT_CALLS", "0"),
        ("CONCURRENT_CALLS", "100001"),
        ("CONCURRENT_CALLS", "9" * 40),
        ("AWS_CONNECTIONS", "9" * 40),
        ("CALL_SECONDS", "s3cret"),
        ("CALL_SECONDS", "1e300"),
        ("CALL_SECONDS", "nan"),
        ("DRAIN_DELAY_SECONDS", "inf"),
        ("UNWRAP_SCOPES", "s3cret"),
        ("UNWRAP_SCOPES", '["prod/"]'),
        ("AWS_MASTER_KEYS", "s3cret"),
    ],
)
def test_a_bad_value_is_refused_by_the_settings_name_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"KEYVAULT_{name}", value)
    with pytest.raises(BadSettings, match=f"KEYVAULT_{name}") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["POLICY", "TLS_CERTIFICATE", "TLS_PRIVATE_KEY", "JWT_CA", "JWT_KEYS_TOKEN_FILE"])
def test_a_path_that_leads_nowhere_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """By the name that was typed: a variable or a flag."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"KEYVAULT_{name}", "nosuch.toml")
    with pytest.raises(BadSettings, match=rf"KEYVAULT_{name}: nosuch\.toml: no such file"):
        load_settings()
    monkeypatch.setenv(f"KEYVAULT_{name}", ".")
    with pytest.raises(BadSettings, match=rf"KEYVAULT_{name}: \.: is not a file"):
        load_settings()
    with pytest.raises(BadSettings, match=rf"--{name.lower().replace('_', '-')}: x: no such file"):
        load_settings(**{name.lower(): Path("x")})


@pytest.mark.parametrize("value", ["-----BEGIN PRIVATE KEY-----\ns3cret", "s3cret" + "A" * 95, "s3cret\x1b[1m"])
def test_a_secret_in_place_of_its_file_is_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("KEYVAULT_TLS_PRIVATE_KEY", value)
    with pytest.raises(BadSettings, match="KEYVAULT_TLS_PRIVATE_KEY: its value") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)
    assert str(refused.value).isprintable()


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once."""
    wrong = {
        "LISTNE": "0.0.0.0:1",
        "CALL_SECONDS": "0",
        "POLICY": "nosuch.toml",
        "UNWRAP_SCOPES": "x",
        "JWT_ALGORITHMS": "y",
        "DATA": "",
        "TLS_CERTIFICATE": "",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"KEYVAULT_{name}", value)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    for name in wrong:
        assert str(refused.value).count(f"KEYVAULT_{name}") == 1, name
    assert "\n" not in str(refused.value)


def test_all_contradictions_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("x")
    with pytest.raises(BadSettings) as refused:
        load_settings(
            tls_client_ca=tmp_path / "pem", audit_file=Path(), jwt_issuer="x", aws_region="y", aws_table="zzz"
        )
    for name in ("TLS_CLIENT_CA", "AUDIT_FILE", "JWT_ISSUER", "AWS_REGION", "AWS_TABLE"):
        assert f"KEYVAULT_{name}" in str(refused.value)


def test_a_log_and_its_key_are_two_files(tmp_path: Path) -> None:
    """The key was written first, and the log then was "not a valid audit log"."""
    with pytest.raises(BadSettings, match="KEYVAULT_AUDIT_KEY and KEYVAULT_AUDIT_FILE are the same file"):
        load_settings(audit_file=tmp_path / "log", audit_key=tmp_path / "log")


def test_a_misspelt_setting_does_not_hide_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_TLS_CERTIFCATE", "server.pem")
    with pytest.raises(
        BadSettings, match=r"did you mean KEYVAULT_TLS_CERTIFICATE.*insecure-plaintext.*insecure-no-audit"
    ):
        load_settings(listen="0.0.0.0:1")


@pytest.mark.parametrize(("text", "mode"), [("0600", 0o600), ("660", 0o660), ("0o666", 0o666)])
def test_the_mode_of_a_socket_is_octal(monkeypatch: pytest.MonkeyPatch, text: str, mode: int) -> None:
    monkeypatch.setenv("KEYVAULT_SOCKET_MODE", text)
    assert load_settings().socket_mode == mode
    assert load_settings().model_dump(mode="json")["socket_mode"] == f"{mode:04o}"


@pytest.mark.parametrize("text", ["600 ", "0x180", "0888", "1777", "-600", "rw", "6"])
def test_a_mode_that_is_not_octal_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KEYVAULT_SOCKET_MODE", text)
    with pytest.raises(BadSettings, match="KEYVAULT_SOCKET_MODE: must be three octal digits"):
        load_settings()


@pytest.mark.parametrize("level", ["debug", "Info", "WARNING"])
def test_a_log_level_may_be_in_small_letters(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("KEYVAULT_LOG_LEVEL", level)
    assert load_settings().log_level == level.upper()


@pytest.mark.parametrize("name", ["LISTEN", "ADMIN_LISTEN", "METRICS_LISTEN"])
@pytest.mark.parametrize("host", ["a..b", "a" * 64, ".a", "é." + "b" * 64, pytest.param("a\udcff", id="not UTF-8")])
def test_a_host_that_no_resolver_takes_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, host: str) -> None:
    """The standard library's UnicodeError came up instead."""
    monkeypatch.setenv(f"KEYVAULT_{name}", f"{host}:9")
    with pytest.raises(BadSettings, match=f"KEYVAULT_{name}: the host is not a valid name"):
        load_settings()


@pytest.mark.parametrize("name", ["LISTEN", "ADMIN_LISTEN"])
def test_a_path_too_long_for_a_socket_is_refused_as_such(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for prefix in ("unix:", "unix://"):
        monkeypatch.setenv(f"KEYVAULT_{name}", f"{prefix}/{'a' * 106}")
        load_settings()
        monkeypatch.setenv(f"KEYVAULT_{name}", f"{prefix}/{'ä' * 53}a")
        with pytest.raises(
            BadSettings, match=f"KEYVAULT_{name}: the path of a unix socket has at most 107 bytes.* 108"
        ):
            load_settings()


def test_a_certificate_and_its_key_come_together(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.write_text("x")
    with pytest.raises(BadSettings, match="must be set together"):
        load_settings(tls_certificate=pem)
    with pytest.raises(BadSettings, match="KEYVAULT_TLS_CLIENT_CA needs"):
        load_settings(tls_client_ca=pem)
    assert load_settings(tls_certificate=pem, tls_private_key=pem).tls_private_key == pem


def test_tokens_need_an_issuer_and_an_audience() -> None:
    with pytest.raises(BadSettings, match="KEYVAULT_JWT_ISSUER"):
        load_settings(jwt_keys="keys.json", jwt_audience="keyvault")


def test_what_is_said_of_tokens_without_their_keys_is_refused() -> None:
    for name in ("jwt_issuer", "jwt_audience"):
        with pytest.raises(BadSettings, match="need KEYVAULT_JWT_KEYS"):
            load_settings(**{name: "x"})
    with pytest.raises(BadSettings, match="_TYPE and _LIFETIME_SECONDS need KEYVAULT_JWT_KEYS"):
        load_settings(jwt_type="at+jwt")
    with pytest.raises(BadSettings, match="need KEYVAULT_JWT_KEYS"):
        load_settings(jwt_lifetime_seconds=600)


def test_a_type_of_tokens_is_a_media_type() -> None:
    of_tokens: dict[str, Any] = {"jwt_keys": "keys.json", "jwt_issuer": "i", "jwt_audience": "a"}
    for good in ("at+jwt", "application/at+jwt", "JWT"):
        assert Settings(jwt_type=good, **of_tokens).jwt_type == good
    for bad in ("at jwt", "a/b/c", "/jwt", "at+jwt;v=1", "*"):
        with pytest.raises(BadSettings, match=r"^--jwt-type: must be a media type, such as at\+jwt$"):
            load_settings(jwt_type=bad, **of_tokens)


def test_a_token_for_a_key_set_in_a_file_is_refused(tmp_path: Path) -> None:
    """No fetch would send it, so something else was meant."""
    (tmp_path / "token").write_text("x")
    given: dict[str, Any] = {"jwt_keys_token_file": tmp_path / "token", "jwt_issuer": "i", "jwt_audience": "a"}
    with pytest.raises(BadSettings, match="needs a URL"):
        load_settings(jwt_keys="keys.json", **given)
    assert Settings(jwt_keys="https://issuer.test/keys", **given).jwt_keys_token_file == tmp_path / "token"


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    missing = [name for name in Settings.model_fields if f"`KEYVAULT_{name.upper()}`" not in text]
    assert not missing


@pytest.mark.parametrize("name", ["aws_region", "aws_table", "aws_master_keys", "aws_kms_endpoint"])
def test_settings_of_aws_are_refused_without_its_backend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Or a server whose operator meant KMS would keep its records in a file."""
    value = '{"1": "arn"}' if name == "aws_master_keys" else "elsewhere"
    monkeypatch.setenv(f"KEYVAULT_{name.upper()}", value)
    with pytest.raises(
        BadSettings, match=f"KEYVAULT_{name.upper()} is set but backend is embedded: set KEYVAULT_BACKEND=aws"
    ):
        load_settings()
    monkeypatch.setenv("KEYVAULT_BACKEND", "aws")
    load_settings()
