"""People in runs: they take over, type, hand back, and find all of it in the log and in the recording."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from browser.screencast import jpeg_size
from tests import make
from tests.conftest import Backend, free_port
from tests.pages import Site
from tests.receivers import receiver
from tests.test_api import assert_problem
from tests.test_main_job import until, until_steps
from tests.test_sockets import Client, signed_in

NAME = "document.querySelector('#name').value"


def typed(end: str) -> dict[str, Any]:
    """Waits until the field holds something that ends so."""
    return {"type": "waitForExpression", "expression": f"{NAME}.endsWith('{end}')", "timeout": 60_000}


READ = {
    "type": "extract",
    "name": "page",
    "fields": {"path": {"selectors": ["title"]}, "seen": {"selectors": ["#end"]}},
}
SHOW = {"type": "waitForExpression", "expression": f"document.querySelector('#end').textContent = {NAME}"}


async def events_of(client: httpx.AsyncClient, run_id: str) -> list[dict[str, Any]]:
    reply = await client.get(f"/api/runs/{run_id}/events", params={"limit": 200})
    assert reply.json()["next_cursor"] is None
    return list(reply.json()["data"])


async def kinds_of(client: httpx.AsyncClient, run_id: str) -> list[str]:
    """What happened to the run and to control, in short."""
    told = [event["kind"] for event in await events_of(client, run_id)]
    return [kind for kind in told if kind.startswith(("run.", "control.")) and "step" not in kind]


async def each_event_shows_its_frame(client: httpx.AsyncClient, run_id: str) -> dict[int, bytes]:
    """The picture by number that a click on any event of the run brings: the newest from before it."""
    path, events = f"/api/runs/{run_id}/frames", await events_of(client, run_id)
    last = [event["data"]["number"] for event in events if event["kind"] == "run.step.finished"][-1]
    async with asyncio.timeout(20):  # the last segment is stored a moment after the end
        while not (await client.get(path, params={"step": last})).json()["data"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    frames = (await client.get(path, params={"limit": 200})).json()["data"]
    assert [frame["number"] for frame in frames] == list(range(1, len(frames) + 1))
    pictures: dict[int, bytes] = {}
    for event in events:
        [shown] = (await client.get(path, params={"seq": event["seq"]})).json()["data"]
        before = [frame for frame in frames if frame["captured_at"] < event["at"]]
        assert shown == (before or frames[:1])[-1]
        if shown["number"] not in pictures:
            picture = await client.get(f"{path}/{shown['number']}")
            assert jpeg_size(picture.content) == (shown["width"], shown["height"])
            pictures[shown["number"]] = picture.content
        if event["kind"] == "run.step.finished" and before:  # a killed worker takes its last frames along
            assert shown["step"] == event["data"]["number"]
    return pictures


async def act(client: httpx.AsyncClient, computer_id: str, **action: Any) -> Any:
    reply = await client.post(f"/api/computers/{computer_id}/actions", json=action)
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["output"]


async def evaluate(client: httpx.AsyncClient, computer_id: str, expression: str) -> Any:
    return (await act(client, computer_id, action="evaluate", expression=expression))["value"]


class Hand:
    """A socket that steers a computer; `generation` is what its input presents."""

    def __init__(self, socket: Client, computer_id: str, generation: int = 0) -> None:
        self.socket, self.computer_id, self.generation = socket, computer_id, generation

    async def ask(self, action: str) -> dict[str, Any]:
        await self.socket.send(type="control", id=action, computer_id=self.computer_id, action=action)
        return await self.answer(action)

    async def answer(self, id: str) -> dict[str, Any]:
        while True:
            message = await self.socket.receive()
            if message.get("id") == id:
                return message

    async def input(self, **event: Any) -> None:
        """Input that is taken: an error would be what comes next."""
        where = {"computer_id": self.computer_id, "generation": self.generation}
        await self.socket.send(type="input", **where, event=event)

    async def refused(self, generation: int) -> str:
        """The code that input with this generation is answered by."""
        where = {"computer_id": self.computer_id, "generation": generation}
        await self.socket.send(type="input", id="refused", **where, event={"type": "text", "text": "STALE"})
        return str((await self.answer("refused"))["code"])


async def text_is(client: httpx.AsyncClient, computer_id: str, text: str) -> None:
    async with asyncio.timeout(10):
        while await evaluate(client, computer_id, NAME) != text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def steer(socket: Client, client: httpx.AsyncClient, run: dict[str, Any], text: str) -> Hand:
    """Take the computer of the run and type into the page."""
    found = (await client.get(f"/api/runs/{run['id']}")).json()["data"]
    hand = Hand(socket, found["computer_id"])
    taken = await hand.ask("take")
    if taken["state"] == "pending":
        taken = await hand.answer("take")
    hand.generation = taken["generation"]
    await act(client, hand.computer_id, action="click", target={"selector": "#name"})
    await hand.input(type="text", text=text)
    await text_is(client, hand.computer_id, text)
    return hand


async def test_people_take_a_run_over_from_each_other_and_what_they_type_is_in_its_outputs(
    server: Backend, alice: httpx.AsyncClient, site: Site
) -> None:
    steps = [{"type": "navigate", "url": site.url("/")}, typed("!"), typed("?"), SHOW, READ]
    run = await make.run(alice, definition={"title": "Type", "steps": steps})
    await until_steps(alice, run["id"], 2)
    computer_id = (await until(alice, run["id"], "running"))["computer_id"]
    control = f"/api/computers/{computer_id}/control"

    async with signed_in(server, alice) as first, signed_in(server, alice) as second:
        one, two = Hand(first, computer_id), Hand(second, computer_id)
        asked = await one.ask("take")
        if asked["state"] == "pending":
            asked = await one.answer("take")
        assert asked["state"] == "granted"
        assert (await until(alice, run["id"], "paused"))["reason"] == "control"
        one.generation = asked["generation"]
        await act(alice, computer_id, action="click", target={"selector": "#name"})
        await one.input(type="text", text="a")
        await text_is(alice, computer_id, "a")

        taken = await two.ask("take")
        assert (taken["state"], taken["generation"]) == ("granted", one.generation + 1)
        assert await one.answer("take") == taken | {"id": "take"}
        two.generation = taken["generation"]
        for generation in (one.generation, two.generation + 1, 0):
            assert await one.refused(generation) == "stale_control"
        for _ in range(2):
            assert (await one.ask("release"))["code"] == "stale_control"
        await two.input(type="text", text="dé")
        for event in ("down", "up"):
            await two.input(type="key", event=event, key="b", code="KeyB")
        await text_is(alice, computer_id, "adéb")
        second.connection.transport.abort()

    async with signed_in(server, alice) as third:
        three = Hand(third, computer_id, two.generation)
        await three.input(type="text", text="c!")
        await text_is(alice, computer_id, "adébc!")
        assert (await three.ask("release"))["state"] == "released"
        assert await three.refused(two.generation) == "stale_control"
        await until_steps(alice, run["id"], 3)

        refused = await alice.post(
            f"/api/computers/{computer_id}/actions", json={"action": "type", "text": "BUSY"}
        )
        assert_problem(refused, 409, "computer_busy")
        over_http = (await alice.post(control)).json()["data"]
        assert over_http["generation"] == two.generation + 1
        await until(alice, run["id"], "paused")
        assert await three.refused(two.generation) == "stale_control"
        await act(alice, computer_id, action="type", text="h")
        await act(alice, computer_id, action="key", keys="?")
        assert (await alice.delete(control)).json()["data"]["state"] == "released"
        assert await three.refused(over_http["generation"]) in ("stale_control", "computer_closed")

    ended = await until(alice, run["id"], "succeeded", "failed")
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["result"]["outputs"]["page"] == {"path": "Form", "seen": "adébc!h?"}
    assert await kinds_of(alice, run["id"]) == [
        "run.queued",
        "run.started",
        "run.paused",
        "control.taken",
        "control.taken",
        "control.released",
        "run.resumed",
        "run.paused",
        "control.taken",
        "control.released",
        "run.resumed",
        "run.succeeded",
    ]
    assert len(await each_event_shows_its_frame(alice, run["id"])) >= 3


async def test_a_pause_tells_its_person_by_socket_and_webhook_and_goes_on_when_resumed(
    server: Backend, alice: httpx.AsyncClient, site: Site
) -> None:
    ask = {"type": "pause", "title": "Sign in for {{ params.who }}"}
    steps = [{"type": "navigate", "url": site.url("/")}, ask, typed("!"), SHOW, READ]
    async with receiver() as heard, signed_in(server, alice) as socket:
        await make.webhook(alice, url=heard.url, events=["run.waiting", "run.resumed", "run.succeeded"])
        await socket.subscribe(kinds=["run.waiting"])
        definition = {"title": "Ask", "steps": steps}
        parameters = {"properties": {"who": {"type": "string"}}}
        run = await make.run(alice, definition=definition, parameters=parameters, params={"who": "ada"})
        [told] = (await socket.expect("events"))["events"]
        assert (told["run_id"], told["data"]["status"]) == (run["id"], "waiting_user")
        assert told["data"]["reason"] == "Sign in for ada"
        [posted] = await heard.until(1)
        assert json.loads(posted.body)["data"] == told

        waiting = (await alice.get(f"/api/runs/{run['id']}")).json()["data"]
        assert (waiting["status"], waiting["control"]) == ("waiting_user", "pause")
        hand = await steer(socket, alice, run, "done!")
        assert (await hand.ask("release"))["state"] == "released"
        assert (await until(alice, run["id"], "waiting_user"))["reason"] == "Sign in for ada"
        assert (await alice.post(f"/api/runs/{run['id']}/resume")).status_code == 200
        ended = await until(alice, run["id"], "succeeded", "failed")
        assert ended["result"]["outputs"]["page"]["seen"] == "done!"
        kinds = [json.loads(request.body)["type"] for request in await heard.until(3)]
    assert sorted(kinds) == ["run.resumed", "run.succeeded", "run.waiting"]


@pytest.fixture(scope="module")
async def mortal(module_data: Path) -> AsyncIterator[Backend]:
    """A server whose runs are taken over two seconds after its death."""
    backend = Backend(module_data, free_port(), {"ACCESS_TOKEN_SECONDS": "3600", "LEASE_SECONDS": "2"})
    await backend.start()
    yield backend
    await backend.stop()


async def taken_over(client: httpx.AsyncClient, run: dict[str, Any], *statuses: str) -> dict[str, Any]:
    """The run once another worker has it, on a computer of its own."""
    async with asyncio.timeout(120):
        while True:
            found = await until(client, run["id"], *statuses)
            if found["computer_id"] != run["computer_id"]:
                return found
            await asyncio.sleep(0.05)


async def test_a_run_whose_worker_died_under_a_persons_hands_waits_and_is_taken_over_again(
    mortal: Backend, site: Site
) -> None:
    open_it, click = {"type": "navigate", "url": site.url("/")}, {"type": "click", "selectors": ["#go"]}
    async with mortal.sign_up() as client:
        flows: tuple[list[dict[str, Any]], ...] = (
            [open_it, click, typed("!"), SHOW, READ],
            [open_it, typed("!"), SHOW, READ],
        )
        runs = [await make.run(client, definition={"title": "T", "steps": steps}) for steps in flows]
        for run, steps in zip(runs, flows, strict=True):
            await until_steps(client, run["id"], len(steps) - 2)
        runs = [await until(client, run["id"], "running") for run in runs]
        async with signed_in(mortal, client) as socket:
            old = [await steer(socket, client, run, "lost") for run in runs]
            await mortal.kill()
        await mortal.start()

        async with signed_in(mortal, client) as socket:
            for run, before, reason in zip(runs, old, ("may_have_landed", "control_expired"), strict=True):
                found = await taken_over(client, run, "waiting_user")
                assert (found["reason"], found["attempt"]) == (reason, 2)
                before.socket = socket
                assert await before.refused(before.generation) == "computer_closed"
                hand = await steer(socket, client, found, "again!")
                assert await hand.refused(before.generation + 1) == "stale_control"
                assert (await hand.ask("release"))["state"] == "released"
                assert (await until(client, run["id"], "waiting_user"))["reason"] == reason
                assert (await client.post(f"/api/runs/{run['id']}/resume")).status_code == 200
                ended = await until(client, run["id"], "succeeded", "failed")
                assert ended["status"] == "succeeded", ended["error"]
                assert ended["result"]["outputs"]["page"]["seen"] == "again!"
                await each_event_shows_its_frame(client, run["id"])


async def test_each_event_of_a_run_that_was_handed_over_shows_its_frame(mortal: Backend, site: Site) -> None:
    steps = [{"type": "navigate", "url": site.url(path)} for path in ("/second", "/")]
    definition = {"title": "Type", "steps": [*steps, typed("!"), SHOW, READ]}
    async with mortal.sign_up() as client:
        run = await make.run(client, definition=definition)
        await until_steps(client, run["id"], 3)
        run = await until(client, run["id"], "running")
        await mortal.stop()
        await mortal.start()
        await taken_over(client, run, "running")
        async with signed_in(mortal, client) as socket:
            hand = await steer(socket, client, run, "by hand!")
            assert (await hand.ask("release"))["state"] == "released"
        ended = await until(client, run["id"], "succeeded", "failed")
        assert ended["status"] == "succeeded", ended["error"]
        pictures = await each_event_shows_its_frame(client, run["id"])
        frames = (await client.get(f"/api/runs/{run['id']}/frames", params={"limit": 200})).json()["data"]
        assert {1, 2, 3, 4} <= {frame["step"] for frame in frames}
        assert len(set(pictures.values())) >= 3  # one page, another, and what a person made of it
