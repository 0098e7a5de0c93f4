"""Mutants of a Python file: the same text with one small fault in it.

The rule of this file: a mutant replaces one expression or one statement and leaves every other byte as it is. What
decides nothing at run time is left alone: annotations, decorators, docstrings, the text of messages.
"""

import ast
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
"""What takes the place of an operator; other operators are left alone."""
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LEFT_ALONE = {"annotation", "returns", "decorator_list"}
"""Fields of nodes that decide nothing at run time."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A file with one fault. Its first four fields name it, also after lines above it have moved."""

    path: str
    """Of the file, below the root of the checkout."""
    function: str
    """Qualified name of the function or class that has the fault, "" for the module."""
    before: str
    """The first line that changes, without its indentation."""
    after: str
    """What that line becomes."""
    line: int
    statement: tuple[int, int]
    """First and last line of the statement that has the fault; of a compound one without its body."""
    body: tuple[int, int]
    """First and last line of the body of the function that has it; outside of functions those of the statement."""
    text: bytes
    """The whole file."""

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What names the mutant in survivors.toml."""
        return self.path, self.function, self.before, self.after

    def described(self) -> str:
        """Return a line that shows where the fault is."""
        return f"{self.path}:{self.line} {self.function}: {self.before}  ->  {self.after}"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Return all mutants of a file, in the order of its lines."""
    source = (root / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    made = []
    tree = ast.parse(source)
    statements = [_lines(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    bodies = [_body(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node, replacement, function in _faults(tree, ""):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = source[:start] + _unparsed(replacement).encode() + source[end:]
        before, after = (changed.splitlines()[node.lineno - 1].decode().strip() for changed in (source, text))
        statement = _innermost(node.lineno, statements) or (node.lineno, node.end_lineno)
        body = _innermost(node.lineno, bodies) or statement
        made.append(Mutant(path, function, before, after, node.lineno, statement, body, text))
    return sorted(made, key=lambda mutant: mutant.line)


def _innermost(line: int, spans: list[tuple[int, int]]) -> tuple[int, int] | None:
    return max((span for span in spans if span[0] <= line <= span[1]), default=None)


def _body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int]:
    return function.body[0].lineno, function.end_lineno or function.lineno


def _lines(statement: ast.stmt) -> tuple[int, int]:
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    inner = getattr(body[0], "pattern", body[0]) if body else None
    last = inner.lineno - 1 if inner else statement.end_lineno or statement.lineno
    return statement.lineno, max(statement.lineno, last)


def _unparsed(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(node))
    return text if isinstance(node, ast.stmt | ast.Constant | ast.Name) else f"({text})"


def _faults(node: ast.AST, function: str) -> Iterator[tuple[Any, ast.AST, str]]:
    """Yield each node that may be replaced, a replacement, and the function around it."""
    if isinstance(node, ast.JoinedStr):  # Python 3.11 does not say where its parts are
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for replaced, replacement in _replacements(node):
        yield replaced, replacement, function
    for field, value in ast.iter_fields(node):
        if field not in _LEFT_ALONE:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _faults(child, function)


def _replacements(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    match node:
        case ast.Compare():
            for at, operator in enumerate(node.ops):
                if type(operator) in _SWAPS:
                    ops = [*node.ops[:at], _SWAPS[type(operator)](), *node.ops[at + 1 :]]
                    yield node, ast.Compare(node.left, ops, node.comparators)  # type: ignore[arg-type]
        case ast.BoolOp() | ast.BinOp() | ast.AugAssign() if type(node.op) in _SWAPS:
            changed: Any = copy(node)
            changed.op = _SWAPS[type(node.op)]()
            yield node, changed
        case ast.UnaryOp(op=ast.Not()):
            yield node, node.operand
        case ast.Constant(value=bool() as value):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int() | float() as number):
            yield node, ast.Constant(number + 1)
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            yield node.func, ast.Name(_CALLS[name])
        case ast.If() | ast.While() | ast.IfExp() if isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
        case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
            yield node, ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(value=ast.Call() | ast.Await()):
            yield node, ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()
