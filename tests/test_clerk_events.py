"""Clerk's events: signed by Svix's own signer, taken in once, and refused when anything about them is wrong."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from sqlalchemy.exc import NoResultFound
from starlette.datastructures import Headers
from svix.webhooks import Webhook as Signer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import clerk_auth
import db
import users
from infra.bus import LocalBus
from models import Computer, ErasedUser, Inbox, Quota, Run, User
from schemas import UserUpdate
from settings import settings
from tests.clerk import SESSION, USER, KeyServer, key_server
from tests.conftest import Backend, free_port
from tests.test_start import refused_start
from tests.workers import tombstone
from webhooks import clerk

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
NOW = 1_790_000_000_000


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings.model_copy(update={"clerk_webhook_signing_secret": SECRET})
    monkeypatch.setattr(clerk, "settings", chosen)


@pytest.fixture
async def clerk_user(database: str) -> str:
    """The id of a user of Clerk's whom nobody has seen."""
    return f"user_{uuid4().hex}"


def profile(id: str, at: int = NOW, **changes: Any) -> dict[str, Any]:
    """A user as Clerk describes one."""
    made: dict[str, Any] = {
        "id": id,
        "object": "user",
        "username": None,
        "first_name": "Ada",
        "last_name": "Lovelace",
        "image_url": "https://img.clerk.com/ada",
        "primary_email_address_id": "idn_1",
        "email_addresses": [
            address("idn_2", "other@example.com"),
            address("idn_1", "Ada@Example.com"),
        ],
        "banned": False,
        "locked": False,
        "public_metadata": {},
        "created_at": NOW,
        "updated_at": at,
    }
    return made | changes


def address(id: str, email: str, status: str | None = "verified") -> dict[str, Any]:
    return {"id": id, "email_address": email, "verification": status and {"status": status}}


def event(kind: str, data: dict[str, Any]) -> bytes:
    body = {"type": kind, "object": "event", "data": data, "timestamp": NOW, "instance_id": "ins_1"}
    return json.dumps(body).encode()


def signed(
    body: bytes,
    *,
    id: str | None = None,
    at: datetime | None = None,
    secret: str = SECRET,
    prefix: str = "svix",
) -> dict[str, str]:
    """The headers that Svix's own signer gives."""
    message, at = id or f"msg_{uuid4().hex}", at or datetime.now(UTC)
    return {
        f"{prefix}-id": message,
        f"{prefix}-timestamp": str(int(at.timestamp())),
        f"{prefix}-signature": Signer(secret).sign(message, at, body.decode()),
    }


async def receive(kind: str, data: dict[str, Any], **signing: Any) -> dict[str, str]:
    body = event(kind, data)
    headers = signed(body, **signing)
    await clerk.receive(Headers(headers), body)
    return headers


async def stored(id: str) -> User:
    async with db.as_system() as tx:
        return await tx.one(User, id=id)


async def inbox() -> set[str]:
    async with db.as_system() as tx:
        return {row.id for row in await tx.find(Inbox)}


async def log_of(user: str) -> list[dict[str, Any]]:
    return [orjson.loads(entry.text) for entry in await db.events(user, 0)]


# Profiles -----------------------------------------------------------------------------------------


async def test_a_user_is_made_and_later_changed(clerk_user: str) -> None:
    await receive("user.created", profile(clerk_user))
    user = await stored(clerk_user)
    assert (user.email, user.name, user.image_url) == (
        "ada@example.com",
        "Ada Lovelace",
        "https://img.clerk.com/ada",
    )
    await db.ensure_user(clerk_user)
    await receive("user.updated", profile(clerk_user, NOW + 1, last_name="King"), prefix="webhook")
    user = await stored(clerk_user)
    assert (user.name, user.mirrored_at) == ("Ada King", datetime.fromtimestamp((NOW + 1) / 1000, UTC))
    news = (await log_of(clerk_user))[-1]
    assert (news["kind"], news["resource"], news["data"]["name"]) == (
        "user.updated",
        {"type": "user", "id": clerk_user},
        "Ada King",
    )


async def test_what_did_not_change_is_not_news(clerk_user: str) -> None:
    await receive("user.created", profile(clerk_user))
    before = len(await log_of(clerk_user))
    await receive("user.updated", profile(clerk_user, NOW + 5, locked=True))
    assert len(await log_of(clerk_user)) == before
    assert (await stored(clerk_user)).mirrored_at == datetime.fromtimestamp((NOW + 5) / 1000, UTC)


async def test_older_news_never_replaces_newer(clerk_user: str) -> None:
    await receive("user.updated", profile(clerk_user, NOW + 1000, first_name="New"))
    log = await log_of(clerk_user)
    for late in (NOW, NOW + 1000):
        await receive("user.updated", profile(clerk_user, late, first_name="Old"))
    assert (await stored(clerk_user)).name == "New Lovelace"
    assert await log_of(clerk_user) == log


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"email_addresses": [address("idn_1", "a@b.c", "unverified")]}, ("email", None)),
        ({"email_addresses": [address("idn_1", "a@b.c", None)]}, ("email", None)),
        ({"email_addresses": []}, ("email", None)),
        ({"primary_email_address_id": None}, ("email", None)),
        ({"primary_email_address_id": "idn_2"}, ("email", "other@example.com")),
        ({"first_name": None, "last_name": None, "username": "ada"}, ("name", "ada")),
        ({"first_name": None}, ("name", "Lovelace")),
        ({"first_name": None, "last_name": None}, ("name", None)),
        ({"first_name": "\x00A\nda\x7f", "last_name": "x" * 500}, ("name", "A da " + " " + "x" * 194)),
        ({"image_url": "\x00"}, ("image_url", None)),
    ],
    ids=str,
)
async def test_profiles_of_every_form(
    changes: dict[str, Any], shown: tuple[str, str | None], clerk_user: str
) -> None:
    await receive("user.created", profile(clerk_user, **changes))
    name, value = shown
    found = getattr(await stored(clerk_user), name)
    assert found == value or (found and value and found.split() == value.split())


async def test_a_ban_disables_and_ends_sign_ins_and_its_end_enables_again(
    clerk_user: str, bus: LocalBus
) -> None:
    revoked: list[bytes] = []
    stop = bus.subscribe("revoked", revoked.append)
    await receive("user.created", profile(clerk_user))
    assert (await stored(clerk_user)).disabled_at is None
    await receive("user.updated", profile(clerk_user, NOW + 1, banned=True))
    assert (await stored(clerk_user)).disabled_at is not None
    await asyncio.sleep(0.01)
    assert revoked == [f"user:{clerk_user}".encode()]
    await receive("user.updated", profile(clerk_user, NOW + 2))
    assert (await stored(clerk_user)).disabled_at is None
    stop()


async def test_a_ban_ends_runs_and_computers_and_its_end_lets_the_queue_go_on(clerk_user: str) -> None:
    await receive("user.created", profile(clerk_user))
    run = {"title": "r", "definition": {}, "timeout_seconds": 60}
    async with db.as_user(clerk_user) as tx:
        ended = await tx.add(Run, **run)
        computer = await tx.add(Computer, name="c", settings={})
    banned = profile(clerk_user, NOW + 1, banned=True)
    await receive("user.updated", banned)
    async with db.as_user(clerk_user) as tx:
        assert (await tx.one(Run, id=ended.id)).status == "cancelled"
        assert (await tx.one(Computer, id=computer.id)).closed_reason == "account_disabled"
        waiting = await tx.add(Run, **run)
        await tx.change(Quota, {}, ready_at=None)
    await receive("user.updated", profile(clerk_user, NOW + 2))
    async with db.as_user(clerk_user) as tx:
        assert (await tx.one(Quota)).ready_at is not None
        await tx.remove(Run, id=waiting.id)


async def test_whom_an_administrator_disabled_clerk_does_not_enable(clerk_user: str) -> None:
    await receive("user.created", profile(clerk_user))
    async with db.as_user(clerk_user) as tx:
        await tx.change(User, {"id": clerk_user}, disabled_at=datetime.now(UTC))
    for n, banned in enumerate((True, False), 1):
        await receive("user.updated", profile(clerk_user, NOW + n, banned=banned))
        assert (await stored(clerk_user)).disabled_at is not None


async def test_whom_an_administrator_enabled_and_disabled_again_the_end_of_a_ban_does_not_enable(
    clerk_user: str,
) -> None:
    await receive("user.created", profile(clerk_user, banned=True))
    for disabled in (False, True):
        await users.change(clerk_user, UserUpdate(disabled=disabled), by="user_admin")
    await receive("user.updated", profile(clerk_user, NOW + 1))
    assert (await stored(clerk_user)).disabled_at is not None


async def test_first_sight_by_token_and_by_event_at_once_make_one_user(database: str) -> None:
    for _ in range(10):
        who = f"user_{uuid4().hex}"
        await asyncio.gather(db.ensure_user(who), receive("user.created", profile(who)), db.ensure_user(who))
        assert (await stored(who)).name == "Ada Lovelace"


# Ends ---------------------------------------------------------------------------------------------


async def bury(id: str) -> None:
    async with db.as_system() as tx:
        await tx.add(ErasedUser, id=tombstone(id))


@pytest.mark.parametrize("kind", ["user.created", "user.updated"])
async def test_late_news_does_not_bring_back_who_was_erased(kind: str, clerk_user: str) -> None:
    await bury(clerk_user)
    headers = await receive(kind, profile(clerk_user))
    with pytest.raises(NoResultFound):
        await stored(clerk_user)
    assert f"clerk:{headers['svix-id']}" in await inbox()
    async with db.as_system() as tx:
        assert await tx.find(ErasedUser, id=tombstone(clerk_user))


async def test_news_leaves_no_tombstone(clerk_user: str) -> None:
    await receive("user.created", profile(clerk_user))
    async with db.as_system() as tx:
        assert await tx.find(ErasedUser, id=tombstone(clerk_user)) == []


async def test_an_erasure_waits_for_news_of_the_same_user_and_then_sees_it(clerk_user: str) -> None:
    async def erase() -> list[User]:
        async with db.as_system() as tx:
            await tx.add(ErasedUser, id=tombstone(clerk_user))
            return await tx.remove(User, id=clerk_user)

    async with db.as_system() as tx:
        await clerk._mirror(tx, clerk._Profile.model_validate(profile(clerk_user)))
        erasing = asyncio.create_task(erase())
        await asyncio.sleep(0.2)
        assert not erasing.done()
    async with db.as_system() as tx:  # what a system transaction removes it names
        await asyncio.wait_for(erasing, 5)
        assert await tx.find(ErasedUser, id=tombstone(clerk_user))


@pytest.mark.parametrize("kind", ["session.ended", "session.removed", "session.revoked"])
async def test_the_end_of_a_session_refuses_its_tokens(kind: str, database: str, bus: LocalBus) -> None:
    session = f"sess_{uuid4().hex}"
    stop = bus.subscribe("revoked", clerk_auth.on_revoked)
    await receive(kind, {"id": session, "user_id": USER, "status": "ended"})
    await asyncio.sleep(0.01)
    stop()
    now = int(time.time())
    assert clerk_auth.revoked(clerk_auth.Caller(USER, session, now, now + 60))
    assert not clerk_auth.revoked(clerk_auth.Caller(USER, "sess_other", now, now + 60))


@pytest.mark.parametrize("kind", ["session.created", "organization.created", "email.created", "x" * 5000])
async def test_other_types_are_taken_in_and_change_nothing(kind: str, database: str) -> None:
    headers = await receive(kind, {"anything": [1, {"b": None}]})
    assert f"clerk:{headers['svix-id']}" in await inbox()


# Repeats and forgeries ----------------------------------------------------------------------------


async def test_a_repeat_changes_nothing(clerk_user: str) -> None:
    body = event("user.created", profile(clerk_user))
    headers = Headers(signed(body))
    await clerk.receive(headers, body)
    async with db.as_user(clerk_user) as tx:
        await tx.change(User, {"id": clerk_user}, name="Mine", mirrored_at=None)
    await clerk.receive(headers, body)
    again = signed(body, id=headers["svix-id"], at=datetime.now(UTC) + timedelta(seconds=9))  # a retry
    await asyncio.gather(*(clerk.receive(Headers(again), body) for _ in range(5)))
    assert (await stored(clerk_user)).name == "Mine"


async def test_twins_that_come_at_once_count_once(clerk_user: str) -> None:
    bodies = [event("user.updated", profile(clerk_user, NOW + n, first_name=f"N{n}")) for n in range(6)]
    headers = Headers(signed(bodies[0], id="msg_" + uuid4().hex))
    await asyncio.gather(*(clerk.receive(headers, bodies[0]) for _ in range(6)))
    assert len([row for row in await inbox() if row == f"clerk:{headers['svix-id']}"]) == 1
    assert len(await log_of(clerk_user)) <= 1


async def test_what_breaks_off_is_not_counted_as_taken_in(clerk_user: str) -> None:
    body = event("user.updated", profile(clerk_user) | {"updated_at": "yesterday"})
    headers = Headers(signed(body))
    with pytest.raises(clerk.InvalidEvent):
        await clerk.receive(headers, body)
    assert f"clerk:{headers['svix-id']}" not in await inbox()


def _flipped(body: bytes) -> bytes:
    return body.replace(b"Ada", b"Adb", 1)


@pytest.mark.parametrize(
    "forge",
    [
        lambda body, good: (_flipped(body), good),
        lambda body, good: (body + b" ", good),
        lambda body, good: (body + b"\xff", good),
        lambda body, good: (body, signed(body, secret="whsec_" + base64.b64encode(os.urandom(24)).decode())),
        lambda body, good: (body, signed(body, at=datetime.now(UTC) - timedelta(seconds=310))),
        lambda body, good: (body, signed(body, at=datetime.now(UTC) + timedelta(seconds=310))),
        lambda body, good: (body, good | {"svix-id": "msg_other"}),
        lambda body, good: (body, good | {"svix-id": ""}),
        lambda body, good: (body, good | {"svix-id": "é"}),
        lambda body, good: (body, good | {"svix-id": "m" * 257}),
        lambda body, good: (body, good | {"svix-timestamp": str(int(good["svix-timestamp"]) + 1)}),
        lambda body, good: (body, good | {"svix-timestamp": good["svix-timestamp"] + ".0"}),
        lambda body, good: (body, good | {"svix-timestamp": good["svix-timestamp"] + "\n"}),
        lambda body, good: (body, good | {"svix-timestamp": "0" + good["svix-timestamp"]}),
        lambda body, good: (body, good | {"svix-timestamp": good["svix-timestamp"][:5] + "_" + good["svix-timestamp"][5:]}),
        lambda body, good: (body, good | {"svix-timestamp": "١٧٩٠٠٠٠٠٠٠"}),
        lambda body, good: (body, good | {"svix-timestamp": "nan"}),
        lambda body, good: (body, good | {"svix-signature": ""}),
        lambda body, good: (body, good | {"svix-signature": "v1"}),
        lambda body, good: (body, good | {"svix-signature": "v1,,"}),
        lambda body, good: (body, good | {"svix-signature": "v1,a,b"}),
        lambda body, good: (body, good | {"svix-signature": "v1,a"}),
        lambda body, good: (body, good | {"svix-signature": "v1,=="}),
        lambda body, good: (body, good | {"svix-signature": "v1,é"}),
        lambda body, good: (body, good | {"svix-signature": "  "}),
        lambda body, good: (body, good | {"svix-signature": good["svix-signature"].replace("v1,", "v1a,")}),
        lambda body, good: (body, good | {"svix-signature": good["svix-signature"].replace("v1,", "v2,")}),
        lambda body, good: (body, good | {"svix-signature": good["svix-signature"][:-6]}),
        lambda body, good: (body, good | {"svix-signature": "v1," + "A" * 9000}),
        lambda body, good: (body, {k: v for k, v in good.items() if k != "svix-id"}),
        lambda body, good: (body, {k: v for k, v in good.items() if k != "svix-timestamp"}),
        lambda body, good: (body, {k: v for k, v in good.items() if k != "svix-signature"}),
        lambda body, good: (body, {}),
        lambda body, good: (body, {"svix-id": "msg_1", **signed(body, prefix="webhook")}),
    ],
)  # fmt: skip
async def test_forged_messages_are_refused_and_nothing_is_kept(forge: Any, clerk_user: str) -> None:
    body = event("user.created", profile(clerk_user))
    before = await inbox()
    forged, headers = forge(body, signed(body))
    raw = [(name.encode(), value.encode("utf-8")) for name, value in headers.items()]
    with pytest.raises(clerk.InvalidSignature):
        await clerk.receive(Headers(raw=raw), forged)
    assert await inbox() == before
    with pytest.raises(NoResultFound):
        await stored(clerk_user)


async def test_a_header_given_twice_is_refused(clerk_user: str) -> None:
    body = event("user.created", profile(clerk_user))
    good = signed(body)
    for name, value in good.items():
        raw = [(key.encode(), it.encode()) for key, it in [*good.items(), (name, value)]]
        with pytest.raises(clerk.InvalidSignature):
            await clerk.receive(Headers(raw=raw), body)


async def test_one_of_several_signatures_is_enough(clerk_user: str) -> None:
    body = event("user.created", profile(clerk_user))
    headers = signed(body)
    other = signed(body, id=headers["svix-id"], secret="whsec_" + base64.b64encode(b"k" * 32).decode())
    headers["svix-signature"] = f"v1a,xx {other['svix-signature']} {headers['svix-signature']}"
    await clerk.receive(Headers(headers), body)
    assert await stored(clerk_user)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"user.created"',
        b"{}",
        b'{"type": "user.created"}',
        b'{"type": 1, "data": {}}',
        b'{"type": "user.created", "data": []}',
        b'{"type": "user.created", "data": {}}',
        b'{"type": "session.ended", "data": {"id": "user:user_1"}}',
        b'{"type": "user.deleted", "data": {"id": "local|1"}}',
        b'{"type": "user.created", "data": {"id": "user_\\u0000", "updated_at": 1}}',
        b'{"type": "user.created", "data": {"id": "user_1\\n", "updated_at": 1}}',
        b'{"type": "user.created", "data": {"id": "user_1", "updated_at": 1e30}}',
        b'{"type": "user.created", "data": {"id": "user_1", "updated_at": -1}}',
        b'{"type": "user.created", "data": {"id": "user_1"}}',
        b'{"type": "user.created", "data": {"id": "user_1", "updated_at": 1, "email_addresses": {}}}',
        b'{"type": "user.created", "data": {"id": "user_1", "updated_at": 1, "first_name": "\\ud800"}}',
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
)
async def test_signed_nonsense_is_a_problem_and_nothing_is_kept(body: bytes, database: str) -> None:
    before = await inbox()
    with pytest.raises(clerk.InvalidEvent):
        await clerk.receive(Headers(signed(body)), body)
    assert await inbox() == before


@pytest.mark.parametrize(
    "secret", ["x", "whsec_", "whsec_YQ", "whsec_!!!", "whsec_" + base64.b64encode(b"k" * 23).decode()]
)
async def test_a_secret_that_is_none_stops_the_start(secret: str) -> None:
    with pytest.raises(clerk_auth.Misconfigured, match="CLERK_WEBHOOK_SIGNING_SECRET"):
        clerk.check_settings(settings.model_copy(update={"clerk_webhook_signing_secret": secret}))
    for good in ("", SECRET):
        clerk.check_settings(settings.model_copy(update={"clerk_webhook_signing_secret": good}))


# Over HTTP ----------------------------------------------------------------------------------------


async def test_without_a_secret_there_is_nothing_to_find(server: Backend) -> None:
    body = event("user.created", profile(USER))
    async with httpx.AsyncClient(base_url=server.url) as client:
        reply = await client.post(
            "/webhooks/clerk", content=body, headers=signed(body) | {"content-type": "application/json"}
        )
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


@dataclass
class Clerk:
    """A server that Clerk signs people in to, and Clerk's side of it."""

    server: Backend
    issuer: KeyServer
    client: httpx.AsyncClient

    async def post(self, kind: str, data: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.send(event(kind, data), **headers)

    async def send(self, body: bytes, **headers: str) -> httpx.Response:
        kind = {"content-type": "application/json"}
        return await self.client.post("/webhooks/clerk", content=body, headers=signed(body) | kind | headers)

    def bearer(self, user: str, session: str = SESSION) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.token(sub=user, sid=session)}"}


@pytest.fixture(scope="module")
async def at_clerk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clerk]:
    async with key_server() as issuer:
        extra = {"CLERK_ISSUER": issuer.issuer, "CLERK_WEBHOOK_SIGNING_SECRET": SECRET, "WORKER": "off"}
        server = Backend(tmp_path_factory.mktemp("clerk"), free_port(), extra)
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                yield Clerk(server, issuer, client)
        finally:
            await server.stop()


async def test_clerks_events_reach_a_whole_server(at_clerk: Clerk) -> None:
    reply = await at_clerk.post("user.created", profile(USER))
    assert (reply.status_code, reply.json()) == (200, {"success": True, "data": None})
    me = (await at_clerk.client.get("/api/me", headers=at_clerk.bearer(USER))).json()["data"]
    assert (me["id"], me["email"], me["name"]) == (USER, "ada@example.com", "Ada Lovelace")


async def test_what_is_wrong_with_a_message_is_a_problem(at_clerk: Clerk) -> None:
    body = event("user.created", profile(USER))
    forged = await at_clerk.send(body, **{"svix-signature": "v1,garbage"})
    assert (forged.status_code, forged.json()["code"]) == (400, "invalid_signature")
    assert "www-authenticate" not in forged.headers
    strange = await at_clerk.send(b"[]")
    assert (strange.status_code, strange.json()["code"]) == (422, "invalid_event")
    assert (await at_clerk.send(b'"' + b"x" * 2**20 + b'"')).status_code == 413
    assert (await at_clerk.send(body, **{"content-type": "text/plain"})).status_code == 415
    assert (await at_clerk.client.get("/webhooks/clerk")).status_code == 405


async def test_the_end_of_a_session_closes_its_sockets(at_clerk: Clerk) -> None:
    user, session = f"user_{uuid4().hex}", f"sess_{uuid4().hex}"
    bearer = at_clerk.bearer(user, session)
    link = await connect(
        at_clerk.server.socket_url,
        subprotocols=["cua.v1"],  # type: ignore[list-item]
        additional_headers=bearer,
    )
    async with link, asyncio.timeout(10):
        while json.loads(await link.recv())["type"] != "ready":
            pass
        assert (await at_clerk.post("session.revoked", {"id": session, "user_id": user})).status_code == 200
        with pytest.raises(ConnectionClosed):
            while True:
                await link.recv()
        assert link.close_code == 4403
    assert (await at_clerk.client.get("/api/me", headers=bearer)).status_code == 401


async def test_a_deleted_user_is_erased_and_stays_so(at_clerk: Clerk) -> None:
    user, stranger = f"user_{uuid4().hex}", f"user_{uuid4().hex}"
    assert (await at_clerk.post("user.created", profile(user))).status_code == 200
    assert (await at_clerk.client.get("/api/me", headers=at_clerk.bearer(user))).status_code == 200
    for gone in (user, user, stranger):  # told twice, and of one whom this server never saw
        reply = await at_clerk.post("user.deleted", {"id": gone, "object": "user", "deleted": True})
        assert reply.status_code == 200, reply.text
        assert (await at_clerk.post("user.updated", profile(gone, NOW + 10))).status_code == 200
        me = await at_clerk.client.get("/api/me", headers=at_clerk.bearer(gone, f"sess_{uuid4().hex}"))
        assert me.status_code == 401


async def test_a_server_with_a_secret_that_is_none_does_not_start(data_dir: Path) -> None:
    extra = {"CLERK_ISSUER": "https://clerk.example.com", "CLERK_WEBHOOK_SIGNING_SECRET": "whsec_YQ"}
    server = Backend(data_dir, free_port(), extra)
    assert "CLERK_WEBHOOK_SIGNING_SECRET is not a signing secret" in await refused_start(server)
