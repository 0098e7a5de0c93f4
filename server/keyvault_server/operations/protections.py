"""Secure by default: the protections that a server on a non-loopback address must have, and the flag that waives each.

The rule of this file: each missing protection refuses the start, in one line that names all that are missing, each with
its flag; there is a flag for each and none for all. On loopback nothing is required, and the start says what is off.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keyvault_api.address import is_loopback
from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.settings import Settings

RELEASED = 1_795_564_800
"""2026-11-25, in seconds since 1970: an earlier clock is wrong, and would accept expired certificates and tokens."""


class Unprotected(OperatorError):
    """Other machines could reach the server without a protection; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Protection:
    """One thing that a server on a non-loopback address must have."""

    name: str
    flag: str
    """The setting that waives it."""
    remedy: str
    missing: Callable[[Settings], bool]


PROTECTIONS = (
    Protection(
        "TLS",
        "insecure_plaintext",
        "set KEYVAULT_TLS_CERTIFICATE and KEYVAULT_TLS_PRIVATE_KEY",
        lambda settings: settings.tls_certificate is None,
    ),
    Protection(
        "authentication",
        "insecure_anonymous",
        "set KEYVAULT_TLS_CLIENT_CA or KEYVAULT_JWT_KEYS",
        lambda settings: not settings.authenticates,
    ),
    Protection("a policy", "insecure_no_policy", "set KEYVAULT_POLICY", lambda settings: settings.policy is None),
    Protection(
        "an audit log",
        "insecure_no_audit",
        "set KEYVAULT_AUDIT_FILE",
        lambda settings: settings.audit_file is None,
    ),
    Protection(
        "master keys in KMS",
        "insecure_embedded_keys",
        "set KEYVAULT_BACKEND=aws",
        lambda settings: settings.backend == "embedded",
    ),
    Protection(
        "reflection turned off",
        "insecure_reflection",
        "set KEYVAULT_REFLECTION=false",
        lambda settings: settings.reflection is True and not is_loopback(settings.listen),
    ),
)


def refuse_unprotected(settings: Settings, now: Callable[[], float] = time.time) -> None:
    """Raise Unprotected, with a sentence for each thing that is missing."""
    if missing := missing_protections(settings, now):
        raise Unprotected("; ".join(missing))


def missing_protections(settings: Settings, now: Callable[[], float] = time.time) -> list[str]:
    """Return a sentence for each thing that is missing, with what to do."""
    missing = []
    if now() < RELEASED:
        missing.append("this machine's clock is before 2026-11-25: set it; certificates and tokens depend on it")
    if settings.authenticates and settings.policy is None:
        missing.append("callers are authenticated but nothing says what they may do: set KEYVAULT_POLICY")
    lacking = [] if is_loopback(settings.listen) else list(_unwaived(settings))
    if lacking:
        them = f"{len(lacking)} protections are missing" if len(lacking) > 1 else "one protection is missing"
        remedies = "; ".join(f"{one.name}: {one.remedy}, or add --{one.flag.replace('_', '-')}" for one in lacking)
        missing.append(f"{settings.listen} is not a loopback address and {them}: {remedies}")
    return missing


def _unwaived(settings: Settings) -> Iterator[Protection]:
    for protection in PROTECTIONS:
        if not protection.missing(settings) or getattr(settings, protection.flag):
            continue
        if protection.flag != "insecure_no_policy" or not settings.authenticates:  # its flag would not help
            yield protection


def what_is_off(settings: Settings) -> list[str]:
    """Return the names of the protections that these settings do without."""
    return [protection.name for protection in PROTECTIONS if protection.missing(settings)]
