"""The audit log: lines, their chain, the files, rotation, recovery, and verification.

May import: `core`, `disk`. Nothing in `access` knows of it, nor the reverse.
"""
