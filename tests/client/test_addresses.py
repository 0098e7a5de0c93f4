"""Addresses as users write them: what gRPC would take for another one is refused, with what to write instead."""

from pathlib import Path

import pytest

from keyvault_client import DataKey, InvalidRequest, KeyVault
from tests.support.shell import Shell


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("127.0.0.1", "name its port, as in 127.0.0.1:50051"),
        ("localhost", "name its port, as in localhost:50051"),
        ("vault.example", "name its port, as in vault.example:50051"),
        ("dns:///vault.example", "name its port, as in vault.example:50051"),
        ("[::1]", "name its port, as in [::1]:50051"),
        ("", "name its port, as in 127.0.0.1:50051"),
        ("dns:///", "name its port, as in 127.0.0.1:50051"),
        ("::1", "in brackets and name its port, as in [::1]:50051"),
        ("::1:50051", "in brackets and name its port, as in [::1]:50051"),
        ("2001:db8::7:50051", "in brackets and name its port, as in [::1]:50051"),
        (":50051", "name its host, as in 127.0.0.1:50051"),
        ("127.0.0.1:", "the port must be 1 to 65535"),
        ("127.0.0.1:0", "the port must be 1 to 65535"),
        ("127.0.0.1:65536", "the port must be 1 to 65535"),
        ("127.0.0.1:-1", "the port must be 1 to 65535"),
        ("127.0.0.1:http", "the port must be 1 to 65535"),
        ("127.0.0.1:\u0661", "the port must be 1 to 65535"),
        (f"127.0.0.1:{'9' * 5_000}", "the port must be 1 to 65535"),
        ("http://127.0.0.1:1", "write host:port"),
        ("https://vault.example", "write host:port"),
        ("unix:", "name the path of the socket"),
        ("unix:///", "name the path of the socket"),
        (f"unix:/{'x' * 107}", "the path has 108 bytes; a socket's has at most 107"),
        (f"unix:///{'x' * 107}", "the path has 108 bytes; a socket's has at most 107"),
        (f"unix:{'é' * 54}", "the path has 108 bytes; a socket's has at most 107"),
    ],
)
@pytest.mark.parametrize("insecure", [False, True])
def test_an_invalid_address_names_what_to_write(address: str, remedy: str, *, insecure: bool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        KeyVault(address, insecure=insecure)
    assert str(refused.value).startswith(f"invalid address {address}: ")
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",
        "localhost:65535",
        "[::1]:50051",
        "dns:///localhost:50051",
        "dns:///127.0.0.1:50051",
        "unix:/run/keyvault.sock",
        "unix:///run/keyvault.sock",
        "unix:relative",
        f"unix:/{'x' * 106}",
    ],
)
async def test_a_local_address_may_be_used_in_plaintext(address: str) -> None:
    await KeyVault(address).close()


@pytest.mark.parametrize("address", ["vault.example:1", "dns:///vault.example:1", "10.0.0.1:1", "[2001:db8::7]:1"])
async def test_another_machine_needs_tls_or_a_waiver(address: str) -> None:
    with pytest.raises(InvalidRequest, match="refusing plaintext to another machine"):
        KeyVault(address)
    await KeyVault(address, insecure=True).close()


@pytest.mark.process
@pytest.mark.slow
def test_an_empty_option_is_refused_by_its_name(shell: Shell) -> None:
    """As the server refuses an empty setting: `KEYVAULT_CA=$CA` must not mean to go without."""
    shell.ok("generate-key prod/ --save prod.key")
    address = shell.environment.pop("KEYVAULT_ADDRESS")
    names = ("ADDRESS", "KEY", "CA", "CERTIFICATE", "PRIVATE_KEY", "TOKEN_FILE", "SERVER_NAME", "INSECURE", "TIMEOUT")
    for name in (f"KEYVAULT_{name}" for name in names):
        shell.environment[name] = ""
        sentence = shell.refused("read prod/x" if name == "KEYVAULT_KEY" else "read prod/x --key prod.key", status=2)
        assert sentence == f"keyvault: {name} is empty: give it a value, or unset it\n"
        del shell.environment[name]
    shell.environment |= {"KEYVAULT_ADDRESS": "", "KEYVAULT_STATE": ""}
    assert "no such record" in shell.refused(f"read prod/x --key prod.key --address {address}", status=3)
    assert "--ca is empty: give it a value, or leave it out" in shell.refused(
        f"generate-key --address {address} --ca=", status=2
    )
    assert b"Usage" in shell.ok("--help")


@pytest.mark.process
def test_an_address_without_port_is_one_line(shell: Shell) -> None:
    sentence = shell.refused("generate-key prod/ --address 127.0.0.1", status=2)
    assert sentence == "keyvault: invalid address 127.0.0.1: name its port, as in 127.0.0.1:50051\n"


def test_a_key_in_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    key = DataKey("acme", "prod/", b"w", bytes(32))
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbf" + key.to_json().encode())
    (tmp_path / "key").chmod(0o600)
    assert DataKey.load(tmp_path / "key") == key
