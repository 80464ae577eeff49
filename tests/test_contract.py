"""The OpenAPI document is whole, and what comes over the wire is what it and the schemas say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

import api
import backend_websocket_server as module
from browser.actions import Action
from contract.openapi import SECTIONS, all_codes
from schemas import EXAMPLE_ID
from tests import make
from tests.conformance import DOCUMENT, check, operation_of, resolved, validator
from tests.conftest import Backend
from tests.test_api import assert_problem
from tests.test_scopes import expected
from tests.test_shape import PUBLIC
from webhooks import clerk

READS = [
    route
    for route in module.app.routes
    if isinstance(route, APIRoute)
    and route.methods == {"GET"}
    and route.response_model is not None
    and route.path.startswith("/api/")
]
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
ACTION: TypeAdapter[Action] = TypeAdapter(Action)
PROBLEM = {"$ref": "#/components/schemas/ProblemRead"}


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


# The document -------------------------------------------------------------------------------------


def codes(operation: dict[str, Any], status: int) -> set[str]:
    reply = resolved(operation["responses"].get(str(status), {"content": {}}))
    return set(reply["content"].get("application/problem+json", {}).get("examples", {}))


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON body's schema, by operation."""
    for name, (_, _, operation) in OPERATIONS.items():
        content = operation.get("requestBody", {"content": {}})["content"]
        if "application/json" in content:
            yield name, content["application/json"]["schema"]


def test_the_document_is_openapi() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert {"contact", "license", "description", "version"} <= DOCUMENT["info"].keys()
    assert DOCUMENT["servers"]


def test_there_are_many_operations_and_each_says_what_it_does_and_answers() -> None:
    assert len(OPERATIONS) >= 110
    summaries = [operation["summary"] for _, _, operation in OPERATIONS.values()]
    assert all(re.fullmatch(r"[A-Z][^.\n]{3,50}", summary) for summary in summaries), summaries
    assert len(set(summaries)) == len(summaries)
    for name, (_, _, operation) in OPERATIONS.items():
        replies = [reply for status, reply in operation["responses"].items() if status.startswith("2")]
        assert replies, name
        assert all(content["schema"] for reply in replies for content in reply["content"].values()), name


def test_sections_are_those_of_the_module_in_its_order() -> None:
    banners = re.findall(r"^# (\w[\w ]*?) -{10,}$", (Path(module.__file__)).read_text(), re.MULTILINE)
    assert [*SECTIONS, "sockets"] == [banner.lower() for banner in banners]
    assert [tag["name"] for tag in DOCUMENT["tags"]] == list(SECTIONS)
    assert all(tag["description"] for tag in DOCUMENT["tags"])
    used = [tag for _, _, operation in OPERATIONS.values() for tag in operation["tags"]]
    assert list(dict.fromkeys(used)) == list(SECTIONS)


def test_every_failure_is_a_problem_with_an_example_of_each_code() -> None:
    for name, (_, _, operation) in OPERATIONS.items():
        for status, reference in operation["responses"].items():
            if status[0] in "45" and (name, status) != ("read_readiness", "503"):
                reply = resolved(reference)
                assert reply["content"].keys() == {"application/problem+json"}, (name, status)
                content = reply["content"]["application/problem+json"]
                assert content["schema"] == PROBLEM
                for code, example in content["examples"].items():
                    value = resolved(example)["value"]
                    validator("#/components/schemas/ProblemRead").validate(value)
                    assert (value["code"], str(value["status"])) == (code, status)


def test_whoever_needs_a_caller_says_how_one_is_refused() -> None:
    for name, (method, path, operation) in OPERATIONS.items():
        public = name in PUBLIC
        assert (not operation["security"] or {} in operation["security"]) == (
            public or name == "read_file_content"
        )
        assert codes(operation, 500) == {"internal"} or "unsealable" in codes(operation, 500)
        assert ("misdirected" in codes(operation, 421)) == (path not in api.PROBES), name
        if public:
            continue
        assert "unauthorized" in codes(operation, 401), name
        assert "account_disabled" in codes(operation, 403), name
        assert "rate_limited" in codes(operation, 429), name
        assert {"keys_unavailable", "database_unavailable"} <= codes(operation, 503), name
        scope = operation.get("x-scope")
        assert scope == expected(method, path), name
        assert ("missing_scope" if scope else "only_signed_in") in codes(operation, 403), name
        assert {"bearer": [scope] if scope else []} in operation["security"], name
        assert ({"apiKey": [scope]} in operation["security"]) == bool(scope), name
        assert ("admin" in operation["tags"]) == ("not_admin" in codes(operation, 403)), name
        assert scope != "read" or method == "GET" or name == "link_file", name


def test_what_is_sent_and_named_may_be_wrong() -> None:
    for name, (method, path, operation) in OPERATIONS.items():
        parameters = [resolved(parameter) for parameter in operation.get("parameters", [])]
        if "{" in path:
            assert "not_found" in codes(operation, 404), name
        if parameters or "requestBody" in operation:
            assert "invalid" in codes(operation, 422), name
        if "requestBody" in operation:
            assert "too_large" in codes(operation, 413), name
            assert "unsupported_media_type" in codes(operation, 415), name
        names = {parameter["name"] for parameter in parameters}
        assert ("cursor" in names) == ("invalid_cursor" in codes(operation, 422)), name
        assert ("If-Match" in names) == ("precondition_failed" in codes(operation, 412)), name
        assert ("Idempotency-Key" in names) == ("may_have_landed" in codes(operation, 409)), name
        assert method == "POST" or "Idempotency-Key" not in names
        assert all(re.fullmatch(r"\w+|[A-Z][A-Za-z]*(-[A-Z][A-Za-z]*)+|Range", each) for each in names), name
        assert all(parameter["schema"] for parameter in parameters)


def test_media_types_are_those_that_are_sent() -> None:
    kinds = {
        name: set(operation["responses"]["200"]["content"])
        for name, (_, _, operation) in OPERATIONS.items()
        if "200" in operation["responses"]
        and "application/json" not in operation["responses"]["200"]["content"]
    }
    assert kinds == {
        "read_metrics": {"text/plain"},
        "export_me": {"application/zip"},
        "read_screenshot": {"image/jpeg"},
        "read_frame": {"image/jpeg"},
        "stream_events": {"text/event-stream"},
        "stream_run_events": {"text/event-stream"},
        "read_file_content": {"*/*"},
        "run_agent": {"text/event-stream"},
    }


def test_replies_may_gain_fields_and_requests_refuse_unknown_ones() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name, schema in bodies():
        for option in schema.get("oneOf", schema.get("anyOf", [schema])):
            if "$ref" in option and name not in ("replace_preferences", "run_agent"):
                assert resolved(option)["additionalProperties"] is False, name
    for name, schema in schemas.items():
        if name.endswith("Read") or name.startswith(("Reply_", "Page_")):
            assert "additionalProperties" not in schema, name


def test_every_code_is_listed_with_one_status() -> None:
    listed = DOCUMENT["components"]["schemas"]["ProblemRead"]["properties"]["code"]["x-extensible-enum"]
    found = all_codes(module.PROBLEMS)
    assert listed == sorted(found)
    assert all(len({of.status for _, of in problems}) == 1 for problems in found.values())
    elsewhere = {
        "method_not_allowed",  # no operation is found
        "chromium_missing",  # told in `closed_reason` and in a run's `error`
    }
    assert DOCUMENT["components"]["examples"].keys() == set(listed) - elsewhere


# Examples -----------------------------------------------------------------------------------------


def test_every_body_has_an_example_that_is_valid() -> None:
    models = {model.__name__: model for model in _body_models()}
    for name, schema in bodies():
        for option in schema.get("anyOf", [schema]):
            if name in ("act_on_computer", "receive_clerk_event"):
                continue
            if "$ref" not in option:
                assert option == {"type": "null"}, name
                continue
            examples = resolved(option)["examples"]
            assert examples, name
            for example in examples:
                validator(option["$ref"]).validate(example)
                models[option["$ref"].rpartition("/")[2]].model_validate(example)


def test_every_action_has_an_example_that_is_valid() -> None:
    content = OPERATIONS["act_on_computer"][2]["requestBody"]["content"]["application/json"]
    kinds = content["schema"]["discriminator"]["mapping"]
    assert content["examples"].keys() == kinds.keys()
    for kind, example in content["examples"].items():
        assert example["value"]["action"] == kind
        validator(kinds[kind]).validate(example["value"])
        ACTION.validate_python(example["value"])


def test_the_example_of_clerks_events_is_one() -> None:
    operation = OPERATIONS["receive_clerk_event"][2]
    assert [it["name"] for it in operation["parameters"]] == ["Svix-Id", "Svix-Timestamp", "Svix-Signature"]
    content = operation["requestBody"]["content"]["application/json"]
    Draft202012Validator(content["schema"]).validate(content["example"])
    assert list(Draft202012Validator(content["schema"]).iter_errors({"type": "user.deleted"}))
    clerk._Session.model_validate(clerk._Event.model_validate(content["example"]).data)


def _body_models() -> Iterator[Any]:
    pending = [
        route.body_field.field_info.annotation
        for route in module.app.routes
        if isinstance(route, APIRoute) and route.body_field
    ]
    while pending:
        kind = pending.pop()
        inner = getattr(kind, "__args__", ())
        if hasattr(kind, "model_validate"):
            yield kind
        pending += inner


SIMPLE = (
    "create_key", "create_secret", "create_profile", "create_computer", "create_thread", "create_workflow",
    "validate_workflow", "import_workflow", "create_run", "preview_cron", "create_webhook",
    "update_me", "replace_preferences",
)  # fmt: skip
WITH_THING = (
    "update_secret", "update_profile", "replace_profile_state", "update_computer", "update_thread", "create_message",
    "update_workflow", "restore_workflow", "guide_run", "save_run_as_workflow", "update_schedule", "update_file",
    "update_webhook", "update_key",
)  # fmt: skip


def _example_of(operation: dict[str, Any]) -> Any:
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    option = next(it for it in schema.get("anyOf", [schema]) if "$ref" in it)
    return resolved(option)["examples"][0]


@pytest.mark.parametrize("name", [*SIMPLE, *WITH_THING])
async def test_an_example_is_accepted_as_it_is(
    name: str, server: Backend, things: dict[str, str], owner: httpx.AsyncClient
) -> None:
    method, path, operation = OPERATIONS[name]
    thing = next((things[prefix] for prefix in things if path.startswith(prefix)), "")
    path = path.replace("{id}", thing)
    body = _example_of(operation)
    if name in SIMPLE:
        async with server.sign_up() as client:
            reply = await client.request(method, path, json=body)
    else:
        if name == "update_secret":  # the example is of another kind
            made = await make.secret(owner, kind="password", text=None, password="p")
            path = f"/api/secrets/{made['id']}"
        reply = await owner.request(method, path, json=body)
    assert reply.is_success, reply.text


async def test_accounts_are_made_and_entered_by_the_examples(server: Backend) -> None:
    async with httpx.AsyncClient(
        base_url=server.url, timeout=30, event_hooks={"response": [check]}
    ) as client:
        for name in ("register", "login", "forgot_password"):
            _, path, operation = OPERATIONS[name]
            reply = await client.post(path, json=_example_of(operation))
            assert reply.is_success, reply.text
        token = (await client.post("/api/auth/login", json=_example_of(OPERATIONS["login"][2]))).json()[
            "data"
        ]
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        body = _example_of(OPERATIONS["change_password"][2])
        assert (await client.post("/api/auth/password", json=body, headers=headers)).is_success
        assert (await client.delete("/api/me", headers=headers)).is_success
        for name in ("reset_password", "verify_email", "refresh"):
            _, path, operation = OPERATIONS[name]
            assert (await client.post(path, json=_example_of(operation))).status_code in (401, 422)


async def test_the_example_of_a_schedule_names_a_workflow(alice: httpx.AsyncClient) -> None:
    body = _example_of(OPERATIONS["create_schedule"][2])
    assert body["workflow_id"] == EXAMPLE_ID
    UUID(EXAMPLE_ID)
    assert_problem(await alice.post("/api/schedules", json=body), 404, "not_found")
    workflow = await make.workflow(alice)
    reply = await alice.post("/api/schedules", json=body | {"workflow_id": workflow["id"]})
    assert reply.status_code == 201, reply.text


# The wire -----------------------------------------------------------------------------------------


async def test_an_undeclared_reply_would_be_noticed(alice: httpx.AsyncClient) -> None:
    reply = await alice.get("/api/me")
    for odd in (
        {"status_code": 418},
        {"status_code": 404, "json": {"code": "not_found"}},
        {"headers": {**reply.headers, "etag": '"1"'}, "json": reply.json()},
        {"headers": {"content-type": "application/json"}, "json": reply.json()},
        {"headers": reply.headers, "json": {"success": True, "data": {"id": 1}}},
        {"headers": reply.headers, "text": "[]"},
    ):
        made = httpx.Response(**{"status_code": 200, **odd}, request=reply.request)
        with pytest.raises(Exception, match=r".+"):
            await check(made)
    await check(reply)


async def test_a_problem_leads_to_the_page_that_describes_it(alice: httpx.AsyncClient) -> None:
    problem = assert_problem(await alice.get(f"/api/runs/{uuid4()}"), 404, "not_found")
    path, _, anchor = problem["type"].partition("#")
    page = await alice.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert f'id="{anchor}"' in page.text
    assert all(f'id="{code}"' in page.text for code in all_codes(module.PROBLEMS))
    assert "style-src 'self' 'unsafe-inline'" in page.headers["content-security-policy"]


def test_addresses_find_their_operations() -> None:
    for method, path, name in (
        ("GET", "/api/v1/runs", "list_runs"),
        ("PUT", f"/api/runs/{uuid4()}", "update_run"),
        ("PUT", f"/api/files/{uuid4()}/content", None),
        ("PUT", f"/api/threads/{uuid4()}", "update_thread"),
        ("HEAD", "/api/users/me", "read_me"),
        ("GET", "/api/events/stream", "stream_events"),
        ("GET", "/api/admin/users/oidc|a/b", "read_user"),
    ):
        found = operation_of(method, path)
        assert (found and found["operationId"]) == name
