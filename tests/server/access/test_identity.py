"""Who calls, over real TLS connections: which name of a certificate counts, and when a token does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from grpc._cython import cygrpc  # type: ignore[attr-defined] # the session cache has no public name

from keyvault_server.access.identity import Identifier, certificate_identity
from keyvault_server.access.key_source import open_key_source
from keyvault_server.access.tls import ServerTls, TlsFiles
from keyvault_server.access.tokens import TokenRules, Tokens
from keyvault_server.core.caller import ANONYMOUS
from keyvault_server.core.errors import Unauthenticated
from tests.support.certificates import HOUR, LOCALHOST, Authority, dns, uri
from tests.support.clock import Clock
from tests.support.identity_server import IdentityServer, identity_of, identity_server
from tests.support.issuer import AUDIENCE, ISSUER, SUBJECT, Issuer
from tests.support.meters import RecordedMeter
from tests.support.refusals import failure_of

ALICE = uri("spiffe://keyvault.test/alice")
AUTHORITY, ISSUED_BY = Authority(), Issuer()


@pytest.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[Tokens]:
    path = tmp_path / "keys.json"
    path.write_bytes(ISSUED_BY.key_set())
    async with open_key_source(str(path), meter=RecordedMeter()) as keys:
        yield Tokens(TokenRules(ISSUER, AUDIENCE), keys)


def tls(folder: Path, *, mutual: bool = True) -> grpc.ServerCredentials:
    certificate, key = AUTHORITY.issue(*LOCALHOST).write(folder, "server")
    (folder / "ca.pem").write_bytes(AUTHORITY.pem)
    files = TlsFiles(certificate, key, folder / "ca.pem" if mutual else None)
    return ServerTls(files, meter=RecordedMeter()).credentials()


@pytest.fixture
async def mutual(tmp_path: Path) -> AsyncIterator[IdentityServer]:
    """A server that knows its callers by their certificates."""
    async with identity_server(tls(tmp_path), Identifier(certificates=True)) as server:
        yield server


@pytest.fixture
async def both(tmp_path: Path, tokens: Tokens) -> AsyncIterator[IdentityServer]:
    """A server that asks for certificates and takes tokens."""
    async with identity_server(tls(tmp_path), Identifier(certificates=True, tokens=tokens)) as server:
        yield server


async def named(server: IdentityServer, *names: x509.GeneralName) -> str:
    return await identity_of(server.address, AUTHORITY.pem, AUTHORITY.issue(*names))


async def refusal(call: Any) -> str:
    failure = await failure_of(call)
    assert (failure.status, failure.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    return failure.message


@pytest.mark.parametrize(
    ("names", "identity"),
    [
        ([ALICE], "spiffe://keyvault.test/alice"),
        ([uri("spiffe://a_b.test/ns/Prod/sa/x.y-z_1")], "spiffe://a_b.test/ns/Prod/sa/x.y-z_1"),
        ([ALICE, dns("a.test"), dns("b.test")], "spiffe://keyvault.test/alice"),
        ([uri("https://alice.test/x")], "uri:https://alice.test/x"),
        ([uri("urn:alice"), dns("a.test")], "uri:urn:alice"),
        ([dns("alice.test")], "dns:alice.test"),
        ([dns("alice.test"), x509.RFC822Name("alice@alice.test")], "dns:alice.test"),
    ],
)
async def test_an_identity_is_a_spiffe_id_else_a_uri_else_a_dns_name(
    mutual: IdentityServer, names: list[x509.GeneralName], identity: str
) -> None:
    assert await named(mutual, *names) == identity


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "has no URI SAN"),  # the common name is there, and counts for nothing
        ([x509.RFC822Name("alice@alice.test")], "has no URI SAN"),
        ([ALICE, uri("spiffe://keyvault.test/bob")], "more than one URI SAN; exactly one is required"),
        ([ALICE, uri("https://alice.test")], "more than one URI SAN; exactly one is required"),
        ([uri("urn:a"), uri("urn:b")], "more than one URI SAN; exactly one is required"),
        ([dns("a.test"), dns("b.test")], "more than one DNS SAN; exactly one is required"),
        ([dns("*.test")], "wildcard"),
        ([uri("spiffe://keyvault.test")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test/")], "SPIFFE ID is malformed"),
        ([uri("spiffe:///alice")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test/prod/../dev/alice")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test/prod/./alice")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test//alice")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test/al%69ce")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test/alice?x")], "SPIFFE ID is malformed"),
        ([uri("spiffe://Keyvault.test/alice")], "SPIFFE ID is malformed"),
        ([uri("SPIFFE://keyvault.test/alice")], "SPIFFE ID is malformed"),
        ([uri("spiffe://keyvault.test/" + "a" * 2048)], "non-ASCII"),
        ([uri("urn:a b")], "spaces"),
        ([dns("alice.test\nadmin")], "control"),
        ([uri("spiffe://keyvault.test/alice\0.eve.test")], "control"),  # gRPC itself reads .../alice
        ([dns("alice.test\0.eve.test")], "control"),
        ([uri("urn:alice\0"), uri("urn:alice")], "control"),
        ([ALICE, dns("alice.test\0.eve.test")], "control"),
    ],
)
async def test_a_certificate_that_does_not_name_one_caller_is_nobodys(
    mutual: IdentityServer, names: list[x509.GeneralName], sentence: str
) -> None:
    assert sentence in await refusal(named(mutual, *names))


async def test_a_certificate_of_a_ca_is_no_callers(mutual: IdentityServer) -> None:
    """X509-SVID, section 4.1: a leaf's cA is false, and a validator rejects any other. Its key may sign callers."""
    for client, good in ((AUTHORITY.issue(ALICE, is_ca=False), True), (AUTHORITY.issue(ALICE, is_ca=True), False)):
        call = identity_of(mutual.address, AUTHORITY.pem, client)
        if good:
            assert await call == "spiffe://keyvault.test/alice"
        else:
            assert "is a CA's" in await refusal(call)


@pytest.mark.medium
@pytest.mark.parametrize(("bits", "good"), [(1024, False), (2040, False), (2048, True)])
async def test_a_weak_rsa_key_is_no_callers(mutual: IdentityServer, bits: int, good: bool) -> None:
    client = AUTHORITY.issue(ALICE, key=rsa.generate_private_key(65537, bits))
    call = identity_of(mutual.address, AUTHORITY.pem, client)
    if good:
        assert await call == "spiffe://keyvault.test/alice"
    else:
        assert f"an RSA key of {bits} bits; at least 2048 are required" in await refusal(call)


def test_a_certificate_signed_with_sha_1_is_no_callers() -> None:
    """A prefix collision gives another certificate the same signature; TLS libraries differ in what they accept."""
    authority = Authority(key=rsa.generate_private_key(65537, 2048))
    sound = authority.issue(ALICE)
    assert certificate_identity({"x509_pem_cert": [sound.certificate]}) == "spiffe://keyvault.test/alice"
    with pytest.raises(Unauthenticated, match="signed with SHA1"):
        certificate_identity({"x509_pem_cert": [authority.sign_with_sha1(sound).certificate]})


async def test_where_nothing_is_configured_everybody_is_anonymous(tmp_path: Path) -> None:
    identifier = Identifier(certificates=False)
    async with identity_server(None, identifier) as server:
        assert await identity_of(server.address, None) == ANONYMOUS
        assert await identity_of(server.address, None, None, "no token at all") == ANONYMOUS
    async with identity_server(tls(tmp_path, mutual=False), identifier) as server:
        assert await identity_of(server.address, AUTHORITY.pem) == ANONYMOUS


async def test_a_token_names_its_subject(tmp_path: Path, tokens: Tokens) -> None:
    async with identity_server(tls(tmp_path, mutual=False), Identifier(certificates=False, tokens=tokens)) as server:
        for kid in ("ec", "ed", "rsa"):
            assert await identity_of(server.address, AUTHORITY.pem, None, ISSUED_BY.token(kid)) == f"jwt:{SUBJECT}"
        assert "authorization: Bearer" in await refusal(identity_of(server.address, AUTHORITY.pem))
        expired = ISSUED_BY.token(exp=1)
        message = await refusal(identity_of(server.address, AUTHORITY.pem, None, expired))
        assert "expired" in message
        assert expired[:20] not in message


async def test_a_token_that_is_sent_decides_over_the_certificate(both: IdentityServer) -> None:
    alice = AUTHORITY.issue(ALICE)

    async def whom(*tokens: str) -> str:
        return await identity_of(both.address, AUTHORITY.pem, alice, *tokens)

    assert await whom() == "spiffe://keyvault.test/alice"
    assert await whom(ISSUED_BY.token()) == f"jwt:{SUBJECT}"
    assert "expired" in await refusal(whom(ISSUED_BY.token(exp=1)))
    assert "not a JWT" in await refusal(whom("rubbish"))
    assert "one token" in await refusal(whom(ISSUED_BY.token(), ISSUED_BY.token()))
    assert "one token" in await refusal(whom(""))


async def test_a_token_does_not_stand_in_for_a_certificate(both: IdentityServer) -> None:
    failure = await failure_of(identity_of(both.address, AUTHORITY.pem, None, ISSUED_BY.token()))
    assert failure.status == "UNAVAILABLE"


async def test_where_tokens_are_not_configured_they_are_not_looked_at(mutual: IdentityServer) -> None:
    alice = AUTHORITY.issue(ALICE)
    for token in (ISSUED_BY.token(sub="spiffe://keyvault.test/bob"), "rubbish"):
        assert await identity_of(mutual.address, AUTHORITY.pem, alice, token) == "spiffe://keyvault.test/alice"


@pytest.mark.parametrize("value", ["Basic YTpi", "Bearer", "bearer ", "token", ""])
def test_another_kind_of_authorization_is_refused_with_tokens(tokens: Tokens, value: str) -> None:
    """Where tokens are taken, another scheme is refused."""
    with pytest.raises(Unauthenticated, match="authorization: Bearer"):
        Identifier(certificates=False, tokens=tokens).identify({}, (("authorization", value),))


def test_the_schemes_case_and_other_metadata_do_not_matter(tokens: Tokens) -> None:
    metadata = (("x-request-id", "1"), ("authorization", f"bearer {ISSUED_BY.token()}"), ("x-bin", b"\x00"))
    assert Identifier(certificates=False, tokens=tokens).identify({}, metadata) == f"jwt:{SUBJECT}"


async def test_a_resumed_session_ends_with_its_certificate(tmp_path: Path) -> None:
    """What resumes is not checked by TLS again: without a look at the date an expired certificate would do for days."""
    clock = Clock(0.0)
    alice, sessions = AUTHORITY.issue(ALICE, until=HOUR), cygrpc.SSLSessionCacheLRU(8)
    expires = x509.load_pem_x509_certificate(alice.certificate).not_valid_after_utc.timestamp()
    async with identity_server(tls(tmp_path), Identifier(certificates=True, clock=clock)) as server:
        for now, good in ((expires - 60, True), (expires - 60, True), (expires + 60, False)):
            clock.now = now
            call = identity_of(server.address, AUTHORITY.pem, alice, sessions=sessions)
            if good:
                assert await call == "spiffe://keyvault.test/alice"
            else:
                assert "expired" in await refusal(call)
        assert await identity_of(server.address, AUTHORITY.pem, alice), (
            "a whole handshake asks TLS, whose clock is real"
        )


def test_no_certificate_and_names_that_cannot_be_read_are_nobody() -> None:
    with pytest.raises(Unauthenticated, match="cannot parse"):
        certificate_identity({})
    issued = x509.load_pem_x509_certificate(AUTHORITY.issue(dns("ab.test")).certificate)
    broken = issued.public_bytes(Encoding.DER).replace(b"ab.test", b"\xff\xfe.test")
    pem = x509.load_der_x509_certificate(broken).public_bytes(Encoding.PEM)
    with pytest.raises(Unauthenticated, match="cannot parse"):
        certificate_identity({"x509_pem_cert": [pem], "peer_dns": [b"ab.test"]})
