"""What comes over the wire is what the schemas say, by value."""

import json
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

import backend_websocket_server as module

READS = [
    route
    for route in module.app.routes
    if isinstance(route, APIRoute)
    and route.methods == {"GET"}
    and route.response_model is not None
    and route.path.startswith("/api/")
]


@pytest.mark.parametrize("route", READS, ids=lambda route: route.name)
async def test_a_reply_is_its_schema_by_value(
    route: APIRoute,
    owner: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    things: dict[str, str],
) -> None:
    owned = next((prefix for prefix in things if route.path.startswith(prefix)), "")
    path = route.path.replace("{id}", things.get(owned, ""))
    if path.startswith("/api/admin/"):
        me = (await owner.get("/api/me")).json()["data"]["id"]
        owner, path = admin, path.replace("{user:path}", me)
    reply = await owner.get(path)
    assert reply.status_code == 200, reply.text
    adapter: TypeAdapter[Any] = TypeAdapter(route.response_model)
    shaped = adapter.dump_json(adapter.validate_json(reply.content))
    assert json.loads(shaped) == reply.json()


async def test_the_document_declares_every_failure_and_the_credential() -> None:
    document = module.app.openapi()
    problem = {"schema": {"$ref": "#/components/schemas/ProblemRead"}}
    assert "ProblemRead" in document["components"]["schemas"]
    assert document["components"]["securitySchemes"]
    for path in document["paths"].values():
        for operation in path.values():
            for status in ("4XX", "5XX"):
                assert operation["responses"][status]["content"] == {"application/problem+json": problem}
