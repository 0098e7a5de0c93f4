"""`running_server`, the server that it runs, and the faults that the server can be given."""

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from keyvault_api.names import METHODS
from keyvault_client.errors import KeyVaultError
from keyvault_client.keys import DataKey
from keyvault_client.testing.faults import MUTATIONS, Order, check_methods, check_times
from keyvault_client.testing.process import EmbeddedServerError, ServerProcess
from keyvault_client.testing.refusals import Refusal
from keyvault_client.vault import KeyVault

if TYPE_CHECKING:
    from keyvault_client import sync


class Fault(AbstractContextManager["Fault"]):
    """A fault that a server plays. It ends with the body of its `with`, by `end()`, or after its last call."""

    def __init__(self, process: ServerProcess, order: Order) -> None:
        self._process = process
        self._number = process.ask("add", fault=order.to_json())
        self._calls: int | None = None

    @property
    def calls(self) -> int:
        """How many calls have met it. After `reset()` it is 0."""
        if self._calls is not None:
            return self._calls
        found: int = self._process.ask("calls", fault=self._number)
        return found

    def end(self) -> None:
        """Play it no more."""
        if self._calls is None:
            self._calls = self._process.ask("remove", fault=self._number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(EmbeddedServerError):  # the server may have been closed first
            self.end()


class EmbeddedServer:
    """A real KeyVault server in a process of its own; `running_server` gives it.

    It has the embedded backend, a temporary folder and a free port of 127.0.0.1. Callers need no identity, and are of
    tenant "default". Its methods block for some milliseconds, `start` and `reset` for longer: in a coroutine,
    `await asyncio.to_thread(server.stop)` lets the others run.
    """

    def __init__(self, process: ServerProcess, port: int) -> None:
        self._process = process
        self.address = f"127.0.0.1:{port}"
        """host:port, the same after `stop` and `start`."""

    @property
    def log(self) -> str:
        """What the server has written to standard error: JSON lines, one of them for each call."""
        return self._process.log

    def vault(self, *, timeout: float = 10.0, **options: Any) -> KeyVault:
        """Return a client of this server; `options` are those of KeyVault."""
        return KeyVault(self.address, timeout=timeout, **options)

    def sync_vault(self, *, timeout: float = 10.0, **options: Any) -> "sync.KeyVault":
        """Return a synchronous client of this server; `options` are those of its constructor."""
        from keyvault_client.sync import KeyVault  # most tests are asynchronous, and do not wait for it

        return KeyVault(self.address, timeout=timeout, **options)

    def generate_key(self, scope: str) -> DataKey:
        """Return a new data key for a key_id, or for a prefix that ends in "/". No fault touches this call."""
        made = {name: base64.b64decode(value) for name, value in self._process.ask("key", scope=scope).items()}
        return DataKey(made["tenant"].decode(), made["scope"].decode(), made["wrapped_key"], made["plaintext_key"])

    def stop(self) -> None:
        """Stop the server in order, as SIGTERM does; connections are then refused. Records and faults stay."""
        self._process.ask("stop")

    def start(self) -> None:
        """Start the server again, on the same port, with the same records."""
        self._process.ask("start")

    def reset(self) -> None:
        """Remove all records, keys and faults, and start the server if it was stopped. Earlier data keys are void."""
        self._process.ask("reset")

    def refuse(
        self, error: KeyVaultError | type[KeyVaultError], *, method: str | None = None, times: int | None = None
    ) -> Fault:
        """Refuse calls, so that the client's attempt gets this error: `server.refuse(Busy, method="Read", times=2)`.

        The server sends what it really sends for it: status, reason, details. An instance chooses them: its message,
        `reason`, `retry_after` and `current_revision`. Without `method` every method is refused, and without `times`
        every call. The client retries what may succeed later, so the caller of `vault.read` sees Busy only if the
        refusals last.
        """
        return self._add(Order("refuse", check_methods(method, METHODS), check_times(times), refusal=Refusal.of(error)))

    def delay(self, seconds: float, *, method: str | None = None, times: int | None = None) -> Fault:
        """Let calls wait so long before the server gets them."""
        if not 0 <= seconds <= 3600:
            raise ValueError(f"invalid delay {seconds}: must be 0 to 3600 seconds")
        return self._add(Order("delay", check_methods(method, METHODS), check_times(times), seconds=seconds))

    def cut_after_commit(self, *, method: str | None = None, times: int | None = None) -> Fault:
        """Do what mutations ask for, and cut the connection instead of answering.

        A client that retries gets success (`replayed`); with every attempt cut, it raises OutcomeUnknown at its
        timeout. Without `method`: Create, Update, Delete and RotateKey.
        """
        return self._add(Order("cut", check_methods(method, MUTATIONS), check_times(times), committed=True))

    def unknown(self, *, committed: bool = False, method: str | None = None, times: int | None = None) -> Fault:
        """Answer UNKNOWN without KeyVault's details, as a broken proxy does; `committed`: after the change was made.

        Without `method`: Create, Update, Delete and RotateKey.
        """
        return self._add(Order("unknown", check_methods(method, MUTATIONS), check_times(times), committed=committed))

    def end_faults(self) -> None:
        """Play no fault any more."""
        self._process.ask("clear")

    def _add(self, order: Order) -> Fault:
        return Fault(self._process, order)


class _Running(AbstractContextManager[EmbeddedServer], AbstractAsyncContextManager[EmbeddedServer]):
    """What `running_server` returns."""

    def __init__(self, settings: Mapping[str, str] | None) -> None:
        self._settings = settings
        self._process: ServerProcess | None = None

    def __enter__(self) -> EmbeddedServer:
        process = self._launch()
        try:
            return self._started(process)
        except BaseException:
            process.end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.end()

    async def __aenter__(self) -> EmbeddedServer:
        process = self._launch()
        try:
            return await asyncio.to_thread(self._started, process)
        except BaseException:  # cancelled: the thread's wait ends when the process does
            process.end()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await asyncio.shield(asyncio.to_thread(self._process.end))

    def _launch(self) -> ServerProcess:
        if self._process is not None:
            raise EmbeddedServerError("this running_server() was entered before: call running_server() again")
        self._process = ServerProcess(self._settings)
        return self._process

    def _started(self, process: ServerProcess) -> EmbeddedServer:
        return EmbeddedServer(process, process.ask("start"))


def running_server(*, settings: Mapping[str, str] | None = None) -> _Running:
    """Run a server while the body runs: `with running_server() as server`, or `async with`.

    `settings` are variables of docs/settings.md, such as {"KEYVAULT_HISTORY": "3"}. Those of this process's environment
    do not count. Raises EmbeddedServerError if the server does not start, for instance because its extra is not
    installed.
    """
    return _Running(settings)
