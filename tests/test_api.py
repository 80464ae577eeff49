"""What every route shares: envelope, problems, limits, keys for repeats, request ids, headers."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests import make
from tests.conftest import Backend

PROBLEM_FIELDS = {"success", "type", "title", "status", "detail", "code", "request_id"}


def assert_problem(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = reply.json()
    assert body.keys() - {"errors"} == PROBLEM_FIELDS
    assert (body["success"], body["status"], body["code"]) == (False, status, code)
    assert body["request_id"] == reply.headers["x-request-id"]
    assert "Traceback" not in reply.text
    return body


@pytest.fixture
async def nobody(server: Backend) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=30)


# Ops


async def test_health_readiness_and_config_need_no_user(nobody: httpx.AsyncClient) -> None:
    async with nobody:
        health = (await nobody.get("/api/health")).json()
        ready = (await nobody.get("/api/ready")).json()
        config = (await nobody.get("/api/config")).json()
    assert health["data"]["status"] == "ok"
    parts = ("database", "migrations", "bus", "storage", "browser", "worker")
    assert ready == {"success": True, "data": dict.fromkeys(parts, True)}
    told = {name: value for name, value in config["data"]["auth"].items() if value}
    assert told == {"mode": "embedded", "registration": True}


async def test_the_documentation_is_served_without_any_other_host(nobody: httpx.AsyncClient) -> None:
    async with nobody:
        page = (await nobody.get("/docs")).text
        assert "http://" not in page.replace(str(nobody.base_url), "")
        assert "https://" not in page
        assert (await nobody.get("/openapi.json")).json()["openapi"].startswith("3.1")


# Problems


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer " + "a" * 9000},
        {"X-Clerk-User-Id": "user_1"},
    ],
)
async def test_without_a_good_credential_everything_is_the_same_401(
    nobody: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    async with nobody:
        reply = await nobody.get("/api/me", headers=headers)
        body = assert_problem(reply, 401, "unauthorized")
        assert body["detail"] == "The credential is not valid."
        assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_unknown_addresses_and_methods_are_problems_too(alice: httpx.AsyncClient) -> None:
    assert_problem(await alice.get("/api/nothing"), 404, "not_found")
    assert_problem(await alice.get("/nothing"), 404, "not_found")
    reply = await alice.delete("/api/me/preferences")
    assert_problem(reply, 405, "method_not_allowed")
    assert "PUT" in reply.headers["allow"] or "GET" in reply.headers["allow"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/workflows", {}, "name"),
        ("/api/workflows", {"name": "", "definition": {}}, "name"),
        ("/api/workflows", {"name": "x" * 201, "definition": {}}, "name"),
        ("/api/workflows", {"name": 5, "definition": {}}, "name"),
        ("/api/workflows", {"name": "x", "definition": []}, "definition"),
        ("/api/workflows", {"name": "x", "definition": {}, "user_id": "user_2"}, "user_id"),
        ("/api/runs", {"definition": {}, "priority": 101}, "priority"),
        ("/api/runs", {"definition": {}, "run_after": "2026-01-01T00:00:00"}, "run_after"),
        ("/api/runs", {"definition": {}, "allowed_domains": ["*.com"]}, "allowed_domains"),
        ("/api/computers", {"settings": {"viewport": {"width": 1}}}, "settings"),
    ],
)
async def test_an_invalid_body_names_its_field(
    alice: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    problem = assert_problem(await alice.post(path, json=body), 422, "invalid")
    assert any(field in error["loc"] for error in problem["errors"])


async def test_all_offending_fields_are_named(alice: httpx.AsyncClient) -> None:
    problem = assert_problem(await alice.post("/api/workflows", json={"nme": 1}), 422, "invalid")
    assert {error["loc"][-1] for error in problem["errors"]} == {"name", "definition", "nme"}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "order=up", "unknown=1", "q=" + "x" * 201]
)
async def test_an_invalid_query_is_refused(alice: httpx.AsyncClient, query: str) -> None:
    assert_problem(await alice.get(f"/api/workflows?{query}"), 422, "invalid")
    assert_problem(await alice.get("/api/workflows?cursor=%21%21"), 422, "invalid_cursor")


@pytest.mark.parametrize(
    "id", ["1", "x", "%00", "%0a", "%7f", "null", "018f0000-0000-0000-0000-00000000000g"]
)
async def test_a_malformed_id_is_refused(alice: httpx.AsyncClient, id: str) -> None:
    assert (await alice.get(f"/api/runs/{id}")).status_code in (404, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"nul",
        b"\xff\xfe",
        b'{"name": "a\\u0000b", "definition": {}}',
        b'{"name": "x", "definition": {"title": "\\u0000"}}',
        b'{"name": "\\ud800", "definition": {}}',
        b'{"name": "x", "definition": {"a": NaN}}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"name": "x", "definition": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}",
    ],
)
async def test_json_that_cannot_be_kept_is_refused(alice: httpx.AsyncClient, body: bytes) -> None:
    reply = await alice.post("/api/workflows", content=body, headers={"Content-Type": "application/json"})
    assert_problem(reply, 422, "invalid")


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
async def test_an_instant_that_the_database_takes_for_infinity_is_refused(
    alice: httpx.AsyncClient, instant: str
) -> None:
    body = {"definition": make.FLOW, "run_after": instant}
    problem = assert_problem(await alice.post("/api/runs", json=body), 422, "invalid")
    assert problem["errors"][0]["loc"] == ["body", "run_after"]
    assert_problem(await alice.post("/api/keys", json={"name": "k", "expires_at": instant}), 422, "invalid")


async def test_params_and_preferences_are_not_nested_without_end(alice: httpx.AsyncClient) -> None:
    workflow = await make.workflow(alice, parameters={"additionalProperties": True})
    for depth, status in ((60, 202), (300, 422), (900, 422)):
        nested = b"[" * depth + b"]" * depth
        run = b'{"workflow_id": "' + workflow["id"].encode() + b'", "params": {"a": ' + nested + b"}}"
        headers = {"Content-Type": "application/json"}
        assert (await alice.post("/api/runs", content=run, headers=headers)).status_code == status
        reply = await alice.put("/api/me/preferences", content=b'{"a":' + nested + b"}", headers=headers)
        assert reply.status_code == (200 if status == 202 else 422)


async def test_text_with_backslashes_is_not_mistaken_for_nul(alice: httpx.AsyncClient) -> None:
    made = await make.workflow(alice, name="\\u0000 is spelt \U0001f600")
    assert made["name"] == "\\u0000 is spelt \U0001f600"


async def test_oversized_bodies_are_refused_before_and_while_they_are_read(alice: httpx.AsyncClient) -> None:
    big = b'{"name": "' + b"x" * 2**20 + b'"}'
    reply = await alice.post("/api/workflows", content=big, headers={"Content-Type": "application/json"})
    assert_problem(reply, 413, "too_large")

    async def chunks() -> Any:
        for at in range(0, len(big), 65536):
            yield big[at : at + 65536]

    reply = await alice.post("/api/workflows", content=chunks(), headers={"Content-Type": "application/json"})
    assert_problem(reply, 413, "too_large")


async def test_a_body_that_is_not_json_is_unsupported(alice: httpx.AsyncClient) -> None:
    assert_problem(await alice.post("/api/workflows", data={"name": "x"}), 415, "unsupported_media_type")


async def test_null_is_not_a_value_where_something_must_be(alice: httpx.AsyncClient) -> None:
    made = await make.workflow(alice)
    assert_problem(await alice.patch(f"/api/workflows/{made['id']}", json={"name": None}), 422, "invalid")


# Replies


async def test_creation_says_where_and_reading_answers_the_same(alice: httpx.AsyncClient) -> None:
    reply = await alice.post("/api/workflows", json={"name": "w", "definition": make.FLOW})
    made = reply.json()
    assert reply.headers["location"] == f"/api/workflows/{made['data']['id']}"
    assert (await alice.get(reply.headers["location"])).json() == made


async def test_put_is_patch_and_v1_is_the_same_api(alice: httpx.AsyncClient) -> None:
    made = await make.workflow(alice)
    for method, path, name in (
        ("PATCH", f"/api/workflows/{made['id']}", "a"),
        ("PUT", f"/api/v1/workflows/{made['id']}", "b"),
    ):
        changed = (await alice.request(method, path, json={"name": name})).json()["data"]
        assert changed == made | {"name": name, "updated_at": changed["updated_at"]}
    assert (await alice.get("/api/users/me")).json() == (await alice.get("/api/v1/me")).json()


async def test_a_list_is_walked_by_its_cursor_and_its_link(alice: httpx.AsyncClient) -> None:
    made = [(await make.workflow(alice, name=f"w{n}"))["id"] for n in range(5)]
    seen, path = [], "/api/workflows?limit=2"
    while path:
        reply = await alice.get(path)
        seen += [row["id"] for row in reply.json()["data"]]
        path = f"/api/workflows{reply.links['next']['url']}" if "next" in reply.links else ""
        assert bool(path) == bool(reply.json()["next_cursor"])
    assert seen == made[::-1]


async def test_request_ids_come_back_and_headers_protect(alice: httpx.AsyncClient) -> None:
    reply = await alice.get("/api/me", headers={"X-Request-ID": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    assert (await alice.get("/api/me", headers={"X-Request-ID": "a b"})).headers["x-request-id"] != "a b"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")


async def test_me_and_preferences_are_kept(alice: httpx.AsyncClient) -> None:
    before = (await alice.get("/api/me")).json()["data"]
    after = (await alice.patch("/api/me", json={"name": " Alice "})).json()["data"]
    assert after == before | {"name": "Alice", "updated_at": after["updated_at"]}
    assert (await alice.patch("/api/me", json={"name": None})).json()["data"]["name"] is None
    wanted = {"theme": "dark", "panels": [1, {"a": None}]}
    assert (await alice.put("/api/me/preferences", json=wanted)).json()["data"] == wanted
    assert (await alice.get("/api/me/preferences")).json()["data"] == wanted
    assert_problem(await alice.put("/api/me/preferences", json={"x": "y" * 70_000}), 422, "invalid")


# Repeats


async def test_a_repeated_post_answers_the_same_and_does_nothing(alice: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    body = {"name": "once", "definition": make.FLOW}
    first = await alice.post("/api/workflows", json=body, headers=headers)
    again = await alice.post("/api/v1/workflows", json=body, headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert len((await alice.get("/api/workflows?q=once")).json()["data"]) == 1
    other = await alice.post("/api/workflows", json=body | {"name": "other"}, headers=headers)
    assert_problem(other, 422, "idempotency_key_reused")


async def test_keys_are_checked_and_a_refused_request_frees_its_key(alice: httpx.AsyncClient) -> None:
    body = {"name": "w", "definition": make.FLOW}
    for key in ("", "x" * 256, "caf\u00e9"):
        odd = httpx.Headers([(b"Idempotency-Key", key.encode("latin-1"))])
        reply = await alice.post("/api/workflows", json=body, headers=odd)
        assert_problem(reply, 422, "invalid_idempotency_key")
    headers = {"Idempotency-Key": uuid4().hex}
    bad = {"name": "w", "definition": {"title": "t", "steps": [{"type": "dance"}]}}
    assert_problem(await alice.post("/api/workflows", json=bad, headers=headers), 422, "invalid_workflow")
    assert (await alice.post("/api/workflows", json=body, headers=headers)).status_code == 201


# Workflows


async def test_every_problem_of_a_workflow_has_its_pointer(alice: httpx.AsyncClient) -> None:
    flow = {
        "title": "t",
        "steps": [{"type": "dance"}, {"type": "click"}, {"type": "navigate", "url": "{{ params.x }}"}],
    }
    verdict = (await alice.post("/api/workflows/validate", json={"definition": flow})).json()["data"]
    assert verdict["valid"] is False
    pointers = {found["pointer"] for found in verdict["problems"]}
    assert any(pointer.startswith("/steps/0") for pointer in pointers)
    assert any(pointer.startswith("/steps/1") for pointer in pointers)
    assert any(pointer.startswith("/steps/2") for pointer in pointers)
    problem = assert_problem(
        await alice.post("/api/workflows", json={"name": "w", "definition": flow}), 422, "invalid_workflow"
    )
    assert {error["pointer"] for error in problem["errors"]} == pointers


async def test_a_recording_is_imported_under_its_title(alice: httpx.AsyncClient) -> None:
    recording = {"title": "From DevTools", "steps": [{"type": "navigate", "url": "https://example.com/"}]}
    reply = await alice.post("/api/workflows/import", json={"recording": recording})
    made = reply.json()["data"]
    assert (reply.status_code, made["name"], made["definition"]) == (201, "From DevTools", recording)
    for bad in ({}, {"title": "x"}, {"title": "x", "steps": "no"}):
        assert_problem(
            await alice.post("/api/workflows/import", json={"recording": bad}), 422, "invalid_workflow"
        )


async def test_a_workflow_leaves_as_a_file_that_comes_back_the_same(alice: httpx.AsyncClient) -> None:
    flow = {"title": "Look", "steps": [{"type": "screenshot", "name": "page", "timeout": 9000}]}
    made = await make.workflow(alice, name='a "b" €', definition=flow)
    reply = await alice.get(f"/api/workflows/{made['id']}/export")
    assert reply.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20%22b%22%20%E2%82%AC.json"
    assert reply.json()["steps"] == [
        {"type": "customStep", "timeout": 9000, "name": "cua.screenshot", "parameters": {"name": "page"}}
    ]
    back = await alice.post("/api/workflows/import", json={"recording": reply.json()})
    assert back.json()["data"]["definition"] == flow


async def test_a_changed_definition_is_a_new_version_and_checked_with_its_parameters(
    alice: httpx.AsyncClient,
) -> None:
    made = await make.workflow(alice)
    path = f"/api/workflows/{made['id']}"
    assert (await alice.patch(path, json={"name": "n"})).json()["data"]["version"] == 1
    flow = {"title": "t", "steps": [{"type": "navigate", "url": "https://{{ params.host }}/"}]}
    assert_problem(await alice.patch(path, json={"definition": flow}), 422, "invalid_workflow")
    parameters = {"type": "object", "properties": {"host": {"type": "string"}}}
    changed = (await alice.patch(path, json={"definition": flow, "parameters": parameters})).json()["data"]
    assert (changed["version"], changed["definition"], changed["parameters"]) == (2, flow, parameters)
    assert (await alice.delete(path)).json() == {"success": True, "data": None}
    assert_problem(await alice.get(path), 404, "not_found")


# Runs


async def test_a_definition_of_its_own_may_declare_its_params(alice: httpx.AsyncClient) -> None:
    flow = {"title": "t", "steps": [{"type": "waitForExpression", "expression": "{{ params.ready }}"}]}
    parameters = {"type": "object", "properties": {"ready": {"type": "boolean", "default": True}}}
    assert_problem(await alice.post("/api/runs", json={"definition": flow}), 422, "invalid_workflow")
    made = await make.run(alice, definition=flow, parameters=parameters)
    assert made["params"] == {"ready": True}
    bad = {"definition": flow, "parameters": parameters, "params": {"ready": "no"}}
    problem = assert_problem(await alice.post("/api/runs", json=bad), 422, "invalid_params")
    assert problem["errors"][0]["pointer"] == "/ready"
    stored = await make.workflow(alice)
    both = {"workflow_id": stored["id"], "parameters": parameters}
    assert_problem(await alice.post("/api/runs", json=both), 422, "invalid")
    ended = (await alice.get(f"/api/runs/{made['id']}", params={"wait": 30})).json()["data"]
    assert ended["status"] == "succeeded", ended["error"]


async def test_runs_are_searched_by_title(alice: httpx.AsyncClient) -> None:
    for title in ("Buy tea", "Sell tea", "Buy 100%"):
        await make.run(alice, definition={**make.FLOW, "title": title}, run_after="2126-01-01T00:00:00Z")
    for part, titles in (("buy", ["Buy 100%", "Buy tea"]), ("0%", ["Buy 100%"]), ("%tea", [])):
        found = (await alice.get("/api/runs", params={"q": part})).json()["data"]
        assert [run["title"] for run in found] == titles


# Events


async def test_everything_that_happens_is_in_the_log(alice: httpx.AsyncClient) -> None:
    made = await make.workflow(alice)
    await alice.patch(f"/api/workflows/{made['id']}", json={"name": "n"})
    await alice.delete(f"/api/workflows/{made['id']}")
    events = (await alice.get("/api/events")).json()["data"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    mine = [event for event in events if event["resource"]["id"] == made["id"]]
    assert [event["kind"] for event in mine] == ["workflow.created", "workflow.updated", "workflow.deleted"]
    assert "definition" not in json.dumps(mine)
    later = (await alice.get("/api/events", params={"after": mine[0]["seq"]})).json()["data"]
    assert later == events[mine[0]["seq"] :]
    deleted = (await alice.get("/api/events", params={"kind": "workflow.deleted"})).json()["data"]
    assert deleted == [mine[-1]]


# Start


async def test_a_second_server_on_the_same_port_says_so_and_harms_nothing(server: Backend) -> None:
    twin = Backend(server.data.with_name("twin"), server.port, {})
    await twin.start(ready=False)
    assert twin.process is not None
    assert await twin.process.wait() != 0
    assert "address already in use" in twin.log
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/api/health")).status_code == 200
