"""Entry point of `python -m keyvault_client`, which is the command `keyvault`."""

from keyvault_client.cli import main

main()
