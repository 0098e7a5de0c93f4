"""The real vault, simulated: no history is wrong, all troubles were met, and a seed gives the same run each time."""

import os
import subprocess
import sys

import pytest

from tests.reliability.deployment import Deployment
from tests.reliability.history import readable
from tests.reliability.network import BACKEND_TROUBLES
from tests.reliability.schedule import simulate
from tests.reliability.simulation import examine, main

HISTORIES = 500


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_history_is_wrong_and_every_trouble_is_met() -> None:
    report = examine(range(HISTORIES))
    assert report.histories == HISTORIES
    assert not report.wrong, "python -m tests.reliability.simulation --seed N shows one"
    answers = {"done", "replayed", "got", "kept", "seen", "unknown"}
    definite = {"RECORD_NOT_FOUND", "RECORD_EXISTS", "STALE_REVISION", "NOT_AUTHORIZED", "ENVELOPE_NOT_UNDER_KEY"}
    backends = {
        "SAME_DATA_KEY",
        "BACKEND_THROTTLED",
        "RATE_LIMITED",
        "MASTER_KEY_UNUSABLE",
        "HEAD_CHANGED",
        "REVISION_NOT_FOUND",
        "BATCH_FULL",
    }
    assert set(report.answers) == answers | definite | backends
    assert set(report.met) == {fate.value for fate in BACKEND_TROUBLES} | {
        "server crashed",
        "store crashed",
        "copy swept",
    }


@pytest.mark.slow
def test_one_seed_is_one_schedule() -> None:
    for seed in range(20):
        first, second = (simulate(seed, Deployment()) for _ in range(2))
        assert readable(first[0]) == readable(second[0])
        assert first[1] == second[1]


@pytest.mark.process
def test_a_seed_gives_the_same_history_in_every_process() -> None:
    stories = {_story("1"), _story("2")}
    assert len(stories) == 1
    assert stories.pop().endswith("\nlinearizable\n")


def _story(hash_seed: str) -> str:
    command = [sys.executable, "-m", "tests.reliability.simulation", "--seed", "17"]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.process
def test_the_figure_says_what_was_tried_and_what_was_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5", "--histories", "20", "--processes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "simulated histories: 20, seeds 5 to 24"
    assert "not linearizable: 0" in lines


def test_a_wrong_history_fails_the_command_and_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "1", "--bug", "no-ring"]) == 1
    assert "no order explains this history" in capsys.readouterr().out
