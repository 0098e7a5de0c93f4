"""The Python client passes the behaviour suite, which the libraries of the other languages run too."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from keyvault_client import TLS, DataKey, KeyVault, KeyVaultError, OutcomeUnknown, Record, Written
from tests.behaviour.checking import Ended, why_wrong, why_wrong_calls
from tests.behaviour.server import Player, Playing, player
from tests.behaviour.suite import Asked, Case, cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_the_client_passes_every_case() -> None:
    async with player() as playing:
        found = await asyncio.gather(*(passed(playing, case) for case in cases().values()))
    wrong = {name: why for name, why in found if why}
    assert not wrong
    assert len(found) > 35


async def passed(playing: Player, case: Case) -> tuple[str, list[str]]:
    """Run one case; return its name and what was wrong."""
    played = await playing.play(case)
    wrong = [why async for why in wrongs(played)]
    wrong.append(why_wrong_calls(case, await played.report()))
    return case.name, [why for why in wrong if why]


async def wrongs(played: Playing) -> AsyncIterator[str]:
    """Yield what was wrong of each thing that was asked."""
    async with client(played) as vault:
        for asked in played.case.client:
            yield why_wrong(asked, await ended(asked, do(asked, vault, played)))


def client(played: Playing) -> KeyVault:
    """Return a client of the case's server, with the timeout of a call that has no deadline of its own."""
    files = played.announced["tls"]
    tls = TLS(files["ca"], files["certificate"] or None, files["private_key"] or None) if files else None
    return KeyVault(
        played.announced["address"],
        tls=tls,
        token_file=played.announced["token_file"] or None,
        timeout=played.case.client[0].timeout,
    )


def key_of(content: dict[str, str]) -> DataKey:
    return DataKey.from_json(json.dumps(content))


async def do(asked: Asked, vault: KeyVault, played: Playing) -> object:
    """Ask the client for one thing."""
    name = played.key_id if asked.name is None else asked.name
    key, new_key = key_of(played.announced[asked.key]), key_of(played.announced["new_key"])
    timeout = asked.timeout if asked.own_deadline else None
    revision = asked.revision or None
    match asked.do:
        case "create":
            return await vault.create(name, asked.data(), key=key, revision=revision, timeout=timeout)
        case "read":
            return await vault.read(name, key=key, revision=revision, timeout=timeout)
        case "read_if_changed":
            return await vault.read_if_changed(name, known_revision=asked.revision, key=key, timeout=timeout)
        case "update":
            return await vault.update(name, asked.data(), key=key, revision=revision, timeout=timeout)
        case "delete":
            return await vault.delete(name, key=key, revision=revision, timeout=timeout)
        case "rotate":
            return await vault.rotate_key(name, key=key, new_key=new_key, revision=revision, timeout=timeout)
        case "restore":
            return await vault.restore(name, key=key, revision=asked.revision, timeout=timeout)
        case "read_many":
            return (await vault.read_many({name: key}, timeout=timeout))[name]
        case "generate_key":
            return await vault.generate_key(name, timeout=timeout)
        case "rewrap_key":
            return await vault.rewrap_key(key, timeout=timeout)
        case "unwrap_key":
            return await vault.unwrap_key(key, timeout=timeout)
    await renew(Path(played.announced["token_file"]))
    return None


async def renew(token_file: Path) -> None:
    """Replace the token by one that settled some time ago, and wait until a client may look again."""
    draft = token_file.with_suffix(".new")
    draft.write_text("renewed\n")
    os.utime(draft, (time.time() - 60,) * 2)
    draft.replace(token_file)
    await asyncio.sleep(1.2)


async def ended(asked: Asked, doing: Awaitable[object]) -> Ended:
    """Wait for one thing, or interrupt it."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(asked.interrupt or None):
            result = await doing
    except TimeoutError:
        return Ended("interrupted", time.monotonic() - began)
    except KeyVaultError as failed:
        outcome = "unknown" if isinstance(failed, OutcomeUnknown) else "failed"
        return Ended(outcome, time.monotonic() - began, type(failed).__name__, failed.reason)
    seconds = time.monotonic() - began
    if isinstance(result, Record):
        return Ended("done", seconds, revision=result.revision, data=result.plaintext.decode())
    return Ended("done", seconds, revision=result.revision if isinstance(result, Written) else 0)
