"""Both clients have one surface: the generated one is current, and differs only where it has to."""

import ast
import inspect
import runpy
from collections.abc import Callable
from typing import Any

import pytest

from keyvault_client import KeyVault, sync
from tests.support.repository import ROOT

GENERATOR = runpy.run_path(str(ROOT / "client" / "generate_sync.py"))
NAMES = sorted(name for name in vars(KeyVault) if not name.startswith("_"))
ASYNC = {
    "collections.abc.AsyncIterator[": "collections.abc.Iterator[",
    "collections.abc.Callable[[], collections.abc.Awaitable[str]]": "collections.abc.Callable[[], str]",
    "object | collections.abc.Awaitable[object]": "object",
    "'DataKey | Awaitable[DataKey | None] | None'": "'DataKey | None'",
    "keyvault_client.cache.Secrets": "keyvault_client.sync_cache.Secrets",
}
"""Parts of the annotations of the asynchronous client, and what the other has there."""


def types_of(method: Callable[..., Any]) -> dict[str, str]:
    return {name: str(annotation) for name, annotation in inspect.get_annotations(method).items()}


def without_async(text: str) -> str:
    for there, here in ASYNC.items():
        text = text.replace(there, here)
    return text


def test_the_synchronous_client_is_generated_from_the_other() -> None:
    source = GENERATOR["TARGET"].read_text()
    made = ast.dump(ast.parse(GENERATOR["generate"]()))
    assert made == ast.dump(ast.parse(source)), "run python client/generate_sync.py"


def test_both_clients_have_the_same_names() -> None:
    assert sorted(name for name in vars(sync.KeyVault) if not name.startswith("_")) == NAMES
    assert len(NAMES) == 16


@pytest.mark.parametrize("name", ["__init__", *NAMES])
def test_a_method_has_the_same_signature_and_docstring(name: str) -> None:
    ours, theirs = getattr(sync.KeyVault, name), getattr(KeyVault, name)
    assert not inspect.iscoroutinefunction(ours)
    parameters = [
        [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]
        for method in (ours, theirs)
    ]
    assert parameters[0] == parameters[1]
    assert types_of(ours) == {name: without_async(kind) for name, kind in types_of(theirs).items()}
    assert ours.__doc__
    assert ours.__doc__ == GENERATOR["without_async"](theirs.__doc__)
