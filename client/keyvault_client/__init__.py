"""The KeyVault client library."""
