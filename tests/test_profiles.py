"""Profiles: cookies and storage go in, are used by browsers, and come out nowhere."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import httpx
import pytest

from runs.profiles import InvalidState, read_cookies_txt
from tests import make
from tests.conftest import Backend
from tests.pages import Site
from tests.receivers import serving
from tests.test_api import assert_problem
from tests.test_schedules import make_due
from tests.test_sockets import signed_in as signed_in_socket

LATER = int(time.time()) + 86400
COOKIE = {"name": "session", "value": "abc123", "domain": ".example.com", "path": "/"}


async def put(client: httpx.AsyncClient, profile: dict[str, Any], **body: Any) -> httpx.Response:
    return await client.put(f"/api/profiles/{profile['id']}/state", json=body)


async def test_three_forms_of_cookies_are_taken_and_none_is_shown(alice: httpx.AsyncClient) -> None:
    made = await make.profile(alice, name="Work")
    storage = {"origin": "https://app.example.org", "localStorage": [{"name": "token", "value": "xyz789"}]}
    state = {"cookies": [COOKIE | {"expires": -1, "sameSite": "Lax"}], "origins": [storage]}
    first = (await put(alice, made, storage_state=state)).json()["data"]
    assert (first["domains"], first["cookie_count"], first["origin_count"]) == (
        ["app.example.org", "example.com"],
        1,
        1,
    )
    assert first["saved_at"] is not None
    text = (
        "# Netscape HTTP Cookie File\n\n"
        f".example.net\tTRUE\t/\tTRUE\t{LATER}\tid\tabc123\n"
        f"#HttpOnly_www.example.net\tFALSE\t/a\tFALSE\t0\tempty\t\n"
    )
    second = (await put(alice, made, cookies_txt=text)).json()["data"]
    assert (second["domains"], second["cookie_count"], second["origin_count"]) == (
        ["example.net", "www.example.net"],
        2,
        0,
    )
    extension = COOKIE | {
        "hostOnly": False,
        "httpOnly": True,
        "sameSite": "no_restriction",
        "secure": True,
        "session": False,
        "storeId": "0",
        "expirationDate": LATER + 0.5,
    }
    third = (await put(alice, made, cookies=[extension])).json()["data"]
    assert (third["domains"], third["cookie_count"]) == (["example.com"], 1)
    seen = (await alice.get("/api/profiles")).text + (await alice.get("/api/events")).text
    for hidden in ("abc123", "xyz789"):
        assert hidden not in seen


async def test_what_has_expired_is_left_out(alice: httpx.AsyncClient) -> None:
    made = await make.profile(alice)
    old = COOKIE | {"expirationDate": 1_500_000_000}
    assert (await put(alice, made, cookies=[old, COOKIE])).json()["data"]["cookie_count"] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid"),
        ({"cookies": [], "cookies_txt": ""}, "invalid"),
        ({"cookies": "x"}, "invalid"),
        ({"storage_state": {"cookies": {}}}, "invalid_state"),
        ({"storage_state": {"cookies": [{"name": "a"}]}}, "invalid_state"),
        ({"storage_state": {"origins": [{"origin": "file:///etc"}]}}, "invalid_state"),
        ({"storage_state": {"origins": [{"origin": "https://x"}] * 201}}, "invalid_state"),
        (
            {"storage_state": {"origins": [{"origin": "https://x", "indexedDB": [{"name": "a"}]}]}},
            "invalid_state",
        ),
        ({"cookies": [COOKIE] * 5001}, "invalid_state"),
        ({"cookies": [COOKIE | {"domain": "exa mple.com"}]}, "invalid_state"),
        ({"cookies": [COOKIE | {"domain": ""}]}, "invalid_state"),
        ({"cookies": [COOKIE | {"value": "x" * 8193}]}, "invalid_state"),
        ({"cookies": [COOKIE | {"path": "x"}]}, "invalid_state"),
        ({"cookies": [COOKIE | {"expires": "soon"}]}, "invalid_state"),
        ({"cookies": [COOKIE | {"name": "a\nb"}]}, "invalid_state"),
        ({"cookies_txt": "just text"}, "invalid_state"),
        ({"cookies_txt": "a\tTRUE\t/\tTRUE\tnever\tid\tv"}, "invalid_state"),
    ],
)
async def test_what_is_no_state_is_refused_and_changes_nothing(
    alice: httpx.AsyncClient, body: dict[str, Any], code: str
) -> None:
    made = await make.profile(alice)
    before = (await put(alice, made, cookies=[COOKIE])).json()["data"]
    assert_problem(await put(alice, made, **body), 422, code)
    assert (await alice.get(f"/api/profiles/{made['id']}")).json()["data"] == before


def test_a_line_that_is_no_cookie_is_named() -> None:
    with pytest.raises(InvalidState) as caught:
        list(read_cookies_txt("# ok\n\nwrong"))
    assert "Line 3" in str(caught.value)


async def test_a_name_serves_once(alice: httpx.AsyncClient) -> None:
    first, second = await make.profile(alice, name="Work"), await make.profile(alice, name="Home")
    assert_problem(await alice.post("/api/profiles", json={"name": "Work"}), 409, "already_exists")
    reply = await alice.patch(f"/api/profiles/{second['id']}", json={"name": "Work"})
    assert_problem(reply, 409, "already_exists")
    assert (await alice.delete(f"/api/profiles/{first['id']}")).status_code == 200
    assert (await alice.patch(f"/api/profiles/{second['id']}", json={"name": "Work"})).status_code == 200


# In browsers


def signed_in(site: Site) -> dict[str, Any]:
    """A state in which the site's cookie and storage say so; one cookie is none that Chromium would take."""
    host = "127.0.0.1"
    cookies = [
        {"name": "who", "value": "alice", "domain": host, "path": "/"},
        {"name": "__Host-bad", "value": "x", "domain": host, "path": "/deep"},
    ]
    storage = {"origin": site.url("").rstrip("/"), "localStorage": [{"name": "theme", "value": "dark"}]}
    return {"cookies": cookies, "origins": [storage]}


READ = "`${document.cookie} ${localStorage.getItem('theme')}`"
OPEN = """new Promise(resolve => {
  const opening = indexedDB.open('auth');
  opening.onupgradeneeded = () => opening.result.createObjectStore('users').add({name: 'carol'}, 1);
  opening.onsuccess = () => opening.result.transaction('users').objectStore('users').get(1).onsuccess =
    ({target}) => resolve(target.result.name);
})"""


async def evaluate(client: httpx.AsyncClient, computer_id: str, expression: str) -> Any:
    action = {"action": "evaluate", "expression": expression}
    reply = await client.post(f"/api/computers/{computer_id}/actions", json=action)
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["output"]["value"]


async def test_a_computer_begins_with_its_profile_and_is_captured_into_one(
    alice: httpx.AsyncClient, site: Site
) -> None:
    work, home = await make.profile(alice, name="Work"), await make.profile(alice, name="Home")
    await put(alice, work, storage_state=signed_in(site))
    computer = await make.computer(alice, profile_id=work["id"])
    assert computer["profile_id"] == work["id"]
    path = f"/api/computers/{computer['id']}"
    go = {"action": "navigate", "url": site.url("/second")}
    assert (await alice.post(f"{path}/actions", json=go)).status_code == 200
    assert await evaluate(alice, computer["id"], READ) == "who=alice dark"
    await evaluate(
        alice, computer["id"], "document.cookie = 'by=hand; max-age=3600'; localStorage.b = '2'; 1"
    )
    assert await evaluate(alice, computer["id"], OPEN) == "carol"
    reply = await alice.post(f"/api/profiles/{home['id']}/capture", json={"computer_id": computer["id"]})
    kept = reply.json()["data"]
    assert (kept["cookie_count"], kept["origin_count"]) == (2, 1)
    assert (await alice.get(f"/api/profiles/{work['id']}")).json()["data"]["cookie_count"] == 2
    assert (await alice.delete(path)).status_code == 200
    again = await make.computer(alice, profile_id=home["id"])
    await alice.post(f"/api/computers/{again['id']}/actions", json=go)
    assert await evaluate(alice, again["id"], READ) == "who=alice; by=hand dark"
    assert await evaluate(alice, again["id"], "indexedDB.databases().then(all => all[0]?.name)") == "auth"
    assert await evaluate(alice, again["id"], OPEN) == "carol"
    missing = {"computer_id": again["id"]}
    await alice.delete(f"/api/computers/{again['id']}")
    assert_problem(
        await alice.post(f"/api/profiles/{home['id']}/capture", json=missing), 409, "computer_closed"
    )


async def test_a_run_begins_with_its_profile_and_saves_it_when_asked(
    alice: httpx.AsyncClient, site: Site
) -> None:
    profile = await make.profile(alice)
    await put(alice, profile, storage_state=signed_in(site))
    flow = {
        "title": "Visit",
        "steps": [
            {"type": "navigate", "url": site.url("/second")},
            {
                "type": "waitForExpression",
                "expression": "document.cookie.includes('who=alice')",
                "timeout": 3000,
            },
        ],
    }
    before = (await alice.get(f"/api/profiles/{profile['id']}")).json()["data"]
    for save, count in ((False, 2), (True, 1)):
        run = await make.run(alice, definition=flow, profile_id=profile["id"], save_profile=save)
        ended = (await alice.get(f"/api/runs/{run['id']}", params={"wait": 30})).json()["data"]
        assert ended["status"] == "succeeded", ended["error"]
        after = (await alice.get(f"/api/profiles/{profile['id']}")).json()["data"]
        assert after["cookie_count"] == count
        assert (after["saved_at"] != before["saved_at"]) is save
    logged = (await alice.get(f"/api/runs/{run['id']}/events?limit=200")).json()["data"]
    assert any(event["kind"] == "run.log" and "profile keeps" in json.dumps(event) for event in logged)


async def test_anothers_or_no_profile_is_refused(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    theirs = await make.profile(bob)
    for path, body in (
        ("/api/computers", {"profile_id": theirs["id"]}),
        ("/api/runs", {"definition": make.FLOW, "profile_id": theirs["id"]}),
    ):
        assert_problem(await alice.post(path, json=body), 404, "not_found")
    assert_problem(
        await alice.post("/api/runs", json={"definition": make.FLOW, "save_profile": True}), 422, "invalid"
    )


# Across runs


SIGN_IN = """<title>Sign in</title><form method=post action=/login><input name=user><input name=password type=password>
<button>In</button></form>"""


@asynccontextmanager
async def members_only() -> AsyncIterator[str]:
    """A site that knows its members by a cookie that scripts do not see, and counts their visits in another."""
    sessions: dict[str, str] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        cookies = dict(pair.split("=", 1) for pair in headers.get("cookie", "").split("; ") if pair)
        sent, status, body = ["Content-Type: text/html"], "200 OK", SIGN_IN
        if not lines[0].endswith((" / HTTP/1.1", " /login HTTP/1.1")):
            status = "404 Not Found"
        elif lines[0].startswith("POST"):
            form = parse_qs((await reader.readexactly(int(headers["content-length"]))).decode())
            if form["password"] == ["correct horse"]:
                sessions[key := uuid4().hex] = form["user"][0]
                sent.append(f"Set-Cookie: session={key}; HttpOnly; Max-Age=9999")
            sent.append("Location: /")
            status = "303 See Other"
        elif (name := sessions.get(cookies.get("session", ""))) is not None:
            visits = int(cookies.get("visits", "0")) + 1
            sent.append(f"Set-Cookie: visits={visits}; Max-Age=9999")
            body = f"<title>Home</title><h1>{name}</h1><p>{visits}</p><script>localStorage.last = '{visits}'</script>"
        head = [f"HTTP/1.1 {status}", *sent, f"Content-Length: {len(body)}", "Connection: close"]
        writer.write("\r\n".join((*head, "", body)).encode())

    async with serving(serve) as port:
        yield f"http://127.0.0.1:{port}/"


async def fired(server: Backend, client: httpx.AsyncClient, schedule: dict[str, Any]) -> dict[str, Any]:
    """What the run of a schedule read, once it has come due."""
    await make_due(server, schedule["id"])
    runs: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while not runs:
            await asyncio.sleep(0.05)
            runs = (await client.get("/api/runs", params={"schedule_id": schedule["id"]})).json()["data"]
    run = (await client.get(f"/api/runs/{runs[0]['id']}", params={"wait": 30})).json()["data"]
    assert run["status"] == "succeeded", run["error"]
    return dict(run["result"]["outputs"]["page"])


async def test_a_sign_in_by_hand_serves_scheduled_runs_and_each_finds_what_the_one_before_left(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    async with members_only() as home, signed_in_socket(server, alice) as socket:
        computer = await make.computer(alice)
        path = f"/api/computers/{computer['id']}"
        await alice.post(f"{path}/actions", json={"action": "navigate", "url": home})
        await socket.send(type="control", id="c", computer_id=computer["id"], action="take")
        steer = {
            "computer_id": computer["id"],
            "generation": (await socket.expect("controlled"))["generation"],
        }
        for name, text in (("user", "ada"), ("password", "correct horse")):
            click = {"action": "click", "target": {"selector": f"[name={name}]"}}
            assert (await alice.post(f"{path}/actions", json=click)).status_code == 200
            await socket.send(type="input", **steer, event={"type": "text", "text": text})
            async with asyncio.timeout(10):
                while await evaluate(alice, computer["id"], f"document.forms[0].{name}.value") != text:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for event in ("down", "up"):
            await socket.send(type="input", **steer, event={"type": "key", "event": event, "key": "Enter"})
        async with asyncio.timeout(10):
            while (await alice.get(f"{path}/tabs")).json()["data"][0]["title"] != "Home":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        profile = await make.profile(alice)
        reply = await alice.post(
            f"/api/profiles/{profile['id']}/capture", json={"computer_id": computer["id"]}
        )
        assert (reply.json()["data"]["cookie_count"], reply.json()["data"]["origin_count"]) == (2, 1)
        assert (await alice.delete(path)).status_code == 200

        fields = {"who": {"selectors": ["h1"]}, "visits": {"selectors": ["p"]}}
        fields["title"] = {"selectors": ["title"]}
        steps = [{"type": "navigate", "url": home}, {"type": "extract", "name": "page", "fields": fields}]
        workflow = await make.workflow(alice, definition={"title": "Visit", "steps": steps})
        plans = []
        for save in (False, True, True, None):
            run = {} if save is None else {"profile_id": profile["id"], "save_profile": save}
            plans.append(await make.schedule(alice, workflow_id=workflow["id"], cron="0 0 1 1 *", run=run))
        seen = [await fired(server, alice, each) for each in plans]
    assert seen[:3] == [{"who": "ada", "visits": visits, "title": "Home"} for visits in ("2", "2", "3")]
    assert seen[3] == {"who": None, "visits": None, "title": "Sign in"}
