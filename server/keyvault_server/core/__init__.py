"""The rule of the vault and its words: records, mutations, ports, errors.

May import: `keyvault_api`. Knows no gRPC, no AWS, no SQLite and no file.
"""
