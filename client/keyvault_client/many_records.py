"""Many records at once for `keyvault import` and `export`: how they are read, and how they are files."""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence

from keyvault_client import dotenv
from keyvault_client.batch_reading import Results
from keyvault_client.errors import InvalidRequest, KeyVaultError, quote
from keyvault_client.key_sources import ChosenKeys
from keyvault_client.progress import Progress
from keyvault_client.records import Record
from keyvault_client.vault import KeyVault

BATCH = 100
"""Records of one call: each has the timeout of a call."""


async def read_in_batches(
    vault: KeyVault, names: Sequence[str], owner: ChosenKeys
) -> dict[str, Record | KeyVaultError]:
    """Return each record, or why there is none, and show progress. The client has the ring of these keys."""
    found: Results = {}
    with Progress("read", len(names)) as progress:
        for start in range(0, len(names), BATCH):
            some = names[start : start + BATCH]
            found |= await vault.read_many(owner.for_names(some))
            for _ in some:
                progress.step()
    return found


def parse_values(content: bytes) -> dict[str, bytes]:
    """Return the values of a dotenv file, or of a JSON object, which begins with {. Raises InvalidRequest."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("the input is not UTF-8: expected a dotenv file or a JSON object") from None
    if text.lstrip().startswith("{"):
        return _parse_json(text)
    return {name: value.encode() for name, value in dotenv.parse(text).items()}


def render_json(values: Mapping[str, bytes]) -> str:
    """Return a JSON object: a value is a text, or {"base64": ...} if it is not UTF-8."""
    return json.dumps({name: _to_json(value) for name, value in values.items()}, indent=1, ensure_ascii=False) + "\n"


def render_variables(values: Mapping[str, bytes], *, export: bool) -> str:
    """Return lines for a shell; names are in capitals, with _ for what no variable has. Raises InvalidRequest."""
    variables: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, value in values.items():
        variable = re.sub("[^A-Z0-9_]", "_", name.upper())
        variable = f"_{variable}" if variable[0].isdigit() else variable
        if variable in names:
            raise InvalidRequest(f"{names[variable]} and {name} are both {variable}: give --format json")
        names[variable] = name
        try:
            variables[variable] = value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name} is not UTF-8: give --format json") from None
        if b"\0" in value:
            raise InvalidRequest(f"{name} has a NUL byte, which no variable holds: give --format json")
    return dotenv.render(variables, export=export)


def _parse_json(text: str) -> dict[str, bytes]:
    try:
        # A number is refused whatever it is: int() raises for one of more than 4,300 digits.
        content = json.loads(text, object_pairs_hook=_unique, parse_int=str.encode)
        return {name: _from_json(name, value) for name, value in content.items()}
    except (json.JSONDecodeError, RecursionError):  # whose text has a part of the input
        raise InvalidRequest("the input is not valid JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise InvalidRequest("the input is JSON with a name that is given twice")
    return content


def _from_json(name: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{quote(name)}: half of a surrogate pair is not text") from None
    if isinstance(value, dict) and list(value) == ["base64"] and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error:
            raise InvalidRequest(f"{quote(name)}: invalid base64") from None
    raise InvalidRequest(f'{quote(name)}: the value must be a text, or {{"base64": ...}}')


def _to_json(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
