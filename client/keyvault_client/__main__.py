"""`python -m keyvault_client` is `keyvault`."""

from keyvault_client.cli import main

main()
