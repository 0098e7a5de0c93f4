"""AWS KMS as a KeyService (see ports.py).

The rule of this file: every call names the key that belongs to the label, also as Decrypt's KeyId and as ReEncrypt's
SourceKeyId. Otherwise KMS uses any key that the blob names and that our role may use, and ReEncrypt would turn a blob
that somebody wrapped under their own key into a wrapped key of ours. Tenant and scope are the encryption context, which
CloudTrail shows in plaintext.

Source: AWS KMS API Reference "GenerateDataKey", "Decrypt", "ReEncrypt", "DescribeKey".
"""

from collections.abc import Mapping

from keyvault_api.names import DATA_KEY_SIZE
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.faults import AwsFault
from keyvault_server.core.errors import BackendUnavailable, MasterKeyUnusable, NotAuthorized
from keyvault_server.core.ports import NewDataKey, WrappedBlob

MAX_BLOB = 6_144
"""Maximum bytes of a CiphertextBlob for Decrypt; KMS would answer a longer one with a ValidationException."""


class KmsKeyService:
    """Symmetric KMS keys by label; the first mints, every one unwraps."""

    def __init__(self, kms: AwsClient, master_keys: Mapping[str, str]) -> None:
        self._kms = kms
        self._arns = dict(master_keys)
        self._label, self._arn = next(iter(master_keys.items()))

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        """See KeyService."""
        reply = await self._kms.call(
            "generate_data_key",
            "Plaintext",
            "CiphertextBlob",
            KeyId=self._arn,
            KeySpec="AES_256",
            EncryptionContext=_context(tenant, scope),
        )
        if len(reply["Plaintext"]) != DATA_KEY_SIZE:
            raise BackendUnavailable from AwsFault("generate_data_key", "NotADataKey")
        return NewDataKey(reply["Plaintext"], WrappedBlob(self._label, reply["CiphertextBlob"]))

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        """See KeyService."""
        reply = await self._kms.call(
            "decrypt",
            "Plaintext",
            KeyId=self._find_arn(wrapped),
            CiphertextBlob=wrapped.blob,
            EncryptionContext=_context(tenant, scope),
        )
        data_key: bytes = reply["Plaintext"]
        if len(data_key) != DATA_KEY_SIZE:  # anyone who may call kms:Encrypt can wrap any bytes
            raise NotAuthorized
        return data_key

    async def rewrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> WrappedBlob:
        """See KeyService."""
        context = _context(tenant, scope)
        reply = await self._kms.call(
            "re_encrypt",
            "CiphertextBlob",
            SourceKeyId=self._find_arn(wrapped),
            SourceEncryptionContext=context,
            CiphertextBlob=wrapped.blob,
            DestinationKeyId=self._arn,
            DestinationEncryptionContext=context,
        )
        return WrappedBlob(self._label, reply["CiphertextBlob"])

    async def check(self) -> None:
        """See KeyService. Asks KMS for the state of the key that mints.

        DescribeKey is free and outside the quota that the data operations share. It does not prove that our role may
        use the key.
        """
        reply = await self._kms.call("describe_key", "KeyMetadata", KeyId=self._arn)
        state = reply["KeyMetadata"].get("KeyState")
        if state != "Enabled":
            raise MasterKeyUnusable from AwsFault("describe_key", f"KeyState {state}")

    def _find_arn(self, wrapped: WrappedBlob) -> str:
        """Return the ARN of the label's key. Raises NotAuthorized for a blob that KMS need not see."""
        arn = self._arns.get(wrapped.label)
        if arn is None or not 1 <= len(wrapped.blob) <= MAX_BLOB:
            raise NotAuthorized
        return arn


def _context(tenant: str, scope: str) -> dict[str, str]:
    return {"keyvault:v": "1", "keyvault:tenant": tenant, "keyvault:scope": scope}
