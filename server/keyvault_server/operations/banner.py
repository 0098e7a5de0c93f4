"""What `keyvault-server serve` prints once it is ready: its addresses, what it does without, and how to try it."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from keyvault_server.operations.composition import data_directory
from keyvault_server.operations.lifecycle import Running
from keyvault_server.operations.protections import what_is_off
from keyvault_server.operations.settings import Settings


def announce(settings: Settings, server: Running) -> None:
    """Print the banner; its first line says that the server is ready, and on which port."""
    listen = settings.listen if settings.listen.startswith("unix:") else _with_port(settings.listen, server.port)
    where = f"DynamoDB table {settings.aws_table}" if settings.backend == "aws" else data_directory(settings).path
    how = "TLS" if settings.tls_certificate else "plaintext"
    print(f"KeyVault {version('keyvault-grpc')} is ready on {listen} ({how})")
    if settings.admin_listen and server.admin_port:
        print(f"health:  {_with_port(settings.admin_listen, server.admin_port)}")
    if settings.metrics_listen and server.metrics_port:
        print(f"metrics: http://{_with_port(settings.metrics_listen, server.metrics_port)}/metrics")
    print(f"records: {where}")
    if settings.workers > 1:
        print(f"workers: {settings.workers}, each with its share of the limits")
    if off := what_is_off(settings):
        print(f"without: {', '.join(off)}")
    keyvault = "keyvault" if shutil.which("keyvault") else Path(sys.executable).with_name("keyvault")
    commands = [
        *_client_settings(settings, listen),
        f"{keyvault} generate-key prod/ --save prod.key",
        f"echo -n s3cret | {keyvault} create prod/db-password --key prod.key",
        f"{keyvault} read prod/db-password --key prod.key",
    ]
    print("try:     " + "\n         ".join(commands), flush=True)


def _client_settings(settings: Settings, listen: str) -> list[str]:
    """Return what a caller has to set first, if anything; the files are the caller's own."""
    variables = [] if listen == Settings.model_fields["listen"].default else [f"KEYVAULT_ADDRESS={listen}"]
    if settings.tls_certificate:
        variables.append("KEYVAULT_CA=roots.pem")
    if settings.tls_client_ca:
        variables.append("KEYVAULT_CERTIFICATE=you.pem KEYVAULT_PRIVATE_KEY=you.key")
    if settings.jwt_keys:
        variables.append("KEYVAULT_TOKEN_FILE=token")
    return [f"export {' '.join(variables)}"] if variables else []


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
