"""The command `keyvault doctor`."""

import sys
from json import dumps

from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import AsJsonLines
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.doctor import Examination
from keyvault_client.terminal import until_output_is_closed


async def doctor(
    *, keys: KeyOptions = DEFAULT_KEYS, json: AsJsonLines = False, connection: ConnectionOptions = DEFAULT_CONNECTION
) -> None:
    """Find out why the server cannot be used: one line for each step, what is wrong there and what to do.

    Steps: address, name resolution, TCP, TLS, identity, policy, clock, files. Exit 1 if one of them has a problem.

    Example: `keyvault doctor --address vault.example:50051 --tls`
    """
    examination = Examination(
        connection.address,
        connection.tls_files(),
        insecure=connection.insecure,
        token_file=connection.token_file,
        key_files=[keys.key] if keys.key else [],
        key_folder=keys.folder(),
        seconds=connection.timeout,
    )
    findings = await examination.findings()
    with until_output_is_closed():
        for finding in findings:
            print(dumps(finding.to_json()) if json else finding)
    if any(finding.state == "problem" for finding in findings):
        sys.exit(1)
