"""JSON Web Tokens: what is believed, and every way of forging, bending or wearing one out that is not."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyvault_server.access.key_set import BadKeySet, KeySet, parse_key_set
from keyvault_server.access.tokens import CACHE_SECONDS, MAX_TOKEN, BadTokenRules, TokenCache, TokenRules, Tokens
from keyvault_server.core.errors import Unauthenticated
from tests.support.clock import Clock
from tests.support.issuer import AUDIENCE, ISSUER, SUBJECT, Issuer, by_hand, claims_with, jwk_of

ISSUED_BY = Issuer()
RULES = TokenRules(ISSUER, AUDIENCE)


class Keys:
    """A KeySource that a test fills."""

    def __init__(self, *more: dict[str, Any]) -> None:
        self.current: KeySet = parse_key_set(ISSUED_BY.key_set(*more))
        self.age = 0.0
        self.requests = 0

    def request_reload(self) -> None:
        self.requests += 1

    async def reload(self) -> None:
        """Do nothing."""


def tokens(rules: TokenRules = RULES, keys: Keys | None = None) -> Tokens:
    return Tokens(rules, keys or Keys())


@pytest.mark.parametrize("kid", ["ec", "ed", "rsa"])
def test_a_token_of_the_issuer_names_its_subject(kid: str) -> None:
    assert tokens().subject(ISSUED_BY.token(kid)) == SUBJECT
    assert tokens().subject(ISSUED_BY.token(kid, aud=["other", AUDIENCE])) == SUBJECT


def now() -> int:
    return int(time.time())


def public(kid: str) -> bytes:
    return ISSUED_BY.public_pem(kid)


def tampered(part: int) -> str:
    """A good token with a changed header, claims or signature."""
    parts = ISSUED_BY.token().split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    raw[-3] ^= 1
    parts[part] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return ".".join(parts)


def spliced() -> str:
    """The signature of one good token under the claims of another."""
    one, other = ISSUED_BY.token().split("."), ISSUED_BY.token(sub="admin").split(".")
    return ".".join((one[0], other[1], one[2]))


def signed(claims: bytes) -> str:
    """Properly signed claims that are not what claims are."""
    return jwt.PyJWS().encode(claims, ISSUED_BY.keys["ec"], "ES256", {"kid": "ec"})


def with_own_key() -> str:
    mine = ec.generate_private_key(ec.SECP256R1())
    return ISSUED_BY.token(header={"jwk": jwk_of(mine)}, key=mine)


FORGED: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: ISSUED_BY.token(exp=now() - 60), "expired"),
    "expired long ago": (lambda: ISSUED_BY.token(exp=1), "expired"),
    "not valid yet": (lambda: ISSUED_BY.token(nbf=now() + 60), "not valid yet"),
    "issued tomorrow": (lambda: ISSUED_BY.token(iat=now() + 86_400), "not valid yet"),
    "for another audience": (lambda: ISSUED_BY.token(aud="other"), "another audience"),
    "for other audiences": (lambda: ISSUED_BY.token(aud=["a", "b"]), "another audience"),
    "of another issuer": (lambda: ISSUED_BY.token(iss="https://evil.test"), "another issuer"),
    "of a longer issuer": (lambda: ISSUED_BY.token(iss=f"{ISSUER}/"), "another issuer"),
    "without exp": (lambda: ISSUED_BY.token(exp=None), "no exp"),
    "without aud": (lambda: ISSUED_BY.token(aud=None), "no aud"),
    "without iss": (lambda: ISSUED_BY.token(iss=None), "no iss"),
    "without sub": (lambda: ISSUED_BY.token(sub=None), "no sub"),
    "with an empty sub": (lambda: ISSUED_BY.token(sub=""), "sub must be"),
    "with spaces in its sub": (lambda: ISSUED_BY.token(sub="a b"), "sub must be"),
    "with a line break in its sub": (lambda: ISSUED_BY.token(sub="alice\n"), "sub must be"),
    "with a sub that only looks like another": (lambda: ISSUED_BY.token(sub="\u0430lice"), "sub must be"),
    "with a long sub": (lambda: ISSUED_BY.token(sub="a" * 256), "sub must be"),
    "with an exp that is a word": (lambda: ISSUED_BY.token(exp="soon"), "not a valid JWT"),
    "with an exp beyond all numbers": (lambda: ISSUED_BY.token(exp=float("inf")), "not a valid JWT"),
    "with an nbf that is a word": (lambda: ISSUED_BY.token(nbf="soon"), "not a valid JWT"),
    "with an nbf beyond all numbers": (lambda: ISSUED_BY.token(nbf=float("inf")), "not a valid JWT"),
    "with an iat that is a list": (lambda: ISSUED_BY.token(iat=[]), "not a valid JWT"),
    "with an aud that is a number": (lambda: ISSUED_BY.token(aud=1), "another audience"),
    "with an aud of numbers": (lambda: ISSUED_BY.token(aud=[1, AUDIENCE]), "another audience"),
    "with an aud that is an object": (lambda: ISSUED_BY.token(aud={AUDIENCE: 1}), "another audience"),
    "with an iss that is a list": (
        lambda: signed(json.dumps(claims_with({"iss": [ISSUER]})).encode()),
        "another issuer",
    ),
    "with a sub that is a number": (lambda: signed(json.dumps(claims_with({"sub": 7})).encode()), "not a valid JWT"),
    "with claims that are a list": (lambda: signed(b"[]"), "not a valid JWT"),
    "with claims that are nothing": (lambda: signed(b"\xff"), "not a valid JWT"),
    "alg none": (lambda: by_hand({"alg": "none", "kid": "ec"}, claims_with({})) + "AA", "algorithm"),
    "alg None": (lambda: by_hand({"alg": "None", "kid": "ec"}, claims_with({})) + "AA", "algorithm"),
    "without alg": (lambda: by_hand({"kid": "ec"}, claims_with({}), b"x"), "algorithm"),
    "with an alg that is a list": (
        lambda: by_hand({"alg": ["ES256"], "kid": "ec"}, claims_with({}), b"x"),
        "algorithm",
    ),
    "HS256 under the public EC key": (
        lambda: by_hand({"alg": "HS256", "kid": "ec"}, claims_with({}), public("ec")),
        "algorithm",
    ),
    "HS256 under the public RSA key": (
        lambda: by_hand({"alg": "HS256", "kid": "rsa"}, claims_with({}), public("rsa")),
        "algorithm",
    ),
    "HMAC under the public key, called RS256": (
        lambda: by_hand({"alg": "RS256", "kid": "rsa"}, claims_with({}), public("rsa")),
        "signature",
    ),
    "an algorithm that the settings do not name": (
        lambda: ISSUED_BY.token("rsa", {"alg": "PS256"}),
        "algorithm",
    ),
    "an EC signature that names the RSA key": (lambda: ISSUED_BY.token("ec", {"kid": "rsa"}), "does not fit the key"),
    "an RSA signature that names the EC key": (lambda: ISSUED_BY.token("rsa", {"kid": "ec"}), "does not fit the key"),
    "an Ed25519 signature that names the EC key": (lambda: ISSUED_BY.token("ed", {"kid": "ec"}), "does not fit"),
    "another issuer's key under the issuer's kid": (
        lambda: ISSUED_BY.token(key=ec.generate_private_key(ec.SECP256R1())),
        "signature",
    ),
    "a key of its own in the header": (with_own_key, "signature"),
    "a key set of its own": (
        lambda: ISSUED_BY.token(header={"kid": "x", "jku": "http://127.0.0.1:1/"}),
        "not in the issuer's key set",
    ),
    "an unknown kid": (lambda: ISSUED_BY.token(header={"kid": "other"}), "not in the issuer's key set"),
    "a kid that is a path": (
        lambda: ISSUED_BY.token(header={"kid": "../../../dev/null"}),
        "not in the issuer's key set",
    ),
    "a kid that is a number": (lambda: by_hand({"alg": "ES256", "kid": 1}, claims_with({}), b"x"), "not a valid JWT"),
    "without kid": (lambda: ISSUED_BY.token(header={"kid": None}), "has no kid"),
    "critical headers that nobody knows": (
        lambda: ISSUED_BY.token(header={"crit": ["exp"], "exp": 1}),
        "not a valid JWT",
    ),
    "a changed header": (lambda: tampered(0), "signature"),
    "changed claims": (lambda: tampered(1), "signature"),
    "a changed signature": (lambda: tampered(2), "signature"),
    "another's claims": (spliced, "signature"),
    "no signature": (lambda: ISSUED_BY.token().rpartition(".")[0] + ".", "not a JWT"),
    "two parts": (lambda: ISSUED_BY.token().rpartition(".")[0], "not a JWT"),
    "four parts": (lambda: ISSUED_BY.token() + ".AA", "not a JWT"),
    "a space": (lambda: " " + ISSUED_BY.token(), "not a JWT"),
    "a line break": (lambda: ISSUED_BY.token() + "\n", "not a JWT"),
    "nothing": (lambda: "", "not a JWT"),
    "a header that is nested for ever": (lambda: by_hand(b"[" * 3_000, {}, b"x"), "not a valid JWT"),
    "a header that is a list": (lambda: by_hand([], {}, b"x"), "not a valid JWT"),
    "oversized": (lambda: ISSUED_BY.token(more="x" * MAX_TOKEN), "characters"),
}


@pytest.mark.parametrize(("make", "sentence"), FORGED.values(), ids=FORGED.keys())
def test_no_other_token_is_believed_and_none_is_shown(make: Callable[[], str], sentence: str) -> None:
    token = make()
    verifier = tokens()
    for _ in range(2):
        with pytest.raises(Unauthenticated, match=sentence) as error:
            verifier.subject(token)
        message = str(error.value)
        assert "\n" not in message
        assert all(part not in message for part in token.split(".") if part)
        assert "admin" not in message


def test_the_clock_of_the_issuer_may_be_off_by_the_leeway() -> None:
    rules = TokenRules(ISSUER, AUDIENCE, leeway_seconds=60)
    bent: list[dict[str, Any]] = [{"exp": now() - 30}, {"nbf": now() + 30}, {"iat": now() + 30}]
    for claims in bent:
        assert tokens(rules).subject(ISSUED_BY.token(**claims)) == SUBJECT
        with pytest.raises(Unauthenticated):
            tokens(TokenRules(ISSUER, AUDIENCE, leeway_seconds=0)).subject(ISSUED_BY.token(**claims))


def test_a_token_without_end_is_remembered_for_a_minute() -> None:
    """Like any other."""
    verifier = tokens()
    token = ISSUED_BY.token(exp=10**400)
    assert [verifier.subject(token) for _ in range(2)] == [SUBJECT] * 2


def test_an_algorithm_is_believed_where_the_settings_name_it() -> None:
    rules = TokenRules(ISSUER, AUDIENCE, ("PS256",))
    assert tokens(rules).subject(ISSUED_BY.token("rsa", {"alg": "PS256"})) == SUBJECT
    with pytest.raises(Unauthenticated, match="algorithm"):
        tokens(rules).subject(ISSUED_BY.token("rsa"))


def test_a_key_that_says_its_algorithm_is_for_no_other() -> None:
    only_512 = {**jwk_of(ISSUED_BY.keys["rsa"]), "kid": "512", "alg": "RS512"}
    with pytest.raises(Unauthenticated, match="does not fit the key"):
        tokens(keys=Keys(only_512)).subject(ISSUED_BY.token("rsa", {"kid": "512"}))


@pytest.mark.parametrize("demanded", ["at+jwt", "application/at+jwt", "AT+JWT"])
def test_a_type_is_compared_as_a_media_type(demanded: str) -> None:
    """RFC 7515, section 4.1.9."""
    verifier = tokens(TokenRules(ISSUER, AUDIENCE, type=demanded))
    for typ in ("at+jwt", "application/at+jwt", "At+Jwt", "APPLICATION/AT+JWT"):
        assert verifier.subject(ISSUED_BY.token(header={"typ": typ})) == SUBJECT
    others: list[Any] = ["JWT", "", "at+jwt ", "/at+jwt", "text/at+jwt", "at+jwt;v=1", "xat+jwt", 1, ["at+jwt"], {}]
    for other in others:
        token = jws({"typ": other})
        with pytest.raises(Unauthenticated, match=r"^the token's typ is not .*: get a token of this type$"):
            verifier.subject(token)
        assert tokens().subject(token) == SUBJECT, "where no type is demanded"
    with pytest.raises(Unauthenticated, match="typ is not"):
        verifier.subject(jws({}))


def jws(header: dict[str, Any]) -> str:
    """A properly signed token with this header alone, which a library would add a type to."""
    signed = b".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "EdDSA", "kid": "ed"} | header, claims_with({}))
    )
    key = ISSUED_BY.keys["ed"]
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return (signed + b"." + base64.urlsafe_b64encode(key.sign(signed)).rstrip(b"=")).decode()


def test_a_token_of_a_longer_life_than_is_allowed_is_rejected() -> None:
    verifier = tokens(TokenRules(ISSUER, AUDIENCE, lifetime_seconds=600))
    at = now()
    assert verifier.subject(ISSUED_BY.token(iat=at, exp=at + 600)) == SUBJECT
    assert verifier.subject(ISSUED_BY.token(iat=at - 300.5, exp=at + 299)) == SUBJECT
    for iat, exp in ((at, at + 601), (at - 600, at + 1), (-(10**30), at + 1), (at, 10**30)):
        token = ISSUED_BY.token(iat=iat, exp=exp)
        with pytest.raises(Unauthenticated, match=r"^the token is valid for more than 600 s: get one with a shorter"):
            verifier.subject(token)
        assert tokens().subject(token) == SUBJECT, "where no lifetime is set"
    with pytest.raises(Unauthenticated, match=r"^the token has no iat: exp, aud, iss, sub and iat are required$"):
        verifier.subject(ISSUED_BY.token(iat=None))
    assert tokens().subject(ISSUED_BY.token(iat=None)) == SUBJECT
    odd: list[Any] = ["now", [], {}, float("inf"), float("nan")]
    for one in odd:
        with pytest.raises(Unauthenticated):
            verifier.subject(ISSUED_BY.token(iat=one))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"algorithms": ("HS256",)}, "unknown token algorithm 'HS256': choose from ES256"),
        ({"algorithms": ("ES256", "HS512")}, "unknown token algorithm 'HS512'"),
        ({"algorithms": ("none",)}, "unknown token algorithm 'none'"),
        ({"algorithms": ("ES256K",)}, "unknown token algorithm 'ES256K'"),
        ({"algorithms": ()}, "no token algorithm: choose from"),
        ({"issuer": ""}, "tokens need an issuer and an audience"),
        ({"audience": ""}, "tokens need an issuer and an audience"),
        ({"leeway_seconds": -1}, "must be 0 to 60 seconds, not -1"),
        ({"leeway_seconds": 3600}, "must be 0 to 60 seconds, not 3600"),
    ],
)
def test_rules_that_would_believe_too_much_are_refused(changed: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE} | changed
    with pytest.raises(BadTokenRules, match=sentence):
        TokenRules(**given)


def test_an_unknown_key_is_asked_for_and_a_known_one_is_not() -> None:
    keys = Keys()
    verifier = tokens(keys=keys)
    verifier.subject(ISSUED_BY.token())
    assert keys.requests == 0
    with pytest.raises(Unauthenticated):
        verifier.subject(ISSUED_BY.token(header={"kid": "new"}))
    assert keys.requests == 1


@pytest.mark.slow
def test_a_verified_token_is_not_believed_beyond_its_time() -> None:
    verifier = tokens(TokenRules(ISSUER, AUDIENCE, leeway_seconds=0))
    token = ISSUED_BY.token(exp=now() + 2)
    assert verifier.subject(token) == SUBJECT
    time.sleep(2.1)
    with pytest.raises(Unauthenticated, match="expired"):
        verifier.subject(token)


def test_a_token_is_not_believed_once_its_key_is_withdrawn() -> None:
    """A token that had been verified already."""
    keys = Keys()
    verifier = tokens(keys=keys)
    token = ISSUED_BY.token("ec")
    assert verifier.subject(token) == SUBJECT
    keys.current = parse_key_set(ISSUED_BY.key_set(only=("ed",)))
    with pytest.raises(Unauthenticated, match="not in the issuer's key set"):
        verifier.subject(token)


def test_a_verified_token_is_remembered_for_a_minute() -> None:
    """Until it expires, and for its key set."""
    clock, keys, others = Clock(), Keys().current, Keys().current
    cache = TokenCache(clock)
    cache.put(b"long", "a", clock.now + 3600, keys)
    cache.put(b"short", "b", clock.now + 10, keys)
    assert (cache.get(b"long", keys), cache.get(b"short", keys), cache.get(b"none", keys)) == ("a", "b", None)
    clock.now += 10
    assert (cache.get(b"long", keys), cache.get(b"short", keys)) == ("a", None)
    clock.now += CACHE_SECONDS - 10
    assert cache.get(b"long", keys) is None
    cache.put(b"long", "a", clock.now + 3600, keys)
    assert cache.get(b"long", others) is None
    assert len(cache) == 0


def test_the_memory_for_tokens_is_bounded_and_the_busiest_stay() -> None:
    clock, keys = Clock(), Keys().current
    cache = TokenCache(clock, size=3)
    for number in range(100):
        cache.put(str(number).encode(), "s", clock.now + 60, keys)
        assert cache.get(b"0", keys) == "s"
    assert len(cache) == 3
    assert cache.get(b"97", keys) is None
    assert cache.get(b"98", keys) == "s"


SECRET = {"kty": "oct", "kid": "s", "k": base64.urlsafe_b64encode(b"s3cret" * 8).decode()}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (ISSUED_BY.key_set(SECRET), "secret key"),
        (ISSUED_BY.key_set({"kty": "oct", "kid": "s"}), "secret key"),
        (ISSUED_BY.key_set({**ISSUED_BY.jwk("ec"), "kid": "p", "d": "s3cret"}), "secret key"),
        (ISSUED_BY.key_set(ISSUED_BY.jwk("ec")), "same kid, 'ec'"),
        (ISSUED_BY.key_set(only=()), "no usable key"),
        (b"", "not a key set"),
        (b"{}", "not a key set"),
        (b"[]", "not a key set"),
        (b'{"keys": 1}', "not a key set"),
        (b'{"keys": ["s3cret"]}', "not a key set"),
        (b"\xff\xfe", "not a key set"),
        (b"[" * 100_000, "not a key set"),
        (b"<html>s3cret</html>", "not a key set"),
    ],
)
def test_a_key_set_with_a_secret_or_without_a_key_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(BadKeySet, match=sentence) as error:
        parse_key_set(content)
    assert "s3cret" not in str(error.value)
    assert SECRET["k"] not in str(error.value)


@pytest.mark.parametrize(
    "entry",
    [
        {**ISSUED_BY.jwk("rsa"), "use": "enc"},
        {**ISSUED_BY.jwk("rsa"), "alg": "RSA-OAEP"},
        {**ISSUED_BY.jwk("rsa"), "alg": 1},
        {**ISSUED_BY.jwk("rsa"), "key_ops": ["encrypt"]},
        {**ISSUED_BY.jwk("rsa"), "key_ops": 1},
        {**ISSUED_BY.jwk("ec"), "alg": "HS256"},
        {**ISSUED_BY.jwk("ec"), "alg": "ES384"},
        {**ISSUED_BY.jwk("ec"), "x": "AA"},
        {**ISSUED_BY.jwk("ec"), "x": 1},
        {**ISSUED_BY.jwk("ec"), "crv": "P-384"},
        {**ISSUED_BY.jwk("ed"), "crv": "X25519"},
        jwk_of(rsa.generate_private_key(65537, 1024)),
        jwk_of(ec.generate_private_key(ec.SECP256K1())),
        {"kty": "EC"},
        {"kty": "RSA", "n": "AQAB"},
        {"kty": ["EC"]},
        {"kty": "AKP"},
        {},
    ],
)
def test_a_key_that_cannot_verify_here_is_left_out(entry: dict[str, Any]) -> None:
    """The others stay."""
    keys = parse_key_set(ISSUED_BY.key_set({**entry, "kid": "odd"}))
    assert set(keys) == {"ec", "ed", "rsa"}


def test_a_key_without_a_kid_is_left_out() -> None:
    unnamed = jwk_of(ed25519.Ed25519PrivateKey.generate())
    for entry in (unnamed, {**unnamed, "kid": 1}):
        assert set(parse_key_set(ISSUED_BY.key_set(entry))) == {"ec", "ed", "rsa"}


def test_what_published_keys_carry_besides_does_not_disturb() -> None:
    entry = {**ISSUED_BY.jwk("ec"), "kid": "more", "alg": "ES256", "key_ops": ["verify"], "x5c": ["AA"], "x5t": "AA"}
    assert "more" in parse_key_set(json.dumps({"keys": [entry], "more": 1}).encode())
