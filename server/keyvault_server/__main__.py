"""`python -m keyvault_server` is `keyvault-server`."""

from keyvault_server.cli import main

main()
