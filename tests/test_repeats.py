"""`Idempotency-Key` on every POST that has a user: each route of the app, so that a new one is covered or fails."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.requests import Request

import backend_websocket_server as module
import clerk_auth
import db
from tests import make
from tests.conftest import ROOT
from tests.test_api import assert_problem
from tests.test_shape import PUBLIC

LATER = "2126-01-01T00:00:00Z"
Asked = tuple[str, dict[str, Any] | None]

# Why a repeat of these is done again.
NOT_KEPT = {
    "logout": "whoever could ask again has signed out",
    "change_password": "nothing is kept of a password, and the old one is wrong by then",
    "send_verification": "a mail that was lost is why it is asked again; five an hour are the bound",
    "validate_workflow": "changes nothing",
    "preview_cron": "changes nothing",
    "link_file": "changes nothing; a link that was kept would have run out",
    "run_agent": "a runId that is repeated begins nothing: tests/test_agui.py",
}
POSTS = [
    route
    for route in module.app.routes
    if isinstance(route, APIRoute) and route.methods == {"POST"} and route.name not in PUBLIC
]


async def _id(made: Awaitable[dict[str, Any]]) -> str:
    return str((await made)["id"])


async def _run(client: httpx.AsyncClient, *verbs: str) -> str:
    """The path of a run that waits for its time, after these wishes."""
    path = f"/api/runs/{await _id(make.run(client, run_after=LATER))}"
    for verb in verbs:
        assert (await client.post(f"{path}/{verb}")).status_code == 200
    return path


async def _computer(client: httpx.AsyncClient) -> str:
    made = await _id(make.computer(client))
    async with asyncio.timeout(30):
        while True:
            if (await client.get(f"/api/computers/{made}")).json()["data"]["state"] == "open":
                return made
            await asyncio.sleep(0.05)


async def _new(path: str, **body: Any) -> Asked:
    return path, body


async def _capture(client: httpx.AsyncClient) -> Asked:
    return f"/api/profiles/{await _id(make.profile(client))}/capture", {
        "computer_id": await _computer(client)
    }


async def _of(made: Awaitable[str], path: str, body: dict[str, Any] | None = None) -> Asked:
    return path.format(await made), body


async def _finished_delivery(client: httpx.AsyncClient) -> Asked:
    hook = f"/api/webhooks/{await _id(make.webhook(client))}"
    sent = (await client.post(f"{hook}/test")).json()["data"]["id"]
    for enabled in (False, True):  # which gives up what waits
        assert (await client.patch(hook, json={"enabled": enabled})).status_code == 200
    return f"/api/deliveries/{sent}/redeliver", None


async def _schedule(client: httpx.AsyncClient) -> Asked:
    workflow = await _id(make.workflow(client))
    return "/api/schedules", {"workflow_id": workflow, "name": "s", "cron": "@daily"}


# How to ask for each of the others so that it succeeds.
ASKING: dict[str, Callable[[httpx.AsyncClient], Awaitable[Asked]]] = {
    "create_key": lambda _client: _new("/api/keys", name="k"),
    "create_secret": lambda _client: _new("/api/secrets", name="s", kind="text", text="t"),
    "create_profile": lambda _client: _new("/api/profiles", name="p"),
    "capture_profile": _capture,
    "create_computer": lambda _client: _new("/api/computers", name="c"),
    "act_on_computer": lambda client: _of(
        _computer(client), "/api/computers/{}/actions", {"action": "list_tabs"}
    ),
    "take_control": lambda client: _of(_computer(client), "/api/computers/{}/control"),
    "create_thread": lambda _client: _new("/api/threads", name="t"),
    "create_message": lambda client: _of(_id(make.thread(client)), "/api/threads/{}/messages", {"text": "m"}),
    "create_workflow": lambda _client: _new("/api/workflows", name="w", definition=make.FLOW),
    "import_workflow": lambda _client: _new("/api/workflows/import", recording=make.FLOW),
    "restore_workflow": lambda client: _of(
        _id(make.workflow(client)), "/api/workflows/{}/restore", {"version": 1}
    ),
    "create_run": lambda _client: _new("/api/runs", definition=make.FLOW, run_after=LATER),
    "cancel_run": lambda client: _of(_run(client), "{}/cancel"),
    "pause_run": lambda client: _of(_run(client), "{}/pause"),
    "resume_run": lambda client: _of(_run(client, "pause"), "{}/resume"),
    "retry_run": lambda client: _of(_run(client, "cancel"), "{}/retry"),
    "save_run_as_workflow": lambda client: _of(_run(client), "{}/workflow"),
    "guide_run": lambda client: _of(_run(client), "{}/messages", {"text": "m"}),
    "decide_approval": lambda client: _of(
        _id(make.approval(client)), "/api/approvals/{}/decision", {"decision": "approve"}
    ),
    "create_schedule": _schedule,
    "pause_schedule": lambda client: _of(_id(make.schedule(client)), "/api/schedules/{}/pause"),
    "resume_schedule": lambda client: _of(_id(make.schedule(client)), "/api/schedules/{}/resume"),
    "run_schedule": lambda client: _of(_id(make.schedule(client)), "/api/schedules/{}/run"),
    "create_webhook": lambda _client: _new("/api/webhooks", url="http://127.0.0.1:9/", events=["none."]),
    "test_webhook": lambda client: _of(_id(make.webhook(client)), "/api/webhooks/{}/test"),
    "rotate_webhook_secret": lambda client: _of(_id(make.webhook(client)), "/api/webhooks/{}/rotate"),
    "redeliver": _finished_delivery,
}
ELSEWHERE = {"create_file": "tests/test_files.py", "cancel_any_run": "tests/test_admin.py"}


def test_every_post_that_has_a_user_is_repeated_or_says_why_not() -> None:
    names = [route.name for route in POSTS]
    assert sorted([*NOT_KEPT, *ASKING, *ELSEWHERE]) == sorted(names)


def test_the_guide_and_the_document_name_those_that_ignore_the_key() -> None:
    guide = (ROOT / "docs/api.md").read_text()
    for text in (guide, module.app.openapi()["info"]["description"]):
        told = re.search(r"((?:`\w+`(?:,| and)?\s+)+)ignore the key", text)
        assert told is not None
        assert set(re.findall(r"\w+(?=`)", told[1])) == NOT_KEPT.keys()


@pytest.mark.parametrize("name", ASKING)
async def test_a_repeat_is_answered_the_same_and_does_nothing(name: str, alice: httpx.AsyncClient) -> None:
    path, body = await ASKING[name](alice)
    key = {"Idempotency-Key": uuid4().hex}
    first = await alice.post(path, json=body, headers=key)
    assert first.status_code in (200, 201, 202), first.text
    before = await _changes(alice)
    again = await alice.post(path, json=body, headers=key)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers.get("location") == first.headers.get("location")
    assert again.headers["idempotency-replayed"] == "true"
    assert await _changes(alice) == before
    elsewhere = await alice.post("/api/threads", json={"name": "other"}, headers=key)
    assert_problem(elsewhere, 422, "idempotency_key_reused")


async def _changes(client: httpx.AsyncClient) -> list[str]:
    """What was made or changed by request; what a run does meanwhile is left out."""
    events = (await client.get("/api/events", params={"limit": 200})).json()["data"]
    kinds = [event["kind"] for event in events if event["actor"] == "user"]
    return [kind for kind in kinds if kind.endswith((".created", ".updated", ".queued", ".decided"))]


async def test_what_is_kept_of_a_request_lets_nobody_guess_it(database: str) -> None:
    body = b'{"name":"s","kind":"text","text":"1234"}'

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    request = Request({"type": "http", "method": "POST", "path": "/api/secrets"}, receive)
    kept = await clerk_auth._idempotency(request, "k")
    assert kept is not None
    asked = b"POST /api/secrets\n" + body
    assert kept.fingerprint == db.vault().fingerprint(asked)
    assert kept.fingerprint != hashlib.sha256(asked).hexdigest()
