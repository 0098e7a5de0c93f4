"""Each seeded bug is caught, at the seed that its row of docs/reliability.md names, and it is the bug that is caught.

If a seed does not show its bug any more, since the vault or the simulation changed: `python -m
tests.reliability.simulation --bugs` finds others.
"""

import pytest

from tests.prove import PAGE
from tests.reliability.bugs import BUGS, Between, Gathering
from tests.reliability.deployment import Deployment
from tests.reliability.linearizability import NotLinearizable, check
from tests.reliability.schedule import simulate


@pytest.mark.medium
@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_caught(name: str) -> None:
    bug = BUGS[name]
    history, _ = simulate(bug.seed, bug.deployment)
    with pytest.raises(NotLinearizable):
        check(bug.evidence(history))


@pytest.mark.parametrize("seed", sorted({bug.seed for bug in BUGS.values()}))
def test_the_vault_without_the_bug_is_right_there(seed: int) -> None:
    check(simulate(seed, Deployment())[0])


@pytest.mark.slow
@pytest.mark.parametrize("deployment", [Deployment(store=Between), Deployment(store=Gathering)])
def test_what_carries_the_bugs_is_no_bug_itself(deployment: Deployment) -> None:
    for seed in range(100):
        check(simulate(seed, deployment)[0])


def test_the_page_has_a_row_for_each_bug() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    for name, bug in BUGS.items():
        [row] = [row for row in rows if row.startswith(f"| `{name}` |")]
        assert row.startswith(f"| `{name}` | {bug.wrong} | `test_a_seeded_bug_is_caught[{name}]` | {bug.seed + 1} |")
