"""A keyring file and SQLite, the default backend: the only importer of sqlite3.

May import: `core`, `disk`.
"""
