"""API keys: shown once, good everywhere a token is but for people's own matters, and gone at once."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import api_keys
import clerk_auth
import db
import identity
from clerk_auth import NotSignedIn, authenticate
from infra.bus import LocalBus
from infra.vault import load_vault
from models import ApiKey, IdempotencyKey, User
from schemas import KeyCreate, KeyUpdate
from settings import settings
from tests import make
from tests.conftest import Backend
from tests.test_api import assert_problem

SECONDS = 20.0
ALL = ["read", "run", "write"]


# The text of a key


def test_a_key_has_256_random_bits_and_a_checksum() -> None:
    keys = {api_keys.make() for _ in range(200)}
    assert len(keys) == 200
    for key in keys:
        assert api_keys.is_well_formed(key)
        assert (len(key), key[:4]) == (53, "cua_")
    assert 62**43 >= 2**256


def test_a_typo_anywhere_is_told_without_a_look_up() -> None:
    key = api_keys.make()
    for at in range(4, len(key)):
        other = "a" if key[at] != "a" else "b"
        assert not api_keys.is_well_formed(key[:at] + other + key[at + 1 :])
        assert not api_keys.is_well_formed(key[:at])
    swapped = key[:10] + key[11] + key[10] + key[12:]
    assert swapped == key or not api_keys.is_well_formed(swapped)
    for text in ("", "cua_", key + "0", key + "\n", f" {key}", key.upper(), "cua_" + "é" * 49, key[4:]):
        assert not api_keys.is_well_formed(text)


# Over HTTP


@asynccontextmanager
async def bot(server: Backend, key: str, header: str = "X-API-Key") -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key in one of the two headers."""
    value = f"Bearer {key}" if header == "Authorization" else key
    async with httpx.AsyncClient(base_url=server.url, timeout=30, headers={header: value}) as client:
        yield client


async def test_a_key_is_shown_once_and_works_in_both_headers(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    made = await make.key(alice, name="Bot", scopes=["write", "read"])
    key = made.pop("key")
    assert (made["start"], made["scopes"], made["last_used_at"]) == (key[:8], ["read", "write"], None)
    assert (await alice.get(f"/api/keys/{made['id']}")).json()["data"] == made
    assert (await alice.get("/api/keys")).json()["data"] == [made]
    me = (await alice.get("/api/me")).json()
    for header in ("X-API-Key", "Authorization"):
        async with bot(server, key, header) as client:
            assert (await client.get("/api/me")).json() == me
    used = (await alice.get(f"/api/keys/{made['id']}")).json()["data"]
    assert used.pop("last_used_at") is not None
    assert used == {name: value for name, value in made.items() if name != "last_used_at"}
    events = (await alice.get("/api/events")).text
    assert key not in events
    assert hashlib.sha256(key.encode()).hexdigest() not in events


async def test_what_a_key_does_is_logged_as_its(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await make.key(alice, scopes=ALL)
    async with bot(server, made["key"]) as client:
        thread = (await client.post("/api/threads", json={})).json()["data"]
    events = (await alice.get("/api/events")).json()["data"]
    [event] = [event for event in events if event["resource"]["id"] == thread["id"]]
    assert (event["kind"], event["actor"]) == ("thread.created", f"key:{made['id']}")


async def test_a_repeated_creation_shows_the_same_key(server: Backend, alice: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first, again = [await alice.post("/api/keys", json={"name": "x"}, headers=headers) for _ in range(2)]
    assert (first.content, again.headers["idempotency-replayed"]) == (again.content, "true")
    assert first.headers["location"] == again.headers["location"]
    assert len((await alice.get("/api/keys")).json()["data"]) == 1


async def test_exactly_one_credential_is_taken(server: Backend, alice: httpx.AsyncClient) -> None:
    key, other = [(await make.key(alice))["key"] for _ in range(2)]
    token = alice.headers["Authorization"]
    refused: list[list[tuple[str, str]]] = [
        [("X-API-Key", key), ("Authorization", token)],
        [("X-API-Key", key), ("Authorization", f"Bearer {key}")],
        [("X-API-Key", key), ("Authorization", "")],
        [("X-API-Key", key), ("X-API-Key", other)],
        [("X-API-Key", ""), ("Authorization", token)],
        [("X-API-Key", f"{key}, {other}")],
        [("X-API-Key", token.removeprefix("Bearer "))],
        [("X-API-Key", f"Bearer {key}")],
        [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
        [("Authorization", key)],
        [("Authorization", f"Basic {key}")],
        [("Cookie", f"key={key}; Authorization=Bearer {key}")],
    ]
    async with httpx.AsyncClient(base_url=server.url) as client:
        answers = [await client.get("/api/me", headers=headers) for headers in refused]
        names = ("key", "api_key", "token", "X-API-Key", "access_token")
        answers += [await client.get("/api/threads", params={name: key}) for name in names]
        assert (await client.get("/api/me", headers={"x-api-key": key})).status_code == 200
    bodies = {json.dumps(assert_problem(it, 401, "unauthorized") | {"request_id": ""}) for it in answers}
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key[:20],
        lambda key: key + "0",
        lambda key: "cua_",
        lambda key: key.swapcase(),
        lambda key: key[:30] + ("x" if key[30] != "x" else "y") + key[31:],
        lambda key: api_keys.make(),
        lambda key: "cua_" + "a" * 8000,
    ],
)
async def test_a_key_that_is_none_is_the_same_401(
    spoil: Callable[[str], str], server: Backend, alice: httpx.AsyncClient
) -> None:
    key = (await make.key(alice))["key"]
    for header in ("X-API-Key", "Authorization"):
        async with bot(server, spoil(key), header) as client:
            body = assert_problem(await client.get("/api/me"), 401, "unauthorized")
            assert body["detail"] == "The credential is not valid."


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["admin"]}, "scopes"),
        ({"name": "x", "scopes": ["read", "read"]}, "scopes"),
        ({"name": "x", "scopes": "read"}, "scopes"),
        ({"name": "x", "scopes": None}, "scopes"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"name": "x", "key": "cua_mine"}, "key"),
        ({"name": "x", "key_hash": "00"}, "key_hash"),
    ],
)
async def test_an_invalid_key_is_not_made(body: dict[str, Any], field: str, alice: httpx.AsyncClient) -> None:
    problem = assert_problem(await alice.post("/api/keys", json=body), 422, "invalid")
    assert any(field in error["loc"] for error in problem["errors"])
    assert (await alice.get("/api/keys")).json()["data"] == []


async def test_a_user_has_at_most_a_hundred_keys(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await asyncio.gather(*(alice.post("/api/keys", json={"name": "x"}) for _ in range(104)))
    assert sorted(reply.status_code for reply in made) == [201] * 100 + [409] * 4
    assert_problem(await alice.post("/api/keys", json={"name": "x"}), 409, "too_many_keys")
    await alice.delete(made[0].headers.get("location") or made[50].headers["location"])
    await make.key(alice)


async def test_a_key_does_not_manage_keys_or_identity(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await make.key(alice, scopes=ALL)
    async with bot(server, made["key"]) as client:
        for reply in (
            await client.get("/api/keys"),
            await client.post("/api/keys", json={"name": "another"}),
            await client.patch(f"/api/keys/{made['id']}", json={"expires_at": None}),
            await client.delete(f"/api/keys/{made['id']}"),
            await client.get("/api/auth/sessions"),
            await client.post("/api/auth/logout"),
            await client.post("/api/auth/password", json={"old": "x", "new": "y" * 10}),
            await client.delete("/api/me"),
        ):
            assert_problem(reply, 403, "only_signed_in")
        assert (await client.get("/api/me")).status_code == 200


async def test_a_key_of_an_administrator_is_no_administrator(
    server: Backend, admin: httpx.AsyncClient
) -> None:
    made = await make.key(admin, scopes=ALL)
    async with bot(server, made["key"]) as client:
        assert_problem(await client.get("/api/admin/users"), 403, "only_signed_in")
    await admin.delete(f"/api/keys/{made['id']}")


async def test_a_deleted_key_is_refused_at_once(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await make.key(alice)
    async with bot(server, made["key"]) as client:
        assert (await client.get("/api/me")).status_code == 200
        assert (await alice.delete(f"/api/keys/{made['id']}")).status_code == 200
        assert_problem(await client.get("/api/me"), 401, "unauthorized")
    assert_problem(await alice.delete(f"/api/keys/{made['id']}"), 404, "not_found")


async def test_a_key_deleted_in_the_middle_of_its_use_is_refused_from_then_on(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    made = await make.key(alice)
    over = asyncio.Event()
    answers: list[list[int]] = [[] for _ in range(4)]

    async def use(client: httpx.AsyncClient, answers: list[int]) -> None:
        while not over.is_set():
            answers.append((await client.get("/api/me")).status_code)

    async with bot(server, made["key"]) as client:
        users = [asyncio.create_task(use(client, mine)) for mine in answers]
        async with asyncio.timeout(SECONDS):
            while min(map(len, answers)) < 5:  # noqa: ASYNC110 - the others' answers
                await asyncio.sleep(0.01)
        await alice.delete(f"/api/keys/{made['id']}")
        after = await client.get("/api/me")
        over.set()
        await asyncio.gather(*users)
    assert after.status_code == 401
    assert answers == [sorted(mine) for mine in answers]
    assert {status for mine in answers for status in mine} <= {200, 401}


async def test_fewer_scopes_hold_at_once_and_so_do_more(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await make.key(alice, scopes=ALL)
    path = f"/api/keys/{made['id']}"
    async with bot(server, made["key"]) as client:
        assert (await client.post("/api/threads", json={})).status_code == 201
        assert (await alice.patch(path, json={"scopes": ["read"]})).json()["data"]["scopes"] == ["read"]
        assert_problem(await client.post("/api/threads", json={}), 403, "missing_scope")
        assert (await client.get("/api/me")).status_code == 200
        await alice.patch(path, json={"scopes": ["read", "write"]})
        assert (await client.post("/api/threads", json={})).status_code == 201
        await alice.patch(path, json={"scopes": ["write"]})
        assert (await client.post("/api/threads", json={})).status_code == 201
        assert_problem(await client.get("/api/me"), 403, "missing_scope")


async def test_an_expired_key_is_refused_until_it_is_prolonged(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    made = await make.key(alice, expires_at="2999-01-01T00:00:00Z")
    async with bot(server, made["key"]) as client:
        for _ in range(2):
            assert (await client.get("/api/me")).status_code == 200
            await alice.patch(f"/api/keys/{made['id']}", json={"expires_at": "2020-01-01T00:00:00Z"})
            assert_problem(await client.get("/api/me"), 401, "unauthorized")
            await alice.patch(f"/api/keys/{made['id']}", json={"expires_at": None})
        assert (await client.get("/api/me")).status_code == 200


async def test_a_key_outlives_the_sign_in_that_made_it(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await make.key(alice)
    assert (await alice.post("/api/auth/logout")).status_code == 200
    assert_problem(await alice.get("/api/me"), 401, "unauthorized")
    async with bot(server, made["key"]) as client:
        assert (await client.get("/api/me")).status_code == 200


# Sockets and streams


@asynccontextmanager
async def socket(server: Backend, **headers: str) -> AsyncIterator[ClientConnection]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with connect(server.socket_url, additional_headers=named) as connection:
        assert (await message(connection))["type"] == "hello"
        yield connection


async def message(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(SECONDS):
        return dict(json.loads(await connection.recv()))


async def ask(connection: ClientConnection, **request: Any) -> dict[str, Any]:
    """The answer to a request, by its id."""
    await connection.send(json.dumps({"id": "q", **request}))
    while (answer := await message(connection)).get("id") != "q":
        pass
    return answer


async def close_code(connection: ClientConnection) -> int | None:
    async with asyncio.timeout(SECONDS):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


async def test_a_socket_takes_a_key_in_either_header_or_as_a_message(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    key = (await make.key(alice))["key"]
    for headers in ({"X_API_Key": key}, {"Authorization": f"Bearer {key}"}, {}):
        async with socket(server, **headers) as connection:
            if not headers:
                await connection.send(json.dumps({"type": "auth", "token": key}))
            ready = await message(connection)
            assert (ready["type"], ready["expires_at"][:4]) == ("ready", "9999")
    async with socket(server, X_API_Key=key, Authorization=f"Bearer {key}") as connection:
        assert await close_code(connection) == 4401
    async with socket(server, X_API_Key=api_keys.make()) as connection:
        assert await close_code(connection) == 4401


async def test_a_socket_does_what_the_scopes_of_its_key_name(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    computer = str(uuid4())
    requests: dict[str, list[dict[str, Any]]] = {
        "read": [
            {"type": "subscribe", "after": None},
            {"type": "watch", "computer_id": computer},
        ],
        "run": [
            {"type": "control", "computer_id": computer, "action": "take"},
            {
                "type": "input",
                "computer_id": computer,
                "generation": 0,
                "event": {"type": "text", "text": "x"},
            },
        ],
    }
    for scope in ALL:
        key = (await make.key(alice, scopes=[scope]))["key"]
        async with socket(server, X_API_Key=key) as connection:
            for needed, asked in requests.items():
                for request in asked:
                    answer = await ask(connection, **request)
                    assert (answer.get("code") == "missing_scope") == (scope != needed), answer
                    assert scope == needed or f"`{needed}`" in answer["detail"]


async def test_deleting_and_narrowing_a_key_close_its_sockets_and_streams_and_no_others(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    for change in ("delete", "scopes", "expiry"):
        made, other = await make.key(alice, scopes=ALL), await make.key(alice, scopes=ALL)
        async with (
            socket(server, X_API_Key=made["key"]) as gone,
            socket(server, X_API_Key=other["key"]) as kept,
            bot(server, made["key"]) as client,
            client.stream("GET", "/api/events/stream") as stream,
        ):
            assert (await message(gone))["type"] == (await message(kept))["type"] == "ready"
            assert stream.status_code == 200
            path = f"/api/keys/{made['id']}"
            if change == "delete":
                await alice.delete(path)
            elif change == "scopes":
                await alice.patch(path, json={"scopes": ["read"]})
            else:
                await alice.patch(path, json={"expires_at": "2030-01-01T00:00:00Z"})
            assert await close_code(gone) == 4403
            async with asyncio.timeout(SECONDS):
                async for _ in stream.aiter_raw():
                    pass
            assert (await ask(kept, type="subscribe", after=None))["type"] == "subscribed"


async def test_renaming_and_widening_a_key_closes_nothing(server: Backend, alice: httpx.AsyncClient) -> None:
    made = await make.key(alice, scopes=["read"])
    async with socket(server, X_API_Key=made["key"]) as connection:
        await message(connection)
        path = f"/api/keys/{made['id']}"
        await alice.patch(path, json={"name": "other", "scopes": ["run", "read"]})
        assert (await ask(connection, type="subscribe", after=None))["type"] == "subscribed"


# In one process


@pytest.fixture
async def signed(database: str, bus: LocalBus) -> AsyncIterator[LocalBus]:
    clerk_auth.configure(settings.model_copy(update={"clerk_issuer": "https://clerk.example.com"}))
    unsubscribe = bus.subscribe("revoked", clerk_auth.on_revoked)
    yield bus
    unsubscribe()
    await clerk_auth.close()


async def new_key(user_id: str, **values: Any) -> tuple[str, UUID]:
    key = api_keys.make()
    async with db.as_user(user_id) as tx:
        made = {"name": "k", "start": key[:8], "scopes": ALL, **values}
        row = await tx.add(ApiKey, key_hash=api_keys.digest(key), **made)
    return key, row.id


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the database was asked outside of transactions."""
    statements: list[str] = []
    ask = db._ask

    async def told(sql: str, *arguments: object) -> Any:
        statements.append(sql)
        return await ask(sql, *arguments)

    monkeypatch.setattr(db, "_ask", told)
    return statements


async def test_a_known_key_costs_no_query_for_half_a_minute(
    user: str, signed: LocalBus, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, key_id = await new_key(user)
    caller = await authenticate(key)
    for _ in range(50):
        assert await authenticate(key) is caller
    assert len(asked) == 1
    assert (caller.user_id, caller.session_id, caller.actor) == (user, None, f"key:{key_id}")
    assert caller.is_key
    assert caller.scopes == {"read", "run", "write"}
    monkeypatch.setattr(clerk_auth, "ADMITTED_FRESH", 0)
    assert await authenticate(key) is not caller
    assert len(asked) == 2


async def test_a_known_key_is_refused_once_its_time_is_over(user: str, signed: LocalBus) -> None:
    key, key_id = await new_key(user, expires_at=datetime.now(UTC) + timedelta(hours=1))
    caller = await authenticate(key)
    async with db.as_user(user) as tx:
        await tx.change(ApiKey, {"id": key_id}, expires_at=datetime.now(UTC))
    assert await authenticate(key) is caller
    clerk_auth._admitted[caller.digest] = replace(caller, expires_at=int(time.time()))
    with pytest.raises(NotSignedIn):
        await authenticate(key)


async def test_malformed_keys_never_reach_the_database(signed: LocalBus, asked: list[str]) -> None:
    for text in ("cua_", "cua_x", api_keys.make()[:-1] + "!", "cua_" + "0" * 49):
        with pytest.raises(NotSignedIn):
            await authenticate(text)
    assert asked == []
    with pytest.raises(NotSignedIn, match="no such key"):
        await authenticate(api_keys.make())
    assert len(asked) == 1


async def test_known_keys_are_remembered_up_to_a_number(
    user: str, signed: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clerk_auth, "CACHED_TOKENS", 3)
    often, _ = await new_key(user)
    for _ in range(5):
        await authenticate(often)
        await authenticate((await new_key(user))[0])
    assert len(clerk_auth._admitted) == 3
    assert api_keys.digest(often) in clerk_auth._admitted


async def test_the_last_use_is_exact_to_a_minute_without_a_write_for_each(
    user: str, signed: LocalBus
) -> None:
    key, key_id = await new_key(user)
    digest = api_keys.digest(key)

    async def last_used() -> datetime | None:
        async with db.as_user(user) as tx:
            return (await tx.one(ApiKey, id=key_id)).last_used_at

    async def set_back(seconds: float) -> datetime:
        at = datetime.now(UTC) - timedelta(seconds=seconds)
        async with db.as_user(user) as tx:
            await tx.change(ApiKey, {"id": key_id}, last_used_at=at)
        return at

    await db.find_keys(digest)
    first = await last_used()
    assert first is not None
    assert datetime.now(UTC) - first < timedelta(seconds=5)
    await asyncio.gather(*(db.find_keys(digest) for _ in range(8)))
    assert await last_used() == first
    recent = await set_back(25)
    await db.find_keys(digest)
    assert await last_used() == recent
    old = await set_back(35)
    async with db.as_user(user) as tx:  # whoever holds the row makes nobody wait
        await tx.one(ApiKey, lock=True, id=key_id)
        async with asyncio.timeout(5):
            assert len(await db.find_keys(digest)) == 1
    assert await last_used() == old
    await db.find_keys(digest)
    assert await last_used() != old
    assert clerk_auth.ADMITTED_FRESH + 30 <= 60


async def test_the_answer_that_shows_a_key_is_kept_encrypted(
    user: str, signed: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db._database(), "vault", load_vault(settings.data_dir, ()))
    async with db.as_user(user, "user", db.Idempotency("once", "f")) as tx:
        reply = await api_keys.create(tx, KeyCreate(name="k"))
    async with db.as_user(user) as tx:
        kept = await tx.one(IdempotencyKey, key="once")
    shown = json.loads(bytes(reply.body))["data"]["key"]
    assert (kept.reply, kept.status) == (None, 201)
    assert shown.encode() not in (kept.sealed_reply or b"")
    with pytest.raises(db.Repeat) as repeated:
        async with db.as_user(user, "user", db.Idempotency("once", "f")):
            pass
    assert repeated.value.reply.body == reply.body


async def test_the_database_keeps_no_key(user: str, signed: LocalBus) -> None:
    key, _ = await new_key(user)
    async with db.as_system() as tx:
        rows = await tx.connection.fetch(
            "select row_to_json(t)::text from api_keys t where user_id = $1", user
        )
    assert key not in rows[0][0]
    assert hashlib.sha256(key.encode()).hexdigest() in rows[0][0]


async def test_a_process_that_has_just_started_asks_the_database(user: str, signed: LocalBus) -> None:
    key, key_id = await new_key(user)
    await authenticate(key)
    async with db.as_user(user) as tx:
        await tx.remove(ApiKey, id=key_id)
    clerk_auth.configure(settings.model_copy(update={"clerk_issuer": "https://clerk.example.com"}))
    with pytest.raises(NotSignedIn, match="no such key"):
        await authenticate(key)


async def test_a_look_up_that_a_revocation_overtakes_is_made_again(
    user: str, signed: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, key_id = await new_key(user)
    find_keys = db.find_keys

    async def overtaken(key_hash: bytes) -> list[db.FoundKey]:
        monkeypatch.setattr(db, "find_keys", find_keys)
        found = await find_keys(key_hash)
        async with db.as_user(user) as tx:
            await api_keys.update(tx, key_id, KeyUpdate(scopes=["read"]))
        clerk_auth.on_revoked(f"key:{key_id}".encode())
        return found

    monkeypatch.setattr(db, "find_keys", overtaken)
    assert (await authenticate(key)).scopes == {"read"}


async def test_a_key_of_a_disabled_user_is_told_so(user: str, signed: LocalBus) -> None:
    key, _ = await new_key(user)
    async with db.as_user(user) as tx:
        await tx.change(User, {}, disabled_at=datetime.now(UTC))
    with pytest.raises(identity.AccountDisabled):
        await authenticate(key)
    async with db.as_user(user) as tx:
        await tx.change(User, {}, disabled_at=None)
    assert (await authenticate(key)).user_id == user


async def test_keys_are_seen_by_their_owner_alone(user: str, other_user: str, signed: LocalBus) -> None:
    key, key_id = await new_key(user)
    async with db.as_user(other_user) as tx:
        assert await tx.find(ApiKey) == []
        found = await tx.connection.fetch("select * from api_keys where id = $1", key_id)
        assert found == []
        assert [row["id"] for row in await tx.call("find_key", api_keys.digest(key))] == [key_id]
        assert (
            await tx.connection.fetch("select * from api_keys where id = $1", key_id) == []
        )  # and stays bound


async def test_what_a_key_does_to_a_computer_is_logged_as_its_doing(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    made = await make.key(alice, scopes=ALL)
    async with httpx.AsyncClient(base_url=server.url, timeout=30, headers={"X-API-Key": made["key"]}) as bot:
        computer, profile = await make.computer(bot), await make.profile(alice)
        path = f"/api/computers/{computer['id']}"
        assert (await bot.get(f"{path}/tabs")).status_code == 200
        taken = await bot.post(f"{path}/control")
        assert (taken.json()["data"]["holder"], taken.json()["data"]["state"]) == ("user", "granted")
        capture = {"computer_id": computer["id"]}
        assert (await bot.post(f"/api/profiles/{profile['id']}/capture", json=capture)).status_code == 200
        assert (await bot.delete(f"{path}/control")).status_code == 200
        assert (await bot.delete(path)).status_code == 200
    events = (await alice.get("/api/events", params={"limit": 200})).json()["data"]
    actors = {event["kind"]: event["actor"] for event in events}
    kinds = ("computer.created", "control.taken", "profile.updated", "control.released", "computer.closed")
    assert {actors[kind] for kind in kinds} == {f"key:{made['id']}"}
    assert actors["profile.created"] == "user"
