"""A certificate authority for tests of TLS."""

from tests.aws.stub import authority  # noqa: F401
