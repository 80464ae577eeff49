"""Each change of a thing is one event that shows the thing as its route reads it, and never its values."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests import make

HIDDEN = "value-that-nobody-may-see"
Made = Callable[[httpx.AsyncClient], Awaitable[dict[str, Any]]]
CHANGES: dict[str, tuple[Made, dict[str, Any]]] = {
    "keys": (make.key, {"name": "n"}),
    "secrets": (lambda client: make.secret(client, text=HIDDEN), {"text": HIDDEN + "2"}),
    "profiles": (make.profile, {"name": "n"}),
    "threads": (make.thread, {"labels": {"a": "b"}}),
    "workflows": (make.workflow, {"name": "n"}),
    "schedules": (make.schedule, {"cron": "@hourly"}),
    "files": (make.file, {"name": "n.txt"}),
    "webhooks": (make.webhook, {"enabled": False}),
}


@pytest.mark.parametrize("collection", CHANGES)
async def test_each_change_is_one_event_with_the_thing_as_it_is_read(
    collection: str, alice: httpx.AsyncClient
) -> None:
    of_kind, change = CHANGES[collection]
    made = await of_kind(alice)
    path = f"/api/{collection}/{made['id']}"
    first = (await alice.get(path)).json()["data"]
    changed = (await alice.patch(path, json=change)).json()["data"]
    assert (await alice.delete(path)).status_code == 200
    found = await alice.get("/api/events", params={"resource_id": made["id"]})
    events = found.json()["data"]
    kind = collection.removesuffix("s")
    assert [event["kind"] for event in events] == [
        f"{kind}.{verb}" for verb in ("created", "updated", "deleted")
    ]
    assert [event["data"] for event in events[:2]] == [
        {name: value for name, value in seen.items() if name != "definition"} for seen in (first, changed)
    ]
    assert events[2]["data"] == {"id": made["id"], "name": changed["name"]}
    assert {(event["actor"], event["resource"]["type"], event["run_id"]) for event in events} == {
        ("user", kind, None)
    }
    hidden = {made.get("key"), made.get("secret"), HIDDEN} - {None}
    assert not [value for value in hidden if str(value) in json.dumps(events)]


async def test_a_profile_tells_of_its_cookies_without_their_values(alice: httpx.AsyncClient) -> None:
    made = await make.profile(alice)
    cookies = [{"name": "sid", "value": HIDDEN, "domain": "shop.example", "path": "/"}]
    path = f"/api/profiles/{made['id']}"
    kept = (await alice.put(f"{path}/state", json={"cookies": cookies})).json()["data"]
    assert (kept["domains"], kept["cookie_count"]) == (["shop.example"], 1)
    told = (await alice.get("/api/events", params={"resource_id": made["id"]})).json()["data"][-1]
    assert (told["kind"], told["data"]) == ("profile.updated", kept)
    assert HIDDEN not in json.dumps(told)


async def test_a_message_is_told_where_it_was_said(alice: httpx.AsyncClient) -> None:
    thread = await make.thread(alice)
    said = (await alice.post(f"/api/threads/{thread['id']}/messages", json={"text": "m"})).json()["data"]
    [told] = (await alice.get("/api/events", params={"kind": "message."})).json()["data"]
    assert (told["kind"], told["resource"]) == ("message.created", {"type": "message", "id": said["id"]})
    assert told["data"] == said
