"""How many files and connections this process may have open (RLIMIT_NOFILE), checked before anything is opened.

The rule of this file: a limit that is too low is refused in one line. Later it is an abort of gRPC's with a stack, a
record that cannot be written, or a connection that is not answered.
"""

import resource
from dataclasses import dataclass

from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.settings import Settings

COMMAND = 64
"""What a command needs that does not serve."""
SERVER = 128
"""What a server needs for itself (some 40, measured) and its first clients; more for AWS."""
RESERVE = 64
"""What a server keeps for itself, whatever clients do: a policy to reload, the store's files; more for AWS."""
HIGHEST = 65_536
"""Limit to which a lower one is raised if the system lets us."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections fit into the limit of open files, with the reserve kept."""

    service: int
    """Maximum connections of the service's address."""
    admin: int
    """Maximum connections of the address of health alone: probes get in while the service is flooded."""


class TooFewOpenFiles(OperatorError):
    """The limit of open files is too low."""


def allow_open_files(needed: int) -> None:
    """Raise the limit to what the system lets us have, up to HIGHEST. Raises TooFewOpenFiles below `needed`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = HIGHEST if hard == resource.RLIM_INFINITY else min(hard, HIGHEST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TooFewOpenFiles(
            f"this process may open {hard} files and connections, at least {needed} are needed:"
            " raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        )


def needed_by(settings: Settings) -> int:
    """Return how many open files a server needs."""
    return SERVER + _of_aws(settings)


def room_for_connections(settings: Settings) -> Room:
    """Return how many connections the current limit leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = (HIGHEST if soft == resource.RLIM_INFINITY else soft) - RESERVE - _of_aws(settings)
    admin = max(1, left // 4)
    return Room(max(1, left - admin), admin)


def _of_aws(settings: Settings) -> int:
    return 2 * settings.aws_connections if settings.backend == "aws" else 0
