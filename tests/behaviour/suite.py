"""The cases of the behaviour suite: what a server does, what a client is asked to do, and what has to come out.

They are JSON files next to this one, which the libraries of all languages run against the player in server.py.
README.md describes them.

The rule of this file: a word that it does not know is refused, because a case that is half played proves nothing.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.support.misbehaving import (
    Call,
    Step,
    answers,
    claims,
    comes_later,
    cuts,
    forgets,
    hangs,
    honest,
    overtaken,
    replaces,
    seals,
    silent,
)

FOLDER = Path(__file__).parent
RECORDS = ("absent", "live", "foreign", "deleted")
LISTENS = ("honestly", "closed", "silent")
VERBS = (
    *("create", "read", "update", "delete", "rotate", "restore", "read_many"),
    *("generate_key", "rewrap_key", "unwrap_key", "renew_token", "read_if_changed"),
)
KEYS = ("key", "new_key")
OUTCOMES = ("done", "failed", "unknown", "interrupted", "either")


@dataclass(frozen=True)
class Expected:
    """What has to come out of one thing that the client is asked to do."""

    outcome: str
    error: str = ""
    reason: str = ""
    revision: int = 0
    data: str = ""
    seconds: tuple[float, float] = (0, 90)


@dataclass(frozen=True)
class Asked:
    """One thing that the client is asked to do, in at most `timeout` seconds."""

    do: str
    expect: Expected
    timeout: float = 60
    own_deadline: bool = True
    """False: the call has no deadline of its own, and `timeout` is the client's."""
    revision: int = 0
    interrupt: float = 0
    """Seconds after which the caller gives up; 0 for never."""
    name: str | None = None
    """The name or scope that is asked for; None for the record of the case."""
    key: str = "key"
    size: int = 0
    """Bytes of the data that is written, all "x"; 0 for the data "ours"."""

    def data(self) -> bytes:
        """Return the data that is written."""
        return b"x" * self.size or b"ours"


@dataclass(frozen=True)
class Case:
    """One case; the files have its fields."""

    name: str
    about: str
    client: tuple[Asked, ...]
    server: Mapping[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    record: str = "absent"
    revision: int = 1
    listen: str = "honestly"
    tls: Mapping[str, str] = field(default_factory=dict)
    """Plaintext if empty. `server` is trusted, untrusted or misnamed, and `client` nobody, anyone, known or unknown."""
    token: bool = False
    """True: the client sends the token of a file."""
    calls: Mapping[str, Any] = field(default_factory=dict)
    sealed: tuple[int, ...] | None = None
    connections: tuple[int, int] | None = None
    program: bool = False
    """True: the programs of tests/interop run it too."""

    def script(self) -> dict[str, Iterable[Step]]:
        """Return the steps of each method, honest after the last one."""
        return {method: itertools.chain.from_iterable(map(_steps, steps)) for method, steps in self.server.items()}


def cases() -> dict[str, Case]:
    """Return every case by its name. Raises ValueError for a file that is not as this module has it."""
    found: dict[str, Case] = {}
    for path in sorted(FOLDER.glob("*.json")):
        for one in json.loads(path.read_text())["cases"]:
            case = _case(one)
            if case.name in found:
                raise ValueError(f"{path.name}: two cases are called {case.name}")
            found[case.name] = case
    return found


def _case(content: Mapping[str, Any]) -> Case:
    asked = content["client"]
    client = tuple(_asked(one) for one in (asked if isinstance(asked, list) else [asked]))
    case = Case(**{**content, "client": client, **_tuples(content, "sealed", "connections")})
    _check_known(case.name, case.record, RECORDS)
    _check_known(case.name, case.listen, LISTENS)
    case.script()
    return case


def _asked(content: Mapping[str, Any]) -> Asked:
    expected = content["expect"]
    expect = Expected(**{**expected, **_tuples(expected, "seconds")})
    asked = Asked(**{**content, "expect": expect})
    _check_known("do", asked.do, VERBS)
    _check_known(asked.do, asked.key, KEYS)
    _check_known(asked.do, expect.outcome, OUTCOMES)
    return asked


def _tuples(content: Mapping[str, Any], *names: str) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(content[name]) for name in names if name in content}


def _check_known(where: str, word: str, known: Iterable[str]) -> None:
    """Raise ValueError for a word that is not among these."""
    if word not in known:
        raise ValueError(f"{where}: unknown {word!r}: expected one of {', '.join(known)}")


def _steps(described: Mapping[str, Any]) -> Iterator[Step]:
    """Return the step that an object describes, as often as it says."""
    content = dict(described)
    times = content.pop("times", 1)
    step = _step(content)
    return itertools.repeat(step) if times == "always" else itertools.repeat(step, times)


def _step(content: Mapping[str, Any]) -> Step:
    match content:
        case {"status": _}:
            return _answers(**content)
        case {"cut": how}:
            return cuts(how)
        case {"hang": "after"}:
            return hangs
        case {"hang": "before"}:
            return silent
        case {"forget": True}:
            return forgets
        case {"claim": revision}:
            return claims(revision)
        case {"answer": fields}:
            return replaces(fields)
        case {"seal": kind, **words}:
            return seals(kind, **words)
        case {"later": True}:
            return comes_later
        case {"overtaken": True}:
            return overtaken
        case {"honest": True}:
            return honest
        case {"token": token}:
            return _asks_for(f"Bearer {token}")
    raise ValueError(f"unknown step {content}")


def _answers(
    status: str,
    *,
    reason: str = "",
    domain: str = "keyvault",
    commit: bool = False,
    retry_after: int = 0,
    metadata: Mapping[str, object] | None = None,
) -> Step:
    """Answer with a status, whose words are these alone: `answers` takes any other as metadata."""
    code = grpc.StatusCode[status]
    return answers(code, reason, domain=domain, commit=commit, retry_after=retry_after, **metadata or {})


def _asks_for(authorization: str) -> Step:
    """Answer honestly who shows this, and nobody else."""

    async def step(call: Call) -> bytes:
        if dict(call.context.invocation_metadata()).get("authorization") == authorization:
            return await call.forward()
        return await answers(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")(call)

    return step
