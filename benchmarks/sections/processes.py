"""What our programs take: memory and start of the server, CPU of the client library, time of a command."""

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.client_cost import ROWS
from benchmarks.foreign import ETCD, OPENBAO, absent, openbao
from benchmarks.others import foreign_loads
from benchmarks.plan import Plan
from benchmarks.report import NONE, Measured, Section
from benchmarks.rivals import digits
from benchmarks.servers import OUR_SOURCES, ROOT, child_environment, sources_of, vault
from keyvault_client import KeyVault

SERVERS = {"KeyVault, embedded backend": "plain", "KeyVault, mTLS, policy and audit log": "production"} | {
    "KeyVault, AWS backend": "aws"
}
LARGE = 380_000
READ, HELP, SERVER_HELP = "`keyvault read`", "`keyvault --help`", "`keyvault-server --help`"
BAO_READ, NOTHING = "`bao kv get`", "`python -c pass`"
IMPORT_BOTH = "import grpc, cryptography"
BOTH, LIBRARY = f'`python -c "{IMPORT_BOTH}"`', '`python -c "import keyvault_client"`'
CLIENT_CLASS = '`python -c "from keyvault_client import KeyVault"`'


async def servers(plan: Plan) -> Measured:
    """Measure start and memory of a new server, and memory after a load."""
    measured = Measured(notes=[said for title in (OPENBAO, ETCD) if (said := absent(title))])
    for row, shape in SERVERS.items():
        starts, idle = [], []
        for number in range(plan.rounds):
            with vault(shape, plan.folder / f"start-{shape}-{number}") as server:
                starts.append(server.start_seconds)
                idle.append(server.memory())
        one = await plan.contestant(shape)
        await one.full("Read")
        cells = [digits(statistics.median(starts)), digits(statistics.median(idle)), digits(one.server.memory()), NONE]
        if shape == "plain":
            large = await plan.contestant(shape, LARGE, 50.0)
            await large.full("Create")
            await large.full("Read")
            cells[-1] = digits(large.server.memory("VmHWM"))
        measured.cells[row] = cells
    for row, read in ((OPENBAO, "read"), (ETCD, "Range")):
        if not absent(row):
            load = (await foreign_loads(plan, row))[read]
            await load.play()
            measured.cells[row] = [NONE, NONE, digits(load.server.memory()), NONE]
    return measured


async def client(plan: Plan) -> Measured:
    """Measure the CPU time of a caller, by the library and by a bare stub in turns."""
    server = (await plan.contestant("plain")).server
    calls, rounds = (2_000, plan.rounds) if plan.rounds > 1 else (20, 1)
    command = (sys.executable, "-m", "benchmarks.client_cost", server.address, str(calls), str(rounds))
    process = await asyncio.create_subprocess_exec(
        *command, env=child_environment({"PYTHONPATH": OUR_SOURCES}), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, "the client's calls failed"
    measured = Measured()
    for row, pairs in json.loads(printed).items():
        library, stub = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        measured.cells[row] = [digits(library), digits(stub), f"{ratio:.2f}" if ratio > 0.01 else f"{ratio:.4f}"]
    return measured


@dataclass
class Command:
    """A command, and what each of its runs took in milliseconds: by the clock, and of CPU time."""

    arguments: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Run it once."""
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = child_environment(self.environment)
        subprocess.run(self.arguments, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.clock.append((time.perf_counter() - began) * 1e3)
        self.cpu.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)


async def commands(plan: Plan) -> Measured:
    """Measure commands in turns."""
    address = (await plan.contestant("plain")).server.address
    key_file = plan.folder / "command.key"
    async with KeyVault(address) as keyvault:
        key = await keyvault.generate_key("command")
        key.save(key_file)
        await keyvault.create("command", b"a secret", key=key)
    python, ours = sys.executable, {"PYTHONPATH": sources_of(ROOT), "KEYVAULT_ADDRESS": address, "KEYVAULT_STATE": ""}
    runs = {
        READ: Command((python, "-m", "keyvault_client", "read", "command", "--key", key_file), ours),
        HELP: Command((python, "-m", "keyvault_client", "--help"), ours),
        SERVER_HELP: Command((python, "-m", "keyvault_server", "--help"), ours),
        LIBRARY: Command((python, "-c", "import keyvault_client"), ours),
        CLIENT_CLASS: Command((python, "-c", "from keyvault_client import KeyVault"), ours),
        BOTH: Command((python, "-c", IMPORT_BOTH)),
        NOTHING: Command((python, "-c", "pass")),
    }
    measured = Measured()
    if said := absent(OPENBAO):
        measured.notes.append(said)
    else:
        bao = plan.stack.enter_context(openbao(plan.folder / "openbao-command"))
        to = {"BAO_ADDR": f"http://{bao.server.address}", "BAO_TOKEN": bao.token}
        Command(("bao", "kv", "put", "secret/command", "value=secret"), to).run()
        runs[BAO_READ] = Command(("bao", "kv", "get", "secret/command"), to)
    for number in range(plan.rounds * 3 + 1):
        for command in runs.values() if number % 2 else reversed(runs.values()):
            command.run()
    for row, command in runs.items():
        measured.cells[row] = [digits(statistics.median(took[1:])) for took in (command.clock, command.cpu)]
        ratios = (one / other for one, other in zip(command.cpu[1:], runs[BOTH].cpu[1:], strict=True))
        measured.cells[row].append(f"{statistics.median(ratios):.2f}")
    return measured


SERVER = Section(
    "servers",
    ("server", "start, s", "MB idle", "MB after 64 Reads in flight", "MB at most, 64 values of 380 kB in flight"),
    (*SERVERS, OPENBAO, ETCD),
    servers,
)
CLIENT = Section(
    "client",
    ("1 KiB, 16 calls in flight", "library, CPU us", "bare stub, CPU us", "library / bare stub"),
    ROWS,
    client,
)
COMMAND = Section(
    "commands",
    ("command", "ms", "CPU ms", "CPU, grpc and cryptography = 1"),
    (READ, HELP, SERVER_HELP, BAO_READ, LIBRARY, CLIENT_CLASS, BOTH, NOTHING),
    commands,
)
