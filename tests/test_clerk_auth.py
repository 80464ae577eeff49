"""Tokens as Clerk makes them, as attackers make them, and key servers that misbehave."""

import asyncio
import base64
import gzip
import hashlib
import json
import string
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.datastructures import Headers

import clerk_auth
import jwks
from clerk_auth import Caller, KeySet, KeysUnavailable, Misconfigured, NotSignedIn, Verifier, verify
from tests.clerk import (
    KEY,
    KID,
    OTHER_KEY,
    SESSION,
    USER,
    Answer,
    KeyServer,
    age,
    base64url,
    claims,
    configured,
    good,
    header,
    impatient,
    jwk,
    key_server,
    key_set,
    refused,
    respond,
    sign,
    values,
)
from tests.names import stable

WYCHEPROOF = Path(__file__).parent / "vectors" / "wycheproof"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
Make = Callable[[KeyServer], str]


@pytest.fixture
async def clerk() -> AsyncIterator[KeyServer]:
    async with key_server() as server:
        clerk_auth.configure(configured(clerk_issuer=server.issuer))
        yield server
        await clerk_auth.close()


def loading(keys: KeySet) -> bool:
    return keys._loading is not None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition belongs to the other side
            await asyncio.sleep(0.01)


# What is accepted -----------------------------------------------------------------------------


async def test_a_session_token_speaks_for_its_user(clerk: KeyServer) -> None:
    before = int(time.time())
    caller = await verify(clerk.token())
    assert before <= caller.issued_at <= time.time()
    assert caller == Caller(USER, SESSION, caller.issued_at, caller.issued_at + 60)
    assert len(clerk.requests) == 1
    assert clerk.requests[0].startswith(b"GET /.well-known/jwks.json ")


async def test_a_version_1_token_speaks_for_its_user_and_organization(clerk: KeyServer) -> None:
    permissions = ["org:reports:read", "org:reports:manage"]
    organization = {
        "org_id": "org_1",
        "org_slug": "acme",
        "org_role": "org:admin",
        "org_permissions": permissions,
    }
    caller = await verify(clerk.token(v=..., jti=..., sts=..., **organization))
    assert caller.user_id == USER
    assert caller.organization == clerk_auth.Organization(
        "org_1", "acme", "org:admin", frozenset(permissions)
    )


async def test_a_version_2_token_names_its_organization_compactly(clerk: KeyServer) -> None:
    organization = {"id": "org_1", "slg": "acme", "rol": "admin", "per": "read,manage", "fpm": "3,2"}
    caller = await verify(clerk.token(fea="u:beta,o:reports,uo:teams", o=organization))
    assert caller.organization == clerk_auth.Organization(
        "org_1",
        "acme",
        "org:admin",
        frozenset({"org:reports:read", "org:reports:manage", "org:teams:manage"}),
    )


async def test_custom_claims_describe_the_user(clerk: KeyServer) -> None:
    described = {"email": "ada@example.com", "name": "Ada", "image_url": "https://img.example.com/a.png"}
    caller = await verify(clerk.token(public_metadata={"role": "admin"}, **described))
    assert (caller.role, caller.email, caller.name, caller.image_url) == ("admin", *described.values())


@pytest.mark.parametrize("value", [None, "", 1, [], {}, "a\u0000b", "\ud800", "x" * 2049, "line\n"])
async def test_an_unusable_description_is_left_out(clerk: KeyServer, value: object) -> None:
    caller = await verify(clerk.token(email=value, name=value))
    assert (caller.email, caller.name) == (None, None)


@pytest.mark.parametrize("role", ["owner", "ADMIN", ["admin"], None, True])
async def test_only_the_word_admin_makes_an_admin(clerk: KeyServer, role: object) -> None:
    caller = await verify(
        clerk.token(public_metadata={"role": role}, metadata={"role": "admin"}, role="admin")
    )
    assert caller.role == "user"


async def test_an_impersonated_session_names_who_acts(clerk: KeyServer) -> None:
    caller = await verify(clerk.token(act={"iss": "https://dashboard.clerk.com", "sub": "user_support"}))
    assert (caller.user_id, caller.impersonator) == (USER, "user_support")


@pytest.mark.parametrize(
    "changes",
    [
        {"head": {"oiat": 1}},
        {"head": {"cat": ...}},
        {"head": {"cat": "cl_I7d4PD111III"}},
        {"head": {"typ": ...}},
        {"nbf": ...},
        {"azp": ...},
        {"sts": ...},
        {"act": None},
        {"o": {}},
        {"o": None},
    ],
    ids=stable,
)
async def test_what_clerk_may_add_or_leave_out_is_accepted(clerk: KeyServer, changes: dict[str, Any]) -> None:
    assert (await verify(clerk.token(**changes))).user_id == USER


@pytest.mark.parametrize("change", [("exp", -2), ("iat", 4), ("nbf", 4)], ids=stable)
async def test_clocks_may_differ_by_a_moment(clerk: KeyServer, change: tuple[str, int]) -> None:
    await verify(clerk.token())
    now = int(time.time())
    instants = {"iat": now - 60, "nbf": now - 60, "exp": now + 60} | {change[0]: now + change[1]}
    assert (await verify(clerk.token(**instants))).user_id == USER


# What is refused: every token here carries a true signature unless it says otherwise -----------


def raw(claims: dict[str, Any], name: str, text: str) -> bytes:
    """The JSON of claims (or a header) with `name` written as exactly this text."""
    return json.dumps(claims | {name: "@"}).replace('"@"', text).encode()


def head(**changes: Any) -> Make:
    return lambda server: server.token(head=changes)


def body(**changes: Any) -> Make:
    return lambda server: server.token(**changes)


def raw_head(name: str, text: str) -> Make:
    return lambda server: sign(raw(header(), name, text), claims(server.issuer))


def raw_body(name: str, text: str) -> Make:
    return lambda server: sign(header(), raw(claims(server.issuer), name, text))


def instants(**offsets: int) -> Make:
    """Claims as seconds from the moment the token is made."""
    return lambda server: server.token(**{name: int(time.time()) + it for name, it in offsets.items()})


def reshaped(change: Callable[[str], str]) -> Make:
    return lambda server: change(server.token())


def encoded(header_codec: str, payload_codec: str) -> Make:
    return lambda server: sign(
        json.dumps(header()).encode(header_codec), json.dumps(claims(server.issuer)).encode(payload_codec)
    )


def payload(data: bytes) -> Make:
    return lambda server: sign(header(), data)


def hmac_with(secret: bytes) -> Make:
    return lambda server: sign(header(alg="HS256"), claims(server.issuer), secret)


def as_json_serialization(token: str) -> str:
    protected, body, signature = token.split(".")
    return json.dumps({"protected": protected, "payload": body, "signature": signature})


def as_standard_base64(token: str) -> str:
    protected, body, signature = token.split(".")
    return f"{protected}.{body}.{signature.replace('-', '+').replace('_', '/')}+/"


def loosened(token: str) -> str:
    """The same signature bytes with unused bits of the last character set."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


PUBLIC = KEY.public_key()
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

ALGORITHMS: list[Any] = [
    *("none", "None", "NONE", "nOnE", "", " none", "RS256 ", "rs256", "RS384", "HS256", "ES256", "PS256"),
    *(None, ["RS256"], {}, 1, True, ...),
]
BAD_JSON_VALUES = ["null", "[]", "{}", '"x"', "1.5", "true", "false", '""', "-1", "0"]
INSTANTS = [
    *("-1", "0", "true", "null", "[]", "{}", "1e30", "1" + "0" * 23, "1e400", "NaN", "Infinity", "-Infinity"),
    *('"1795166468"', '" 1795166468"', '"1_0000000000"', "8589934592", "1" * 5000),
]

ATTACKS: dict[str, Make] = {
    **{f"alg {alg!r}": head(alg=alg) for alg in ALGORITHMS},
    "alg none without signature": lambda s: (
        sign(header(alg="none"), claims(s.issuer)).rpartition(".")[0] + "."
    ),
    "HS256 over the PEM": hmac_with(PEM),
    "HS256 over the stripped PEM": hmac_with(PEM.strip()),
    "HS256 over the DER": hmac_with(DER),
    "HS256 over the modulus": hmac_with(jwk()["n"].encode()),
    "HS256 over the JWK": hmac_with(json.dumps(jwk()).encode()),
    "HS256 with an empty secret": hmac_with(b""),
    "RS256 labelled HMAC": lambda s: sign(header(), claims(s.issuer), PEM),
    "another key": lambda s: s.token(OTHER_KEY),
    "another key's own name": lambda s: s.token(OTHER_KEY, head={"kid": "ins_other"}),
    "empty signature": reshaped(lambda token: token.rpartition(".")[0] + "."),
    "double alg": raw_head("alg", '"none","alg":"RS256"'),
    "double kid": raw_head("kid", f'"evil","kid":"{KID}"'),
    "double sub": raw_body("sub", f'"user_victim","sub":"{USER}"'),
    "double exp": raw_body("exp", f'1,"exp":{int(time.time()) + 60}'),
    "double name deep inside": raw_body("o", '{"id":"a","id":"b"}'),
    **{f"crit {crit!r}": head(crit=crit) for crit in (["exp"], [], "b64", ["x"], None, [1], ["b64"])},
    **{f"b64 {b64!r}": head(b64=b64, crit=["b64"]) for b64 in (True, False, 0)},
    "b64 without crit": head(b64=0),
    **{f"kid {kid!r}": head(kid=kid) for kid in values(None, 1, [], {}, True, "", ...)},
    **{
        f"kid {kid!r}": head(kid=kid)
        for kid in values("../../etc/passwd", f"{KID}' OR 1=1", f"{KID}\0", f"{KID} ")
    },
    "kid of a thousand": head(kid="k" * 1000),
    "kid of a million": head(kid="k" * 1_000_000),
    "jwk in the header": lambda s: s.token(OTHER_KEY, head={"jwk": jwk(OTHER_KEY)}),
    "jwk beside the real key": head(jwk=jwk()),
    "jku": lambda s: s.token(head={"jku": f"{s.issuer}/evil"}),
    "x5u": lambda s: s.token(head={"x5u": f"{s.issuer}/evil"}),
    "x5c": head(x5c=["MIIB"]),
    "zip": head(zip="DEF"),
    "enc": head(enc="A256GCM"),
    "p2c": head(p2c=2**31),
    **{
        f"typ {typ!r}": head(typ=typ)
        for typ in ("at+jwt", "application/at+jwt", "JOSE", 1, None, "dpop+jwt", "jwt")
    },
    "nested token": lambda s: sign(header(cty="JWT"), s.token().encode()),
    **{f"exp {text[:20]}": raw_body("exp", text) for text in INSTANTS},
    **{f"iat {text[:20]}": raw_body("iat", text) for text in [*INSTANTS, '"x"', "1795166468.5"]},
    **{f"nbf {text[:20]}": raw_body("nbf", text) for text in INSTANTS},
    "exp as a float": lambda s: sign(header(), raw(claims(s.issuer), "exp", f"{int(time.time()) + 60}.0")),
    "exp missing": body(exp=...),
    "iat missing": body(iat=...),
    "expired": instants(iat=-70, nbf=-70, exp=-6),
    "from the future": instants(iat=30, nbf=0),
    "not yet valid": instants(nbf=30),
    "expires before it begins": instants(nbf=3, iat=0, exp=2),
    "expires before it was issued": instants(iat=4, exp=2),
    "lives an hour and a second": instants(iat=0, exp=3601),
    "lives ten years": instants(exp=315_360_000),
    **{f"sub {text}": raw_body("sub", text) for text in BAD_JSON_VALUES},
    **{
        f"sub {sub!r:.30}": body(sub=sub)
        for sub in (
            ...,
            f"{USER}\0",
            "\ud800",
            f"{USER}\n",
            f" {USER}",
            USER.upper(),
            "user_" + "x" * 10_000,
            "user_",
            "user_x|y",
            "user_é",
            "mch_1",
            "local|x",
            str(uuid4()),
        )
    },
    **{f"sid {text}": raw_body("sid", text) for text in BAD_JSON_VALUES},
    "sid missing": body(sid=...),
    "sid with a line end": body(sid=f"{SESSION}\n"),
    **{
        f"iss {iss!r}": body(iss=iss)
        for iss in values(..., "", None, 1, [], {}, True, "https://clerk.example.dev")
    },
    "iss with a slash": lambda s: s.token(iss=f"{s.issuer}/"),
    "iss in capitals": lambda s: s.token(iss=s.issuer.upper()),
    "iss as a prefix": lambda s: s.token(iss=f"{s.issuer}.evil.com"),
    "iss cut short": lambda s: s.token(iss=s.issuer[:-1]),
    "iss over another scheme": lambda s: s.token(iss=s.issuer.replace("http:", "https:")),
    "iss in a list": lambda s: s.token(iss=[s.issuer]),
    **{f"aud {aud!r}": body(aud=aud) for aud in values("me", [], ["me", 1], None, "", {})},
    **{f"sts {sts!r}": body(sts=sts) for sts in values("pending", "", None, 1, [], {}, "ACTIVE", True)},
    **{f"v {v!r}": body(v=v) for v in values(1, 3, "2", 2.0, None, True, [2], {})},
    **{
        f"o {o!r}": body(o=o)
        for o in values("x", 1, [], True, {"id": 1}, {"id": "\0"}, {"id": "a", "rol": []})
    },
    **{
        f"fpm {fpm!r:.20}": body(o={"id": "a", "per": "r", "fpm": fpm})
        for fpm in (1, "x", "1_0", "-1", "9" * 99, "٣")
    },
    "fea 1": body(fea=1, o={"id": "org_1"}),
    **{f"org_id {it!r}": body(v=..., org_id=it) for it in values(1, [], {}, True, "\0")},
    **{
        f"org_permissions {it!r}": body(v=..., org_id="a", org_permissions=it)
        for it in values("a", {}, [1], [[]], [None])
    },
    **{
        f"act {act!r}": body(act=act)
        for act in values("x", 1, [], {}, True, {"sub": 1}, {"sub": ""}, {"sub": "\0"})
    },
    **{f"public_metadata {it!r}": body(public_metadata=it) for it in values("admin", 1, ["role"], True)},
    "one segment": reshaped(lambda token: token.replace(".", "")),
    "two segments": reshaped(lambda token: token.rpartition(".")[0]),
    "four segments": reshaped(lambda token: f"{token}.e30"),
    "five segments": reshaped(lambda token: f"{token}.e30.e30"),
    "an empty text": lambda _: "",
    "dots": lambda _: "..",
    "leading dot": reshaped(lambda token: f".{token}"),
    "leading space": reshaped(lambda token: f" {token}"),
    "trailing line end": reshaped(lambda token: f"{token}\n"),
    "trailing NUL": reshaped(lambda token: f"{token}\0"),
    "not ASCII": reshaped(lambda token: f"{token}é"),
    "lone surrogate": reshaped(lambda token: f"{token}\ud800"),
    "standard base64": reshaped(as_standard_base64),
    "padding": reshaped(lambda token: f"{token}=="),
    "padded header": reshaped(lambda token: token.replace(".", "=.", 1)),
    "loose bits": reshaped(loosened),
    "JSON serialization": reshaped(as_json_serialization),
    "an array": payload(b"[]"),
    "a string": payload(b'"claims"'),
    "null": payload(b"null"),
    "not JSON": payload(b"{,}"),
    "bad UTF-8": payload(b'{"iss":"\xff"}'),
    "deep nesting": payload(b"[" * 3000),
    "deep nesting in the header": lambda s: sign(b"[" * 3000, claims(s.issuer)),
    "NaN in a claim of no interest": raw_body("custom", "NaN"),
    "deep nesting of names": payload(b'{"a":' * 900 + b"1"),
    "a long number": payload(b'{"exp":' + b"9" * 5000 + b"}"),
    "header in UTF-16": encoded("utf-16", "utf-8"),
    "payload in UTF-16": encoded("utf-8", "utf-16"),
    "header with a byte order mark": encoded("utf-8-sig", "utf-8"),
    "payload with a byte order mark": encoded("utf-8", "utf-8-sig"),
    "nine thousand characters": body(custom="x" * 7000),
    "eight megabytes": body(custom="x" * 8_000_000),
    "a JWT template": head(cat="cl_B7d4PD222AAA"),
    "a JWT template of before categories": lambda s: s.token(head={"cat": ...}, sid=..., v=...),
    "a machine token": lambda s: s.token(
        head={"cat": "cl_B7d4PD333AAA"}, sub="mch_1", aud=["mch_2"], sid=...
    ),
    "an OAuth token": lambda s: s.token(head={"typ": "at+jwt"}, client_id="c", scope="email", jti="oat_1"),
    "an ID token": body(aud="client", nonce="n", sid=...),
    "a refresh token": lambda _: "rt_0123456789abcdef",
    "a webhook secret": lambda _: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "a testing token": lambda _: "1713877200-c_2J2MvPu9PnXcuhbPZNao0LOXqK9A7YrnBn0HmIWxy",
    "an opaque API key": lambda _: "ak_0123456789abcdef",
}


@pytest.mark.parametrize("make", ATTACKS.values(), ids=map(stable, ATTACKS))
async def test_refuses(clerk: KeyServer, make: Make) -> None:
    await verify(clerk.token())
    await refused(make(clerk))
    assert len(clerk.requests) <= 2
    assert all(request.startswith(b"GET /.well-known/jwks.json ") for request in clerk.requests)


@pytest.mark.parametrize(
    "azp", [..., None, "", 1, [], {}, "https://evil.com", "https://app.example.com/", ["a"]]
)
async def test_only_authorized_parties_are_accepted_once_named(azp: Any) -> None:
    async with key_server() as server:
        parties = "https://app.example.com, http://localhost:3000"
        clerk_auth.configure(configured(clerk_issuer=server.issuer, clerk_authorized_parties=parties))
        assert (await verify(server.token(azp="http://localhost:3000"))).user_id == USER
        await refused(server.token(azp=azp))
        await clerk_auth.close()


async def test_refusals_are_one_and_the_log_has_a_fingerprint_but_no_token(clerk: KeyServer) -> None:
    token = clerk.token(sts="pending")
    with structlog.testing.capture_logs() as logs, pytest.raises(NotSignedIn):
        await verify(token)
    fingerprint = hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()[:12]
    refusal = {"event": "token_refused", "log_level": "info", "reason": "session is not active"}
    assert logs[-1] == refusal | {"token": fingerprint}
    assert not any(part in str(logs) for part in token.split("."))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer a"), ("authorization", "Bearer a")],
        [("authorization", "Bearer a"), ("Authorization", "Bearer b")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "bearer  a")],
        [("authorization", " Bearer a")],
        [("authorization", "Bearer a ")],
        [("authorization", "Bearer\ta")],
        [("authorization", "Bearer a, Bearer b")],
        [("authorization", "Bearer a,b")],
        [("authorization", "Bearer a b")],
        [("authorization", "Basic YTpi")],
        [("authorization", "a")],
        [("authorization", "Bearer é")],
        [("authorization", "Bearer " + "a" * 8193)],
        [("cookie", "__session=a"), ("x-authorization", "Bearer a")],
    ],
    ids=stable,
)
def test_only_one_strict_bearer_header_is_read(headers: list[tuple[str, str]]) -> None:
    raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    with pytest.raises(NotSignedIn):
        clerk_auth.strict_bearer(Headers(raw=raw_headers))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_scheme_of_the_header_has_no_case(scheme: str) -> None:
    assert clerk_auth.strict_bearer(Headers({"Authorization": f"{scheme} a.b-_c"})) == "a.b-_c"


# Properties -----------------------------------------------------------------------------------


async def test_changing_any_character_is_refused_with_at_most_one_fetch(clerk: KeyServer) -> None:
    token = clerk.token()
    await verify(token)
    for at, character in enumerate(token):
        for other in {"A", "B", "-", ".", "=", "\n", "é"} - {character}:
            await refused(token[:at] + other + token[at + 1 :])
    assert len(clerk.requests) <= 2


@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
async def test_changing_bytes_anywhere_is_refused(clerk: KeyServer, data: st.DataObject) -> None:
    token = clerk.token()
    at = data.draw(st.integers(0, len(token)))
    cut = data.draw(st.integers(0, 3))
    changed = token[:at] + data.draw(st.text(max_size=5)) + token[at + cut :]
    if changed != token:
        await refused(changed)
    assert len(clerk.requests) <= 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = [
    "sub",
    "sid",
    "exp",
    "iat",
    "nbf",
    "iss",
    "aud",
    "azp",
    "sts",
    "v",
    "o",
    "fea",
    "act",
    "org_id",
    "org_role",
]
DESCRIPTIONS = ["org_permissions", "public_metadata", "email", "name", "image_url", "jti", "fva"]


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.dictionaries(st.sampled_from(NAMES + DESCRIPTIONS), JSON, min_size=1, max_size=3),
    version=st.sampled_from([2, ...]),
)
async def test_claims_of_any_type_make_a_caller_or_a_refusal(
    clerk: KeyServer, changes: dict[str, Any], version: Any
) -> None:
    try:
        caller = await verify(clerk.token(**{"v": version} | changes))
    except NotSignedIn:
        return
    assert (caller.user_id, caller.session_id) == (USER, SESSION)
    assert time.time() - 5 < caller.expires_at <= caller.issued_at + 3600


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "cat", "cty", "crit", "x"]), JSON, min_size=1
    )
)
async def test_headers_of_any_type_make_a_caller_or_a_refusal(
    clerk: KeyServer, changes: dict[str, Any]
) -> None:
    try:
        assert (await verify(clerk.token(head=changes))).user_id == USER
    except NotSignedIn:
        assert len(clerk.requests) <= 2


async def test_issuers_that_share_a_key_name_do_not_share_keys() -> None:
    async with key_server() as one, key_server() as two:
        two.keys = [jwk(OTHER_KEY)]
        clerk_auth.configure(configured(clerk_issuer=one.issuer))
        first = clerk_auth._verifiers[one.issuer]
        clerk_auth.configure(configured(clerk_issuer=two.issuer))
        clerk_auth._verifiers[one.issuer] = first
        assert (await verify(one.token(KEY))).user_id == USER
        assert (await verify(two.token(OTHER_KEY))).user_id == USER
        await refused(one.token(OTHER_KEY))
        await refused(two.token(KEY))
        await clerk_auth.close()


# Other algorithms -----------------------------------------------------------------------------


class FixedKeys:
    def __init__(self, *jwks: dict[str, Any]) -> None:
        self.keys = clerk_auth.usable_keys({"keys": list(jwks)})

    async def find(self, kid: str | None) -> Any:
        return self.keys[kid or ""]


@pytest.fixture
def elliptic() -> Iterator[tuple[ec.EllipticCurvePrivateKey, str]]:
    """A second issuer, whose key is an ES256 one."""
    key, issuer = ec.generate_private_key(ec.SECP256R1()), "https://elliptic.example.com"
    keys = FixedKeys(jwk(key))
    pattern = clerk_auth._CLERK_SUBJECT, clerk_auth._CLERK_SESSION
    clerk_auth._verifiers[issuer] = Verifier(issuer, keys, frozenset({"ES256"}), *pattern, name="ec")
    yield key, issuer
    del clerk_auth._verifiers[issuer]


async def test_a_token_that_names_another_algorithm_than_its_key_is_refused() -> None:
    key, issuer = ec.generate_private_key(ec.SECP256R1()), "https://elliptic.example.com"
    both, pattern = frozenset({"RS256", "ES256"}), clerk_auth._CLERK_SUBJECT
    verifier = Verifier(issuer, FixedKeys(jwk(key)), both, pattern, clerk_auth._CLERK_SESSION)
    true, false = (sign(header(alg=alg), claims(issuer), key) for alg in ("ES256", "RS256"))
    assert (await verifier.verify(clerk_auth.read_token(true), claims(issuer))).user_id == USER
    with pytest.raises(NotSignedIn):
        await verifier.verify(clerk_auth.read_token(false), claims(issuer))


def with_signature(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{base64url(signature)}"


def signature_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")


async def test_another_issuers_users_carry_its_name(elliptic: tuple[ec.EllipticCurvePrivateKey, str]) -> None:
    key, issuer = elliptic
    caller = await verify(sign(header(alg="ES256"), claims(issuer), key))
    assert caller.user_id == f"ec|{USER}"


@pytest.mark.parametrize(
    "signature",
    [
        bytes(64),
        b"",
        P256_ORDER.to_bytes(32, "big") * 2,
        bytes(31) + b"\1" + P256_ORDER.to_bytes(32, "big"),
        bytes(63),
        bytes.fromhex("3006020101020101") + bytes(56),
        bytes(128),
    ],
    ids=["zeros", "empty", "n n", "1 n", "63 bytes", "DER", "too long"],
)
async def test_impossible_es256_signatures_are_refused(
    elliptic: tuple[ec.EllipticCurvePrivateKey, str], signature: bytes
) -> None:
    key, issuer = elliptic
    await refused(with_signature(sign(header(alg="ES256"), claims(issuer), key), signature))


async def test_a_mirrored_es256_signature_does_not_escape_revocation(
    elliptic: tuple[ec.EllipticCurvePrivateKey, str],
) -> None:
    key, issuer = elliptic
    token = sign(header(alg="ES256"), claims(issuer), key)
    signature = signature_of(token)
    mirrored_s = P256_ORDER - int.from_bytes(signature[32:], "big")
    mirrored = with_signature(token, signature[:32] + mirrored_s.to_bytes(32, "big"))
    assert (await verify(mirrored)).user_id == (await verify(token)).user_id
    clerk_auth.on_revoked(SESSION.encode())
    await refused(token)
    await refused(mirrored)
    clerk_auth._revoked.clear()


# Cached and revoked ---------------------------------------------------------------------------


async def test_a_verified_token_is_good_until_it_expires_and_not_longer(clerk: KeyServer) -> None:
    await verify(clerk.token())
    [(caller, believed_until)] = clerk_auth._verified.values()
    assert believed_until == caller.expires_at + clerk_auth.CLOCK_SKEW
    now = int(time.time())
    token = clerk.token(iat=now - 60, nbf=now - 60, exp=now - 10)
    digest = hashlib.sha256(token.encode()).digest()
    clerk_auth._verified[digest] = caller, now + 60
    await verify(token)
    clerk_auth._verified[digest] = caller, now
    await refused(token)
    assert digest not in clerk_auth._verified


async def test_verified_tokens_are_remembered_up_to_a_number(
    clerk: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clerk_auth, "CACHED_TOKENS", 3)
    for number in range(5):
        await verify(clerk.token(jti=str(number)))
    assert len(clerk_auth._verified) == 3


async def test_a_revoked_session_is_refused_at_once_and_others_are_not(clerk: KeyServer) -> None:
    token, other = clerk.token(), clerk.token(sid="sess_other")
    await verify(token)
    clerk_auth.on_revoked(SESSION.encode())
    await refused(token)
    await refused(clerk.token(iat=int(time.time()) + 2))
    assert (await verify(other)).session_id == "sess_other"


async def test_a_revoked_user_needs_a_token_issued_later(clerk: KeyServer) -> None:
    await verify(clerk.token())
    now = int(time.time())
    token, later = clerk.token(iat=now), clerk.token(iat=now + 4)
    other = clerk.token(sub="user_other")
    await verify(token)
    clerk_auth.on_revoked(f"user:{USER}".encode())
    await refused(token)
    await refused(clerk.token(iat=now - 5, sid="sess_other"))
    assert (await verify(later)).user_id == USER
    assert (await verify(other)).user_id == "user_other"


async def test_revocations_are_forgotten_when_no_token_can_be_left(clerk: KeyServer) -> None:
    clerk_auth.on_revoked(b"sess_long_ago")
    clerk_auth._revoked["sess_long_ago"] -= 3600 + 11
    clerk_auth.on_revoked(SESSION.encode())
    assert list(clerk_auth._revoked) == [SESSION]


# Keys that are published ----------------------------------------------------------------------


WEAK_KEY = rsa.generate_private_key(65537, 1024)
CUBE_KEY = rsa.generate_private_key(3, 2048)


@pytest.mark.parametrize(
    ("key", "published"),
    [
        (WEAK_KEY, [jwk(WEAK_KEY, "k")]),
        (CUBE_KEY, [jwk(CUBE_KEY, "k")]),
        (KEY, [jwk(kid="k", use="enc")]),
        (KEY, [jwk(kid="k", use=1)]),
        (KEY, [jwk(kid="k", key_ops=["encrypt"])]),
        (KEY, [jwk(kid="k", key_ops=5)]),
        (KEY, [jwk(kid="k", alg="RS512")]),
        (KEY, [jwk(kid="k", alg="HS256")]),
        (KEY, [jwk(kid="k", alg=["RS256"])]),
        (KEY, [jwk(kid="k", kty="oct")]),
        (KEY, [jwk(kid="k", kty=["RSA"])]),
        (KEY, [jwk(kid="k", d="AQAB")]),
        (KEY, [jwk(kid="k", n="!")]),
        (KEY, [jwk(kid="k", n=5)]),
        (KEY, [jwk(kid="k", e="AQ")]),
        (KEY, [jwk(kid="k"), jwk(kid="k")]),
        (KEY, [jwk(kid="k"), jwk(OTHER_KEY, kid="k")]),
        (KEY, [jwk(kid=["k"])]),
        (KEY, [{name: it for name, it in jwk().items() if name != "kid"}]),
        (b"secret", [{"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"}]),
    ],
    ids=range(20),
)
async def test_unfit_keys_are_not_used_and_harm_no_others(
    clerk: KeyServer, key: Any, published: list[dict[str, Any]]
) -> None:
    clerk.keys += published
    await refused(clerk.token(key, head={"kid": "k", "alg": "HS256" if isinstance(key, bytes) else "RS256"}))
    assert (await verify(clerk.token())).user_id == USER


async def test_clerks_tokens_have_one_algorithm_whatever_is_published(clerk: KeyServer) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    clerk.keys.append(jwk(key, "k"))
    await refused(clerk.token(key, head={"kid": "k", "alg": "ES256"}))


async def test_a_published_private_key_raises_the_alarm(clerk: KeyServer) -> None:
    clerk.keys.append(jwk(OTHER_KEY, "leaked", d="AQAB"))
    with structlog.testing.capture_logs() as logs:
        await verify(clerk.token())
    assert {"event": "jwks_publishes_private_key", "log_level": "error"} in logs


async def test_a_new_key_is_found_at_once_and_the_withdrawn_one_is_gone(clerk: KeyServer) -> None:
    await verify(clerk.token())
    clerk.keys = [jwk(OTHER_KEY, "ins_next")]
    assert (await verify(clerk.token(OTHER_KEY, head={"kid": "ins_next"}))).user_id == USER
    await refused(clerk.token(jti="another"))
    assert len(clerk.requests) == 2


async def test_a_key_replaced_under_its_name_is_found_when_the_set_is_due(clerk: KeyServer) -> None:
    await verify(clerk.token())
    clerk.keys = [jwk(OTHER_KEY)]
    for _ in range(10):
        await refused(clerk.token(OTHER_KEY))
    assert len(clerk.requests) == 1
    age(clerk, 301)
    assert (await verify(clerk.token(OTHER_KEY))).user_id == USER
    await refused(clerk.token(jti="old"))


async def test_a_withdrawn_key_may_come_back(clerk: KeyServer) -> None:
    clerk.keys = [jwk(OTHER_KEY, "ins_next")]
    await refused(clerk.token())
    clerk.keys = [jwk()]
    age(clerk, 301)
    assert (await verify(clerk.token())).user_id == USER


async def test_fresh_keys_are_not_fetched_again_and_old_ones_in_the_background(clerk: KeyServer) -> None:
    await verify(clerk.token())
    age(clerk, 200)
    await verify(clerk.token(jti="1"))
    assert len(clerk.requests) == 1
    clerk.answer = hang
    age(clerk, 50)
    await verify(clerk.token(jti="2"))
    assert loading(key_set(clerk))
    await until(lambda: len(clerk.requests) == 2)


async def test_everyone_waits_for_one_fetch_and_who_leaves_spoils_nothing(clerk: KeyServer) -> None:
    release = asyncio.Event()

    async def slow(server: KeyServer, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await good(server, writer)

    clerk.answer = slow
    waiting = [asyncio.create_task(verify(clerk.token(jti=str(number)))) for number in range(50)]
    await until(lambda: len(clerk.requests) == 1)
    waiting.pop(0).cancel()
    await asyncio.sleep(0)
    release.set()
    assert {caller.user_id for caller in await asyncio.gather(*waiting)} == {USER}
    assert len(clerk.requests) == 1


async def test_a_set_fetched_for_a_token_is_not_fetched_again_for_its_unknown_key(clerk: KeyServer) -> None:
    await refused(clerk.token(head={"kid": "ins_unknown"}))
    assert len(clerk.requests) == 1


async def test_unknown_keys_cause_one_fetch_in_half_a_minute(clerk: KeyServer) -> None:
    await verify(clerk.token())
    for number in range(200):
        await refused(clerk.token(head={"kid": f"ins_{number}"}))
    assert len(clerk.requests) == 2
    age(clerk, 31)
    await refused(clerk.token(head={"kid": "ins_0"}))
    assert len(clerk.requests) == 2, "a name the issuer did not know is not asked for again"
    await refused(clerk.token(head={"kid": "ins_new"}))
    assert len(clerk.requests) == 3


async def test_unknown_keys_cause_one_fetch_in_half_a_minute_when_it_fails_too(clerk: KeyServer) -> None:
    await verify(clerk.token())
    clerk.answer = status("500 Internal Server Error")
    for number in range(50):
        await refused(clerk.token(head={"kid": f"ins_{number}"}))
    assert len(clerk.requests) == 2
    age(clerk, 31)
    await refused(clerk.token(head={"kid": "ins_again"}))
    assert len(clerk.requests) == 3


async def test_names_of_unknown_keys_are_remembered_up_to_a_number(clerk: KeyServer) -> None:
    await verify(clerk.token())
    for number in range(300):
        key_set(clerk)._asked_at -= 31
        await refused(clerk.token(head={"kid": f"ins_{number}"}))
    assert len(key_set(clerk)._absent) == 256


# Key servers that misbehave -------------------------------------------------------------------


def status(line: str, *headers: str, body: bytes = b"{}") -> Answer:
    async def answer(_: KeyServer, writer: asyncio.StreamWriter) -> None:
        respond(writer, body, line, *headers)

    return answer


def content(body: bytes, *headers: str) -> Answer:
    return status("200 OK", *headers, body=body)


async def hang(_: KeyServer, writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


async def truncated(server: KeyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + json.dumps({"keys": server.keys}).encode()
    )


async def dripping(_: KeyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless(_: KeyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await writer.drain()


async def gibberish(_: KeyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")


async def unanswered(_: KeyServer, writer: asyncio.StreamWriter) -> None:
    writer.close()


def published(keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


BAD_ANSWERS: dict[str, Answer] = {
    "HTML": content(b"<html>Please sign in</html>", "Content-Type: text/html"),
    "500": status("500 Internal Server Error"),
    "401": status("401 Unauthorized"),
    "404": status("404 Not Found", body=published([jwk()])),
    "204": status("204 No Content"),
    "203": status("203 Non-Authoritative Information", body=published([jwk()])),
    "nothing": content(b""),
    "null": content(b"null"),
    "a list": content(b"[]"),
    "an empty object": content(b"{}"),
    "no keys": content(published([])),
    "keys of null": content(published(None)),
    "a key that is no object": content(published([jwk(), 1])),
    "seventeen keys": content(published([jwk(kid=f"k{number}") for number in range(17)])),
    "a thousand keys": content(published([jwk(kid=f"k{number}") for number in range(1000)])),
    "only a nameless key": content(published([{k: v for k, v in jwk().items() if k != "kid"}])),
    "only a double key": content(published([jwk(), jwk()])),
    "only a secret": content(published([{"kty": "oct", "k": "c2VjcmV0", "kid": KID, "alg": "HS256"}])),
    "half a megabyte": content(published([jwk(padding="x" * 500_000)])),
    "thirty megabytes": content(b" " * 30_000_000),
    "bad UTF-8": content(b'{"keys": "\xff"}'),
    "UTF-16": content(json.dumps({"keys": [jwk()]}).encode("utf-16")),
    "NaN": content(b'{"keys": [NaN]}'),
    "double name": content(b'{"keys": [], ' + published([jwk()])[1:]),
    "deep nesting": content(b"[" * 100_000),
    "unasked-for gzip": content(gzip.compress(published([jwk()])), "Content-Encoding: gzip"),
    "truncated": truncated,
    "endless": endless,
    "gibberish": gibberish,
    "unanswered": unanswered,
    "dripping": dripping,
    "hanging": hang,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=list(BAD_ANSWERS))
async def test_a_bad_answer_is_no_key_set_and_wipes_none(clerk: KeyServer, answer: Answer) -> None:
    clerk.answer = answer
    with pytest.raises(KeysUnavailable) as unavailable, impatient():
        await verify(clerk.token())
    assert 1 <= unavailable.value.retry_after <= 32
    with pytest.raises(KeysUnavailable):
        await verify(clerk.token())
    assert len(clerk.requests) == 1, "a failure is not repeated at once"

    clerk.answer = good
    age(clerk, 32)
    assert (await verify(clerk.token(jti="1"))).user_id == USER

    clerk.answer = answer
    age(clerk, 301)
    with impatient():
        assert (await verify(clerk.token(jti="2"))).user_id == USER
    assert len(clerk.requests) == 3
    await refused(clerk.token(OTHER_KEY))


async def test_an_issuer_has_three_seconds_to_say_something_and_five_to_say_all(
    clerk: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One limit without the other ends each wait too."""
    assert (jwks.READ_SECONDS, jwks.LOAD_SECONDS) == (3, 5)
    for limit, answer in (("READ_SECONDS", hang), ("LOAD_SECONDS", dripping)):
        clerk.answer = answer
        with monkeypatch.context() as patch, pytest.raises(KeysUnavailable):
            patch.setattr(jwks, "READ_SECONDS", 60)
            patch.setattr(jwks, "LOAD_SECONDS", 60)
            patch.setattr(jwks, limit, 0.3)
            async with asyncio.timeout(10):
                await verify(clerk.token())
        age(clerk, 32)


async def test_keys_serve_for_an_hour_without_their_issuer_and_not_longer(clerk: KeyServer) -> None:
    await verify(clerk.token())
    clerk.answer = status("500 Internal Server Error")
    age(clerk, 3500)
    assert (await verify(clerk.token(jti="1"))).user_id == USER
    age(clerk, 101)
    with pytest.raises(KeysUnavailable):
        await verify(clerk.token(jti="2"))
    clerk.answer = good
    age(clerk, 32)
    assert (await verify(clerk.token(jti="3"))).user_id == USER


async def test_nobody_waits_for_an_issuer_that_failed_while_its_keys_serve(clerk: KeyServer) -> None:
    await verify(clerk.token())
    clerk.answer = status("500 Internal Server Error")
    age(clerk, 301)
    await verify(clerk.token(jti="1"))
    clerk.answer = hang
    age(clerk, 32)
    await verify(clerk.token(jti="2"))
    assert loading(key_set(clerk))
    await until(lambda: len(clerk.requests) == 3)


async def test_redirects_are_not_followed(clerk: KeyServer) -> None:
    async with key_server() as elsewhere:
        for target in (f"{elsewhere.issuer}/.well-known/jwks.json", "file:///etc/passwd", "/again"):
            clerk.answer = status("302 Found", f"Location: {target}")
            with pytest.raises(KeysUnavailable):
                await verify(clerk.token())
            age(clerk, 40)
        assert elsewhere.requests == []
        assert len(clerk.requests) == 3


@pytest.mark.parametrize(
    "keys",
    [
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"}, jwk()],
        [{"kty": "unheard of"}, {}, jwk()],
        [jwk(alg=None, use=None)],
        [jwk(x5c=["MIIB"], new_member=1)],
        [jwk(), *(jwk(OTHER_KEY, f"k{number}") for number in range(15))],
    ],
    ids=range(5),
)
async def test_sets_with_one_usable_key_are_used(clerk: KeyServer, keys: list[dict[str, Any]]) -> None:
    clerk.answer = content(published(keys), "Content-Type: application/octet-stream")
    assert (await verify(clerk.token())).user_id == USER


@pytest.mark.parametrize(
    "address",
    ["https://{host}", "https://issuer.invalid", "http://127.0.0.1:1"],
    ids=["TLS failure", "DNS failure", "connection refused"],
)
async def test_an_unreachable_issuer_is_unavailable(address: str) -> None:
    async with key_server() as server:
        issuer = address.format(host=server.issuer.removeprefix("http://"))
        clerk_auth.configure(configured(clerk_issuer=issuer))
        await clerk_auth.open()
        with pytest.raises(KeysUnavailable):
            await verify(sign(header(), claims(issuer)))
        await refused(sign(header(), claims("https://nobody.example.com")))
        await clerk_auth.close()


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with key_server() as server, key_server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.issuer)
        monkeypatch.setenv("ALL_PROXY", proxy.issuer)
        clerk_auth.configure(configured(clerk_issuer=server.issuer))
        await verify(server.token())
        assert proxy.requests == []
        await clerk_auth.close()


async def test_opening_loads_the_keys_without_waiting_and_closing_stops_that(clerk: KeyServer) -> None:
    clerk.answer = hang
    keys = key_set(clerk)
    await clerk_auth.open()
    assert loading(keys)
    await until(lambda: len(clerk.requests) == 1)
    await clerk_auth.close()
    assert not loading(keys)
    assert keys._failures == 0


# Settings -------------------------------------------------------------------------------------


def publishable(host: str, prefix: str = "pk_test_") -> str:
    return prefix + base64.b64encode(f"{host}$".encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("key", "issuer"),
    [
        (publishable("happy-cat-1.clerk.accounts.dev"), "https://happy-cat-1.clerk.accounts.dev"),
        (publishable("clerk.example.com", "pk_live_"), "https://clerk.example.com"),
        (publishable("clerk.example.co") + "==", "https://clerk.example.co"),
    ],
)
def test_the_publishable_key_names_the_issuer(key: str, issuer: str) -> None:
    assert clerk_auth.clerk_issuer(configured(clerk_publishable_key=key)) == issuer
    assert clerk_auth.clerk_issuer(configured(clerk_publishable_key=key, clerk_issuer=f"{issuer}/")) == issuer


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"clerk_publishable_key": "sk_test_abc"}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_publishable_key": "pk_test_"}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_publishable_key": "pk_test_A"}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_publishable_key": "pk_test_é"}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_publishable_key": publishable("a.example.com/b")}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_publishable_key": publishable("a@b.example.com")}, "CLERK_PUBLISHABLE_KEY"),
        (
            {"clerk_publishable_key": "pk_test_" + base64.b64encode(b"no.dollar").decode()},
            "CLERK_PUBLISHABLE_KEY",
        ),
        (
            {"clerk_publishable_key": publishable("a.example"), "clerk_issuer": "https://b.example"},
            "CLERK_ISSUER",
        ),
        ({"clerk_issuer": "http://clerk.example.com"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "clerk.example.com"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "https://"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "https://[::1"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "https://a@clerk.example.com"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "https://clerk.example.com?a=b"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "file:///etc/passwd"}, "CLERK_ISSUER"),
        ({"clerk_issuer": "https://a.example", "clerk_jwks_url": "file:///etc/passwd"}, "CLERK_JWKS_URL"),
        ({"clerk_issuer": "https://a.example", "clerk_jwks_url": "http://a.example/jwks"}, "CLERK_JWKS_URL"),
        ({"clerk_issuer": "https://a.example", "clerk_jwt_key": "junk"}, "CLERK_JWT_KEY"),
        ({"clerk_issuer": "https://a.example", "clerk_jwt_key": PEM.decode()[:200]}, "CLERK_JWT_KEY"),
        (
            {
                "clerk_issuer": "https://a.example",
                "clerk_jwt_key": WEAK_KEY.public_key()
                .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                .decode(),
            },
            "CLERK_JWT_KEY",
        ),
        (
            {
                "clerk_issuer": "https://a.example",
                "clerk_jwt_key": ed25519.Ed25519PrivateKey.generate()
                .public_key()
                .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                .decode(),
            },
            "CLERK_JWT_KEY",
        ),
        (
            {
                "clerk_issuer": "https://a.example",
                "clerk_jwt_key": PEM.decode(),
                "clerk_jwks_url": "https://a.example",
            },
            "not both",
        ),
        ({"clerk_jwt_key": PEM.decode()}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_jwks_url": "https://a.example/jwks"}, "CLERK_PUBLISHABLE_KEY"),
        ({"clerk_authorized_parties": "https://a.example"}, "CLERK_PUBLISHABLE_KEY"),
        (
            {"clerk_issuer": "https://a.example", "clerk_authorized_parties": "https://a.example/"},
            "CLERK_AUTHORIZED_PARTIES",
        ),
    ],
    ids=stable,
)
def test_contradicting_settings_stop_the_start_with_a_sentence(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(Misconfigured, match=name):
        clerk_auth.configure(configured(**changes))


@pytest.mark.parametrize(
    "pem",
    [
        PEM.decode(),
        PEM.decode().replace("\n", "\\n"),
        PEM.decode().replace("\n", ""),
        PEM.decode().replace("\n", " "),
        PEM.decode().replace("\n", "\r\n"),
    ],
    ids=["as it is", "escaped", "one line", "spaces", "CRLF"],
)
async def test_a_pem_key_needs_no_network(pem: str) -> None:
    async with key_server() as server:
        clerk_auth.configure(configured(clerk_issuer=server.issuer, clerk_jwt_key=pem))
        await clerk_auth.open()
        assert (await verify(server.token())).user_id == USER
        assert (await verify(server.token(head={"kid": ...}))).user_id == USER
        await refused(server.token(OTHER_KEY))
        await refused(sign(header(alg="HS256"), claims(server.issuer), PEM))
        assert server.requests == []
        await clerk_auth.close()


async def test_another_jwks_address_may_be_named() -> None:
    async with key_server() as server:
        issuer = "https://clerk.example.com"
        clerk_auth.configure(configured(clerk_issuer=issuer, clerk_jwks_url=f"{server.issuer}/keys"))
        assert (await verify(sign(header(), claims(issuer)))).user_id == USER
        assert server.requests[0].startswith(b"GET /keys ")
        await clerk_auth.close()


# Wycheproof -----------------------------------------------------------------------------------

# Valid there, refused here on purpose, as are HMAC keys and empty payloads: RFC 7520 keys whose `alg` is not the
# one of the signature, and characters outside base64url.
STRICTER = {346, 347, 350, 351, 372, 373}
# Invalid there for the ROCA weakness of a key that its issuer chose to publish.
ROCA = {("json_web_key_test", 7), ("json_web_crypto_test", 46)}


def vectors(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    document = json.loads((WYCHEPROOF / f"{name}.json").read_text())
    for group in document["testGroups"]:
        for vector in group["tests"]:
            yield group, vector


def accepts(keys: dict[str, Any], token: object) -> bool:
    if not isinstance(token, str):
        return False
    try:
        parsed = clerk_auth.read_token(token)
        found = clerk_auth.usable_keys(keys).get(parsed.header.get("kid", "only"))
        if found is None:
            return False
        clerk_auth.check_signature(parsed, found)
    except NotSignedIn:
        return False
    return True


@pytest.mark.parametrize("name", ["json_web_signature_test", "json_web_key_test", "json_web_crypto_test"])
def test_wycheproof_tokens_are_judged_as_wycheproof_does(name: str) -> None:
    judged = 0
    for group, vector in vectors(name):
        keys = group.get("public", group["private"])
        keys = keys if "keys" in keys else {"keys": [{"kid": "only"} | keys]}
        symmetric = "oct" in [key.get("kty") for key in keys["keys"]]
        valid = (
            vector["result"] == "valid" and "jws" in vector and not symmetric and ".." not in vector["jws"]
        )
        if name == "json_web_signature_test" and vector["tcId"] in STRICTER:
            valid = False
        if (name, vector["tcId"]) not in ROCA:
            assert accepts(keys, vector.get("jws", vector.get("jwe"))) is valid, (name, vector["tcId"])
            judged += 1
    assert (
        judged == {"json_web_signature_test": 401, "json_web_key_test": 25, "json_web_crypto_test": 82}[name]
    )


def expected(vector: dict[str, Any]) -> bool:
    """A public exponent of 3 and what is merely acceptable are refused."""
    return bool(vector["result"] == "valid" and "SmallPublicKey" not in vector["flags"])


JWK_OF = {"ES256": ECAlgorithm.to_jwk, "EdDSA": OKPAlgorithm.to_jwk, "RS256": RSAAlgorithm.to_jwk}


def verifies(pem: str, algorithm: str, vector: dict[str, Any]) -> bool:
    key: dict[str, Any] = JWK_OF[algorithm](load_pem_public_key(pem.encode()), as_dict=True)  # type: ignore[operator]
    found = clerk_auth.usable_keys({"keys": [key | {"kid": "only", "alg": algorithm}]}).get("only")
    signed, signature = bytes.fromhex(vector["msg"]), bytes.fromhex(vector["sig"])
    if found is None:
        return False
    try:
        clerk_auth.check_signature(clerk_auth.SignedToken({"alg": algorithm}, b"", signed, signature), found)
    except NotSignedIn:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "algorithm", "count"),
    [
        ("ecdsa_secp256r1_sha256_p1363_test", "ES256", 262),
        ("ed25519_test", "EdDSA", 151),
        ("rsa_signature_2048_sha256_test", "RS256", 259),
    ],
)
def test_wycheproof_signatures_are_judged_as_wycheproof_does(name: str, algorithm: str, count: int) -> None:
    judged = [
        (vector["tcId"], verifies(group["publicKeyPem"], algorithm, vector), expected(vector))
        for group, vector in vectors(name)
    ]
    assert [tc_id for tc_id, verified, valid in judged if verified != valid] == []
    assert len(judged) == count
