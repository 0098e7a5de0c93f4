"""The wrapped key's frame and the embedded keyring against wrapped_key.json."""

from typing import Any

import pytest

from keyvault_server.backends.embedded.keyring import Keyring
from keyvault_server.core.errors import MalformedWrappedKey, NotAuthorized, TooLarge
from keyvault_server.core.ports import WrappedBlob
from keyvault_server.core.wrapped_key import WrappedKey, parse_wrapped_key
from tests.vectors import reference as kve1
from tests.vectors import wrapped_key as reference
from tests.vectors.layout import Test, every_test, read

FILE = read("wrapped_key.json")
MASTER_KEYS = {int(label): bytes.fromhex(key) for label, key in FILE["masterKeys"].items()}
FIELDS = ("result", "phase", "label", "scope", "dataKey", "salt")


async def outcome(test: Test) -> dict[str, str]:
    """What the server says of a test, in its fields."""
    try:
        frame = parse_wrapped_key(bytes.fromhex(test["wrappedKey"]))
    except (MalformedWrappedKey, TooLarge):
        return {"result": "invalid", "phase": "parse"}
    read_from_frame = {"label": frame.wrapped.label, "scope": frame.scope}
    try:
        data_key = await Keyring(MASTER_KEYS).unwrap(test["tenant"], frame.scope, frame.wrapped)
    except NotAuthorized:
        return {"result": "invalid", "phase": "open", **read_from_frame}
    salt = frame.wrapped.blob[:24].hex()
    return {"result": "valid", **read_from_frame, "dataKey": data_key.hex(), "salt": salt}


@pytest.mark.parametrize("group", FILE["testGroups"], ids=lambda group: group["comment"])
async def test_every_vector_does_what_it_says(group: dict[str, Any]) -> None:
    for test in group["tests"]:
        expected = {field: test[field] for field in FIELDS if field in test}
        assert await outcome(test) == expected, f"test {test['tcId']}: {test['comment']}"


def test_a_parsed_frame_writes_the_same_bytes() -> None:
    parsed = [bytes.fromhex(test["wrappedKey"]) for test in every_test(FILE) if test.get("phase") != "parse"]
    assert parsed
    assert all(bytes(parse_wrapped_key(data)) == data for data in parsed)


def test_every_valid_vector_is_a_vector_of_wrapping() -> None:
    for test in every_test(FILE):
        if test["result"] == "valid":
            master_key, salt = MASTER_KEYS[int(test["label"])], bytes.fromhex(test["salt"])
            context = reference.context(test["tenant"], test["scope"])
            blob = kve1.cobblestone_seal(master_key, context, salt, bytes.fromhex(test["dataKey"]))
            assert bytes(WrappedKey(test["scope"], WrappedBlob(test["label"], blob))).hex() == test["wrappedKey"]


@pytest.mark.parametrize("scope", ["k", "prod/", "k" * 255])
async def test_what_the_keyring_wraps_opens_in_the_second_reading(scope: str) -> None:
    made = await Keyring(MASTER_KEYS).generate("acme", scope)
    wrapped = bytes(WrappedKey(scope, made.wrapped))
    assert made.wrapped.label == "2"
    assert reference.unwrap("acme", wrapped) == made.plaintext
    again = await Keyring(MASTER_KEYS).rewrap("acme", scope, made.wrapped)
    assert reference.unwrap("acme", bytes(WrappedKey(scope, again))) == made.plaintext
    assert again.blob != made.wrapped.blob


async def test_rewrapping_moves_a_data_key_to_the_newest_master_key() -> None:
    old = await Keyring({1: MASTER_KEYS[1]}).generate("acme", "prod/")
    moved = await Keyring(MASTER_KEYS).rewrap("acme", "prod/", old.wrapped)
    assert (old.wrapped.label, moved.label) == ("1", "2")
    assert reference.unwrap("acme", bytes(WrappedKey("prod/", moved))) == old.plaintext
    with pytest.raises(NotAuthorized):
        await Keyring({1: MASTER_KEYS[1]}).unwrap("acme", "prod/", moved)


async def test_a_failure_names_no_reason() -> None:
    keyring = Keyring(MASTER_KEYS)
    good = (await keyring.generate("acme", "prod/")).wrapped
    texts = set()
    for tenant, scope, label, blob in (
        ("other", "prod/", "2", good.blob),
        ("acme", "prod/x", "2", good.blob),
        ("acme", "prod/", "1", good.blob),
        ("acme", "prod/", "9", good.blob),
        ("acme", "prod/", "2", good.blob[:-1]),
        ("acme", "prod/", "2", bytes(104)),
    ):
        with pytest.raises(NotAuthorized) as caught:
            await keyring.unwrap(tenant, scope, WrappedBlob(label, blob))
        texts.add((str(caught.value), repr(caught.value)))
    assert len(texts) == 1
