"""The numbers of docs/audit.md are those of the code."""

import pytest

from keyvault_server.access.quotas import Rate
from keyvault_server.audit.line import CHECKPOINT_LINES
from keyvault_server.audit.log import FILE_BYTES
from keyvault_server.audit.trail import CHECKPOINT_SECONDS, PATIENCE_SECONDS
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.gatekeeper import UNIDENTIFIED
from tests.support.repository import DOCS


@pytest.mark.parametrize(
    "sentence",
    [
        f"`lines` ({CHECKPOINT_LINES:,} came), `time` (lines waited {CHECKPOINT_SECONDS:.0f} s)",
        f"a log without a checkpoint for {CHECKPOINT_LINES:,} lines is bad",
        f"at most those of the last {CHECKPOINT_SECONDS:.0f} s, or the last {CHECKPOINT_LINES:,}",
        f"a line that is not durable within {PATIENCE_SECONDS:.0f} s is as one that was not taken",
    ],
)
def test_the_page_has_the_numbers_of_the_code(sentence: str) -> None:
    assert sentence in (DOCS / "audit.md").read_text()


def test_unidentified_callers_get_the_lines_that_the_page_says() -> None:
    assert "100 at once, one more every ten seconds" in (DOCS / "audit.md").read_text()
    assert Rate(per_second=1 / 10, burst=100) == UNIDENTIFIED


def test_a_file_has_the_size_that_the_page_says() -> None:
    assert "`KEYVAULT_AUDIT_FILE_BYTES` (default 1 GiB)" in (DOCS / "audit.md").read_text()
    assert FILE_BYTES == Settings().audit_file_bytes == 2**30
