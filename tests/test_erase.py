"""The end of a user: nothing left in any table or file, whoever is killed on the way, and nobody comes back."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import db
import upkeep
import users
from infra.bus import LocalBus
from infra.storage import open_directory
from models import Computer, ErasedUser, Event, Run, Step, User, Workflow, uuid7
from runs import computers, files
from runs.drive import Drive
from runs.endings import Fenced
from runs.queue import LONG_AGO
from settings import settings
from tests import make
from tests.conftest import ROOT, Backend
from tests.everything import bytes_of, one_of_everything, traces
from tests.workers import look, tombstone

STORE = settings.data_dir / "files"


@pytest.fixture(scope="module")
async def worker(database: str, bus: LocalBus) -> AsyncIterator[UUID]:
    """This process as one that may hold computers."""
    worker_id = uuid7()
    await computers.start(worker_id, bus, await open_directory(STORE))
    yield worker_id
    await computers.stop()


def words_of(user: str, email: str, made: dict[Any, Any]) -> list[str]:
    return [user, email, *(str(it) for model, it in made.items() if model is not Event)]


async def test_no_row_and_no_file_is_left_anywhere(user: str, other_user: str, worker: UUID) -> None:
    email, others = (f"{uuid4().hex}@example.com" for _ in range(2))
    words = words_of(user, email, await one_of_everything(user, email))
    kept = words_of(other_user, others, await one_of_everything(other_user, others))
    before = await traces(kept)
    assert {place.split(".")[0] for place in await traces(words)} >= {"users", "accounts", "events", "frames"}
    assert len(bytes_of(STORE, user)) == 2
    await users.erase(user)
    assert await traces(words) == []
    await upkeep.remove_due()
    assert bytes_of(STORE, user) == []
    assert await traces([*words, files.place_of(user)]) == ["erased_users.id"]
    assert await traces(kept) == before
    assert len(bytes_of(STORE, other_user)) == 2
    await users.erase(user)
    await users.erase("user_whoneverwas")
    assert await traces(words) == []


async def test_nobody_comes_back(user: str, worker: UUID) -> None:
    await users.erase(user)
    for _ in range(2):
        assert (await db.ensure_user(user, email="again@example.com")).erased
    async with db.as_user(user) as tx:
        assert await tx.find(User) == []


async def test_what_came_before_its_tombstone_was_seen_goes_in_the_next_round(
    user: str, worker: UUID
) -> None:
    await users.erase(user)
    async with db.as_user(user) as tx:  # a request that looked for the tombstone a moment too early
        await tx.add(User, id=user)
    await upkeep.go_round()
    assert await traces([user]) == []


async def test_a_late_worker_writes_nothing(user: str, worker: UUID) -> None:
    """Its updates find no row, and what it would add belongs to nobody."""
    async with db.as_user(user) as tx:
        lease = {"lease_owner": uuid7(), "lease_epoch": 1, "lease_expires_at": LONG_AGO}
        fields = {"title": "R", "definition": {}, "timeout_seconds": 9, "status": "running"}
        run = await tx.add(Run, **fields, **lease)
        computer = await tx.add(Computer, name="C", state="open", **lease)
    await users.erase(user)
    late = Drive(run, None)  # type: ignore[arg-type]
    with pytest.raises(Fenced):
        await late.write(event="succeeded", status="succeeded")
    held = computers.Held(user, computer.id, 1, for_run=True)
    news: list[tuple[str, dict[str, Any]]] = [
        ("navigated", {"url": "http://x"}),
        ("closed", {"reason": "user"}),
    ]
    assert not await computers._write_news(held, news)
    step = {"number": 1, "pointer": "/steps/0", "type": "x", "title": "x", "attempt": 1, "safe": True}
    adds: list[tuple[Any, dict[str, Any]]] = [
        (Step, {"run_id": run.id, **step}),
        (Run, fields),
        (Workflow, {"name": "W", "definition": {}}),
        (Computer, {"name": "C"}),
    ]
    for model, values in adds:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            async with db.as_user(user) as tx:
                await tx.add(model, **values)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with db.as_user(user) as tx:
            tx.emit("run.log", ("run", run.id), {"message": "late"})
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with db.as_user(user, "user", db.Idempotency("k", "f")) as tx:
            tx.reply("null")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await files.save(user, kind="upload", name="n", content_type="a/b", data=b"1", limit=1)
    assert bytes_of(STORE, user) == []
    async with db.as_system() as tx:
        await tx.connection.execute("update removals set not_before = now()")
    await upkeep.remove_due()
    assert await traces([user, str(run.id), str(computer.id)]) == []


async def test_an_upload_that_ended_after_its_user_is_swept(user: str, worker: UUID) -> None:
    await users.erase(user)
    await upkeep.remove_due()
    path = STORE / files.place_of(user) / "files" / "late"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"late")
    await upkeep.go_round()
    await upkeep.remove_due()
    assert bytes_of(STORE, user) == []


ERASER = """
import asyncio, os, sys
from pathlib import Path
import db, users
from infra.bus import LocalBus
from infra.storage import open_directory
from models import uuid7
from runs import computers
async def main(dsn, store, user):
    bus = LocalBus()
    await bus.start()
    await db.open_database(dsn, size=2, publish=bus.publish)
    await computers.start(uuid7(), bus, await open_directory(Path(store)), opens=False)
    users.ERASED_RUNS = 1
    print(os.getpid(), flush=True)
    await users.erase(user)
    await asyncio.sleep(60)
for _ in sys.stdin:
    if child := os.fork():
        os.waitpid(child, 0)
        print("killed", flush=True)
    else:
        asyncio.run(main(*sys.argv[1:]))
"""


async def erasing() -> list[str]:
    """Whose erasure has begun and not ended."""
    async with db.as_system() as tx:
        return [row["id"] for row in await tx.call("erasing")]


async def test_an_erasure_that_is_killed_anywhere_is_finished(user: str, database: str, worker: UUID) -> None:
    email = f"{uuid4().hex}@example.com"
    words = words_of(user, email, await one_of_everything(user, email))
    async with db.as_user(user) as tx:
        for _ in range(400):
            await tx.add(Run, title=email, definition={}, timeout_seconds=1, status="failed")
    dice = random.Random(5)
    eraser = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ERASER, database, str(STORE), user),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert eraser.stdin is not None
    assert eraser.stdout is not None
    for _ in range(5):
        eraser.stdin.write(b"again\n")
        process = int(await eraser.stdout.readline())
        async for _ in look(10):
            if user in await erasing():
                break
        await asyncio.sleep(dice.uniform(0, 0.03))
        os.kill(process, signal.SIGKILL)
        assert await eraser.stdout.readline() == b"killed\n"
        assert user in await erasing()
    await eraser.communicate(b"")
    await upkeep.go_round()
    await upkeep.remove_due()
    assert await traces(words) == []
    assert bytes_of(STORE, user) == []
    async with db.as_system() as tx:
        assert len(await tx.find(ErasedUser, id=tombstone(user))) == 1
        assert user not in await erasing()


async def credentials(server: Backend, email: str) -> httpx.AsyncClient:
    client = httpx.AsyncClient(base_url=server.url, timeout=30)
    body = {"email": email, "password": "correct horse battery"}
    tokens = (await client.post("/api/auth/register", json=body)).json()["data"]
    client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    return client


async def test_a_signed_in_person_leaves_with_sockets_runs_and_browsers(server: Backend) -> None:
    email = f"{uuid4().hex}@example.com"
    client = await credentials(server, email)
    me = (await client.get("/api/me")).json()["data"]["id"]
    computer = await make.computer(client)
    run = await make.run(client)
    for path, field, value in (("computers", "state", "open"), ("runs", "status", "running")):
        thing = {"computers": computer, "runs": run}[path]["id"]
        async with asyncio.timeout(30):
            while (await client.get(f"/api/{path}/{thing}")).json()["data"][field] != value:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    headers = {"Authorization": client.headers["Authorization"]}
    async with connect(server.socket_url, additional_headers=headers) as link:
        while json.loads(await link.recv())["type"] != "ready":
            pass
        reply = await client.delete("/api/me")
        assert (reply.status_code, reply.json()) == (200, {"success": True, "data": None})
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(5):
                while True:
                    await link.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403
    refused = await client.get("/api/me")
    unknown = await client.get("/api/me", headers={"Authorization": "Bearer x"})
    assert refused.status_code == unknown.status_code == 401
    assert refused.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    for method, path in (("POST", "/api/threads"), ("DELETE", "/api/me"), ("GET", "/api/me/export")):
        key = {"Idempotency-Key": "k"}
        assert (await client.request(method, path, headers=key)).status_code == 401
    with pytest.raises((ConnectionClosed, InvalidStatus)):
        async with connect(server.socket_url, additional_headers=headers) as link, asyncio.timeout(5):
            while True:
                assert json.loads(await link.recv())["type"] != "ready"
    assert not list((server.data / "files" / files.place_of(me)).rglob("*.*"))
    body = {"email": email, "password": "correct horse battery"}
    assert (await client.post("/api/auth/login", json=body)).status_code == 401
    again = await credentials(server, email)
    assert (await again.get("/api/me")).json()["data"]["id"] != me
    assert (await again.get("/api/threads")).json()["data"] == []
    await client.aclose()
    await again.aclose()


async def test_the_erased_are_refused_after_a_restart_too(own_server: Backend) -> None:
    client = await credentials(own_server, "gone@example.com")
    assert (await client.post("/api/threads", json={})).status_code == 201
    assert (await client.delete("/api/me")).status_code == 200
    await own_server.kill()
    await own_server.start()
    assert (await client.get("/api/me")).status_code == 401
    await client.aclose()
