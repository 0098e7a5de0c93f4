"""Settings: what is refused, in one line that names the setting and never its value."""

from pathlib import Path

import pytest

from keyvault_server.config import BadSettings, Settings, load_settings


def test_the_default_is_embedded_on_loopback() -> None:
    settings = load_settings()
    assert (settings.backend, settings.listen) == ("embedded", "127.0.0.1:50051")


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_LISTEN", "127.0.0.1:1")
    assert load_settings().listen == "127.0.0.1:1"
    assert load_settings(listen="127.0.0.1:2").listen == "127.0.0.1:2"
    assert load_settings(listen=None).listen == "127.0.0.1:1"


def test_an_unknown_variable_is_refused_and_the_commands_own_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_ADDRESS", "127.0.0.1:1")
    load_settings()
    monkeypatch.setenv("KEYVAULT_LISTNE", "s3cret")
    with pytest.raises(BadSettings, match="unknown setting KEYVAULT_LISTNE") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKEND", "s3cret"),
        ("LISTEN", "s3cret"),
        ("LISTEN", "127.0.0.1:99999"),
        ("CONCURRENT_CALLS", "0"),
        ("CALL_SECONDS", "s3cret"),
        ("UNWRAP_SCOPES", "s3cret"),
        ("UNWRAP_SCOPES", '["prod/"]'),
        ("AWS_MASTER_KEYS", "s3cret"),
        ("TLS_CERTIFICATE", "/nowhere/s3cret"),
    ],
)
def test_a_bad_value_is_refused_by_the_settings_name_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"KEYVAULT_{name}", value)
    with pytest.raises(BadSettings, match=name.lower()) as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "10.1.2.3:1", "vault.example:1"])
def test_plaintext_off_loopback_is_refused(address: str) -> None:
    with pytest.raises(BadSettings, match="tls_certificate"):
        load_settings(listen=address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/keyvault"])
def test_plaintext_on_loopback_is_allowed(address: str) -> None:
    assert load_settings(listen=address).listen == address


def test_a_certificate_and_its_key_come_together(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.write_text("x")
    with pytest.raises(BadSettings, match="come together"):
        load_settings(tls_certificate=pem)
    with pytest.raises(BadSettings, match="tls_client_ca needs"):
        load_settings(tls_client_ca=pem)
    both = load_settings(tls_certificate=pem, tls_private_key=pem, listen="0.0.0.0:1")
    assert both.listen == "0.0.0.0:1"


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    missing = [name for name in Settings.model_fields if f"`KEYVAULT_{name.upper()}`" not in text]
    assert not missing
