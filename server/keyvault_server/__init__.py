"""The KeyVault server: `keyvault-server serve` runs it. Each package's docstring says what it is for.

grpc's core writes notes of its own to stderr, such as one for every failed handshake. It reads GRPC_VERBOSITY when it
is imported, therefore it is set here. `serve` reads the notes itself, see operations/core_log.py; elsewhere ERROR keeps
them out of the way. GRPC_VERBOSITY=info shows them everywhere.
"""

import os
import sys

if "serve" not in sys.argv[1:2]:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - before grpc is imported
