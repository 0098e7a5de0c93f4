"""The recorder, compiled once."""

import pytest

from tests.crash.power import Recorder, compiled


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return compiled(tmp_path_factory.mktemp("recorder"))
