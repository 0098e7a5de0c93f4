"""Names of tests are sentences that fit a line: at most 60 characters, what does not fit stands in the docstring."""

import ast

from tests.support.repository import ROOT

LONGEST = 60


def test_names_of_tests_have_at_most_60_characters() -> None:
    names = [
        f"{path.name}: {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if len(node.name) > LONGEST
    ]
    assert names == []
