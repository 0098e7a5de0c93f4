"""docs/architecture.md names every module, and no file that is not there."""

import re

from tests.support.repository import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text()


def test_every_module_is_named() -> None:
    modules = [path for root in ("protos/keyvault", "server", "client") for path in (ROOT / root).rglob("*.py")]
    ours = {path.name for path in modules if "_pb2" not in path.name and not path.name.startswith("__")}
    assert len(ours) > 50
    assert not {name for name in ours if not re.search(rf"\b{name}\b", TEXT)}


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"\b\w+\.(?:py|proto|sh)\b", TEXT))
    there = {
        path.name for folder in ("protos", "server", "client", "tests", "deploy") for path in (ROOT / folder).rglob("*")
    }
    assert named <= there
