"""What administrators may do: everyone's accounts and runs, and nobody's contents."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

import db
import users
from browser.chromium import TooManyComputers
from models import Approval, Computer, Quota, Run, User
from runs import computers, engine
from runs.engine import WrongState
from runs.queue import look_at_queue
from runs.usage import MONTHLY
from schemas import AdminRunQuery, ComputerCreate, UserUpdate
from settings import settings
from tests import make
from tests.conftest import Backend
from tests.test_api import assert_problem
from tests.test_keys import close_code, message, socket

SECONDS = 30.0
SECRET = "s3cr3t-contents"
LIMITS = ("max_runs", "max_computers", "max_storage_bytes", "requests_per_minute", *MONTHLY)


async def id_of(client: httpx.AsyncClient) -> str:
    return str((await client.get("/api/me")).json()["data"]["id"])


async def log_of(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    return list((await client.get("/api/events", params={"limit": 200})).json()["data"])


async def add_run(user_id: str, **values: Any) -> Run:
    made = {"title": SECRET, "definition": {"title": SECRET, "steps": []}, "timeout_seconds": 60, **values}
    async with db.as_user(user_id) as tx:
        return await tx.add(Run, **made)


# Who may


async def test_only_administrators_are_let_in(
    server: Backend, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    me = await id_of(alice)
    for method, path, body in (
        ("GET", "/api/admin/users", None),
        ("GET", f"/api/admin/users/{me}", None),
        ("PATCH", f"/api/admin/users/{me}", {"role": "admin"}),
        ("PUT", f"/api/admin/users/{me}", {"max_runs": 999}),
        ("GET", "/api/admin/runs", None),
        ("POST", f"/api/admin/runs/{uuid4()}/cancel", None),
        ("GET", "/api/admin/stats", None),
        ("PATCH", "/api/admin/users/nobody", {"nonsense": 1}),
    ):
        assert_problem(await alice.request(method, path, json=body), 403, "not_admin")
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        assert_problem(await nobody.get("/api/admin/users"), 401, "unauthorized")
    assert (await alice.get("/api/me")).json()["data"]["role"] == "user"
    assert (await admin.get("/api/me")).json()["data"]["role"] == "admin"
    reply = await alice.patch("/api/me", json={"role": "admin"})
    assert_problem(reply, 422, "invalid")


async def test_a_role_is_given_and_taken_at_once(alice: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    path = f"/api/admin/users/{await id_of(alice)}"
    assert (await admin.patch(path, json={"role": "admin"})).json()["data"]["role"] == "admin"
    assert (await alice.get(path)).json()["data"]["role"] == "admin"
    assert (await alice.get("/api/me")).json()["data"]["role"] == "admin"
    assert (await alice.patch("/api/me", json={"name": "Al"})).json()["data"]["role"] == "admin"
    assert (await admin.patch(path, json={"role": "user"})).status_code == 200
    assert_problem(await alice.get(path), 403, "not_admin")
    assert (await alice.get("/api/me")).json()["data"]["role"] == "user"


# Everyone


async def test_everyone_is_listed_newest_first_and_walked_by_the_cursor(
    server: Backend, admin: httpx.AsyncClient
) -> None:
    made = []
    for _ in range(5):
        async with server.sign_up() as client:
            made.append(await id_of(client))
    seen: list[str] = []
    page = await admin.get("/api/admin/users?limit=2")
    while True:
        seen += [row["id"] for row in page.json()["data"]]
        if "next" not in page.links or len(seen) >= 5:
            break
        page = await admin.get("/api/admin/users" + page.links["next"]["url"])
    assert seen[:5] == made[::-1]
    oldest = (await admin.get("/api/admin/users", params={"order": "asc", "limit": 1})).json()["data"]
    assert oldest[0]["id"] == await id_of(admin)
    assert_problem(await admin.get("/api/admin/users?cursor=x"), 422, "invalid_cursor")
    assert_problem(await admin.get("/api/admin/users?limit=0"), 422, "invalid")
    assert_problem(await admin.get("/api/admin/users?user_id=x"), 422, "invalid")


async def test_users_are_found_by_their_address_name_id_role_and_state(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    async def found(**query: Any) -> set[str]:
        reply = await admin.get("/api/admin/users", params={"limit": 200, **query})
        assert reply.status_code == 200, reply.text
        return {row["id"] for row in reply.json()["data"]}

    name = uuid4().hex
    await alice.patch("/api/me", json={"name": f"Ada {name} 100%_\\"})
    me, other = (await alice.get("/api/me")).json()["data"], await id_of(bob)
    assert (
        await found(q=name.upper())
        == await found(q=me["email"].upper())
        == await found(q=me["id"])
        == {me["id"]}
    )
    assert await found(q="100%_\\") == {me["id"]}
    assert await found(q="%%%") == set()
    await admin.patch(f"/api/admin/users/{me['id']}", json={"disabled": True})
    assert await found(disabled="true", q=name) == {me["id"]}
    assert await found(disabled="false", q=name) == set()
    assert other in await found(disabled="false", role="user")
    assert other not in await found(role="admin")
    assert await id_of(admin) in await found(role="admin", disabled="false")


async def test_a_user_is_read_as_listed(alice: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    me = (await alice.get("/api/me")).json()["data"]
    read = (await admin.get(f"/api/admin/users/{me['id']}")).json()["data"]
    [listed] = (await admin.get("/api/admin/users", params={"q": me["id"]})).json()["data"]
    assert read == listed
    same = ("id", "email", "name", "role", "created_at", "updated_at")
    assert read == {name: me[name] for name in same} | {
        "disabled_at": None,
        "stored_bytes": 0,
        **dict.fromkeys(LIMITS),
    }
    for missing in ("nobody", "local|x", "a/b", "%F0%9F%98%80", "'; drop table users; --"):
        assert_problem(await admin.get(f"/api/admin/users/{missing}"), 404, "not_found")
        reply = await admin.patch(f"/api/admin/users/{missing}", json={"max_runs": 1})
        assert_problem(reply, 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"role": "root"},
        {"role": None},
        {"disabled": None},
        {"disabled": "maybe"},
        {"max_runs": -1},
        {"max_runs": 1001},
        {"max_runs": 1.5},
        {"max_storage_bytes": 2**50 + 1},
        {"requests_per_minute": 0},
        {"email": "other@example.com"},
        {"id": "other"},
        {"preferences": {}},
    ],
)
async def test_an_invalid_change_changes_nothing(
    body: dict[str, Any], alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    path = f"/api/admin/users/{await id_of(alice)}"
    before = (await admin.get(path)).json()
    assert_problem(await admin.patch(path, json={"max_computers": 1, **body}), 422, "invalid")
    assert (await admin.get(path)).json() == before


async def test_limits_are_set_shown_logged_and_cleared(
    alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    me = (await alice.get("/api/me")).json()["data"]
    path = f"/api/admin/users/{me['id']}"
    before = (await admin.get(path)).json()["data"]
    wanted: dict[str, float] = {
        "max_runs": 0,
        "max_computers": 5,
        "max_storage_bytes": 2**40,
        "requests_per_minute": 60,
    }
    wanted |= {"max_month_steps": 100, "max_month_tokens": 10**6, "max_month_seconds": 60}
    wanted |= {"max_month_cost_usd": 2.5}
    assert (await admin.patch(path, json=wanted)).json()["data"] == before | wanted
    assert (await admin.get(path)).json()["data"] == before | wanted
    assert (await admin.put(path, json={"max_runs": None})).json()["data"] == before | wanted | {
        "max_runs": None
    }
    assert (await admin.patch(path, json={})).json()["data"] == before | wanted | {"max_runs": None}
    told = [event for event in await log_of(alice) if event["kind"] == "user.updated"]
    assert [event["data"]["changed"] for event in told] == [wanted, {"max_runs": None}]
    for event in told:
        assert event["actor"] == f"admin:{await id_of(admin)}"
        assert event["resource"] == {"type": "user", "id": me["id"]}
        shown = {name: value for name, value in event["data"].items() if name != "changed"}
        assert shown == {name: value for name, value in me.items() if name not in ("role", "email_verified")}
    assert not any(event["kind"] == "user.updated" for event in await log_of(admin))


async def test_a_users_own_limit_of_computers_holds(user: str) -> None:
    async def create() -> None:
        async with db.as_user(user) as tx:
            await computers.create(tx, ComputerCreate())

    async with db.as_user(user) as tx:
        await tx.change(Quota, {}, max_computers=1)
    await create()
    with pytest.raises(TooManyComputers, match="1 open"):
        await create()
    async with db.as_user(user) as tx:
        await tx.change(Quota, {}, max_computers=0)
        await tx.change(Computer, {}, state="closed")
    with pytest.raises(TooManyComputers):
        await create()
    limits = (await users.usage(user, 1)).limits
    assert (limits.max_computers, limits.max_runs) == (0, settings.max_runs_per_user)
    assert (limits.max_storage_bytes, limits.requests_per_minute) == (10 * 2**30, None)


# Disabling


async def test_disabling_ends_sockets_runs_and_computers_and_enabling_restores(
    server: Backend, alice: httpx.AsyncClient, bob: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    me = await id_of(alice)
    path = f"/api/admin/users/{me}"
    runs = [await make.run(alice) for _ in range(4)]
    others = await make.run(bob)
    computer = await make.computer(alice)
    key = (await make.key(alice, scopes=["read", "run"]))["key"]
    email = (await alice.get("/api/me")).json()["data"]["email"]
    async with asyncio.timeout(SECONDS):
        while True:
            states = [(await alice.get(f"/api/runs/{run['id']}")).json()["data"]["status"] for run in runs]
            opened = (await alice.get(f"/api/computers/{computer['id']}")).json()["data"]["state"]
            if states.count("running") == 2 and opened == "open":
                break
            await asyncio.sleep(0.1)
    async with socket(server, Authorization=alice.headers["Authorization"]) as connection:
        assert (await message(connection))["type"] == "ready"
        shown = (await admin.patch(path, json={"disabled": True})).json()["data"]
        assert shown["disabled_at"] is not None
        assert await close_code(connection) == 4403
    assert_problem(await alice.get("/api/me"), 403, "account_disabled")
    reply = await alice.get("/api/me", headers={"Authorization": f"Bearer {key}"})
    assert_problem(reply, 403, "account_disabled")
    login = {"email": email, "password": "correct horse battery"}
    assert_problem(await bob.post("/api/auth/login", json=login), 403, "account_disabled")

    async def all_ended() -> bool:
        listed = await admin.get("/api/admin/runs", params={"owner": me})
        return {row["status"] for row in listed.json()["data"]} == {"cancelled"}

    async with asyncio.timeout(SECONDS):
        while not await all_ended():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    again = (await admin.patch(path, json={"disabled": True})).json()["data"]
    assert again == shown | {"stored_bytes": again["stored_bytes"]}  # recordings end after their runs
    assert (await admin.patch(path, json={"disabled": False})).json()["data"]["disabled_at"] is None
    assert (await bob.post("/api/auth/login", json=login)).status_code == 200
    alice.headers["Authorization"] = f"Bearer {key}"
    closed = (await alice.get(f"/api/computers/{computer['id']}")).json()["data"]
    assert (closed["state"], closed["closed_reason"]) == ("closed", "account_disabled")
    told = await log_of(alice)
    by = f"admin:{await id_of(admin)}"
    changes = [
        (event["actor"], event["data"]["changed"]) for event in told if event["kind"] == "user.updated"
    ]
    assert changes == [(by, {"disabled": True}), (by, {"disabled": False})]
    kinds = [event["kind"] for event in told]
    assert (kinds.count("run.cancelled"), kinds.count("computer.closed")) == (
        4,
        1 + kinds.count("run.started"),
    )
    queued = {run["id"] for run in runs} - {e["resource"]["id"] for e in told if e["kind"] == "run.started"}
    ended = [e for e in told if e["kind"] == "run.cancelled" and e["resource"]["id"] in queued]
    assert [event["actor"] for event in ended] == [by] * len(queued)
    assert (await bob.get(f"/api/runs/{others['id']}")).json()["data"]["status"] in (
        "running",
        "succeeded",
        "queued",
    )
    await bob.post(f"/api/runs/{others['id']}/cancel")
    late = await make.run(alice)
    async with asyncio.timeout(SECONDS):
        while (await alice.get(f"/api/runs/{late['id']}")).json()["data"]["status"] != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await alice.post(f"/api/runs/{late['id']}/cancel")


async def test_many_runs_are_cancelled_in_parts_and_each_is_told_once(
    user: str, other_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CANCELLED_AT_ONCE", 3)
    queued = [await add_run(user) for _ in range(7)]
    asking = await add_run(user, status="waiting_approval", active_ms=1200, step_count=2)
    async with db.as_user(user) as tx:
        question = await tx.add(
            Approval, run_id=asking.id, title="?", action={}, digest="d", expires_at=datetime.now(UTC)
        )
    queued.append(asking)
    driven = await add_run(user, status="running", lease_owner=uuid4())
    ended = await add_run(user, status="succeeded")
    foreign = await add_run(other_user)
    await engine.cancel_all(user, "admin:x")
    async with db.as_system() as tx:
        runs = {run.id: run for run in await tx.find(Run)}
    for run in queued:
        assert (runs[run.id].status, runs[run.id].control) == ("cancelled", "cancel")
        assert runs[run.id].finished_at is not None
    assert (runs[driven.id].status, runs[driven.id].control, runs[driven.id].finished_at) == (
        "running",
        "cancel",
        None,
    )
    assert (runs[ended.id].status, runs[ended.id].control) == ("succeeded", "run")
    assert (runs[foreign.id].status, runs[foreign.id].control) == ("queued", "run")
    events = [json.loads(event.text) for event in await db.events(user, 0)]
    told = [event["resource"]["id"] for event in events if event["kind"] == "run.cancelled"]
    assert told == [str(run.id) for run in queued]
    assert {event["actor"] for event in events} == {"admin:x"}
    async with db.as_user(user) as tx:
        assert (await tx.one(Approval, id=question.id)).status == "cancelled"
    [day] = (await users.usage(user, 1)).days
    assert (day.runs, day.active_ms, day.steps) == (8, 1200, 2)
    nobody = f"user_{uuid4().hex}"
    await db.ensure_user(nobody)
    await engine.cancel_all(nobody, "admin:x")
    assert (await users.usage(nobody, 1)).days == []


async def test_disabling_again_ends_what_the_first_time_did_not_come_to(user: str) -> None:
    run = await add_run(user)
    async with db.as_system() as tx:
        tx.act_for(user)
        await tx.change(User, {}, disabled_at=datetime.now(UTC))
    await users.change(user, UserUpdate(disabled=True), by="user_admin")
    async with db.as_user(user) as tx:
        assert (await tx.one(Run, id=run.id)).status == "cancelled"


async def test_runs_of_a_disabled_user_are_not_claimed(user: str) -> None:
    run = await add_run(user)

    async def claim() -> list[UUID]:
        async with db.as_user(user) as tx:
            await look_at_queue(tx)
        async with db.as_system() as tx:
            await tx.connection.execute("update quotas set ready_at = null where user_id <> $1", user)
            found = []
            while rows := await tx.call("claim_run", uuid4(), timedelta(hours=1), 100, True):
                found += rows  # what other tests have left behind comes first
            return [row["id"] for row in found if row["user_id"] == user]

    async with db.as_system() as tx:
        tx.act_for(user)
        await tx.change(User, {}, disabled_at=datetime.now(UTC))
    assert await claim() == []
    async with db.as_system() as tx:
        tx.act_for(user)
        await tx.change(User, {}, disabled_at=None)
    assert await claim() == [run.id]
    async with db.as_user(user) as tx:
        await tx.remove(Run, id=run.id)


# Power


async def test_nobody_demotes_or_disables_oneself(admin: httpx.AsyncClient) -> None:
    path = f"/api/admin/users/{await id_of(admin)}"
    for body in ({"role": "user"}, {"disabled": True}, {"disabled": True, "max_runs": 3}):
        assert_problem(await admin.patch(path, json=body), 409, "own_account")
    assert (await admin.patch(path, json={"role": "admin", "disabled": False})).status_code == 200
    shown = (await admin.get(path)).json()["data"]
    assert (shown["role"], shown["disabled_at"], shown["max_runs"]) == ("admin", None, None)


@pytest.fixture
async def no_admins(database: str) -> AsyncIterator[None]:
    async with db.as_system() as tx:
        before = await tx.connection.fetch("update users set role = 'user' where role = 'admin' returning id")
    yield
    async with db.as_system() as tx:
        await tx.connection.execute("update users set role = 'user'")
        ids = [row["id"] for row in before]
        await tx.connection.execute("update users set role = 'admin' where id = any($1)", ids)


async def promote(*user_ids: str) -> None:
    for user_id in user_ids:
        await users.change(user_id, UserUpdate(role="admin"), by="x")


async def test_the_last_administrator_stays(no_admins: None, user: str, other_user: str) -> None:
    await promote(user)
    for body in (UserUpdate(role="user"), UserUpdate(disabled=True)):
        with pytest.raises(users.LastAdmin):
            await users.change(user, body, by="x")
    await promote(other_user)
    await users.change(other_user, UserUpdate(disabled=True), by="x")
    with pytest.raises(users.LastAdmin):  # one who is disabled is none
        await users.change(user, UserUpdate(role="user"), by="x")
    await users.change(other_user, UserUpdate(role="user"), by="x")
    assert (await users.read(user)).role == "admin"


async def test_two_administrators_who_demote_each_other_at_once_leave_one(
    no_admins: None, user: str, other_user: str
) -> None:
    for _ in range(5):
        await promote(user, other_user)
        outcomes = await asyncio.gather(
            users.change(user, UserUpdate(role="user"), by=other_user),
            users.change(other_user, UserUpdate(role="user"), by=user),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes].count(users.LastAdmin) == 1
        assert sorted([(await users.read(user)).role, (await users.read(other_user)).role]) == [
            "admin",
            "user",
        ]


# Runs and contents


async def test_everyones_runs_are_listed_newest_first_and_filtered(user: str, other_user: str) -> None:
    made = [await add_run(owner) for owner in (user, other_user, user, other_user)]
    failed = await add_run(user, status="failed", error={"code": "timeout", "detail": SECRET})

    async def listed(**query: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        cursor = None
        while True:
            asked = AdminRunQuery(limit=2, cursor=cursor, **query)
            page = json.loads(bytes((await users.runs(asked)).body))
            rows += page["data"]
            cursor = page["next_cursor"]
            if cursor is None or len(rows) >= 5:
                return rows

    newest = await listed()
    assert [row["id"] for row in newest[:5]] == [str(run.id) for run in (failed, *reversed(made))]
    assert {row["owner"] for row in newest[:5]} == {user, other_user}
    assert [row["id"] for row in await listed(owner=other_user)] == [str(made[3].id), str(made[1].id)]
    assert [row["error_code"] for row in await listed(owner=user, status="failed")] == ["timeout"]
    assert await listed(owner="nobody") == []
    assert SECRET not in json.dumps(newest)
    async with db.as_system() as tx:
        for owner in (user, other_user):
            await tx.connection.execute("delete from runs where user_id = $1", owner)


async def test_a_run_is_cancelled_by_its_id_and_its_owner_is_told(
    alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    run = await make.run(alice, run_after="2999-01-01T00:00:00Z")
    path = f"/api/admin/runs/{run['id']}/cancel"
    headers = {"Idempotency-Key": uuid4().hex}
    first = await admin.post(path, headers=headers)
    again = await admin.post(path, headers=headers)
    assert (first.status_code, first.json()["data"]["status"]) == (200, "cancelled")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    [listed] = (await admin.get("/api/admin/runs", params={"owner": await id_of(alice)})).json()["data"]
    assert listed == first.json()["data"]
    [event] = [event for event in await log_of(alice) if event["kind"] == "run.cancelled"]
    assert (event["actor"], event["run_id"]) == (f"admin:{await id_of(admin)}", run["id"])
    assert_problem(await admin.post(path), 409, "wrong_state")
    assert_problem(await admin.post(f"/api/admin/runs/{uuid4()}/cancel"), 404, "not_found")
    assert (await admin.post("/api/admin/runs/x/cancel")).status_code == 422
    own = await admin.get("/api/events", params={"kind": "run.cancelled"})
    assert own.json()["data"] == []


async def test_cancelling_a_run_that_ended_is_a_conflict(user: str) -> None:
    run = await add_run(user, status="succeeded")
    with pytest.raises(WrongState):
        await users.cancel_run("x", run.id)


async def test_administrators_see_no_contents(
    alice: httpx.AsyncClient, admin: httpx.AsyncClient, server: Backend
) -> None:
    flow = make.FLOW | {"title": SECRET}
    workflow = await make.workflow(alice, name=SECRET, definition=flow)
    run = await make.run(alice, definition=flow, run_after="2999-01-01T00:00:00Z")
    thread = (await alice.post("/api/threads", json={"name": SECRET})).json()["data"]
    await alice.post(f"/api/threads/{thread['id']}/messages", json={"text": SECRET})
    await alice.put("/api/me/preferences", json={"note": SECRET})
    key = await make.key(alice, name=SECRET)
    me = await id_of(alice)
    for path in (f"/api/admin/users/{me}", f"/api/admin/users?q={me}", f"/api/admin/runs?owner={me}"):
        reply = await admin.get(path)
        assert reply.status_code == 200
        assert SECRET not in reply.text
        assert key["start"] not in reply.text
    assert {"title", "reason", "params", "result", "error"}.isdisjoint(reply.json()["data"][0])
    cancelled = await admin.post(f"/api/admin/runs/{run['id']}/cancel")
    assert SECRET not in cancelled.text
    for path in (
        f"/api/workflows/{workflow['id']}",
        f"/api/runs/{run['id']}",
        f"/api/runs/{run['id']}/steps",
        f"/api/runs/{run['id']}/events",
        f"/api/threads/{thread['id']}",
        f"/api/threads/{thread['id']}/messages",
        f"/api/keys/{key['id']}",
    ):
        assert_problem(await admin.get(path), 404, "not_found")
    for path in ("/api/runs", "/api/workflows", "/api/threads", "/api/keys", "/api/events", "/api/files"):
        assert SECRET not in (await admin.get(path)).text
    assert SECRET not in json.dumps(await log_of(admin))
