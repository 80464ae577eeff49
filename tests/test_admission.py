"""Who may come in is the database's word: on every process, for every issuer, also when no hint arrives."""

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy.exc import NoResultFound

import clerk_auth
import db
import identity
from clerk_auth import Caller, NotSignedIn, authenticate, role_of
from infra import postgres
from live import limits
from models import Account, ApiKey, ErasedUser, Quota, Stream, User
from settings import settings
from tests.clerk import KeyServer, key_server
from tests.conftest import Backend, free_port
from tests.test_api import assert_problem
from tests.test_keys import asked, close_code, message, new_key, socket
from tests.test_sockets import client, port, signed, token
from tests.test_start import migrate
from tests.workers import look, tombstone

__all__ = ["asked", "port", "signed"]
SECONDS = 20.0


async def set_disabled(user_id: str, *, to: bool) -> None:
    async with db.as_user(user_id) as tx:
        await tx.change(User, {}, disabled_at=datetime.now(UTC) if to else None)


async def erase(user_id: str) -> None:
    async with db.as_system() as tx:
        tx.act_for(user_id)
        await tx.add(ErasedUser, id=tombstone(user_id))
        await tx.remove(User, id=user_id)


# In one process


async def test_a_known_token_costs_no_query_for_half_a_minute(
    user: str, signed: None, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token(user)
    caller = await authenticate(text)
    for _ in range(50):
        assert await authenticate(text) is caller
    assert len(asked) == 1
    assert not caller.is_key
    monkeypatch.setattr(clerk_auth, "ADMITTED_FRESH", 0)
    await authenticate(text)
    assert len(asked) == 2


async def test_first_sight_makes_a_user_with_all_that_belongs_to_it(database: str, signed: None) -> None:
    user_id = f"user_{uuid4().hex}"
    await asyncio.gather(*(authenticate(token(user_id, session=f"sess_{n}")) for n in range(8)))
    async with db.as_user(user_id) as tx:
        for model in (User, Quota, Stream):
            assert len(await tx.find(model)) == 1


async def test_a_disabled_users_new_and_known_tokens_are_refused_without_any_hint(
    user: str, other_user: str, signed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, other = token(user), token(other_user)
    await authenticate(known)
    await set_disabled(user, to=True)
    with pytest.raises(identity.AccountDisabled):
        await authenticate(token(user, session="sess_new"))
    monkeypatch.setattr(clerk_auth, "ADMITTED_FRESH", 0)
    with pytest.raises(identity.AccountDisabled):
        await authenticate(known)
    await authenticate(other)
    await set_disabled(user, to=False)
    await authenticate(known)


async def test_a_revoked_token_of_a_disabled_user_is_told_so_and_another_is_just_refused(
    user: str, signed: None
) -> None:
    text = token(user)
    await authenticate(text)
    clerk_auth.on_revoked(f"user:{user}".encode())
    with pytest.raises(NotSignedIn):
        await authenticate(text)
    await set_disabled(user, to=True)
    with pytest.raises(identity.AccountDisabled):
        await authenticate(text)


async def test_an_erased_user_never_comes_back(user: str, signed: None) -> None:
    key, _ = await new_key(user)
    await authenticate(key)
    await erase(user)
    clerk_auth._admitted.clear()
    for credential in (token(user), token(user, session="sess_new")):
        with pytest.raises(NotSignedIn, match="erased"):
            await authenticate(credential)
    with pytest.raises(NotSignedIn, match="no such key"):
        await authenticate(key)
    assert (await db.ensure_user(user)).erased
    async with db.as_system() as tx:
        assert await tx.find(User, id=user) == []
        assert await tx.find(Quota, user_id=user) == []


WAITS_FOR_US = (
    "select true from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))"
)


async def test_an_erasure_under_way_is_waited_for(database: str) -> None:
    user_id = f"user_{uuid4().hex}"
    async with db.as_system() as tx:
        await tx.add(ErasedUser, id=tombstone(user_id))
        late = asyncio.create_task(db.ensure_user(user_id))
        other = await asyncio.wait_for(db.ensure_user(f"user_{uuid4().hex}"), 5)
        async for _ in look(10):
            if await tx.connection.fetchval(WAITS_FOR_US):
                break
        assert not late.done()
    assert not other.erased
    assert (await late).erased
    async with db.as_system() as tx:
        with pytest.raises(NoResultFound):
            await tx.one(User, id=user_id)


async def test_a_tombstone_is_stronger_than_a_row(user: str) -> None:
    async with db.as_system() as tx:
        await tx.add(ErasedUser, id=tombstone(user))
    assert (await db.ensure_user(user)).erased


async def test_what_the_function_sees_its_caller_does_not(user: str, other_user: str) -> None:
    async with db.as_user(user) as tx:
        await tx.call("ensure_user", other_user, None, None, None, None)
        assert await tx.connection.fetch("select * from users where id = $1", other_user) == []


# Sockets


async def test_a_disabled_user_cannot_open_a_socket(port: int, user: str) -> None:
    await set_disabled(user, to=True)
    async with client(port) as one:
        await one.send(type="auth", token=token(user))
        code, messages = await one.closed()
    assert (code, messages[-1]["detail"]) == (4403, "The account is disabled.")


@pytest.mark.parametrize("how", ["disabled", "erased", "key deleted", "key narrowed", "key expired"])
async def test_a_lost_hint_costs_a_socket_half_a_minute_at_most(
    how: str, port: int, user: str, other_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(clerk_auth, "ADMITTED_FRESH", 0.2)
    key, key_id = await new_key(user)
    credential = key if how.startswith("key") else token(user)
    async with client(port) as one, client(port, other_user) as other:
        await one.send(type="auth", token=credential)
        await one.expect("ready")
        await asyncio.sleep(0.6)  # long enough to be asked for again, and kept
        await one.subscribe()
        async with db.as_user(user) as tx:
            where = {"id": key_id}
            if how == "disabled":
                await tx.change(User, {}, disabled_at=datetime.now(UTC))
            elif how == "key deleted":
                await tx.remove(ApiKey, **where)
            elif how == "key narrowed":
                await tx.change(ApiKey, where, scopes=["read"])
            elif how == "key expired":
                await tx.change(ApiKey, where, expires_at=datetime.now(UTC))
        if how == "erased":
            await erase(user)
        code, messages = await one.closed()
        assert (code, messages[-1]["code"]) == (
            (4401, "expired") if how == "key expired" else (4403, "forbidden")
        )
        await other.subscribe()


# Administrators


def caller(user_id: str, **values: Any) -> Caller:
    now = int(time.time())
    return Caller(user_id, "sess_x", now, now + 60, **values)


async def test_an_administrator_is_made_by_the_database_the_token_or_a_verified_address(
    user: str, other_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await role_of(caller(user)) == "user"
    assert await role_of(caller(user, role="admin")) == "admin"
    async with db.as_user(user) as tx:
        await tx.change(User, {}, role="admin")
    assert await role_of(caller(user)) == "admin"
    async with db.as_user(user) as tx:
        await tx.change(User, {}, role="user")
    assert await role_of(caller(user)) == "user"  # at once

    listed = settings.model_copy(update={"admin_emails": ("Boss@Example.com",)})
    monkeypatch.setattr(clerk_auth, "settings", listed)
    async with db.as_user(other_user) as tx:
        await tx.change(User, {}, email="boss@example.com")
    assert await role_of(caller(other_user, email="boss@example.com")) == "user"  # nobody has verified it
    assert await role_of(caller(other_user, verified_email="boss@example.com")) == "admin"
    assert await role_of(caller(other_user, verified_email="boss@example.com.evil.org")) == "user"
    async with db.as_user(other_user) as tx:
        await tx.change(User, {}, mirrored_at=datetime.now(UTC))  # Clerk's own word came by its webhook
    assert await role_of(caller(other_user)) == "admin"


async def test_an_account_of_the_embedded_issuer_is_listed_once_its_address_is_verified(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = f"{uuid4().hex}@example.com"
    monkeypatch.setattr(clerk_auth, "settings", settings.model_copy(update={"admin_emails": (email,)}))
    async with db.as_system() as tx:
        tx.act_for(user)
        account = await tx.add(Account, user_id=user, email=email, password_hash="")
    assert await role_of(caller(user)) == "user"
    async with db.as_system() as tx:
        tx.act_for(user)
        await tx.change(Account, {"id": account.id}, email_verified_at=datetime.now(UTC))
    assert await role_of(caller(user)) == "admin"
    async with db.as_user(user) as tx:
        await tx.remove(User, id=user)


async def test_no_address_at_all_is_nobodys_in_an_empty_list(user: str) -> None:
    assert settings.admin_emails == ()
    assert await role_of(caller(user, verified_email="")) == "user"
    assert await role_of(caller(user)) == "user"


# On two processes


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[KeyServer]:
    async with key_server() as served:
        yield served


@pytest.fixture(scope="module")
async def own_database(postgres_server: postgres.Server) -> str:
    url = await postgres.create_database(postgres_server, f"own_{uuid4().hex}")
    await migrate(url)
    return url


@pytest.fixture(scope="module")
async def pair(
    own_database: str, issuer: KeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Backend]]:
    """Two servers on one database, with Clerk, that hear each other through PostgreSQL."""
    shared = {
        "DATABASE_URL": own_database,
        "SECRET_KEYS": base64.b64encode(os.urandom(32)).decode(),
        "CLERK_ISSUER": issuer.issuer,
        "WORKER": "off",
    }
    servers = [Backend(tmp_path_factory.mktemp("pair"), free_port(), shared) for _ in range(2)]
    await asyncio.gather(*(server.start() for server in servers))
    yield servers
    await asyncio.gather(*(server.stop() for server in servers))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as made:
        yield made


def bearer(issuer: KeyServer, user_id: str, **changes: Any) -> dict[str, str]:
    sid = f"sess_{uuid4().hex}"
    return {"Authorization": f"Bearer {issuer.token(sub=user_id, sid=sid, jti=uuid4().hex, **changes)}"}


async def until_refused(http: httpx.AsyncClient, url: str, headers: dict[str, str]) -> httpx.Response:
    async with asyncio.timeout(5):
        while (reply := await http.get(url, headers=headers)).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return reply


async def test_disabling_and_erasing_hold_on_every_process(
    pair: list[Backend], issuer: KeyServer, http: httpx.AsyncClient, own_database: str
) -> None:
    one, two = pair
    user_id = f"user_{uuid4().hex}"
    old = bearer(issuer, user_id)
    boss = bearer(issuer, "user_boss", public_metadata={"role": "admin"})
    made = (await http.post(f"{one.url}/api/keys", headers=old, json={"name": "Bot"})).json()["data"]
    key = {"X-API-Key": made["key"]}
    path = f"/api/admin/users/{user_id}"
    for credential in (old, key):
        for server in pair:
            assert (await http.get(f"{server.url}/api/me", headers=credential)).status_code == 200
    assert_problem(await http.get(f"{one.url}{path}", headers=old), 403, "not_admin")

    async with socket(two, **old) as by_token, socket(two, X_API_Key=made["key"]) as by_key:
        assert (await message(by_token))["type"] == (await message(by_key))["type"] == "ready"
        reply = await http.patch(f"{one.url}{path}", headers=boss, json={"disabled": True})
        assert reply.status_code == 200, reply.text
        assert await close_code(by_token) == await close_code(by_key) == 4403
    for server in pair:
        for credential in (old, key, bearer(issuer, user_id, iat=int(time.time()) + 2)):
            refused = await until_refused(http, f"{server.url}/api/me", credential)
            assert_problem(refused, 403, "account_disabled")
    async with socket(two, **bearer(issuer, user_id)) as late:
        assert await close_code(late) == 4403

    await http.patch(f"{one.url}{path}", headers=boss, json={"disabled": False})
    for server in pair:
        for credential in (key, bearer(issuer, user_id, iat=int(time.time()) + 3)):
            assert (await http.get(f"{server.url}/api/me", headers=credential)).status_code == 200

    connection = await asyncpg.connect(own_database)  # without any hint
    try:
        await connection.execute("select set_config('app.system', 'on', false)")
        await connection.execute("insert into erased_users (id) values ($1)", tombstone(user_id))
        await connection.execute("delete from users where id = $1", user_id)
        for server in pair:
            refused = await http.get(f"{server.url}/api/me", headers=bearer(issuer, user_id))
            assert_problem(refused, 401, "unauthorized")
        assert await connection.fetchval("select count(*) from users where id = $1", user_id) == 0
    finally:
        await connection.close()


async def test_a_key_that_ends_on_one_process_has_ended_on_the_other(
    pair: list[Backend], issuer: KeyServer, http: httpx.AsyncClient
) -> None:
    one, two = pair
    person = bearer(issuer, f"user_{uuid4().hex}")
    for change in ("delete", "patch"):
        body = {"name": "Bot", "scopes": ["read", "write"]}
        made = (await http.post(f"{one.url}/api/keys", headers=person, json=body)).json()["data"]
        key = {"X-API-Key": made["key"]}
        async with socket(two, X_API_Key=made["key"]) as connection:
            assert (await message(connection))["type"] == "ready"
            assert (await http.post(f"{two.url}/api/threads", headers=key, json={})).status_code == 201
            path = f"{one.url}/api/keys/{made['id']}"
            if change == "delete":
                await http.delete(path, headers=person)
            else:
                await http.patch(path, headers=person, json={"scopes": ["read"]})
            assert await close_code(connection) == 4403
            refused = await http.post(f"{two.url}/api/threads", headers=key, json={})
            if change == "delete":
                assert_problem(refused, 401, "unauthorized")
            else:
                assert_problem(refused, 403, "missing_scope")
