"""The main job against a whole server: watched live, private, and durable through its death."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from demo.shop import FLOW, PARAMETERS, Shop
from tests import make
from tests.conftest import Backend, free_port
from tests.workers import PATIENCE

ENDED = {"run.succeeded", "run.failed", "run.cancelled"}
HEADER = 32


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as serving:
        yield serving


async def open_socket(server: Backend, client: httpx.AsyncClient) -> ClientConnection:
    headers = {"Authorization": client.headers["Authorization"]}
    return await connect(server.socket_url, subprotocols=["cua.v1"], additional_headers=headers)  # type: ignore[list-item]


async def until_ended(link: ClientConnection, run_id: str, after: int = 0) -> list[dict[str, Any]]:
    """Every event beyond `after`, up to the end of the run."""
    await link.send(json.dumps({"type": "subscribe", "id": 1, "after": after}))
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        async for message in link:
            body = json.loads(message)
            for event in body.get("events", []):
                events.append(event)
                if event["kind"] in ENDED and event["run_id"] == run_id:
                    return events
    raise AssertionError("the socket closed before the run had ended")


async def start_shopping(client: httpx.AsyncClient, shop: Shop) -> str:
    body = {"recording": json.loads(FLOW.read_text()), "parameters": PARAMETERS}
    workflow = (await client.post("/api/workflows/import", json=body)).json()["data"]
    run = await make.run(client, workflow_id=workflow["id"], params={"shop": shop.url})
    return str(run["id"])


async def until_steps(client: httpx.AsyncClient, run_id: str, count: int) -> None:
    """Return once the run has begun so many steps."""
    async with asyncio.timeout(20 * PATIENCE):
        while len((await client.get(f"/api/runs/{run_id}/steps")).json()["data"]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until(
    client: httpx.AsyncClient, run_id: str, *statuses: str, seconds: float = 30
) -> dict[str, Any]:
    """The run, once its status is one of these."""
    async with asyncio.timeout(seconds * PATIENCE):
        while True:
            run: dict[str, Any] = (await client.get(f"/api/runs/{run_id}")).json()["data"]
            if run["status"] in statuses:
                return run
            await asyncio.sleep(0.05)


async def test_every_socket_of_the_user_gets_the_same_and_nobody_else_anything(
    server: Backend, alice: httpx.AsyncClient, bob: httpx.AsyncClient, shop: Shop
) -> None:
    one, two, other = [await open_socket(server, client) for client in (alice, alice, bob)]
    async with one, two, other:
        await other.send(json.dumps({"type": "subscribe", "id": 1, "after": 0}))
        async with asyncio.timeout(20):
            while json.loads(await other.recv())["type"] != "subscribed":
                pass
        run_id = await start_shopping(alice, shop)
        left, right = await asyncio.gather(until_ended(one, run_id), until_ended(two, run_id))
        thread = await make.thread(bob)
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            while not seen or seen[-1]["resource"]["id"] != thread["id"]:
                seen += json.loads(await other.recv()).get("events", [])
    run = (await alice.get(f"/api/runs/{run_id}")).json()["data"]
    assert run["status"] == "succeeded", run["error"]
    assert left == right
    assert [event["seq"] for event in left] == list(range(1, len(left) + 1))
    assert [event["kind"] for event in seen] == ["auth.signed_in", "thread.created"]
    middle = left[len(left) // 2]["seq"]
    async with await open_socket(server, alice) as late:
        assert await until_ended(late, run_id, middle) == left[middle:]
    stream = await alice.get("/api/events", params={"limit": 200})
    assert stream.json()["data"][: len(left)] == left[:200]


async def test_frames_come_while_it_works_and_the_last_one_to_a_late_viewer(
    server: Backend, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    computer = await make.computer(alice)
    async with await open_socket(server, alice) as link, await open_socket(server, bob) as stranger:
        watch = {"type": "watch", "id": 7, "computer_id": computer["id"], "max_fps": 30}
        await stranger.send(json.dumps(watch))
        await link.send(json.dumps(watch))
        frame = None
        async with asyncio.timeout(20):
            async for message in link:
                if isinstance(message, bytes):
                    frame = message
                    break
            async for message in stranger:
                body = json.loads(message)
                if body["type"] == "error":
                    assert (body["id"], body["code"]) == (7, "not_found")
                    break
    assert frame is not None
    assert (frame[0], frame[1]) == (1, 1)
    assert frame[HEADER : HEADER + 2] == b"\xff\xd8"
    width, height = int.from_bytes(frame[28:30]), int.from_bytes(frame[30:32])
    assert (width, height) == (1280, 720)


@pytest.mark.parametrize("verb", ["cancel", "pause"])
async def test_cancel_and_pause_act_on_a_running_step(alice: httpx.AsyncClient, verb: str) -> None:
    """Which would go on for thirty."""
    run = await make.run(alice)
    await until(alice, run["id"], "running")
    await until_steps(alice, run["id"], 1)
    assert (await alice.post(f"/api/runs/{run['id']}/{verb}")).status_code == 200
    wanted = {"cancel": "cancelled", "pause": "paused"}[verb]
    await until(alice, run["id"], wanted, seconds=10)
    if verb == "pause":
        assert (await alice.post(f"/api/runs/{run['id']}/resume")).status_code == 200
        await until(alice, run["id"], "running", seconds=10)
        assert (await alice.post(f"/api/runs/{run['id']}/cancel")).status_code == 200
        await until(alice, run["id"], "cancelled", seconds=10)
    for late in ("cancel", "pause", "resume"):
        reply = await alice.post(f"/api/runs/{run['id']}/{late}")
        assert (reply.status_code, reply.json()["code"]) == (409, "wrong_state")


@pytest.fixture
async def impatient(data_dir: Path) -> AsyncIterator[Backend]:
    """A server whose runs are taken over two seconds after its death."""
    backend = Backend(data_dir, free_port(), {"ACCESS_TOKEN_SECONDS": "3600", "LEASE_SECONDS": "2"})
    await backend.start()
    yield backend
    await backend.stop()


async def test_a_killed_server_loses_nothing_and_the_run_ends(impatient: Backend, shop: Shop) -> None:
    async with impatient.sign_up() as client:
        waiting = {
            "title": "Wait in the middle",
            "steps": [
                {"type": "navigate", "url": f"{shop.url}/"},
                {"type": "waitForExpression", "expression": "performance.now() > 4000", "timeout": 30000},
                {"type": "extract", "name": "page", "fields": {"heading": {"selectors": ["h1"]}}},
            ],
        }
        run = await make.run(client, definition=waiting)
        await until(client, run["id"], "running")
        await until_steps(client, run["id"], 2)
        before = (await client.get("/api/events", params={"limit": 200})).json()["data"]
        await impatient.kill()
        await impatient.start()
        after = (await client.get("/api/events", params={"limit": 200})).json()["data"]
        assert after[: len(before)] == before
        async with asyncio.timeout(20):
            while (await client.get(f"/api/runs/{run['id']}")).json()["data"]["attempt"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        ended = await until(client, run["id"], "succeeded", "failed", seconds=40)
        assert ended["status"] == "succeeded", ended["error"]
        events = (await client.get("/api/events", params={"limit": 200})).json()["data"]
        assert events[: len(before)] == before
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["kind"] for event in events].count("run.succeeded") == 1
        finished = [event for event in events if event["kind"] == "run.step.finished"]
        done = [event["data"]["pointer"] for event in finished if event["data"]["status"] == "succeeded"]
        assert sorted(done) == sorted(set(done)) == [f"/steps/{n}" for n in range(3)]
