"""`python -m keyvault_server` is `keyvault-server`."""

from keyvault_server.operations.cli import main

main()
