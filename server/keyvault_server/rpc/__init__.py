"""Everything between gRPC and the vault: messages, the guard around each call, health, metrics, the access log.

May import: `core`, `access`, `audit`.
"""
