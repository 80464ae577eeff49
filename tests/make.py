"""The least valid thing of each kind, made through the API; arguments override."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx

FLOW: dict[str, Any] = {
    "title": "Wait",
    "steps": [{"type": "waitForExpression", "expression": "false", "timeout": 30000}],
}


async def _made(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code in (201, 202), reply.text
    data: dict[str, Any] = reply.json()["data"]
    return data


async def key(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    """With the key itself as `key`."""
    return await _made(await client.post("/api/keys", json={"name": "Bot", **values}))


async def workflow(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    body = {"name": "Wait", "definition": FLOW, **values}
    return await _made(await client.post("/api/workflows", json=body))


async def run(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    body = {"definition": FLOW, **values} if "workflow_id" not in values else values
    return await _made(await client.post("/api/runs", json=body))


async def computer(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    return await _made(await client.post("/api/computers", json=values))


async def schedule(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    if "workflow_id" not in values:
        values["workflow_id"] = (await workflow(client))["id"]
    return await _made(
        await client.post("/api/schedules", json={"name": "Daily", "cron": "@daily", **values})
    )


async def secret(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    body = {"name": f"s{uuid4().hex[:8]}", "kind": "text", "text": "hidden", **values}
    return await _made(await client.post("/api/secrets", json=body))


async def profile(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    return await _made(await client.post("/api/profiles", json={"name": uuid4().hex, **values}))


async def thread(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    return await _made(await client.post("/api/threads", json=values))


async def file(
    client: httpx.AsyncClient, data: bytes = b"hello", name: str = "hello.txt", **headers: str
) -> dict[str, Any]:
    return await _made(await client.post("/api/files", files={"file": (name, data)}, headers=headers))


async def webhook(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    """Its address answers nothing."""
    body = {"url": "http://127.0.0.1:9/", "events": ["none."], **values}
    return await _made(await client.post("/api/webhooks", json=body))


async def delivery(client: httpx.AsyncClient) -> dict[str, Any]:
    """A test of a webhook of its own."""
    made = await webhook(client)
    return await _made(await client.post(f"/api/webhooks/{made['id']}/test"))


async def approval(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    """A question of a run of its own, which waits for the answer."""
    asking = {"type": "approve", "title": "Go on?", **values}
    made = await run(client, definition={"title": "Ask", "steps": [asking]})
    async with asyncio.timeout(30):
        while True:
            reply = await client.get("/api/approvals", params={"run_id": made["id"]})
            for asked in reply.json()["data"]:
                return dict(asked)
            await asyncio.sleep(0.05)


async def recorded(client: httpx.AsyncClient, run_id: str) -> None:
    """Wait for the recording of a run that has ended, which comes a moment later."""
    async with asyncio.timeout(20):
        while True:
            if (await client.get(f"/api/runs/{run_id}/frames")).json()["data"]:
                return
            await asyncio.sleep(0.05)
