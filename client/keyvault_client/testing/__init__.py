"""A real KeyVault server for the tests of your program. docs/testing.md shows how; needs `keyvault-grpc[testing]`.

The rule of this package: it runs in the users' tests, except for `child` and `proxy`, which run in the server's
process.
"""

from keyvault_client.testing.process import EmbeddedServerError
from keyvault_client.testing.server import EmbeddedServer, Fault, running_server

__all__ = ["EmbeddedServer", "EmbeddedServerError", "Fault", "running_server"]
