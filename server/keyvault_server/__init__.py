"""The KeyVault server: `keyvault-server serve` runs it. Each package's docstring says what it is for.

grpc's core writes lines of its own to stderr, such as one for every failed handshake. It reads GRPC_VERBOSITY
when it is imported; ERROR keeps most of these lines out of our log, GRPC_VERBOSITY=info brings them back.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - before grpc is imported
