"""Which addresses may be used in plaintext: the one rule, which both sides share."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Return True for unix sockets, and for host:port of a host that only this machine reaches."""
    if address.startswith("unix:"):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0]
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return False  # gRPC takes all of it for an IPv6 address without a port
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
