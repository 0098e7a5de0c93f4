"""The KeyVault server: `keyvault-server serve` runs it; docs/architecture.md says what is where.

grpc's core writes lines of its own among those of the log, of every handshake that failed for instance. It is told to
keep to errors here, since it asks when it is imported; GRPC_VERBOSITY=info brings them back.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - before grpc is imported
