"""Addresses of servers, as a user writes them.

The rule of this file: what gRPC would silently take for another address, or fail to explain, is refused with what to
write instead.
"""

import ipaddress

from keyvault_api.address import MAX_SOCKET_PATH, is_loopback, socket_path, socket_path_size
from keyvault_client.errors import InvalidRequest


def check_address(address: str, *, tls: bool, insecure: bool) -> None:
    """Raise InvalidRequest unless this is host:port, dns:///host:port or unix:/path, and may be used so."""
    if address.startswith(("http:", "https:")):
        why = "write host:port or unix:/path, and give tls (--tls, --ca) for TLS"
    elif address.startswith("unix:"):
        why = _why_invalid_socket(address)
    else:
        why = _why_invalid_name(address.removeprefix("dns:///"))
    if why:
        raise InvalidRequest(f"invalid address {address}: {why}")
    if not (tls or insecure or is_loopback(address)):
        raise InvalidRequest(
            f"refusing plaintext to another machine ({address}): give tls (--tls, --ca), "
            "or insecure=True (--insecure) to send keys unencrypted"
        )


def _why_invalid_socket(address: str) -> str:
    if not socket_path(address).strip("/"):
        return "name the path of the socket, as in unix:/run/keyvault.sock"
    size = socket_path_size(address)
    return f"the path has {size} bytes; a socket's has at most {MAX_SOCKET_PATH}" if size > MAX_SOCKET_PATH else ""


def _why_invalid_name(name: str) -> str:
    host, colon, port = name.rpartition(":")
    if _is_ip6(name) or _is_ip6(host):
        return "write an IPv6 address in brackets and name its port, as in [::1]:50051"
    if not colon or name.endswith("]"):
        return f"name its port, as in {name or '127.0.0.1'}:50051"
    if not host:
        return f"name its host, as in 127.0.0.1:{port}"
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65_535):
        return "the port must be 1 to 65535"
    return ""


def _is_ip6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
