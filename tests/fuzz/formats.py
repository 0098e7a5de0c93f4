"""The three formats that a parser of ours reads, each held against a second reading of it.

The rule of this file: a check takes any bytes at all, returns in one word what they are, and fails with an
AssertionError or with whatever a parser should not have let through.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator

from keyvault_api import envelope as kve1
from keyvault_api.names import POLICY_METHODS, is_scope
from keyvault_server.access.policy import BadPolicy, Policy
from keyvault_server.core.errors import MalformedWrappedKey, TooLarge
from keyvault_server.core.wrapped_key import parse_wrapped_key
from tests.fuzz.edits import draw_edit, edited
from tests.support.production_server import TENANTS, identity, policy
from tests.vectors import reference
from tests.vectors import wrapped_key as wrapped_reference
from tests.vectors.layout import every_test, read

KEY, TENANT, NAME = bytes(range(32)), "acme", "prod/db-password"
WORDS = (
    "[[caller]]\n", "[[caller.allow]]\n", "[caller.limits]\n", "[caller]\n", "identity = ", "names = ", "methods = ",
    '"UnwrapKey", ', '"*", ', "spiffe://", "jwt:*", "nan", "1e999", '"""', "'''", '"', "\\ud800", "\n", "\r", "\0", "{}"
)  # fmt: skip


def check_envelope(data: bytes) -> str:
    """`keyvault.envelope` and `tests.vectors.reference` say the same of it."""
    parsed = _parsed(data)
    try:
        assert parsed == reference.parse(data)
    except reference.Malformed:
        assert parsed is None
    if parsed is None:
        return "malformed"
    head = data[: kve1.HEAD_SIZE]
    owned = kve1.commits_to(head, KEY, TENANT, NAME)
    assert owned is reference.commits_to(head, KEY, TENANT, NAME)
    opened = _opened(data)
    try:
        assert opened == reference.open_(KEY, TENANT, NAME, data)
    except reference.DoesNotOpen:
        assert opened is None
    assert owned or opened is None
    return "opened" if opened is not None else "owned" if owned else "strange"


def check_wrapped_key(data: bytes) -> str:
    """`core.wrapped_key` and `tests.vectors.wrapped_key` say the same; a frame is written in one way."""
    try:
        expected = wrapped_reference.parse(data)
    except reference.Malformed:
        expected = None
    try:
        frame = parse_wrapped_key(data)
    except (MalformedWrappedKey, TooLarge):
        assert expected is None
        return "malformed"
    assert (frame.wrapped.label, frame.scope, frame.wrapped.blob) == expected
    assert bytes(frame) == data
    assert is_scope(frame.scope)
    return "framed"


def check_policy(data: bytes) -> str:
    """A policy whose two ways of deciding agree, or a refusal in one line."""
    text = data.decode(errors="surrogateescape")
    refusal = ""
    try:
        found = Policy.parse(text)
    except BadPolicy as refused:
        refusal = str(refused)
    assert refusal.isprintable()
    if refusal:
        return "refused"
    for who in (*map(identity, TENANTS), "jwt:x", "anonymous"):
        caller = found.caller(who)
        for method in POLICY_METHODS:
            for name in ("", "prod/db", "unwrap/me"):
                allowed = caller is not None and caller.allows(method, name)
                assert found.decide(who, method, name).allowed is allowed
                assert not allowed or method != "UnwrapKey" or name in text
    return "policy"


def _parsed(data: bytes) -> tuple[int, int] | None:
    try:
        return kve1.parse(data)
    except kve1.MalformedEnvelope:
        return None


def _opened(data: bytes) -> bytes | None:
    try:
        return kve1.open(KEY, TENANT, NAME, data)
    except kve1.EnvelopeDoesNotOpen:
        return None


CHECKS: dict[str, Callable[[bytes], str]] = {
    "envelope": check_envelope,
    "wrapped key": check_wrapped_key,
    "policy": check_policy,
}
SHARES = {"envelope": 45, "wrapped key": 45, "policy": 10}
"""Of all inputs, in percent: a policy takes the longest."""


def seeds() -> dict[str, list[bytes]]:
    """Good ones of each format, and all vectors, to start from."""
    sealed = [kve1.seal(KEY, TENANT, NAME, 2, bytes(size)) for size in (0, 7, 16_383, 16_384, 33_000)]
    sealed += [
        kve1.seal(KEY, TENANT, NAME, 3, bytes(size), kind) for kind, size in ((kve1.Kind(2), 0), (kve1.Kind(3), 32))
    ]
    envelopes = [bytes.fromhex(test["envelope"]) for test in every_test(read("kve1.json")) if "envelope" in test]
    wrapped = [bytes.fromhex(test["wrappedKey"]) for test in every_test(read("wrapped_key.json"))]
    return {"envelope": sealed * 20 + envelopes, "wrapped key": wrapped, "policy": [policy().encode()]}


def inputs(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many, each a format and bytes: one of the seeds after up to five edits."""
    chance, good = random.Random(f"formats {seed}"), seeds()
    for _ in range(count):
        kind = chance.choices(tuple(SHARES), tuple(SHARES.values()))[0]
        data = chance.choice(good[kind])
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            data = _changed(chance, kind, data)
        yield kind, data


def _changed(chance: random.Random, kind: str, data: bytes) -> bytes:
    if kind == "policy" and chance.random() < 0.5:
        at = chance.randrange(len(data) + 1)
        return data[:at] + chance.choice(WORDS).encode() + data[at + chance.choice((0, 1, 8)) :]
    return edited(data, draw_edit(chance))


def checked(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """What so many inputs are, and a sentence for each that a parser got wrong."""
    found: Counter[str] = Counter()
    wrong = []
    for kind, data in inputs(count, seed):
        try:
            found[f"{kind} {CHECKS[kind](data)}"] += 1
        except Exception as error:
            wrong.append(f"{kind}: {error!r}; {data.hex()}")
    return found, wrong
