"""The environment of the tests: nothing that this machine sets for TLS roots, proxies or KeyVault itself.

And the signals are those of a terminal: `nohup` and a shell's `&` ignore some of them, and every process inherits that.

The rule of this file: only the standard library is imported here, because gRPC reads roots and proxies once, when it
is first used. Server processes inherit what is left.
"""

import os
import signal

ROOTS = (
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy", "all_proxy")
SETTINGS = "KEYVAULT_"
removed: dict[str, str] = {}
"""What this process had: a worker of the run gets it from the process that started it."""


def clean() -> None:
    """Remove the machine's roots and proxies and the user's settings from os.environ; let signals end processes.

    The user's state and keys stay alone.
    """
    for name in list(os.environ):
        if name in ROOTS or name.lower() in PROXIES or name.startswith(SETTINGS):
            removed[name] = os.environ.pop(name)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["KEYVAULT_STATE"] = ""
    os.environ["KEYVAULT_KEYS"] = ""


def for_downloads() -> dict[str, str]:
    """Environment of a build that may download: the machine's own roots and proxies, no settings of KeyVault."""
    return os.environ | {name: value for name, value in removed.items() if not name.startswith(SETTINGS)}
