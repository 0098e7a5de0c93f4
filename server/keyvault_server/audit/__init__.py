"""The audit log: lines, their chain, the files, rotation, recovery, and verification.

May import: `core`, `disk`. The rule of this package: `access` does not know it, and it does not know `access`.
"""
