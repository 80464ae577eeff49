"""Another user's things do not exist: every route of the app, so that a new one is covered or fails."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi.routing import APIRoute

import backend_websocket_server as module
from tests import make

BODIES: dict[str, Any] = {
    "update_secret": {"text": "stolen"},
    "update_profile": {"name": "stolen"},
    "replace_profile_state": {"cookies": []},
    "capture_profile": {"computer_id": str(UUID(int=1))},
    "update_schedule": {"name": "stolen"},
    "update_thread": {"name": "stolen"},
    "create_message": {"text": "stolen"},
    "restore_workflow": {"version": 1},
    "guide_run": {"text": "stolen"},
    "update_key": {"name": "stolen"},
    "update_computer": {"name": "stolen"},
    "act_on_computer": {"action": "list_tabs"},
    "update_workflow": {"name": "stolen"},
    "update_file": {"name": "stolen"},
    "update_webhook": {"name": "stolen"},
    "decide_approval": {"decision": "approve"},
}
SEEN = ("id", "name", "control", "control_state", "version", "digest", "decided_at")
WITH_ID = [
    (method, route.path, route.name)
    for route in module.app.routes
    if isinstance(route, APIRoute) and "{id}" in route.path
    for method in sorted(route.methods or ())
]
LISTS = [
    route.path
    for route in module.app.routes
    if isinstance(route, APIRoute)
    and route.name.startswith("list_")
    and "{id}" not in route.path
    and not route.path.startswith("/api/admin/")  # tests/test_admin.py
]


async def everything(client: httpx.AsyncClient, things: dict[str, str]) -> dict[str, Any]:
    """What its owner sees of each thing, without what moves by itself."""
    seen: dict[str, Any] = {}
    for path, thing in things.items():
        reply = await client.get(path)
        if reply.status_code == 200:
            row = next(row for row in reply.json()["data"] if row["id"] == thing)
        else:  # no list of its own
            row = (await client.get(f"{path}/{thing}")).json()["data"]
        seen[path] = {name: row.get(name) for name in SEEN}
    return seen


def told(reply: httpx.Response) -> object:
    """The problem, or the length of one that HEAD keeps back."""
    return reply.json() | {"request_id": ""} if reply.content else reply.headers["content-length"]


@pytest.mark.parametrize(("method", "path", "name"), WITH_ID, ids=str)
async def test_anothers_id_is_not_found_and_nothing_changes(
    method: str,
    path: str,
    name: str,
    owner: httpx.AsyncClient,
    thief: httpx.AsyncClient,
    things: dict[str, str],
) -> None:
    before = await everything(owner, things)
    owned = next(prefix for prefix in things if path.startswith(prefix))
    body = BODIES.get(name)
    path = path.replace("{number}", "1")
    foreign = await thief.request(method, path.replace("{id}", things[owned]), json=body)
    missing = await thief.request(method, path.replace("{id}", str(uuid4())), json=body)
    assert foreign.status_code == 404, foreign.text
    assert told(foreign) == told(missing)
    assert await everything(owner, things) == before


@pytest.mark.parametrize("path", LISTS)
async def test_lists_show_nothing_of_another(
    path: str, owner: httpx.AsyncClient, thief: httpx.AsyncClient, things: dict[str, str]
) -> None:
    mine = {row["id"] for row in (await owner.get(path)).json()["data"]}
    theirs = {row["id"] for row in (await thief.get(path)).json()["data"]}
    assert mine
    assert not mine & theirs


@pytest.mark.parametrize(
    "reference",
    [
        {"workflow_id": "/api/workflows"},
        {"computer_id": "/api/computers", "definition": ""},
        {"thread_id": "/api/threads", "definition": ""},
    ],
)
async def test_anothers_thing_cannot_be_referred_to(
    reference: dict[str, str], thief: httpx.AsyncClient, things: dict[str, str]
) -> None:
    body: dict[str, Any] = {name: things.get(value, make.FLOW) for name, value in reference.items()}
    reply = await thief.post("/api/runs", json=body)
    assert reply.status_code == 404, reply.text


async def test_no_route_takes_a_user_from_anywhere_but_the_credential() -> None:
    schema = module.app.openapi()
    assert "user_id" not in str(schema)
