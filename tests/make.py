"""The least valid thing of each kind, made through the API; arguments override."""

import asyncio
from typing import Any

import httpx

FLOW: dict[str, Any] = {
    "title": "Wait",
    "steps": [{"type": "waitForExpression", "expression": "false", "timeout": 30000}],
}


async def _made(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code in (201, 202), reply.text
    data: dict[str, Any] = reply.json()["data"]
    return data


async def workflow(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    body = {"name": "Wait", "definition": FLOW, **values}
    return await _made(await client.post("/api/workflows", json=body))


async def run(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    body = {"definition": FLOW, **values} if "workflow_id" not in values else values
    return await _made(await client.post("/api/runs", json=body))


async def computer(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    return await _made(await client.post("/api/computers", json=values))


async def file(client: httpx.AsyncClient) -> dict[str, Any]:
    """A screenshot, made by a run of its own."""
    made = await run(client, definition={"title": "Look", "steps": [{"type": "screenshot", "name": "page"}]})
    ended = (await client.get(f"/api/runs/{made['id']}", params={"wait": 30})).json()["data"]
    assert ended["status"] == "succeeded", ended
    found: dict[str, Any] = (await client.get("/api/files", params={"run_id": made["id"]})).json()["data"][0]
    return found


async def thread(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    return await _made(await client.post("/api/threads", json=values))


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
