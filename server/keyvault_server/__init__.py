"""The KeyVault server: `keyvault-server serve` runs it; docs/architecture.md says what is where."""
