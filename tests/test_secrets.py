"""Secrets go in and are never shown again."""

import base64
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import pytest

import db
from models import Secret
from runs import secrets
from runs.secrets import OneTimeCode
from schemas import SecretCreate
from tests import make
from tests.test_api import assert_problem

SEED = "JBSWY3DPEHPK3PXP"
URI = f"otpauth://totp/Shop:me?secret={SEED}&issuer=Shop&digits=8&period=60"


async def test_a_secret_is_told_about_but_never_told(alice: httpx.AsyncClient) -> None:
    body = {
        "name": "shop",
        "kind": "password",
        "username": "me@example.com",
        "password": "correct horse",
        "totp": URI,
        "origins": ["https://shop.example.com", "https://SHOP.example.com", "http://127.0.0.1:8080"],
    }
    reply = await alice.post("/api/secrets", json=body)
    assert reply.status_code == 201, reply.text
    made = reply.json()["data"]
    assert reply.headers["location"] == f"/api/secrets/{made['id']}"
    assert made["fields"] == ["password", "username", "totp"]
    assert made["origins"] == ["https://shop.example.com", "http://127.0.0.1:8080"]
    assert (await alice.get(f"/api/secrets/{made['id']}")).json()["data"] == made
    assert (await alice.get("/api/secrets?q=SHO")).json()["data"] == [made]
    seen = (await alice.get("/api/events")).text + reply.text
    for hidden in ("correct horse", SEED, "me@example.com"):
        assert hidden not in seen
    assert "secret.created" in seen


async def test_values_are_sealed_for_their_row(database: str, user: str, other_user: str) -> None:
    async with db.as_user(user) as tx:
        await secrets.create(tx, SecretCreate(name="a", kind="text", text="hidden"))
        row = await tx.one(Secret, name="a")
        assert orjson.loads(tx.unseal(Secret, "sealed", row.id, row.sealed)) == {"text": "hidden"}
        assert b"hidden" not in row.sealed
        with pytest.raises(Exception, match="another place or user"):
            tx.unseal(Secret, "sealed", uuid4(), row.sealed)
        with pytest.raises(Exception, match="another place or user"):
            tx.unseal(Secret, "fields", row.id, row.sealed)
    async with db.as_user(other_user) as tx:
        with pytest.raises(Exception, match="another place or user"):
            tx.unseal(Secret, "sealed", row.id, row.sealed)


async def test_an_update_replaces_what_is_sent_and_keeps_the_rest(alice: httpx.AsyncClient) -> None:
    made = await make.secret(alice, kind="password", password="a", username="u", text=None)
    path = f"/api/secrets/{made['id']}"
    reply = await alice.patch(path, json={"totp": SEED, "username": None})
    changed = reply.json()["data"]
    assert changed == made | {"fields": ["password", "totp"], "updated_at": changed["updated_at"]}
    renamed = (await alice.patch(path, json={"name": "new"})).json()["data"]
    assert renamed == changed | {"name": "new", "updated_at": renamed["updated_at"]}
    problem = assert_problem(await alice.patch(path, json={"text": "x"}), 422, "invalid_secret")
    assert problem["errors"][0]["pointer"] == "/text"
    assert_problem(await alice.patch(path, json={"password": None}), 422, "invalid")
    assert (await alice.get(path)).json()["data"] == renamed


async def test_another_origin_needs_every_value_again(alice: httpx.AsyncClient) -> None:
    shop, thief = "https://shop.example", "https://thief.example"
    made = await make.secret(
        alice, kind="password", password="a", username="u", totp=SEED, text=None, origins=[shop]
    )
    path = f"/api/secrets/{made['id']}"
    for known in ({}, {"password": "x"}, {"password": "x", "username": None}):
        reply = await alice.patch(path, json={"origins": [shop, thief], **known})
        problem = assert_problem(reply, 422, "invalid_secret")
        assert "/totp" in {error["pointer"] for error in problem["errors"]}
    assert (await alice.get(path)).json()["data"] == made
    new = {"password": "x", "username": None, "totp": None, "origins": [thief]}
    changed = (await alice.patch(path, json=new)).json()["data"]
    assert (changed["fields"], changed["origins"]) == (["password"], [thief])
    assert (await alice.patch(path, json={"origins": []})).json()["data"]["origins"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "password"}, "/password"),
        ({"kind": "password", "password": "x", "text": "y"}, "/text"),
        ({"kind": "text", "totp": SEED}, "/text"),
        ({"kind": "totp"}, "/totp"),
        ({"kind": "totp", "totp": "not base32!"}, "/totp"),
        ({"kind": "totp", "totp": "otpauth://hotp/x?secret=JBSWY3DPEHPK3PXP&counter=1"}, "/totp"),
        ({"kind": "totp", "totp": "otpauth://totp/x?issuer=y"}, "/totp"),
        ({"kind": "totp", "totp": f"otpauth://totp/x?secret={SEED}&period=0"}, "/totp"),
        ({"kind": "totp", "totp": f"otpauth://totp/x?secret={SEED}&digits=x"}, "/totp"),
    ],
)
async def test_values_that_make_no_secret_are_refused(
    alice: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    problem = assert_problem(
        await alice.post("/api/secrets", json={"name": "s", **body}), 422, "invalid_secret"
    )
    assert pointer in {error["pointer"] for error in problem["errors"]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a b"),
        ("name", "x" * 65),
        ("name", "1a"),
        ("kind", "card"),
        ("text", ""),
        ("text", "x" * 10_001),
        ("origins", ["example.com"]),
        ("origins", ["https://example.com/path"]),
        ("origins", ["https://*.example.com"]),
        ("origins", ["https://me@example.com"]),
        ("origins", ["https://example.com"] * 51),
        ("value", "x"),
    ],
)
async def test_fields_over_their_limits_are_refused(
    alice: httpx.AsyncClient, field: str, value: object
) -> None:
    body = {"name": "s", "kind": "text", "text": "x", field: value}
    problem = assert_problem(await alice.post("/api/secrets", json=body), 422, "invalid")
    assert any(field in error["loc"] for error in problem["errors"])


def test_one_time_codes_are_those_of_the_standard() -> None:
    """RFC 6238, appendix B: the seeds are ASCII digits, the codes have eight digits."""
    ascii_seed = base64.b32encode(b"12345678901234567890").decode()
    for seconds, code in ((59, "94287082"), (1111111109, "07081804"), (20000000000, "65353130")):
        assert OneTimeCode.of(f"otpauth://totp/x?secret={ascii_seed}&digits=8").at(seconds) == code
    longer = base64.b32encode(b"12345678901234567890123456789012").decode()
    uri = f"otpauth://totp/x?secret={longer}&digits=8&algorithm=SHA256"
    assert OneTimeCode.of(uri).at(59) == "46119246"
    assert OneTimeCode.of("jbsw y3dp-ehpk 3pxp").at(0) == OneTimeCode.of(SEED).at(29)


@pytest.mark.parametrize("text", ["x" * 10_000, "\u00e9 \n\t {{ params.x }}"])
async def test_fields_at_their_limits_are_taken(alice: httpx.AsyncClient, text: str) -> None:
    made = await make.secret(alice, name="x" * 64, text=text)
    assert made["fields"] == ["text"]


async def test_a_name_serves_once_and_is_free_again(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    made = await make.secret(alice, name="shop")
    again = {"name": "shop", "kind": "text", "text": "x"}
    assert_problem(await alice.post("/api/secrets", json=again), 409, "already_exists")
    await make.secret(bob, name="shop")
    assert (await alice.delete(f"/api/secrets/{made['id']}")).status_code == 200
    assert (await make.secret(alice, name="shop"))["id"] != made["id"]


async def test_a_name_that_two_want_at_once_goes_to_one(database: str, user: str) -> None:
    async with db.as_user(user) as tx:
        await tx.add(Secret, name="x", kind="text", fields=["text"], origins=[], sealed=b"")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with db.as_user(user) as tx:
            await tx.add(Secret, name="x", kind="text", fields=["text"], origins=[], sealed=b"")
    async with db.as_user(user) as tx:
        assert len(await tx.find(Secret)) == 1


async def test_a_repeat_of_a_creation_makes_no_other(alice: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    body = {"name": "once", "kind": "text", "text": "x"}
    first = await alice.post("/api/secrets", json=body, headers=headers)
    again = await alice.post("/api/secrets", json=body, headers=headers)
    assert first.content == again.content
    assert UUID(first.json()["data"]["id"])
