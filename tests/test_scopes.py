"""What an API key may do: every route with every scope, from the app, so that a new route is decided or fails."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute

import backend_websocket_server as module
from clerk_auth import get_current_caller, require_admin, require_person, scope_of
from tests import make
from tests.conftest import Backend
from tests.test_api import assert_problem
from tests.test_shape import _calls as calls

SCOPES = ("read", "run", "write")
ROUTES = [
    (method, route)
    for route in module.app.routes
    if isinstance(route, APIRoute) and get_current_caller in set(calls(route.dependant))
    for method in sorted(route.methods or ())
]
PEOPLE_ONLY = ("/api/auth/", "/api/keys", "/api/admin/")
# Written out, so that a new one is a decision.
RUN = {
    "POST /api/runs",
    "DELETE /api/runs/{id}",
    "PATCH /api/runs/{id}",
    "PUT /api/runs/{id}",
    "POST /api/runs/{id}/cancel",
    "POST /api/runs/{id}/pause",
    "POST /api/runs/{id}/resume",
    "POST /api/runs/{id}/retry",
    "POST /api/runs/{id}/workflow",
    "POST /api/runs/{id}/messages",
    "POST /api/computers",
    "PATCH /api/computers/{id}",
    "PUT /api/computers/{id}",
    "DELETE /api/computers/{id}",
    "POST /api/computers/{id}/actions",
    "POST /api/computers/{id}/control",
    "DELETE /api/computers/{id}/control",
    "POST /api/approvals/{id}/decision",
    "POST /api/threads/{id}/messages",
    "POST /api/schedules/{id}/run",
    "POST /api/files",
    "POST /api/agent",
}


def test_the_list_names_nothing_that_is_not_there() -> None:
    assert {f"{method} {route.path}" for method, route in ROUTES} >= RUN


def expected(method: str, path: str) -> str | None:
    if path.startswith(PEOPLE_ONLY) or (method, path) == ("DELETE", "/api/me"):
        return None
    if method in ("GET", "HEAD") or path == "/api/files/{id}/link":
        return "read"
    return "run" if f"{method} {path}" in RUN else "write"


@pytest.fixture(scope="module")
async def keys(owner: httpx.AsyncClient) -> dict[str, str]:
    """A key for each scope alone, and one with all but it."""
    made = {}
    for scope in SCOPES:
        made[scope] = (await make.key(owner, scopes=[scope]))["key"]
        rest = [other for other in SCOPES if other != scope]
        made[f"all but {scope}"] = (await make.key(owner, scopes=rest))["key"]
    return made


@pytest.fixture(scope="module")
async def nobody(server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client


async def answer(
    client: httpx.AsyncClient, method: str, path: str, key: str, **headers: str
) -> httpx.Response:
    """The reply, of a stream its head alone."""
    request = client.build_request(method, path, headers={"X-API-Key": key, **headers})
    reply = await client.send(request, stream=True)
    if not reply.headers["content-type"].startswith("text/event-stream"):
        await reply.aread()
    await reply.aclose()
    return reply


@pytest.mark.parametrize(("method", "route"), ROUTES, ids=lambda it: getattr(it, "path", it))
async def test_a_key_does_what_its_scope_names_and_nothing_else(
    method: str, route: APIRoute, nobody: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    scope = expected(method, route.path)
    path = (
        route.path.replace("{id}", str(uuid4()))
        .replace("{user:path}", "local|x")
        .replace("{run}", str(uuid4()))
    )
    replies = dict(
        zip(
            keys,
            await asyncio.gather(*(answer(nobody, method, path, key) for key in keys.values())),
            strict=True,
        )
    )
    for name, reply in replies.items():
        if scope is None:
            assert_problem(reply, 403, "only_signed_in")
        elif name in (scope, *(f"all but {other}" for other in SCOPES if other != scope)):
            assert reply.status_code not in (401, 403), (name, reply.text)
        else:
            assert f"`{scope}`" in assert_problem(reply, 403, "missing_scope")["detail"]


def test_every_route_in_the_list_of_runs_is_one_that_the_rules_know() -> None:
    for method, path in (line.split() for line in RUN):
        assert scope_of(method, path) == "run"


def test_what_is_for_people_alone_asks_for_a_person_and_administration_for_an_administrator() -> None:
    for method, route in ROUTES:
        asked = set(calls(route.dependant))
        assert (require_person in asked) == (expected(method, route.path) is None), route.path
        assert (require_admin in asked) == route.path.startswith("/api/admin/"), route.path


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "x/api/runs?"},
        {"Host": "x/api/runs/1/cancel#"},
        {"X-HTTP-Method-Override": "GET"},
        {"X-Original-URL": "/api/runs"},
        {"X-Forwarded-Prefix": "/api/runs"},
    ],
)
async def test_no_header_makes_another_route_of_it(
    headers: dict[str, str], nobody: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    for name in ("read", "run"):
        reply = await answer(nobody, "POST", "/api/threads", keys[name], **headers)
        if reply.status_code == 421:
            assert_problem(reply, 421, "misdirected")
        elif reply.headers["content-type"] == "application/problem+json":
            assert "`write`" in assert_problem(reply, 403, "missing_scope")["detail"]
        else:
            assert reply.status_code == 400  # the server's own word on a malformed request


async def test_other_spellings_of_an_address_have_its_scope(
    nobody: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    for path in ("/api/v1/threads", "/api/threads?x=/api/runs", "/api/%74hreads"):
        reply = await answer(nobody, "POST", path, keys["all but write"])
        assert_problem(reply, 403, "missing_scope")


async def test_people_have_every_scope(owner: httpx.AsyncClient) -> None:
    assert (await owner.post("/api/threads", json={})).status_code == 201
    assert (await owner.get("/api/keys")).status_code == 200
