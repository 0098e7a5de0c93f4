"""Where the issuer's keys come from, with real files and a real HTTP server: what is late, broken or huge changes
nothing, and nothing waits for it."""

import asyncio
import gzip
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path

import pytest

from keyvault_server.access.identity import Identifier
from keyvault_server.access.key_fetch import MAX_KEY_SET, KeyFetch, KeySetUrl
from keyvault_server.access.key_source import Timing, open_key_source, timing_within
from keyvault_server.access.tokens import TokenRules, Tokens
from keyvault_server.core.errors import OperatorError, Unauthenticated
from keyvault_server.disk.watched import LOOK_SECONDS
from tests.server.backends.aws.stub import HALF, RESET, SILENCE, Answer, Reply, Stub, stub
from tests.support.certificates import Authority, dns, replace
from tests.support.clock import Clock
from tests.support.connections import channel
from tests.support.identity_server import identity_of, identity_over, identity_server
from tests.support.issuer import AUDIENCE, ISSUER, SUBJECT, Issuer
from tests.support.kube_apiserver import kube_apiserver
from tests.support.meters import RecordedMeter
from tests.support.refusals import failure_of

ISSUED_BY = Issuer()
RULES = TokenRules(ISSUER, AUDIENCE)
GOOD, EC_ONLY = Reply(body=ISSUED_BY.key_set()), Reply(body=ISSUED_BY.key_set(only=("ec",)))
QUICK = Timing(refresh=0.02, shortest=0.02, fetch=1.0)
RARELY = Timing(refresh=3600.0, shortest=0.05, fetch=5.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_file_is_followed_but_not_into_a_bad_set(tmp_path: Path) -> None:
    """A bad one leaves the last good set."""
    path, meter = tmp_path / "keys.json", RecordedMeter()
    path.write_bytes(EC_ONLY.body)
    async with open_key_source(str(path), meter=meter) as keys:
        assert set(keys.current) == {"ec"}
        replace(path, ISSUED_BY.key_set(only=("ec", "ed")))
        await until(lambda: "ed" in keys.current)
        replace(path, b"not a key set")
        await until(lambda: ("token keys", False) in meter.readings)
        assert set(keys.current) == {"ec", "ed"}


async def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes("\ufeff".encode() + EC_ONLY.body)
    async with open_key_source(str(path), meter=RecordedMeter()) as keys:
        assert set(keys.current) == {"ec"}


async def test_an_invalid_key_set_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for content, sentence in ((b"s3cret", "not a key set"), (bytes(MAX_KEY_SET + 1), "right file")):
        path.write_bytes(content)
        with pytest.raises(OperatorError, match=sentence) as error:
            async with open_key_source(str(path), meter=RecordedMeter()):
                pass
        assert str(path) in str(error.value)
        assert "s3cret" not in str(error.value)
    with pytest.raises(OperatorError, match="No such file"):
        async with open_key_source(str(tmp_path / "nothing"), meter=RecordedMeter()):
            pass


async def test_a_url_is_fetched_again_and_again() -> None:
    async with (
        stub(EC_ONLY, EC_ONLY, GOOD) as served,
        open_key_source(f"{served.address}/keys", timing=QUICK, meter=RecordedMeter()) as keys,
    ):
        assert set(keys.current) == {"ec"}
        await until(lambda: set(keys.current) == {"ec", "ed", "rsa"})


async def test_a_key_that_is_new_is_fetched_when_a_token_names_it() -> None:
    async with (
        stub(EC_ONLY, GOOD) as served,
        open_key_source(served.address, timing=RARELY, meter=RecordedMeter()) as keys,
    ):
        verifier = Tokens(RULES, keys)
        with pytest.raises(Unauthenticated, match="try again"):
            verifier.subject(ISSUED_BY.token("ed"))
        await until(lambda: "ed" in keys.current)
        assert verifier.subject(ISSUED_BY.token("ed")) == SUBJECT
        assert len(served.requests) == 2


@pytest.mark.slow
async def test_a_flood_of_unknown_keys_is_one_fetch_in_a_while() -> None:
    async with (
        stub(EC_ONLY) as served,
        open_key_source(served.address, timing=changed(RARELY, shortest=0.5), meter=RecordedMeter()) as keys,
    ):
        verifier = Tokens(RULES, keys)
        began = asyncio.get_running_loop().time()
        while len(served.requests) < 3:
            with pytest.raises(Unauthenticated):
                verifier.subject(ISSUED_BY.token("ed"))
            await asyncio.sleep(0.005)
            assert asyncio.get_running_loop().time() - began < 10
        assert asyncio.get_running_loop().time() - began > 0.9, "the third came after twice the shortest time"


@pytest.mark.medium
async def test_nothing_is_fetched_early_without_an_unknown_key() -> None:
    async with stub(GOOD) as served, open_key_source(served.address, timing=RARELY, meter=RecordedMeter()) as keys:
        for kid in ("ec", "ed", "rsa") * 5:
            assert Tokens(RULES, keys).subject(ISSUED_BY.token(kid)) == SUBJECT
            await asyncio.sleep(0.02)
        assert len(served.requests) == 1


async def forever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()
    except (OSError, asyncio.CancelledError):
        writer.close()


BAD: dict[str, tuple[Answer, str]] = {
    "silent": (SILENCE, "within 1 s"),
    "truncated": (RESET, "cannot connect"),
    "half": (HALF, "cannot connect"),
    "an error": (Reply(500), "status 500"),
    "not found": (Reply(404, b"s3cret"), "status 404"),
    "elsewhere": (Reply(302, b"", {"location": "http://127.0.0.1:1/s3cret"}), "status 302"),
    "no JSON": (Reply(body=b"<html>s3cret"), "not a key set"),
    "empty": (Reply(body=b'{"keys": []}'), "no usable key"),
    "with a secret key": (Reply(body=ISSUED_BY.key_set({"kty": "oct", "k": "s3cret"})), "secret key"),
    "huge": (Reply(body=b" " * (MAX_KEY_SET + 1)), f"larger than {MAX_KEY_SET}"),
    "packed": (
        Reply(body=gzip.compress(GOOD.body), headers={"content-encoding": "gzip"}),
        "not a key set",
    ),
}


@pytest.mark.parametrize(("answer", "sentence"), BAD.values(), ids=BAD.keys())
@pytest.mark.slow
async def test_a_bad_answer_leaves_the_last_good_set(
    caplog: pytest.LogCaptureFixture, answer: Answer, sentence: str
) -> None:
    """It is logged once, and forgotten when it is over."""
    meter = RecordedMeter()
    with caplog.at_level(logging.INFO, "keyvault_server"):
        async with (
            stub(GOOD, answer) as served,
            open_key_source(f"{served.address}/keys?s3cret", meter=meter, timing=QUICK) as keys,
        ):
            await until(lambda: meter.readings.count(("token keys", False)) >= 3)
            assert Tokens(RULES, keys).subject(ISSUED_BY.token("rsa")) == SUBJECT
            (line,) = caplog.records
            assert sentence in line.__dict__["cause"]
            assert line.__dict__["sources"] == [f"{served.address}/keys"]
            assert "s3cret" not in str(line.__dict__)
            served.answers[:] = [EC_ONLY]
            await until(lambda: set(keys.current) == {"ec"})
            assert meter.readings[-1] == ("token keys", True)
            assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.mark.parametrize(("answer", "sentence"), BAD.values(), ids=BAD.keys())
@pytest.mark.slow
async def test_a_server_that_has_never_had_a_key_set_does_not_start(answer: Answer, sentence: str) -> None:
    async with stub(answer) as served:
        with pytest.raises(OperatorError, match=sentence) as error:
            async with open_key_source(served.address, timing=QUICK, meter=RecordedMeter()):
                pass
        assert served.address in str(error.value)
        assert "s3cret" not in str(error.value)


async def test_a_url_where_nobody_listens_is_refused_at_the_start() -> None:
    with pytest.raises(OperatorError, match="cannot connect"):
        async with open_key_source("http://127.0.0.1:1/keys", meter=RecordedMeter()):
            pass


async def test_an_answer_without_end_is_truncated() -> None:
    server = await asyncio.start_server(forever, "127.0.0.1", 0)
    try:
        with pytest.raises(OperatorError, match="larger than"):
            async with open_key_source(
                f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", meter=RecordedMeter()
            ):
                pass
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.slow
async def test_a_set_that_is_too_old_is_not_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until the issuer answers again."""
    meter = RecordedMeter()
    async with (
        stub(GOOD) as served,
        open_key_source(
            f"{served.address}/keys?s3cret",
            meter=meter,
            timing=changed(QUICK, oldest=1.0),
        ) as keys,
        identity_server(None, Identifier(certificates=False, tokens=Tokens(RULES, keys))) as server,
    ):
        assert await identity_of(server.address, None, None, ISSUED_BY.token()) == f"jwt:{SUBJECT}"
        served.answers[:] = [Reply(500)]
        await until(lambda: keys.age > 1)
        async with channel(server.address, None) as connection:
            for token in (ISSUED_BY.token(), ISSUED_BY.token("ed")):
                failure = await failure_of(identity_over(connection, token))
                assert (failure.status, failure.reason) == ("UNAVAILABLE", "BACKEND_UNAVAILABLE")
                assert "issuer" in failure.message
            assert (await failure_of(identity_over(connection, "no token"))).status == "UNAUTHENTICATED"
        meter.readings.clear()
        await until(lambda: len(meter.readings) >= 5)
        served.answers[:] = [GOOD]
        await until(lambda: keys.age < 1)
        assert await identity_of(server.address, None, None, ISSUED_BY.token()) == f"jwt:{SUBJECT}"
    logged = [record for record in caplog.records if "too old" in record.message]
    assert [record.levelname for record in logged] == ["ERROR"]
    assert logged[0].__dict__["sources"] == [f"{served.address}/keys"]


async def test_a_file_does_not_grow_old(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(GOOD.body)
    async with open_key_source(str(path), timing=changed(QUICK, oldest=0.001), meter=RecordedMeter()) as keys:
        await asyncio.sleep(0.01)
        assert set(keys.current) == {"ec", "ed", "rsa"}
        assert keys.age == 0


@pytest.mark.parametrize("oldest", [1.0, 60.0, 86_400.0])
def test_a_set_is_fetched_several_times_before_it_is_too_old(oldest: float) -> None:
    timing = timing_within(oldest)
    assert timing.oldest == oldest
    assert timing.shortest <= timing.refresh <= min(300, oldest / 4)


@pytest.mark.medium
async def test_calls_go_on_while_the_issuer_does_not_respond() -> None:
    async with (
        stub(GOOD, SILENCE) as served,
        open_key_source(served.address, timing=RARELY, meter=RecordedMeter()) as keys,
    ):
        identifier = Identifier(certificates=False, tokens=Tokens(RULES, keys))
        async with identity_server(None, identifier) as server:
            with pytest.raises(Unauthenticated):
                identifier.identify({}, (("authorization", f"Bearer {ISSUED_BY.token(header={'kid': 'new'})}"),))
            await until(lambda: len(served.requests) == 2)  # the fetch is in flight and hangs
            for _ in range(20):
                assert await identity_of(server.address, None, None, ISSUED_BY.token()) == f"jwt:{SUBJECT}"
            assert len(served.requests) == 2, "or the fetch was over"


@asynccontextmanager
async def over_tls(folder: Path, authority: Authority, name: str) -> AsyncIterator[Stub]:
    certificate, key = authority.issue(dns(name)).write(folder, "issuer")
    (folder / "ca.pem").write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with stub(GOOD, tls=context) as served:
        yield served


async def test_https_is_believed_by_its_certificate_and_name_alone(tmp_path: Path) -> None:
    async def keys_from(address: str, ca: Path | None) -> set[str]:
        async with open_key_source(f"{address}/keys", ca=ca, meter=RecordedMeter()) as keys:
            return set(keys.current)

    authority = Authority()
    async with over_tls(tmp_path, authority, "localhost") as served:
        assert await keys_from(served.address, tmp_path / "ca.pem") == {"ec", "ed", "rsa"}
        with pytest.raises(OperatorError, match="certificate trusted"):
            await keys_from(served.address, None)
        assert len(served.requests) == 1
    async with over_tls(tmp_path, authority, "other.test") as served:
        with pytest.raises(OperatorError, match="certificate trusted"):
            await keys_from(served.address, tmp_path / "ca.pem")
        assert served.requests == []
    (tmp_path / "ca.pem").chmod(0o666)
    with pytest.raises(OperatorError, match=r"ca\.pem has mode 0666"):
        await keys_from("https://localhost:1", tmp_path / "ca.pem")
    (tmp_path / "ca.pem").chmod(0o644)
    (tmp_path / "ca.pem").write_bytes(b"garbage")
    with pytest.raises(OperatorError, match="not a PEM file of CA certificates"):
        await keys_from("https://localhost:1", tmp_path / "ca.pem")


@pytest.mark.parametrize(
    "location",
    [
        "http://issuer.test/keys",
        "http://10.0.0.1/keys",
        "http://localhost.evil.test/keys",
        "http://127.0.0.1@evil.test/keys",
        "https://user:s3cret@issuer.test/keys",
        "https:///keys",
        "https://[::1/keys",
        "https://issuer.test:99999999/keys",
        "https://issuer..test/keys",
        f"https://{'a' * 64}.test/keys",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
    ],
)
async def test_a_url_that_others_can_bend_is_refused(location: str) -> None:
    with pytest.raises(OperatorError, match="https") as error:
        async with open_key_source(location, meter=RecordedMeter()):
            pass
    assert "s3cret" not in str(error.value)


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with stub(GOOD) as served, open_key_source(served.address, meter=RecordedMeter()) as keys:
        assert "ec" in keys.current


async def test_the_key_set_of_kube_apiserver_is_fetched() -> None:
    """It answers 406 to a request that accepts application/json alone."""
    async with kube_apiserver(GOOD.body) as served, open_key_source(served.address, meter=RecordedMeter()) as keys:
        assert set(keys.current) == {"ec", "ed", "rsa"}


async def test_a_key_set_of_another_media_type_is_taken() -> None:
    """Many issuers serve a static file."""
    async with (
        stub(Reply(body=GOOD.body, headers={"content-type": "text/plain"})) as served,
        open_key_source(served.address, meter=RecordedMeter()) as keys,
    ):
        assert "ec" in keys.current


@pytest.mark.parametrize("content", ["s3cret-1", "s3cret-1\n", "\ufeffs3cret-1\r\n"])
async def test_a_fetch_shows_the_token_of_a_file(tmp_path: Path, content: str) -> None:
    """The kubelet writes it without an end of line, editors with one, some with a byte order mark."""
    (tmp_path / "token").write_bytes(content.encode())
    async with (
        kube_apiserver(GOOD.body, "s3cret-1") as served,
        open_key_source(served.address, token_file=tmp_path / "token", meter=RecordedMeter()) as keys,
    ):
        assert set(keys.current) == {"ec", "ed", "rsa"}


@pytest.mark.slow
async def test_a_new_token_is_sent_without_a_restart(tmp_path: Path) -> None:
    """The kubelet replaces it well before it expires."""
    (tmp_path / "token").write_text("s3cret-1")
    async with kube_apiserver(GOOD.body, "s3cret-1") as served:
        opened = open_key_source(served.address, token_file=tmp_path / "token", timing=QUICK, meter=RecordedMeter())
        async with opened as keys:
            replace(tmp_path / "token", b"s3cret-2")
            served.token, served.key_set = "s3cret-2", EC_ONLY.body
            await until(lambda: set(keys.current) == {"ec"})


@dataclass
class Fetching:
    """A fetch whose files are looked at when the test says so."""

    source: KeySetUrl
    clock: Clock = field(default_factory=Clock)
    meter: RecordedMeter = field(default_factory=RecordedMeter)

    def __post_init__(self) -> None:
        self.fetch = KeyFetch(self.source, self.meter, self.clock)
        assert self.fetch.files

    async def later(self) -> bytes:
        """Fetch after a look at the files."""
        self.clock.now += LOOK_SECONDS
        assert self.fetch.files
        self.fetch.files.get()
        return await self.fetch.get()


async def test_a_token_that_is_being_written_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret-1")
    async with kube_apiserver(GOOD.body, "s3cret-1") as served:
        fetching = Fetching(KeySetUrl(served.address, token_file=path))
        with path.open("wb", buffering=0) as file:
            for part in (b"s3cret", b"-", b"22"):
                file.write(part)
                assert await fetching.later() == GOOD.body
        served.token = "s3cret-22"
        assert await fetching.later() == GOOD.body
        assert served.authorizations == [*["Bearer s3cret-1"] * 3, "Bearer s3cret-22"]


async def test_a_bad_token_file_leaves_the_last_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret-1")
    async with kube_apiserver(GOOD.body, "s3cret-1") as served:
        fetching = Fetching(KeySetUrl(served.address, token_file=path))
        replace(path, b"two s3crets")
        for _ in range(3):
            assert await fetching.later() == GOOD.body
    (line,) = caplog.records
    assert line.__dict__["cause"] == f"{path}: not a bearer token: expected one line of visible ASCII characters"
    assert line.__dict__["reading"] == "token fetch"
    assert fetching.meter.readings == [("token fetch", True), ("token fetch", False)]


async def test_the_cas_of_a_fetch_are_followed(tmp_path: Path) -> None:
    """A cluster's CA is replaced while servers run."""
    authority, ca = Authority(), tmp_path / "ca.pem"
    async with over_tls(tmp_path, authority, "localhost") as served:
        replace(ca, Authority("the previous CA").pem)
        fetching = Fetching(KeySetUrl(f"{served.address}/keys", ca))
        with pytest.raises(OSError, match="Certificate"):
            await fetching.later()
        with ca.open("wb", buffering=0) as file:
            file.write(authority.pem[:100])
            with pytest.raises(OSError, match="Certificate"):
                await fetching.later()
            file.write(authority.pem[100:])
        with pytest.raises(OSError, match="Certificate"):
            await fetching.later()
        assert await fetching.later() == GOOD.body
    assert fetching.meter.readings == [("token fetch", True)] * 2


@pytest.mark.slow
async def test_a_reload_reads_the_token_before_it_fetches(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret-1")
    async with kube_apiserver(GOOD.body, "s3cret-1") as served:
        opened = open_key_source(served.address, token_file=tmp_path / "token", meter=RecordedMeter())
        async with opened as keys:
            replace(tmp_path / "token", b"s3cret-2")
            served.token, served.key_set = "s3cret-2", EC_ONLY.body
            await keys.reload()
            assert set(keys.current) == {"ec"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"s3cret s3cret", "not a bearer token"),
        (b"s3cret\nx: y", "not a bearer token"),
        (b"s3cret\xff", "not a bearer token"),
        (b"s3cret" * 10_000, "right file"),
        (None, "No such file"),
    ],
)
async def test_a_token_that_cannot_be_sent_is_not_sent(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    async with kube_apiserver(GOOD.body) as served:
        with pytest.raises(OperatorError, match=sentence) as error:
            async with open_key_source(served.address, token_file=tmp_path / "token", meter=RecordedMeter()):
                pass
        assert str(tmp_path / "token") in str(error.value)
        assert "s3cret" not in str(error.value)
        assert served.authorizations == []


async def test_a_fetch_without_the_right_token_says_which_setting(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret-old")
    async with kube_apiserver(GOOD.body, "s3cret-1") as served:
        with pytest.raises(OperatorError, match="status 403: set KEYVAULT_JWT_KEYS_TOKEN_FILE"):
            async with open_key_source(served.address, meter=RecordedMeter()):
                pass
        with pytest.raises(OperatorError, match=r"status 401: the token of .*/token was not accepted") as error:
            async with open_key_source(served.address, token_file=tmp_path / "token", meter=RecordedMeter()):
                pass
        assert "s3cret" not in str(error.value)


@pytest.mark.slow
async def test_a_reload_that_is_asked_for_fetches_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(EC_ONLY.body)
    with caplog.at_level(logging.INFO, "keyvault_server"):
        async with (
            stub(EC_ONLY, GOOD, Reply(500)) as served,
            open_key_source(served.address, timing=Timing(), meter=RecordedMeter()) as of_url,
            open_key_source(str(path), meter=RecordedMeter()) as of_file,
        ):
            path.write_bytes(GOOD.body)
            for keys in (of_url, of_file):
                await Tokens(RULES, keys).reload()
                assert set(keys.current) == {"ec", "ed", "rsa"}
            await of_url.reload()
            assert set(of_url.current) == {"ec", "ed", "rsa"}
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "ERROR"]
