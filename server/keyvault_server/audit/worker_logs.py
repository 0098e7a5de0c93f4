"""The logs of several workers: for FILE `audit.jsonl` they are `audit-1.jsonl`, `audit-2.jsonl` and so on, of one key.

The rule of this file: FILE itself is a log of the same key too, which a server with one process, or a purge, writes. A
log stays when there are fewer workers, and belongs to those that an auditor has to verify.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from keyvault_server.audit.key import AuditKey, UnusableAuditKey, default_key_path


def log_of(file: Path, worker: int) -> Path:
    """Return the path of one worker's log; the first worker is 1."""
    return file.with_name(f"{file.stem}-{worker}{file.suffix}")


def existing_logs(file: Path) -> Iterator[Path]:
    """Yield the logs that exist, FILE first, then those of workers by number."""
    if file.exists():
        yield file
    name = re.compile(rf"{re.escape(file.stem)}-([1-9][0-9]*){re.escape(file.suffix)}")
    siblings = file.parent.iterdir() if file.parent.is_dir() else ()
    numbers = sorted(int(found[1]) for one in siblings if (found := name.fullmatch(one.name)))
    yield from (log_of(file, number) for number in numbers)


def key_of(log: Path) -> Path:
    """Return the key of a log whose key is not named: next to it, or for a worker's log next to FILE."""
    key = default_key_path(log)
    if not key.exists() and (found := re.fullmatch(r"(.+)-[1-9][0-9]*", log.stem)):
        shared = default_key_path(log.with_name(found[1] + log.suffix))
        return shared if shared.exists() else key
    return key


def prepare_key(file: Path, key: Path) -> None:
    """Create the key that the workers share, if no log exists: two workers would each create one.

    Raises UnusableAuditKey, OSError.
    """
    if key.exists():
        return
    if log := next((one for one in existing_logs(file) if one.stat().st_size), None):
        raise UnusableAuditKey(f"{key}: the audit key is missing, but {log} exists: restore it from its backup")
    AuditKey.create(key)
