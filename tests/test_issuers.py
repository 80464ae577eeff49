"""Supabase and OpenID providers beside Clerk: what their tokens say, what attackers' do, and lying discovery."""

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

import clerk_auth
import jwks
from clerk_auth import Caller, KeySet, KeysUnavailable, Misconfigured, verify
from settings import Settings
from tests import make
from tests.clerk import (
    KEY,
    KID,
    OTHER_KEY,
    USER,
    Answer,
    KeyServer,
    age,
    configured,
    impatient,
    jwk,
    key_server,
    refused,
    respond,
    sign,
    values,
)
from tests.clerk import claims as clerk_claims
from tests.conftest import Backend, free_port
from tests.names import stable

Make = Callable[["World"], str]

CURVE = ec.generate_private_key(ec.SECP256R1())
LARGER_CURVE = ec.generate_private_key(ec.SECP384R1())
LARGEST_CURVE = ec.generate_private_key(ec.SECP521R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
PERSON = "4f1c2a7e-0b6d-4c3a-9f5e-6d7c8b9a0f1e"
SITTING = "0d9c8b7a-6f5e-4d3c-8b2a-190817263544"
AUDIENCE = "https://api.example.com"


def encoded(made: dict[str, Any], head: dict[str, Any], key: Any) -> str:
    """A signature by PyJWT, which knows every algorithm."""
    extra = {name: it for name, it in head.items() if name != "alg"}
    return jwt.encode(made, key, head["alg"], extra)


def changed(made: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: it for name, it in (made | changes).items() if it is not ...}


# A Supabase project and an OpenID provider ----------------------------------------------------


def path_of(server: KeyServer) -> str:
    return server.requests[-1].split(b" ")[1].decode()


def provider(**document: Any) -> Answer:
    """Answers with a discovery document at its place and with the keys at `/keys`."""

    async def answer(server: KeyServer, writer: asyncio.StreamWriter) -> None:
        if path_of(server).endswith("/.well-known/openid-configuration"):
            issuer = f"{server.issuer}{path_of(server).removesuffix('.well-known/openid-configuration')}"
            told = {"issuer": issuer, "jwks_uri": f"{server.issuer}/keys?set=1"} | document
            respond(writer, json.dumps({name: it for name, it in told.items() if it is not ...}).encode())
        else:
            respond(writer, json.dumps({"keys": server.keys}).encode())

    return answer


@dataclass
class World:
    """Three issuers that are all accepted, whose keys all have the same name."""

    clerk: KeyServer
    supabase: KeyServer
    corp: KeyServer

    @property
    def servers(self) -> list[KeyServer]:
        return [self.clerk, self.supabase, self.corp]

    def person(self, key: Any = CURVE, /, *, head: Any = None, **changes: Any) -> str:
        """A Supabase access token; `changes` override claims, `...` removes them."""
        now = int(time.time())
        made = {
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "aud": "authenticated",
            "email": "ada@example.com",
            "exp": now + 3600,
            "iat": now,
            "is_anonymous": False,
            "iss": f"{self.supabase.issuer}/auth/v1",
            "phone": "",
            "role": "authenticated",
            "session_id": SITTING,
            "sub": PERSON,
            "user_metadata": {},
        }
        return sign(
            changed({"alg": "ES256", "kid": KID, "typ": "JWT"}, head or {}), changed(made, changes), key
        )

    def access(self, key: Any = KEY, /, *, head: Any = None, **changes: Any) -> str:
        """An access token of the OpenID provider."""
        now = int(time.time())
        made = {
            "aud": AUDIENCE,
            "client_id": "web",
            "exp": now + 3600,
            "iat": now,
            "iss": f"{self.corp.issuer}/",
            "jti": str(uuid4()),
            "scope": "openid profile",
            "sub": "auth0|5f7c8ec7",
        }
        return sign(
            changed({"alg": "RS256", "kid": KID, "typ": "at+jwt"}, head or {}), changed(made, changes), key
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with key_server() as clerk, key_server() as supabase, key_server() as corp:
        supabase.keys = [jwk(CURVE)]
        corp.answer = provider()
        clerk_auth.configure(side_by_side(clerk, supabase, corp))
        yield World(clerk, supabase, corp)
        await clerk_auth.close()


def side_by_side(clerk: KeyServer, supabase: KeyServer, corp: KeyServer, **changes: Any) -> Settings:
    named = {
        "clerk_issuer": clerk.issuer,
        "supabase_url": supabase.issuer,
        "oidc_issuers": f"corp={corp.issuer}/;{AUDIENCE}",
    }
    return configured(**named | changes)


# Supabase -------------------------------------------------------------------------------------


async def test_a_supabase_token_speaks_for_its_user(world: World) -> None:
    before = int(time.time())
    caller = await verify(world.person())
    assert before <= caller.issued_at <= time.time()
    assert caller == Caller(
        f"supabase|{PERSON}", SITTING, caller.issued_at, caller.issued_at + 3600, email="ada@example.com"
    )
    assert [path_of(server) for server in world.servers if server.requests] == [
        "/auth/v1/.well-known/jwks.json"
    ]


@pytest.mark.parametrize(("key", "alg"), [(CURVE, "ES256"), (KEY, "RS256"), (EDWARDS, "EdDSA")])
async def test_a_supabase_project_signs_in_one_of_three_ways(world: World, key: Any, alg: str) -> None:
    world.supabase.keys = [jwk(key, key_ops=["verify"])]
    assert (await verify(world.person(key, head={"alg": alg}))).user_id == f"supabase|{PERSON}"


@pytest.mark.parametrize(("key", "alg"), [(LARGER_CURVE, "ES384"), (KEY, "PS256"), (KEY, "RS512")])
async def test_a_supabase_project_signs_in_no_other_way(world: World, key: Any, alg: str) -> None:
    world.supabase.keys = [jwk(key, alg=alg)]
    told = jwt.decode(world.person(), options={"verify_signature": False})
    await refused(encoded(told, {"alg": alg, "kid": KID}, key))
    assert len(world.supabase.requests) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", "authenticated"]},
        {"is_anonymous": ...},
        {"email": ""},
        {"app_metadata": ..., "user_metadata": ...},
        {"exp": time.time() + 3000.75, "iat": time.time() - 0.25},
        {"iat": int(time.time()), "exp": int(time.time()) + 86400},
        {"nbf": int(time.time()), "jti": "x"},
        {"client_id": ""},
    ],
    ids=stable,
)
async def test_what_supabase_may_add_or_leave_out_is_accepted(world: World, changes: dict[str, Any]) -> None:
    assert (await verify(world.person(**changes))).user_id == f"supabase|{PERSON}"


async def test_an_instant_with_a_fraction_is_rounded_down(world: World) -> None:
    now = int(time.time())
    caller = await verify(world.person(iat=now - 10 + 0.9, exp=now + 50.9))
    assert (caller.issued_at, caller.expires_at) == (now - 10, now + 50)


async def test_supabases_server_side_metadata_makes_an_administrator_and_a_users_own_does_not(
    world: World,
) -> None:
    told = {
        "role": "admin",
        "email_verified": True,
        "full_name": "Ada",
        "avatar_url": "https://a.example/a.png",
    }
    caller = await verify(world.person(user_metadata=told))
    assert (caller.role, caller.verified_email) == ("user", None)
    assert (caller.name, caller.image_url) == ("Ada", "https://a.example/a.png")
    caller = await verify(world.person(app_metadata={"role": "admin"}))
    assert (caller.role, caller.verified_email) == ("admin", None)


async def test_anonymous_supabase_users_come_in_where_a_setting_says_so(world: World) -> None:
    await refused(world.person(is_anonymous=True))
    clerk_auth.configure(side_by_side(*world.servers, supabase_allow_anonymous=True))
    assert (await verify(world.person(is_anonymous=True, email=""))).user_id == f"supabase|{PERSON}"
    await refused(world.person(role="anon"))


def person(key: Any = CURVE, /, **changes: Any) -> Make:
    return lambda world: world.person(key, **changes)


def anon_key(role: str) -> dict[str, Any]:
    """What legacy API keys of a project carry."""
    return {"iss": "supabase", "ref": "abcd", "role": role, "iat": 1700000000, "exp": 2015360000}


def raised(token: str, old: bytes, new: bytes, key: Any) -> str:
    """The token with exactly these bytes in its claims, signed again."""
    header, payload = (base64.urlsafe_b64decode(f"{part}==") for part in token.split(".")[:2])
    assert old in payload
    return sign(header, payload.replace(old, new), key)


SUPABASE_ATTACKS: dict[str, Make] = {
    "the anon key": lambda _: sign({"alg": "HS256", "typ": "JWT"}, anon_key("anon"), b"s" * 32),
    "the service_role key": lambda _: sign(
        {"alg": "HS256", "typ": "JWT"}, anon_key("service_role"), b"s" * 32
    ),
    "the anon key under the issuer": lambda w: sign(
        {"alg": "ES256", "kid": KID}, anon_key("anon") | {"iss": f"{w.supabase.issuer}/auth/v1"}, CURVE
    ),
    "a publishable key": lambda _: "sb_publishable_0123456789",
    **{
        f"role {role!r}": person(role=role)
        for role in values(
            ..., None, "", "anon", "service_role", "admin", "AUTHENTICATED", ["authenticated"], {}
        )
    },
    **{
        f"aud {aud!r}": person(aud=aud)
        for aud in values(..., None, "", [], {}, 1, True, "other", ["authenticated", 1], "authenticated ")
    },
    **{
        f"sub {sub!r}": person(sub=sub)
        for sub in values(..., None, "", 1, [], USER, PERSON.upper(), f"{PERSON}\n", f" {PERSON}", "local|x")
    },
    **{f"session {it!r}": person(session_id=it) for it in values(..., None, "", 1, [], "x", f"{SITTING}\n")},
    **{f"anonymous {it!r}": person(is_anonymous=it) for it in values(True, "true", "false", 1, 0, [], {})},
    **{f"metadata {it!r}": person(app_metadata=it) for it in values("admin", ["admin"], 1, True)},
    "an ID token": person(aud="client", nonce="n", auth_time=1, role=..., session_id=...),
    "an ID token for the same audience": person(nonce="n", auth_time=1, role=..., session_id=...),
    "a third party's token": person(client_id=str(uuid4()), scope="email"),
    "an access token's type": person(head={"typ": "at+jwt"}),
    **{
        f"iss {iss!r}": person(iss=iss)
        for iss in values(..., "", "supabase", None, ["x"], "https://x.supabase.co/auth/v1")
    },
    "iss without its path": lambda w: w.person(iss=w.supabase.issuer),
    "iss with a slash": lambda w: w.person(iss=f"{w.supabase.issuer}/auth/v1/"),
    "another key": person(ec.generate_private_key(ec.SECP256R1())),
    "another key and alg": person(KEY, head={"alg": "RS256"}),
    "another alg": person(head={"alg": "RS256"}),
    "HS256 over the key": person(json.dumps(jwk(CURVE)).encode(), head={"alg": "HS256"}),
    "HS256 over a coordinate": person(jwk(CURVE)["x"].encode(), head={"alg": "HS256"}),
    "none": person(head={"alg": "none"}),
    "no kid": person(head={"kid": ...}),
    "another kid": person(head={"kid": str(uuid4())}),
    "exp of a text": person(exp=str(int(time.time()) + 60)),
    "exp of true": person(exp=True),
    "exp missing": person(exp=...),
    "exp enormous": person(exp=1e300),
    "exp infinite": lambda w: w.person(exp=float("inf")),
    "exp beyond all numbers": lambda w: raised(w.person(exp=0), b'"exp": 0', b'"exp": 1e400', CURVE),
    "exp no number": lambda w: w.person(exp=float("nan")),
    "expired": person(iat=time.time() - 60.5, exp=time.time() - 6.5),
    "iat missing": person(iat=...),
    "iat negative": person(iat=-0.5),
    "from the future": lambda w: w.person(iat=time.time() + 60.5),
    "lives more than a day": person(iat=int(time.time()), exp=int(time.time()) + 86401),
}


@pytest.mark.parametrize("make_token", SUPABASE_ATTACKS.values(), ids=[ascii(it) for it in SUPABASE_ATTACKS])
async def test_refuses_at_supabase(world: World, make_token: Make) -> None:
    await verify(world.person())
    await refused(make_token(world))
    assert [len(server.requests) for server in (world.clerk, world.corp)] == [0, 0]


# OpenID providers -----------------------------------------------------------------------------


async def test_an_access_token_speaks_for_its_user(world: World) -> None:
    caller = await verify(world.access())
    assert caller == Caller("corp|auth0|5f7c8ec7", None, caller.issued_at, caller.issued_at + 3600)
    paths = [request.split(b" ")[1] for request in world.corp.requests]
    assert paths == [b"/.well-known/openid-configuration", b"/keys?set=1"]


ALGORITHMS = [
    *((KEY, f"{family}{bits}") for family in ("RS", "PS") for bits in (256, 384, 512)),
    *((CURVE, "ES256"), (LARGER_CURVE, "ES384"), (LARGEST_CURVE, "ES512"), (EDWARDS, "EdDSA")),
]


@pytest.mark.parametrize(("key", "alg"), ALGORITHMS, ids=[alg for _, alg in ALGORITHMS])
async def test_a_provider_signs_with_the_algorithm_of_its_key_and_no_other(
    world: World, key: Any, alg: str
) -> None:
    world.corp.keys = [jwk(key, alg=alg)]
    told = jwt.decode(world.access(), options={"verify_signature": False})
    assert (await verify(encoded(told, {"alg": alg, "kid": KID}, key))).user_id == "corp|auth0|5f7c8ec7"
    for other, another in ALGORITHMS:
        if other is key and another != alg:
            await refused(encoded(told, {"alg": another, "kid": KID}, key))


@pytest.mark.parametrize(
    "changes",
    [
        {"head": {"typ": "application/at+jwt"}},
        {"head": {"typ": "JWT"}},
        {"head": {"typ": ...}},
        {"aud": ["https://other.example.com", AUDIENCE]},
        {"iat": time.time() - 0.5, "exp": time.time() + 3400.5},
        {"token_use": "access"},
        {"typ": "Bearer"},
        {"jti": ..., "client_id": ..., "scope": ...},
        {"sts": "pending", "v": 7, "azp": "anyone"},
    ],
    ids=stable,
)
async def test_what_providers_add_or_leave_out_is_accepted(world: World, changes: dict[str, Any]) -> None:
    assert (await verify(world.access(**changes))).user_id == "corp|auth0|5f7c8ec7"


async def test_the_session_and_who_acts_are_known_where_the_provider_tells(world: World) -> None:
    caller = await verify(
        world.access(sid="s 1", act={"sub": "support"}, name="Ada", picture="https://a.example")
    )
    assert (caller.session_id, caller.impersonator) == ("corp|s 1", "support")
    assert (caller.name, caller.image_url) == ("Ada", "https://a.example")
    clerk_auth.on_revoked(b"s 1")
    assert (await verify(world.access(sid="s 1"))).session_id == "corp|s 1", "another issuer's session"
    clerk_auth.on_revoked(b"corp|s 1")
    await refused(world.access(sid="s 1"))


@pytest.mark.parametrize("sub", ["a", "local|1", USER, PERSON, "ünï çødé", "a b", "x" * 255, "💡"])
async def test_a_subject_is_any_printable_text(world: World, sub: str) -> None:
    assert (await verify(world.access(sub=sub))).user_id == f"corp|{sub}"


async def test_only_a_provider_that_says_so_vouches_for_an_address(world: World) -> None:
    caller = await verify(world.access(email="Ada@Example.com", email_verified=True))
    assert (caller.email, caller.verified_email) == ("Ada@Example.com", "ada@example.com")
    for email, word in [
        *(("ada@example.com", word) for word in (..., False, None, 1, "true", "1", [True])),
        *(
            (email, True)
            for email in (..., None, "", "ada", "a@b@c", "a\u212a@example.com", "a@éxample.com", 1)
        ),
        *((email, True) for email in (" ada@example.com", "ada@example.com\n", "x" * 300 + "@example.com")),
    ]:
        caller = await verify(world.access(email=email, email_verified=word))
        assert (caller.user_id, caller.verified_email) == ("corp|auth0|5f7c8ec7", None), (email, word)


async def test_clerks_custom_claims_vouch_for_no_address(world: World) -> None:
    caller = await verify(world.clerk.token(email="ada@example.com", email_verified=True))
    assert (caller.email, caller.verified_email) == ("ada@example.com", None)


def access(key: Any = KEY, /, **changes: Any) -> Make:
    return lambda world: world.access(key, **changes)


OIDC_ATTACKS: dict[str, Make] = {
    **{
        f"aud {aud!r}": access(aud=aud)
        for aud in values(
            ..., None, "", [], {}, 1, True, "web", [AUDIENCE, 1], f"{AUDIENCE}/", AUDIENCE.upper()
        )
    },
    **{
        f"sub {sub!r:.20}": access(sub=sub)
        for sub in values(
            ..., None, "", 1, [], {}, True, "x" * 256, "a\0", "a\n", "\x7f", "\x85", "\u2028", "\ud800"
        )
    },
    **{
        f"sid {sid!r:.20}": access(sid=sid) for sid in values(None, "", 1, [], {}, "x" * 256, "a\n", "\ud800")
    },
    **{f"act {act!r}": access(act=act) for act in values("x", 1, [], {}, {"sub": 1}, {"sub": ""})},
    **{
        f"typ {typ!r}": access(head={"typ": typ})
        for typ in values("jwt", "AT+JWT", "logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", 1, None, "", [])
    },
    "an ID token": access(head={"typ": "JWT"}, nonce="n", auth_time=1),
    "an ID token without a nonce": access(head={"typ": "JWT"}, at_hash="x"),
    "an ID token of the hybrid flow": access(head={"typ": "JWT"}, c_hash="x"),
    "an ID token for its client": access(head={"typ": "JWT"}, aud="web"),
    "an ID token of Cognito's": access(head={"typ": "JWT"}, token_use="id"),
    "an ID token of Keycloak's": access(head={"typ": "JWT"}, typ="ID"),
    "a refresh token of Keycloak's": access(head={"typ": "JWT"}, typ="Refresh"),
    "a logout token": access(
        head={"typ": "JWT"}, events={"http://schemas.openid.net/event/backchannel-logout": {}}
    ),
    "a token bound to a key": access(cnf={"jkt": "x"}),
    "iss without its slash": lambda w: w.access(iss=w.corp.issuer),
    "iss with two": lambda w: w.access(iss=f"{w.corp.issuer}//"),
    "iss of a neighbour": lambda w: w.access(iss=f"{w.corp.issuer}/tenant/"),
    "another key": access(OTHER_KEY),
    "HS256 over the key": access(json.dumps(jwk()).encode(), head={"alg": "HS256"}),
    "HS256 over the modulus": access(jwk()["n"].encode(), head={"alg": "HS256"}),
    "none": access(head={"alg": "none"}),
    "PS256 of a key of RS256": access(head={"alg": "PS256"}),
    "jku": lambda w: w.access(OTHER_KEY, head={"jku": f"{w.clerk.issuer}/keys"}),
    "jwk": access(OTHER_KEY, head={"jwk": jwk(OTHER_KEY)}),
    "no kid": access(head={"kid": ...}),
    "exp missing": access(exp=...),
    "iat missing": access(iat=...),
    "exp infinite": lambda w: w.access(exp=float("inf")),
    "nbf in the future": lambda w: w.access(nbf=time.time() + 60.5),
    "expired": access(iat=int(time.time()) - 60, exp=int(time.time()) - 6),
    "lives more than a day": access(iat=int(time.time()), exp=int(time.time()) + 86401),
}


@pytest.mark.parametrize("make_token", OIDC_ATTACKS.values(), ids=[ascii(it) for it in OIDC_ATTACKS])
async def test_refuses_at_a_provider(world: World, make_token: Make) -> None:
    await verify(world.access())
    await refused(make_token(world))
    assert [len(server.requests) for server in (world.clerk, world.supabase)] == [0, 0]


@pytest.mark.parametrize(
    "claim", [{"public_metadata": {"role": "admin"}}, {"role": "admin"}, {"roles": ["admin"]}]
)
async def test_nobody_is_an_administrator_by_a_providers_word(world: World, claim: dict[str, Any]) -> None:
    assert (await verify(world.access(**claim, app_metadata={"role": "admin"}))).role == "user"


# Side by side ---------------------------------------------------------------------------------

CROSSED: dict[str, Make] = {
    "clerk's claims with supabase's key": lambda w: w.clerk.token(CURVE, head={"alg": "ES256"}),
    "clerk's claims with the provider's key": lambda w: w.clerk.token(OTHER_KEY),
    "supabase's claims with clerk's key": lambda w: w.person(KEY, head={"alg": "RS256"}),
    "supabase's claims with the provider's key": lambda w: w.person(OTHER_KEY, head={"alg": "RS256"}),
    "the provider's claims with clerk's key": lambda w: w.access(KEY),
    "the provider's claims with supabase's key": lambda w: w.access(CURVE, head={"alg": "ES256"}),
    "clerk's iss on supabase's claims": lambda w: w.person(KEY, head={"alg": "RS256"}, iss=w.clerk.issuer),
    "clerk's iss on the provider's claims": lambda w: w.access(KEY, iss=w.clerk.issuer),
    "supabase's iss on clerk's claims": lambda w: w.clerk.token(
        CURVE, head={"alg": "ES256"}, iss=f"{w.supabase.issuer}/auth/v1"
    ),
    "the provider's iss on clerk's claims": lambda w: w.clerk.token(OTHER_KEY, iss=f"{w.corp.issuer}/"),
    "the provider's iss on supabase's claims": lambda w: w.person(
        OTHER_KEY, head={"alg": "RS256"}, iss=f"{w.corp.issuer}/"
    ),
    "an access token's type at clerk": lambda w: w.clerk.token(head={"typ": "at+jwt"}),
    "the embedded issuer": lambda w: sign(
        {"alg": "EdDSA", "kid": KID}, clerk_claims("http://127.0.0.1:8000", sub=PERSON, sid=SITTING), EDWARDS
    ),
    "nobody's iss": lambda w: w.access(iss="https://nobody.example.com"),
}


@pytest.mark.parametrize("make_token", CROSSED.values(), ids=list(CROSSED))
async def test_issuers_do_not_share_keys_or_rules(world: World, make_token: Make) -> None:
    world.corp.keys = [jwk(OTHER_KEY)]
    for token in (world.clerk.token(), world.person(), world.access(OTHER_KEY)):
        await verify(token)
    fetched = [len(server.requests) for server in world.servers]
    await refused(make_token(world))
    assert [len(server.requests) for server in world.servers] == fetched


async def test_the_same_subject_at_two_issuers_is_two_people(world: World) -> None:
    async with key_server() as lab:
        lab.answer = provider()
        issuers = f"corp={world.corp.issuer}/;{AUDIENCE}, lab={lab.issuer}/;{AUDIENCE}"
        clerk_auth.configure(side_by_side(*world.servers, oidc_issuers=issuers))
        callers = [
            await verify(token)
            for token in (
                world.clerk.token(),
                world.access(sub=USER),
                world.access(sub=USER, iss=f"{lab.issuer}/"),
                world.access(sub=PERSON),
                world.person(),
            )
        ]
        ids = [caller.user_id for caller in callers]
        assert ids == [USER, f"corp|{USER}", f"lab|{USER}", f"corp|{PERSON}", f"supabase|{PERSON}"]
        await clerk_auth.close()


async def test_a_withdrawn_key_is_found_out_before_its_long_tokens_end(world: World) -> None:
    token = world.access()
    await verify(token)
    world.corp.keys = [jwk(OTHER_KEY, "next")]
    age(world.corp, 301)
    await verify(token)
    assert len(world.corp.requests) == 2, "a token just verified is believed"
    [(digest, (caller, until))] = clerk_auth._verified.items()
    assert until == pytest.approx(time.time() + clerk_auth.VERIFIED_FRESH, abs=5)
    clerk_auth._verified[digest] = caller, time.time()
    await refused(token)
    assert not clerk_auth._verified


async def test_revocations_are_remembered_as_long_as_any_issuers_tokens_live(world: World) -> None:
    clerk_auth.on_revoked(b"an hour")
    clerk_auth.on_revoked(b"a day")
    clerk_auth._revoked["an hour"] -= 3600 + 11
    clerk_auth._revoked["a day"] -= 86400 + 11
    clerk_auth.on_revoked(b"now")
    assert list(clerk_auth._revoked) == ["an hour", "now"]


# Discovery ------------------------------------------------------------------------------------


async def redirects(server: KeyServer, writer: asyncio.StreamWriter) -> None:
    """To where the truth is."""
    if path_of(server).startswith("/moved"):
        await provider(issuer=f"{server.issuer}/")(server, writer)
    else:
        respond(writer, b"{}", "302 Found", f"Location: /moved{path_of(server)}")


async def keys_redirect(server: KeyServer, writer: asyncio.StreamWriter) -> None:
    await (redirects if "/keys" in path_of(server) else provider())(server, writer)


async def huge_keys(server: KeyServer, writer: asyncio.StreamWriter) -> None:
    if path_of(server).startswith("/keys"):
        respond(writer, json.dumps({"keys": server.keys, "pad": "x" * 300_000}).encode())
    else:
        await provider()(server, writer)


async def silent(_: KeyServer, writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


async def slow(server: KeyServer, writer: asyncio.StreamWriter) -> None:
    """Each answer in half a second, both together not."""
    await asyncio.sleep(0.3)
    await provider()(server, writer)


def answers(body: bytes, status: str = "200 OK") -> Answer:
    async def answer(_: KeyServer, writer: asyncio.StreamWriter) -> None:
        respond(writer, body, status)

    return answer


LIES: dict[str, Answer] = {
    **{
        f"issuer {issuer!r}": provider(issuer=issuer)
        for issuer in values(..., None, "", [], 1, "https://accounts.example.com/", "HTTP://127.0.0.1/")
    },
    **{
        f"jwks_uri {url!r:.40}": provider(jwks_uri=url)
        for url in values(
            *(
                ...,
                None,
                "",
                [],
                1,
                "keys",
                "/keys",
                "file:///etc/passwd",
                "http://192.0.2.1/keys",
                "ftp://a/keys",
            ),
            *("http://user:pw@127.0.0.1/keys", "http://127.0.0.1/keys#x", "http://127.0.0.1:99999/keys"),
            *(
                "http://127.0.0.1.example.com/",
                "http://localhost.example.com/",
                "https://\ud800/",
                "https:///keys",
            ),
        )
    },
    "a redirect": redirects,
    "a redirect of the keys": keys_redirect,
    "a huge document": provider(pad="x" * 300_000),
    "a huge set of keys": huge_keys,
    "404": answers(b"{}", "404 Not Found"),
    "a list": answers(b"[]"),
    "HTML": answers(b"<html>"),
    "two issuers": answers(b'{"issuer": "a", "issuer": "b"}'),
    "deep nesting": answers(b'{"a":' + b"[" * 100_000),
    "silence": silent,
}


@pytest.mark.parametrize("answer", LIES.values(), ids=[ascii(it) for it in LIES])
async def test_a_discovery_that_lies_is_no_key_set_and_wipes_none(world: World, answer: Answer) -> None:
    world.corp.answer = answer
    with pytest.raises(KeysUnavailable) as unavailable, impatient():
        await verify(world.access())
    assert 1 <= unavailable.value.retry_after <= 32
    assert len(world.corp.requests) <= 2
    assert not world.clerk.requests + world.supabase.requests
    world.corp.answer = provider()
    age(world.corp, 32)
    await verify(world.access())

    world.corp.answer = answer
    age(world.corp, 301)
    with impatient():
        await verify(world.access(jti="other"))
    await refused(world.access(OTHER_KEY))


async def test_both_answers_together_have_one_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "LOAD_SECONDS", 0.5)
    world.corp.answer = slow
    with pytest.raises(KeysUnavailable):
        await verify(world.access())
    assert len(world.corp.requests) == 2


async def test_a_discovery_with_another_slash_is_another_issuers(world: World) -> None:
    for issuer in (world.corp.issuer, f"{world.corp.issuer}//"):
        world.corp.answer = provider(issuer=issuer)
        with pytest.raises(KeysUnavailable):
            await verify(world.access())
        age(world.corp, 32)


async def test_keys_that_move_are_followed_when_they_are_due(world: World) -> None:
    async with key_server() as elsewhere:
        await verify(world.access())
        elsewhere.keys = [jwk(OTHER_KEY)]
        world.corp.answer = provider(jwks_uri=f"{elsewhere.issuer}/moved")
        age(world.corp, 301)
        await verify(world.access(OTHER_KEY))
        assert path_of(elsewhere) == "/moved"


async def test_a_distant_issuer_may_not_send_us_to_this_machine() -> None:
    async with key_server() as server:
        issuer = "https://accounts.example.com"
        server.answer = provider(issuer=issuer)
        keys = KeySet(f"{server.issuer}/.well-known/openid-configuration", issuer)
        with pytest.raises(KeysUnavailable):
            await keys.find(KID)
        assert len(server.requests) == 1
        await keys.close()


async def test_cookies_of_an_issuer_are_forgotten() -> None:
    async def set_one(server: KeyServer, writer: asyncio.StreamWriter) -> None:
        respond(writer, json.dumps({"keys": server.keys}).encode(), "200 OK", "Set-Cookie: who=us; Path=/")

    async with key_server() as server:
        server.answer = set_one
        keys = KeySet(f"{server.issuer}/keys")
        for _ in range(2):
            await keys.find(KID)
            keys._loaded_at = -math.inf
        assert len(server.requests) == 2
        assert b"cookie" not in server.requests[1].lower()
        await keys.close()


async def test_an_issuer_with_a_path_is_discovered_below_it(world: World) -> None:
    for path in ("/tenant/", "/tenant"):
        issuer = f"{world.corp.issuer}{path}"
        clerk_auth.configure(configured(oidc_issuers=f"corp={issuer};{AUDIENCE}"))
        world.corp.answer = provider(issuer=issuer)
        await verify(world.access(iss=issuer))
        paths = [request.split(b" ")[1] for request in world.corp.requests[-2:]]
        assert paths == [b"/tenant/.well-known/openid-configuration", b"/keys?set=1"]
        await clerk_auth.close()


async def test_a_named_key_set_needs_no_discovery(world: World) -> None:
    issuer = "https://accounts.example.com"
    entry = f"corp={issuer};other;{AUDIENCE};jwks={world.corp.issuer}/keys?set=2;client=web"
    clerk_auth.configure(configured(oidc_issuers=entry))
    await clerk_auth.open()
    for audience in (AUDIENCE, "other"):
        assert (await verify(world.access(iss=issuer, aud=audience))).user_id == "corp|auth0|5f7c8ec7"
    await refused(world.access(iss=issuer, aud="web"))
    assert [request.split(b" ")[1] for request in world.corp.requests] == [b"/keys?set=2"]
    await clerk_auth.close()


# Settings -------------------------------------------------------------------------------------


def api_key(role: str) -> str:
    return sign({"alg": "HS256", "typ": "JWT"}, anon_key(role), b"s" * 32)


PROJECT = {"supabase_url": "https://abcd.supabase.co"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"supabase_url": "http://abcd.supabase.co"}, "SUPABASE_URL"),
        ({"supabase_url": "abcd"}, "SUPABASE_URL"),
        ({"supabase_url": "https://a:b@abcd.supabase.co"}, "SUPABASE_URL"),
        ({"supabase_url": "https://abcd.supabase.co/auth/v1"}, "without /auth/v1"),
        ({"supabase_url": "https://abcd.supabase.co/auth/v1/.well-known/jwks.json"}, "without /auth/v1"),
        ({"supabase_publishable_key": "sb_publishable_1"}, "Set SUPABASE_URL"),
        ({"supabase_allow_anonymous": True}, "Set SUPABASE_URL"),
        ({**PROJECT, "supabase_publishable_key": "sb_secret_1"}, "SUPABASE_PUBLISHABLE_KEY"),
        ({**PROJECT, "supabase_publishable_key": "junk"}, "SUPABASE_PUBLISHABLE_KEY"),
        ({**PROJECT, "supabase_publishable_key": api_key("service_role")}, "SUPABASE_PUBLISHABLE_KEY"),
        ({"oidc_issuers": "https://accounts.example.com"}, "not of that form"),
        ({"oidc_issuers": "corp=https://accounts.example.com"}, "not of that form"),
        ({"oidc_issuers": "corp=https://accounts.example.com;"}, "not of that form"),
        ({"oidc_issuers": "corp=https://accounts.example.com;a;"}, "not of that form"),
        ({"oidc_issuers": "corp=https://accounts.example.com;client=web"}, "not of that form"),
        ({"oidc_issuers": "=https://accounts.example.com;a"}, "not of that form"),
        ({"oidc_issuers": "Corp=https://accounts.example.com;a"}, "not of that form"),
        ({"oidc_issuers": "a|b=https://accounts.example.com;a"}, "not of that form"),
        ({"oidc_issuers": f"{'c' * 33}=https://accounts.example.com;a"}, "not of that form"),
        ({"oidc_issuers": "corp=;a"}, "issuer of corp"),
        ({"oidc_issuers": "corp=http://accounts.example.com;a"}, "issuer of corp"),
        ({"oidc_issuers": "corp=accounts.example.com;a"}, "issuer of corp"),
        ({"oidc_issuers": "corp=https://accounts.example.com?a=b;a"}, "issuer of corp"),
        ({"oidc_issuers": "corp=https://accounts.example.com:99999;a"}, "issuer of corp"),
        ({"oidc_issuers": "corp=https://accounts.example.com;a;jwks=http://a.example/keys"}, "jwks of corp"),
        ({"oidc_issuers": "local=https://accounts.example.com;a"}, "local: it is taken"),
        ({"oidc_issuers": "supabase=https://accounts.example.com;a"}, "supabase: it is taken"),
        ({"oidc_issuers": "a=https://a.example;a,a=https://b.example;a"}, "a: it is taken"),
        ({"oidc_issuers": "a=https://a.example;a,b=https://a.example;a"}, "named as an issuer twice"),
        (
            {"oidc_issuers": "a=https://a.example;a", "clerk_issuer": "https://a.example"},
            "named as an issuer twice",
        ),
        ({**PROJECT, "oidc_issuers": "a=https://abcd.supabase.co/auth/v1;a"}, "named as an issuer twice"),
    ],
    ids=stable,
)
def test_contradicting_settings_stop_the_start_with_a_sentence(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        clerk_auth.configure(configured(**changes))


CLERK = {"clerk_publishable_key": "pk_test_" + base64.b64encode(b"clerk.example.com$").decode()}
CORP = {"oidc_issuers": "corp=https://a.example/;a;client=web, lab=https://b.example;b"}
LISTED = [
    {"name": "corp", "issuer": "https://a.example/", "client_id": "web"},
    {"name": "lab", "issuer": "https://b.example", "client_id": None},
]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {"mode": "embedded", "registration": True}),
        (CLERK, {"mode": "clerk", "publishable_key": CLERK["clerk_publishable_key"]}),
        (
            {"supabase_url": "https://abcd.supabase.co/", "supabase_publishable_key": "sb_publishable_1"},
            {"mode": "supabase", "supabase_url": PROJECT["supabase_url"], "supabase_key": "sb_publishable_1"},
        ),
        (
            {**PROJECT, "supabase_publishable_key": api_key("anon")},
            {"mode": "supabase", "supabase_url": PROJECT["supabase_url"], "supabase_key": api_key("anon")},
        ),
        (CORP, {"mode": "oidc", "issuers": LISTED}),
        (
            {**CLERK, **PROJECT, **CORP},
            {
                "mode": "clerk",
                "publishable_key": CLERK["clerk_publishable_key"],
                "supabase_url": PROJECT["supabase_url"],
                "issuers": LISTED,
            },
        ),
    ],
    ids=["embedded", "clerk", "supabase", "anon key", "oidc", "all"],
)
def test_a_web_client_is_told_where_people_sign_in(changes: dict[str, Any], told: dict[str, Any]) -> None:
    nothing: dict[str, Any] = {
        "publishable_key": None,
        "supabase_url": None,
        "supabase_key": None,
        "issuers": [],
        "registration": False,
    }
    assert clerk_auth.public_config(configured(**changes)).model_dump() == nothing | told


async def test_a_server_takes_people_from_every_issuer_and_keeps_them_apart(data_dir: Path) -> None:
    async with key_server() as supabase, key_server() as corp:
        supabase.keys, corp.answer = [jwk(CURVE)], provider()
        world = World(corp, supabase, corp)
        issuers = f"corp={corp.issuer}/;{AUDIENCE}"
        settings = {"SUPABASE_URL": supabase.issuer, "OIDC_ISSUERS": issuers, "WORKER": "off"}
        server = Backend(data_dir, free_port(), settings)
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=server.url) as client:
                for token, user_id in [
                    (world.person(), f"supabase|{PERSON}"),
                    (world.access(sub=PERSON), f"corp|{PERSON}"),
                    (world.access(sub="ünï çødé 💡"), "corp|ünï çødé 💡"),
                ]:
                    client.headers["Authorization"] = f"Bearer {token}"
                    assert (await client.get("/api/me")).json()["data"]["id"] == user_id
                    await make.workflow(client)
                    assert len((await client.get("/api/workflows")).json()["data"]) == 1
                client.headers["Authorization"] = f"Bearer {world.access(aud='web')}"
                assert (await client.get("/api/me")).status_code == 401
                body = {"email": "a@example.com", "password": "correct horse battery"}
                assert (await client.post("/api/auth/register", json=body)).status_code == 404
                auth = (await client.get("/api/config")).json()["data"]["auth"]
                assert (auth["mode"], auth["supabase_url"]) == ("supabase", supabase.issuer)
                assert auth["issuers"] == [{"name": "corp", "issuer": f"{corp.issuer}/", "client_id": None}]
        finally:
            await server.stop()
