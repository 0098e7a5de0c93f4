"""The programs of all languages pass the behaviour suite, with the one table of docs/clients.md."""

import asyncio
import json
import re
import time
from pathlib import Path

from tests.behaviour.checking import Ended, why_wrong, why_wrong_calls
from tests.behaviour.server import Playing, player
from tests.behaviour.suite import Case, cases
from tests.interop.clients import Client
from tests.interop.languages import LANGUAGES
from tests.interop.programs import MARKS, Programs
from tests.support.repository import ROOT

pytestmark = MARKS
TABLE = re.findall(
    r"^\| `(\w+)` \| (\d) \| (.+?) \| (?:`([a-z-]+)` )?\|$", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE
)
EXITS = {"": 0} | {error: int(code) for error, code, _, _ in TABLE}
"""Exit codes of the errors that the cases name."""
AT_ONCE = 4
"""Programs that run at once: the start of many JVMs takes longer than a case's timeout."""
SENTENCES = {case: sentence for _, _, sentence, case in TABLE if case}
"""What the line of a program says in a case."""


async def test_every_program_passes_the_cases_of_programs(programs: Programs, tmp_path: Path) -> None:
    chosen = [case for case in cases().values() if case.program]
    assert len(chosen) > 20
    assert len(SENTENCES) == len(SENTENCES.keys() & {case.name for case in chosen}) > 5
    for language in LANGUAGES:
        client = programs.get(language)
        async with player() as playing:
            played = [await playing.play(case) for case in chosen]
            folder = tmp_path / language
            free = asyncio.Semaphore(AT_ONCE)
            wrong = await asyncio.gather(*(why_failed(client, one, folder / one.case.name, free) for one in played))
        assert not {one.case.name: why for one, why in zip(played, wrong, strict=True) if why}, language


async def why_failed(client: Client, played: Playing, folder: Path, free: asyncio.Semaphore) -> str:
    """Run the program for a case; return what was wrong."""
    (asked,) = played.case.client
    async with free:
        began = time.monotonic()
        done = await asyncio.to_thread(
            connected(client, played, asked.timeout).run, *arguments(client, played, folder), given=b"ours"
        )
        seconds = time.monotonic() - began
    outcome = {0: "done", client.unknown: "unknown"}.get(done.returncode, "failed")
    found = why_wrong(asked, ended_of(played.case, outcome, done.stdout, seconds))
    exits = done.returncode == EXITS[asked.expect.error] or f"exit {done.returncode}, {done.stderr.decode()}"
    sentence = SENTENCES.get(played.case.name, "")
    exits = exits if sentence in done.stderr.decode() else f"not {sentence!r}: {done.stderr.decode()}"
    calls = why_wrong_calls(played.case, await played.report())
    return ", ".join(why for why in (found, "" if exits is True else exits, calls) if why)


def connected(client: Client, played: Playing, timeout: float) -> Client:
    """Return the program with the settings of the case."""
    files = played.announced["tls"] or {}
    settings = {name: files[name] for name in ("ca", "certificate", "private_key") if files.get(name)}
    return client.at(played.announced["address"], timeout=timeout, **settings)


def arguments(client: Client, played: Playing, folder: Path) -> list[str | Path]:
    """Return the command line of the case, whose keys are files in a new folder."""
    (asked,) = played.case.client
    folder.mkdir(parents=True)
    keys = {"--key": "key"} | ({"--new-key": "new_key"} if asked.do == "rotate" else {})
    words: list[str | Path] = [client.word(asked.do), played.key_id]
    for option, name in keys.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(json.dumps(played.announced[name]))
        words += [option, path]
    return words + (["--revision", str(asked.revision)] if asked.revision else [])


def ended_of(case: Case, outcome: str, stdout: bytes, seconds: float) -> Ended:
    """Return what came out, as far as a program shows it."""
    (asked,) = case.client
    text = stdout.decode()
    if outcome != "done" or asked.do == "read":
        return Ended(outcome, seconds, revision=asked.expect.revision, data=text)
    return Ended(outcome, seconds, revision=int(text.split(" is at revision ")[1].split()[0]))
