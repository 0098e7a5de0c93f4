"""KMS and DynamoDB: the only importer of aioboto3, aiobotocore and botocore.

May import: `core`, `disk`.
"""
