"""Generate keyvault_client/sync.py, the synchronous client, from the asynchronous one, vault.py.

Each method gets the signature and the docstring of its original, and delegates to it. What a method returns says how:

* a coroutine: by one call; one that returns `Written` mutates
* an AsyncIterator: page by page, from the method `_<name>_pages`
* a Secrets: as the one of sync_cache.py

Anything else that is public is refused here: add its rule. `tests/client/test_sync_surface.py` generates and compares.
"""

import ast
import itertools
import operator
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "keyvault_client"
TARGET = PACKAGE / "sync.py"
HEADER = '''"""`KeyVault` for synchronous code: `with KeyVault("host:port") as vault`. docs/sync.md describes it.

Generated from vault.py by client/generate_sync.py: edit that one, and generate.
"""'''
WORDS = {
    "use it as an async context manager, from one event loop.": "use it as a context manager, from any threads.",
    "except when the caller cancels it": "except when a signal ends it",
    "`token` is an `async` function instead": "`token` is a function instead",
    "`async for ": "`for ",
    "`async with ": "`with ",
    "Both may be `async`.": "Both run in threads.",
}
"""What the docstrings say otherwise. Each has to be there, so that none is forgotten when they change."""
TYPES = {"AsyncIterator": "Iterator"}
"""Names of types, and what a synchronous signature has in their place."""
FUNCTIONS = {"TokenSource": "PlainTokenSource", "OnChange": "PlainOnChange", "NewKey": "PlainNewKey"}
"""The same for types of functions, which are called in threads."""
MODULES = {
    "Iterator": "collections.abc",
    **dict.fromkeys(("Delegating", *FUNCTIONS.values()), "keyvault_client.delegation"),
    "Secrets": "keyvault_client.sync_cache",
    "in_thread": "keyvault_client.sync_cache",
    "vault": "keyvault_client",
}
"""Where names come from that vault.py does not import, or from elsewhere."""


def generate() -> str:
    """Return the source of sync.py; ruff formats it."""
    source = ast.parse((PACKAGE / "vault.py").read_text())
    (original,) = [node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "KeyVault"]
    docstring, *members = original.body
    original.bases, original.body = [ast.Name("Delegating")], [docstring, *filter(None, map(_method, members))]
    made = ast.fix_missing_locations(_Types().visit(original))
    text = ast.unparse(made)
    for words in WORDS:
        if not _pattern(words).search(text):
            sys.exit(f"the docstrings of vault.py no longer have the words: {words}")
    imports = _imports(source, {node.id for node in ast.walk(made) if isinstance(node, ast.Name)})
    return f"{HEADER}\n\n{imports}\n\n__all__ = ['KeyVault']\n\n\n{without_async(text)}\n"


def without_async(docstring: str) -> str:
    """Return what the synchronous method says."""
    for there, here in WORDS.items():
        docstring = _pattern(there).sub(here, docstring)
    return docstring


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(re.escape(words).replace(r"\ ", r"\s+"))


def _imports(source: ast.Module, names: set[str]) -> str:
    """Return the imports of these names: from where vault.py has them, or from MODULES."""
    modules = {
        alias.name: node.module or ""
        for node in source.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } | MODULES
    used = sorted((modules[name].startswith("keyvault"), modules[name], name) for name in names & modules.keys())
    by_module = itertools.groupby(used, key=operator.itemgetter(1))
    return "\n".join(f"from {module} import {', '.join(each[2] for each in group)}" for module, group in by_module)


def _method(node: ast.stmt) -> ast.stmt | None:
    """Return the synchronous form of a method, None for a private one."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    name = node.name.replace("__a", "__")
    if name in ("__enter__", "__exit__"):
        body = [_NoAwait().visit(each) for each in node.body]
    elif name == "__init__":
        body = _constructor(node)
    elif name.startswith("_"):
        return None
    elif name == "close":
        body = [*node.body[:1], *_parse("self._close()")]
    else:
        body = [*node.body[:1], *_parse(_delegation(node))]
    fields = {field: getattr(node, field) for field in node._fields}
    return ast.FunctionDef(**fields | {"name": name, "body": body})


def _constructor(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    return [*node.body[:1], *_parse(f"super().__init__(vault.KeyVault({_arguments(node)}), timeout)")]


def _delegation(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the statement that calls the original."""
    returned = ast.unparse(node.returns) if node.returns else ""
    if isinstance(node, ast.AsyncFunctionDef):
        mutates = ", mutates=True" if returned == "Written" else ""
        return f"return self._call(self._vault.{node.name}({_arguments(node)}), timeout{mutates})"
    if returned.startswith("AsyncIterator["):
        return f"return self._iterate(self._vault._{node.name}_pages({_arguments(node)}), timeout)"
    if returned == "Secrets":
        return f"return self._cache(self._vault.{node.name}({_arguments(node)}), timeout)"
    sys.exit(f"generate_sync.py has no rule for KeyVault.{node.name}, which returns {returned}")


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the arguments that hand on every parameter."""
    positional = [each.arg for each in node.args.args if each.arg != "self"]
    return ", ".join(positional + [f"{each.arg}={_handed_on(each)}" for each in node.args.kwonlyargs])


def _handed_on(parameter: ast.arg) -> str:
    is_function = {each.id for each in ast.walk(parameter) if isinstance(each, ast.Name)} & FUNCTIONS.keys()
    return f"in_thread({parameter.arg})" if is_function else parameter.arg


def _parse(statement: str) -> list[ast.stmt]:
    return ast.parse(statement).body


class _NoAwait(ast.NodeTransformer):
    def visit_Await(self, node: ast.Await) -> ast.expr:
        return node.value


class _Types(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name((TYPES | FUNCTIONS).get(node.id, node.id))


if __name__ == "__main__":
    TARGET.write_text(generate())
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([ruff, *command, TARGET], check=True)
