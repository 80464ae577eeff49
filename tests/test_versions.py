"""Versions of a workflow: every save is kept, none twice, and a run becomes a workflow that does it again."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx

from tests import make
from tests.pages import Site


def flow(title: str) -> dict[str, Any]:
    return make.FLOW | {"title": title}


async def versions(client: httpx.AsyncClient, workflow_id: str) -> list[dict[str, Any]]:
    reply = await client.get(f"/api/workflows/{workflow_id}/versions", params={"limit": 200})
    found: list[dict[str, Any]] = reply.json()["data"]
    return found


async def test_every_save_is_a_version_and_a_new_name_is_none(alice: httpx.AsyncClient) -> None:
    made = await make.workflow(alice, definition=flow("One"))
    path = f"/api/workflows/{made['id']}"
    for body in (
        {"definition": flow("Two")},
        {"parameters": {"properties": {"a": {"default": 1}}}},
        {"name": "New"},
    ):
        assert (await alice.patch(path, json=body)).status_code == 200
    kept = await versions(alice, made["id"])
    assert [version["version"] for version in kept] == [3, 2, 1]
    assert [version["definition"]["title"] for version in kept] == ["Two", "Two", "One"]
    assert [bool(version["parameters"]) for version in kept] == [True, False, False]
    assert {version["actor"] for version in kept} == {"user"}
    now = (await alice.get(path)).json()["data"]
    assert (now["version"], now["name"]) == (3, "New")
    bad = {"definition": flow("Three") | {"steps": []}}
    assert (await alice.patch(path, json=bad)).json()["code"] == "invalid_workflow"
    assert (await alice.patch(path, json={"definition": None})).status_code == 422
    assert await versions(alice, made["id"]) == kept
    first = await alice.get(f"{path}/versions", params={"limit": 2})
    cursor = first.json()["next_cursor"]
    rest = await alice.get(f"{path}/versions", params={"limit": 2, "cursor": cursor})
    assert first.json()["data"] + rest.json()["data"] == kept


async def test_restoring_a_version_loses_nothing_in_between(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    parameters = {"properties": {"a": {"default": 1}}}
    made = await make.workflow(alice, name="Kept", definition=flow("One"), parameters=parameters)
    path = f"/api/workflows/{made['id']}"
    await alice.patch(path, json={"definition": flow("Two"), "parameters": {}, "name": "Later"})
    back = (await alice.post(f"{path}/restore", json={"version": 1})).json()["data"]
    assert (back["definition"]["title"], back["parameters"], back["version"], back["name"]) == (
        "One", parameters, 3, "Later",
    )  # fmt: skip
    assert [version["definition"]["title"] for version in await versions(alice, made["id"])] == [
        "One",
        "Two",
        "One",
    ]
    for version, status in ((4, 404), (0, 422), (2**31, 422), ("x", 422)):
        assert (await alice.post(f"{path}/restore", json={"version": version})).status_code == status
    assert (await bob.post(f"{path}/restore", json={"version": 1})).status_code == 404
    assert (await bob.get(f"{path}/versions")).status_code == 404
    events = (await alice.get("/api/events", params={"resource_id": made["id"]})).json()["data"]
    assert [event["kind"] for event in events] == ["workflow.created", "workflow.updated", "workflow.updated"]
    shown = {name: value for name, value in back.items() if name != "definition"}
    assert events[-1]["data"] == shown
    assert (await alice.delete(path)).status_code == 200
    assert (await alice.get(f"{path}/versions")).status_code == 404


async def test_saves_at_once_never_share_a_number(alice: httpx.AsyncClient) -> None:
    made = await make.workflow(alice)
    path = f"/api/workflows/{made['id']}"
    saves = [alice.patch(path, json={"definition": flow(f"Save {number}")}) for number in range(8)]
    saves += [alice.post(f"{path}/restore", json={"version": 1}) for _ in range(4)]
    replies = await asyncio.gather(*saves)
    assert [reply.status_code for reply in replies] == [200] * 12
    assert sorted(reply.json()["data"]["version"] for reply in replies) == list(range(2, 14))
    kept = {version["version"]: version["definition"] for version in await versions(alice, made["id"])}
    assert sorted(kept) == list(range(1, 14))
    for reply in replies:
        assert kept[reply.json()["data"]["version"]] == reply.json()["data"]["definition"]
    assert (await alice.get(path)).json()["data"]["definition"] == kept[13]


async def test_workflows_are_found_by_part_of_their_name(alice: httpx.AsyncClient) -> None:
    for name in ("Buy tea", "Buy 100% wool", "Sell"):
        await make.workflow(alice, name=name)

    async def found(part: str) -> list[str]:
        reply = await alice.get("/api/workflows", params={"q": part})
        return [row["name"] for row in reply.json()["data"]]

    assert await found("bUY") == ["Buy 100% wool", "Buy tea"]
    assert await found("0%") == ["Buy 100% wool"]
    assert await found("_") == []


async def test_a_run_that_was_saved_does_the_same_again(alice: httpx.AsyncClient, site: Site) -> None:
    definition = {
        "title": "Read",
        "steps": [
            {"type": "navigate", "url": "{{ params.page }}"},
            {"type": "extract", "name": "page", "fields": {"title": {"selectors": ["title"]}}},
        ],
    }
    parameters = {"properties": {"page": {"type": "string"}, "note": {"default": None}}, "required": ["page"]}
    run = await make.run(
        alice, definition=definition, parameters=parameters, params={"page": site.url("/second")}
    )
    ended = (await alice.get(f"/api/runs/{run['id']}", params={"wait": 40})).json()["data"]
    assert ended["status"] == "succeeded", ended["error"]
    saved = await alice.post(f"/api/runs/{run['id']}/workflow", json={"name": "Read again"})
    assert saved.status_code == 201
    workflow = saved.json()["data"]
    assert saved.headers["location"] == f"/api/workflows/{workflow['id']}"
    assert (workflow["name"], workflow["definition"], workflow["version"]) == ("Read again", definition, 1)
    assert workflow["parameters"] == {
        "type": "object",
        "properties": {"page": {"default": site.url("/second"), "type": "string"}, "note": {"default": None}},
    }
    assert len(await versions(alice, workflow["id"])) == 1
    for params, title in (({}, "Second"), ({"page": site.url("/static")}, "Static")):
        again = await make.run(alice, workflow_id=workflow["id"], params=params)
        ended = (await alice.get(f"/api/runs/{again['id']}", params={"wait": 40})).json()["data"]
        assert ended["result"] == {"outputs": {"page": {"title": title}}}, ended["error"]


async def test_a_run_that_failed_is_saved_whole_so_that_it_can_be_mended(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    missing = {"type": "waitForElement", "selectors": ["#{{ params.id }}"], "timeout": 300}
    definition = {"title": "  ", "steps": [missing, {"type": "screenshot", "name": "end"}]}
    parameters = {"properties": {"id": {"type": "string"}}}
    run = await make.run(alice, definition=definition, parameters=parameters)
    ended = (await alice.get(f"/api/runs/{run['id']}", params={"wait": 40})).json()["data"]
    assert ended["status"] == "failed"
    path = f"/api/runs/{run['id']}/workflow"
    workflow = (await alice.post(path)).json()["data"]
    assert (workflow["name"], workflow["definition"]) == ("Run", definition)
    assert workflow["parameters"] == {"type": "object", "properties": {"id": {}}, "required": ["id"]}
    assert (await bob.post(path)).status_code == 404
    assert (await alice.post(path, json={"name": ""})).status_code == 422
    assert (await alice.post(f"/api/runs/{uuid4()}/workflow")).status_code == 404
