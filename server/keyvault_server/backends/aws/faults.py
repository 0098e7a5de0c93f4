"""What a failed call to AWS is to the vault, and how its one line in the log names the cause.

The rule of this file: no text of AWS and no parameter of ours reaches a line. Both may hold a data key, a stored item
or a credential. A line has the operation, the code or class, and what an operator can look at: a host, a file, the
profile, the missing permission.

Codes: AWS KMS API Reference "Decrypt", "GenerateDataKey", "ReEncrypt", "Common Error Types"; DynamoDB Developer Guide
"Error handling"; AWS STS API Reference "AssumeRoleWithWebIdentity".
"""

from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    CredentialRetrievalError,
    InvalidConfigError,
    InvalidRegionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from keyvault_server.core.errors import (
    BackendFault,
    BackendThrottled,
    BackendUnavailable,
    MasterKeyUnusable,
    NotAuthorized,
    VaultError,
)

_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_RETRYABLE = frozenset({"ExpiredToken", "ExpiredTokenException", "ReplicatedWriteConflictException"})
"""The next call brings a new token; another region's write came first and ours was not done."""
CREDENTIALS_REJECTED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""AWS does not accept what the request was signed with: the key is gone or expired, or our clock is wrong."""
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})
_KMS: Mapping[str, type[VaultError]] = {
    "DisabledException": MasterKeyUnusable,
    "InvalidKeyUsageException": MasterKeyUnusable,
    "KMSInvalidStateException": MasterKeyUnusable,
    "NotFoundException": MasterKeyUnusable,
    "IncorrectKeyException": NotAuthorized,
    "InvalidCiphertextException": NotAuthorized,
}
_RE_ENCRYPT = "kms:ReEncryptFrom and kms:ReEncryptTo"
"""ReEncrypt has no permission of its own name."""
_RESOURCES = ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId", "AliasName", "TableName", "IndexName")
"""Parameters that name what a permission is for; none is secret."""


class AwsFault(BackendFault):
    """One failed call: the operation, and AWS's error code or the cause in the SDK's words."""

    def __init__(self, operation: str, code: str, reply: Mapping[str, Any] | None = None, needs: str = "") -> None:
        super().__init__(operation, code)
        self.operation = operation
        self.code = code
        self.needs = needs
        """The permission that is missing, and on what; empty if AWS did not deny the call."""
        self.reply = reply or {}
        """The error reply. No text of this exception shows it: it may hold a stored item."""

    def __str__(self) -> str:
        return f"{self.operation}: {self.code}" + (f", needs {self.needs}" if self.needs else "")


class NotDone(BackendUnavailable):
    """Nothing was done, and another attempt at once would not be either."""


def vault_error(service: str, code: str, status: int) -> type[VaultError] | None:
    """Return what an error reply is to the vault; None if only a bug of ours can cause it."""
    if code in _THROTTLED:
        return BackendThrottled
    if status >= 500 or code in _RETRYABLE or not code or code.isdecimal():  # no code: something else answered
        return BackendUnavailable
    if code in CREDENTIALS_REJECTED:
        return NotDone
    if code in _DENIED:
        return MasterKeyUnusable if service == "kms" else NotDone
    if service == "kms":
        return _KMS.get(code)
    return NotDone if code == "ResourceNotFoundException" else None


def code_of(error: ClientError) -> str:
    """Return the error code of a reply; empty if it has none, or something else in its place."""
    code = error.response.get("Error", {}).get("Code", "")
    return code if isinstance(code, str) else ""


def fault_of(operation: str, action: str, error: ClientError, parameters: Mapping[str, Any]) -> AwsFault:
    """Return the fault of an error reply; `action` is the operation as permissions name it, such as kms:Decrypt."""
    code = code_of(error)
    needs = _permission(action, parameters) if code in _DENIED else ""
    cause = f"credentials: {code}" if code in CREDENTIALS_REJECTED else code
    return AwsFault(operation, cause, error.response, needs)


def _permission(action: str, parameters: Mapping[str, Any]) -> str:
    named = list(dict.fromkeys(str(parameters[name]) for name in _RESOURCES if name in parameters))
    named += parameters.get("RequestItems", ())  # of a batch: by table
    return f"{_RE_ENCRYPT if action == 'kms:ReEncrypt' else action} on {' and '.join(named) or '*'}"


def cause_of(error: BaseException) -> str:
    """Return the cause of an error of the SDK in words that are fit for a log and for a refusal."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case ClientError():
            return f"{error.operation_name}: {code_of(error) or 'no AWS reply'}"
        case ProfileNotFound():
            return f"AWS_PROFILE: {error.kwargs['profile']}: no such profile in the AWS config and credentials files"
        case NoCredentialsError():
            return "the AWS SDK finds none"
        case ConfigParseError():
            return f"{error.kwargs['path']}: not a valid AWS config file"
        case PartialCredentialsError():
            return f"{error.kwargs['provider']}: {error.kwargs['cred_var']} is missing"
        case CredentialRetrievalError():
            return _retrieval_cause(error)
        case InvalidConfigError() | InvalidRegionError():
            return str(error)  # about the operator's own profile
        case ParamValidationError():  # its text may show a token
            return "a value of the profile or the token file is not valid"
        case BotoCoreError():
            return _sdk_cause(error)
        case JSONDecodeError():
            return "a provider's answer is not JSON"
        case OSError() if error.filename and error.strerror:
            return f"{error.filename}: {error.strerror}"
        case _:
            return _place(error)


def _retrieval_cause(error: CredentialRetrievalError) -> str:
    """Return what a provider says about itself: up to the first colon, after which a reply or a program's text begins.

    What a credential_process writes to its standard error is not repeated: it may hold anything.
    """
    provider, text = str(error.kwargs["provider"]), str(error.kwargs["error_msg"])
    if provider == "custom-process" and not text.startswith(("Unsupported version", "Missing required key")):
        return "credential_process failed: run its command by hand to see why"
    said = text.removeprefix("Error retrieving metadata: ").partition(":")[0].strip()
    return f"{provider}: {said or type(error).__name__}"


def _sdk_cause(error: BotoCoreError) -> str:
    """Return the class, the host that was asked, and the system's reason, as far as the SDK passes them on."""
    url = str(error.kwargs.get("endpoint_url") or error.kwargs.get("proxy_url") or "")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    inner = error.kwargs.get("error")
    system = getattr(inner, "os_error", None) or getattr(inner, "certificate_error", None) or inner
    why = getattr(system, "strerror", None) or getattr(system, "verify_message", None)
    file = getattr(system, "filename", None)
    details = [str(detail) for detail in (host, file, why) if detail]
    return f"{type(error).__name__} ({': '.join(details)})" if details else type(error).__name__


def _place(error: BaseException) -> str:
    """Return class and place of an error whose text may hold anything."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
