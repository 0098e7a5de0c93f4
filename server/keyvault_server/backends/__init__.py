"""Implementations of the two ports: `aws` (KMS and DynamoDB) and `embedded` (a keyring and SQLite).

May import: `core`, `disk`; the two import nothing of each other. Only `operations.composition` imports them.
"""
