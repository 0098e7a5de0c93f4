"""What one of several workers has: a share of the limits, an audit log of its own, and no port but the service's.

The rule of this file: the shares of all workers together are at most what the settings say. Quotas, and limits that are
not settings, are divided where they are kept: by `Policy.divided` and `guard.Limits.divided`.
"""

from collections.abc import Iterator

from keyvault_server.audit.worker_logs import log_of
from keyvault_server.operations.composition import audit_key_path
from keyvault_server.operations.settings import DIVIDED, PREFIX, Settings


def share_of(settings: Settings, worker: int) -> Settings:
    """Return the settings of one worker (1, 2, ...): health and metrics are served by their parent."""
    changed: dict[str, object] = {name: getattr(settings, name) // settings.workers for name in DIVIDED}
    changed |= {"admin_listen": None, "metrics_listen": None}
    if settings.audit_file is not None:
        key = audit_key_path(settings, settings.audit_file)
        changed |= {"audit_file": log_of(settings.audit_file, worker), "audit_key": key}
    return settings.model_copy(update=changed)


def describe_shares(settings: Settings) -> Iterator[str]:
    """Yield lines that say what each worker has; none for one process."""
    if settings.workers == 1:
        return
    share = share_of(settings, 1)
    yield f"Each of the {settings.workers} workers has its share of the limits:"
    for name in DIVIDED:
        yield f"  {PREFIX}{name.upper()}={getattr(share, name)}"
    yield f"  1/{settings.workers} of every quota and of calls_in_flight of the policy"
    if settings.audit_file is not None:
        logs = ", ".join(str(log_of(settings.audit_file, worker)) for worker in range(1, settings.workers + 1))
        yield f"and an audit log of its own, of one key: {logs}"
