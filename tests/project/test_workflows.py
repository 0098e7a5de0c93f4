"""The forge runs what .ci/run runs, with actions that nobody can change under us and no more rights than needed."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.repository import ROOT

FORGE = ROOT / ".github"
WORKFLOWS = sorted((FORGE / "workflows").iterdir())
PINNED = re.compile(r"uses: ([\w./-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def jobs(path: Path) -> dict[str, Any]:
    """Return the jobs of a workflow."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def commands(path: Path) -> Iterator[str]:
    """Yield what the steps of a workflow run, for each part of a matrix."""
    for job in jobs(path).values():
        parts = job.get("strategy", {}).get("matrix", {}).get("part", [""])
        for step in job.get("steps", []):
            for part in parts:
                yield step.get("run", "").replace("${{ matrix.part }}", part)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_pinned_by_a_full_commit(path: Path) -> None:
    uses = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    foreign = [line for line in uses if not line.startswith("uses: ./")]
    assert foreign
    assert [line for line in foreign if not PINNED.match(line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_workflow_may_read_and_no_more(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_checkout_leaves_no_token_behind(path: Path) -> None:
    steps = [step for job in jobs(path).values() for step in job.get("steps", [])]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_the_jobs_run_the_parts_of_ci_run() -> None:
    listed = re.search(r"^for part in (.+); do$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert listed
    ran = {match[1] for command in commands(FORGE / "workflows/ci.yml") if (match := re.search(r"\.ci/(\w+)", command))}
    assert ran == set(listed[1].split())


def test_every_file_of_pins_is_audited_on_the_forge() -> None:
    (audit,) = jobs(FORGE / "workflows/audit.yml").values()
    pins = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    assert set(audit["strategy"]["matrix"]["pins"]) == pins
    command = audit["steps"][-1]["run"]
    assert re.search(r"pip-audit==[\d.]+ pip-audit .*-r requirements/\$\{\{ matrix.pins \}\}\.txt", command)


def test_lint_comes_before_every_other_job() -> None:
    found = jobs(FORGE / "workflows/ci.yml")
    assert [name for name, job in found.items() if job.get("needs") != "lint"] == ["lint"]


def test_nothing_is_published_before_all_of_ci_passed() -> None:
    found = jobs(FORGE / "workflows/release.yml")
    assert found["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert (found["build"]["needs"], found["publish"]["needs"]) == ("ci", "build")


def test_each_script_of_ci_runs_as_a_program() -> None:
    scripts = [*(ROOT / ".ci").iterdir(), *(ROOT / "deploy").glob("*.sh")]
    assert [path.name for path in scripts if not path.stat().st_mode & stat.S_IXUSR] == []
    assert [path.name for path in scripts if "\nset -euo pipefail\n" not in path.read_text()] == []


def test_each_ecosystem_of_the_tree_gets_late_updates() -> None:
    updates = yaml.safe_load((FORGE / "dependabot.yml").read_text())["updates"]
    assert {entry["package-ecosystem"] for entry in updates} == {
        "pip",
        "gomod",
        "npm",
        "maven",
        "github-actions",
        "docker",
    }
    assert all(entry["cooldown"]["default-days"] >= 7 for entry in updates)
    folders = {folder for entry in updates for folder in entry.get("directories", [])}
    manifests = [
        *ROOT.glob("examples/*/go.mod"),
        *ROOT.glob("sdk/go/**/go.mod"),
        *ROOT.glob("examples/*/package.json"),
        *ROOT.glob("sdk/*/package.json"),
        *ROOT.glob("examples/*/pom.xml"),
        *ROOT.glob("sdk/*/pom.xml"),
    ]
    assert {f"/{path.parent.relative_to(ROOT)}" for path in manifests} == folders


def test_make_help_lists_each_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony
    assert re.findall(r"^([a-z]+):.* ## \S", makefile, re.MULTILINE) == phony[1].split()
    assert makefile.index("\nhelp:") < makefile.index("\ncheck:"), "help is the default target"
