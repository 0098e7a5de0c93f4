"""`keyvault-server` on AWS as a process: what is wrong with its AWS settings is one line."""

import subprocess

import pytest

from tests.support.forked import operate
from tests.support.refusals import refusal

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.usefixtures("aws_identity")]

KEYS = '{"1": "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"}'
COMMANDS = {
    "serve": ["serve", "--listen", "127.0.0.1:0"],
    "init": ["init"],
    "purge": ["purge", "k", "--yes", "--insecure-no-audit"],
}


def run(arguments: list[str], **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command; no endpoint is set, since none may be asked."""
    return operate(arguments, {"KEYVAULT_BACKEND": "aws", "KEYVAULT_AWS_MASTER_KEYS": KEYS} | variables)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_profile_that_does_not_exist_is_one_line(arguments: list[str]) -> None:
    assert "AWS_PROFILE: nope: no such profile" in refusal(run(arguments, AWS_PROFILE="nope"), 1)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_region_that_contradicts_the_keys_is_one_line(arguments: list[str]) -> None:
    assert "set KEYVAULT_AWS_REGION to the Region of all" in refusal(run(arguments, AWS_REGION="us-east-1"), 1)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_missing_credentials_are_one_line(arguments: list[str]) -> None:
    said = refusal(run(arguments, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""), 1)
    assert "AWS credentials: the AWS SDK finds none" in said
