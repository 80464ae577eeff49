"""Runs on a real Chromium: claimed, driven, steered, taken over, ended."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from pydantic import TypeAdapter
from sqlalchemy.exc import NoResultFound

import db
import upkeep
from browser import chromium
from browser.actions import Action, InputEvent
from browser.chromium import ComputerClosed
from infra.bus import LocalBus
from infra.storage import Stored
from infra.vault import Vault
from models import Computer, Control, File, Quota, Run, Workflow, uuid7
from runs import checkpoints, computers, engine, files
from runs.queue import LONG_AGO, look_at_queue
from runs.workflows import InvalidParams, InvalidWorkflow
from schemas import RunCreate
from settings import settings
from tests.conftest import free_port
from tests.pages import Site
from tests.workers import (
    FOREVER,
    TITLE,
    Steps,
    ask,
    ended,
    kinds,
    look,
    open_computer,
    other_worker,
    read,
    start,
    step_begun,
    steps_of,
    until,
)

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

ACTION: TypeAdapter[Action] = TypeAdapter(Action)
INPUT: TypeAdapter[InputEvent] = TypeAdapter(InputEvent)
LEASE = timedelta(seconds=15)


async def test_a_run_does_its_steps_and_keeps_what_they_brought(user: str, site: Site, worker: UUID) -> None:
    flow: Steps = [
        {"type": "setViewport", "width": 800, "height": 600},
        {"type": "navigate", "url": site.url("/login")},
        {"type": "change", "selectors": ["[name=user]"], "value": "ada"},
        {"type": "click", "selectors": ["text/In"], "assertedEvents": [{"type": "navigation"}]},
        {"type": "extract", "name": "page", "fields": {"text": {"selectors": ["p"]}}},
        {"type": "screenshot", "name": "proof"},
    ]
    run_id = await start(user, flow)
    run = await ended(user, run_id)
    assert (run.status, run.error, run.step_count) == ("succeeded", None, 6)
    assert run.result is not None
    assert run.result["outputs"]["page"] == {"text": "second"}
    steps = await steps_of(user, run_id)
    assert [(step.number, step.type, step.status) for step in steps] == [
        (number, step["type"], "succeeded") for number, step in enumerate(flow, 1)
    ]
    assert all(step.screenshot_id and step.duration_ms is not None and step.url for step in steps)
    assert steps[3].url == site.url("/second?user=ada&password=&card=")
    async with db.as_user(user) as tx:
        shown = await tx.find(File, run_id=run_id)
        opened = await tx.one(Computer, id=run.computer_id)
    assert {file.id for file in shown} >= {step.screenshot_id for step in steps}
    assert UUID(run.result["outputs"]["proof"]) in {file.id for file in shown}
    assert (run.lease_owner, run.checkpoint, run.control) == (None, None, "run")
    told = await kinds(user, run_id)
    assert told[:2] == ["run.queued", "run.started"]
    assert told.count("run.step.started") == told.count("run.step.finished") == 6
    assert told.index("run.succeeded") > max(n for n, kind in enumerate(told) if kind == "run.step.finished")
    async for _ in look(10):
        async with db.as_user(user) as tx:
            opened = await tx.one(Computer, id=run.computer_id)
        if opened.state == "closed":
            break
    assert (opened.for_run, opened.closed_reason) == (True, "run_ended")


async def test_what_a_recorder_adds_to_a_step_does_not_break_it(user: str, site: Site, worker: UUID) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/static"), "selectors": {"a": 1}},
        {"type": "waitForElement", "selectors": ["body"]},
        {"type": "waitForElement", "selectors": [["html", "body"]]},
    ]
    run_id = await start(user, flow)
    assert (await ended(user, run_id)).status == "succeeded"
    titles = [step.title for step in await steps_of(user, run_id)]
    assert titles == [f"navigate {flow[0]['url']}", "waitForElement body", "waitForElement html"]


# Wishes -------------------------------------------------------------------------------------------


async def test_cancelling_a_waiting_step_ends_the_run(user: str, worker: UUID) -> None:
    run_id = await start(user, [FOREVER])
    await step_begun(user, run_id, 1)
    await ask(user, run_id, Control.cancel)
    run = await ended(user, run_id, 10)
    assert (run.status, run.reason, run.result) == ("cancelled", None, None)
    assert [step.status for step in await steps_of(user, run_id)] == ["interrupted"]
    assert (await kinds(user, run_id))[-1] in ("run.cancelled", "computer.closed", "file.created")


async def test_pausing_a_waiting_step_stops_it_and_resuming_goes_on(user: str, worker: UUID) -> None:
    wait = {"type": "waitForExpression", "expression": "window.go", "timeout": 20_000}
    run_id = await start(user, [wait, TITLE | {"fields": {"go": {"selectors": ["body"]}}}])
    await step_begun(user, run_id, 1)
    await ask(user, run_id, Control.pause)
    paused = await until(user, run_id, 10, status="paused")
    assert (paused.reason, paused.control) == ("requested", "pause")
    held = await computers.find_held(user, paused.computer_id or uuid4())
    assert held is not None
    await held.computer.page.evaluate("window.go = true")
    assert (await read(user, run_id)).status == "paused"
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert (run.status, run.step_count) == ("succeeded", 2)
    told = [kind for kind in await kinds(user, run_id) if kind in ("run.paused", "run.resumed")]
    assert told == ["run.paused", "run.resumed"]


async def test_runs_and_wishes_are_heard_of_by_hints_and_not_by_the_clock(
    user: str, worker: UUID, bus: LocalBus, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "POLL_SECONDS", 600)
    monkeypatch.setitem(settings.__dict__, "lease_seconds", 300)
    await engine.stop()
    await engine.start(worker, bus, vault)
    try:
        run_id = await start(user, [FOREVER])
        await step_begun(user, run_id, 1)
        await ask(user, run_id, Control.cancel)
        assert (await ended(user, run_id)).status == "cancelled"
    finally:
        monkeypatch.undo()
        await engine.stop()
        await engine.start(worker, bus, vault)


@pytest.mark.parametrize("control", [Control.pause, Control.cancel])
async def test_a_hanging_page_cannot_delay_a_wish(
    user: str, site: Site, worker: UUID, control: Control
) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/hang")},
        {"type": "click", "selectors": ["button"], "timeout": 60_000},
        {"type": "waitForElement", "selectors": ["#never"], "timeout": 60_000},
    ]
    run_id = await start(user, flow)
    await step_begun(user, run_id, 2, acted=True)
    await ask(user, run_id, control)
    if control is Control.pause:
        await until(user, run_id, 10, status="paused")
        await ask(user, run_id, Control.cancel)
    await ended(user, run_id, 10)
    assert (await read(user, run_id)).status == "cancelled"


async def test_the_time_limit_leaves_pauses_out(user: str, worker: UUID) -> None:
    run_id = await start(user, [FOREVER], timeout_seconds=3)
    await step_begun(user, run_id, 1)
    await ask(user, run_id, Control.pause)
    await until(user, run_id, status="paused")
    await asyncio.sleep(4.5)
    assert (await read(user, run_id)).status == "paused"
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error["code"], run.error["step"], run.error["pointer"]) == ("timeout", 1, "/steps/0")
    assert 2900 <= run.active_ms < 4500
    assert [step.status for step in await steps_of(user, run_id)] == ["failed"]


async def test_a_queued_run_is_paused_resumed_and_cancelled_at_once(user: str, worker: UUID) -> None:
    later = "2100-01-01T00:00:00Z"
    run_id = await start(user, [FOREVER], run_after=later)
    await ask(user, run_id, Control.pause)
    assert (await read(user, run_id)).status == "paused"
    await ask(user, run_id, Control.run)
    assert (await read(user, run_id)).status == "queued"
    with pytest.raises(engine.WrongState):
        await ask(user, run_id, Control.run)
    await ask(user, run_id, Control.cancel)
    assert (await read(user, run_id)).status == "cancelled"
    for control in Control:
        with pytest.raises(engine.WrongState, match="has ended"):
            await ask(user, run_id, control)
    assert await kinds(user, run_id) == ["run.queued", "run.paused", "run.queued", "run.cancelled"]


async def test_a_run_that_waits_long_gives_its_browser_back_and_goes_on_later(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "park_seconds", 1)
    flow: Steps = [
        {"type": "navigate", "url": site.url("/store")},
        {"type": "waitForExpression", "expression": "localStorage.go", "timeout": 20_000},
        {"type": "extract", "name": "page", "fields": {"title": {"selectors": ["title"]}}},
    ]
    run_id = await start(user, flow)
    await step_begun(user, run_id, 2)
    await ask(user, run_id, Control.pause)
    paused = await until(user, run_id, status="paused")
    held = await computers.find_held(user, paused.computer_id or uuid4())
    assert held is not None
    await held.computer.page.evaluate("localStorage.go = 1")
    parked = await until(user, run_id, status="paused", lease_owner=None)
    assert parked.checkpoint is not None
    assert b"localhost" not in parked.checkpoint
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert (run.status, run.step_count, run.attempt) == ("succeeded", 3, 1), run.error
    assert run.computer_id != paused.computer_id
    assert [step.attempt for step in await steps_of(user, run_id)] == [1, 2, 1]
    told = await kinds(user, run_id)
    assert told.count("run.step.finished") == 3
    assert [kind for kind in told if kind in ("run.paused", "run.queued", "run.resumed")] == [
        "run.queued",
        "run.paused",
        "run.queued",
        "run.resumed",
    ]


# Control ------------------------------------------------------------------------------------------


async def test_a_person_takes_a_running_computer_over_and_gives_it_back(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/")},
        {"type": "waitForExpression", "expression": "document.querySelector('#name').value == 'hi'"},
    ]
    flow[1]["timeout"] = 30_000
    run_id = await start(user, flow)
    await step_begun(user, run_id, 2)
    computer_id = (await read(user, run_id)).computer_id
    assert computer_id is not None
    with pytest.raises(computers.ComputerBusy):
        await computers.act(user, computer_id, ACTION.validate_python({"action": "reload"}))
    taken = await computers.take_control(user, computer_id, "ada")
    assert (taken.state, taken.holder) == ("pending", "ada")
    paused = await until(user, run_id, 10, status="paused", reason="control")
    async for _ in look(10):
        if "control.taken" in await kinds(user, run_id):
            break
    held = await computers.find_held(user, computer_id)
    assert held is not None
    await held.computer.page.focus("#name")
    event = INPUT.validate_python({"type": "text", "text": "hi"})
    with pytest.raises(computers.StaleControl):
        await computers.send_input(user, computer_id, taken.generation + 1, event)
    await computers.send_input(user, computer_id, taken.generation, event)
    assert paused.control == "run"
    released = await computers.release_control(user, computer_id, taken.generation)
    assert (released.state, released.holder) == ("released", None)
    assert (await ended(user, run_id)).status == "succeeded"
    with pytest.raises((computers.StaleControl, ComputerClosed)):
        await computers.send_input(user, computer_id, taken.generation, event)


async def test_a_run_paused_for_two_reasons_goes_on_when_both_are_gone(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, FOREVER])
    await step_begun(user, run_id, 2)
    await ask(user, run_id, Control.pause)
    computer_id = (await until(user, run_id, status="paused")).computer_id
    assert computer_id is not None
    assert (await computers.take_control(user, computer_id, "ada")).state == "granted"
    await until(user, run_id, reason="control")
    await computers.release_control(user, computer_id)
    await until(user, run_id, status="paused", reason="requested")
    await ask(user, run_id, Control.run)
    await until(user, run_id, status="running")
    await ask(user, run_id, Control.cancel)
    assert (await ended(user, run_id)).status == "cancelled"


async def test_control_that_expires_leaves_the_run_waiting_for_its_user(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "control_seconds", 1)
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, FOREVER])
    await step_begun(user, run_id, 2)
    computer_id = (await read(user, run_id)).computer_id
    assert computer_id is not None
    await computers.take_control(user, computer_id, "ada")
    waiting = await until(user, run_id, status="waiting_user", control="pause")
    assert waiting.reason == "control_expired"
    await ask(user, run_id, Control.run)
    await until(user, run_id, status="running")
    await ask(user, run_id, Control.cancel)
    assert (await ended(user, run_id)).status == "cancelled"
    told = await kinds(user, run_id)
    assert [kind for kind in told if kind.startswith("control.") or kind == "run.waiting"] == [
        "control.taken",
        "control.released",
        "run.waiting",
    ]


# Failures -----------------------------------------------------------------------------------------


async def test_a_missing_element_fails_the_step_and_the_run_with_what_was_tried(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/")},
        {"type": "click", "selectors": ["#nowhere", "text/Nowhere"], "timeout": 500},
    ]
    run = await ended(user, await start(user, flow))
    assert (run.status, run.step_count) == ("failed", 1)
    assert run.error is not None
    assert (run.error["code"], run.error["step"], run.error["pointer"]) == (
        "element_not_found",
        2,
        "/steps/1",
    )
    assert len(run.error["tried"]) == 2
    last = (await steps_of(user, run.id))[-1]
    assert (last.status, str(last.screenshot_id)) == ("failed", run.error["screenshot_id"])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/", "browsers do not use its port"),
        ("http://127.0.0.1:{port}/", "127.0.0.1"),
        ("https://127.0.0.1:{port}/", "127.0.0.1"),
        ("https://nowhere.invalid/", "nowhere.invalid"),
        ("http://169.254.169.254/", "169.254.169.254"),
    ],
)
async def test_an_unreachable_page_fails_the_run_with_a_sentence(
    user: str, worker: UUID, url: str, reason: str
) -> None:
    url = url.format(port=free_port())
    run = await ended(user, await start(user, [{"type": "navigate", "url": url}]))
    assert run.error is not None
    assert run.error["code"] == "unreachable"
    _, _, why = run.error["detail"].partition("could not be opened: ")
    assert reason in why
    assert "ERR_" not in why


async def test_a_host_outside_the_allowed_domains_is_not_reached(user: str, site: Site, worker: UUID) -> None:
    flow: Steps = [{"type": "navigate", "url": site.url("/second")}, TITLE]
    asked = len(site.asked)
    run = await ended(user, await start(user, flow, allowed_domains=["example.com"]))
    assert run.status == "failed" or (run.result or {})["outputs"]["page"] != {"title": "Second"}
    assert len(site.asked) == asked


async def test_a_crash_while_the_run_is_paused_is_why_its_next_step_fails(
    user: str, site: Site, worker: UUID
) -> None:
    missing = {"type": "waitForElement", "selectors": [["#nowhere"]], "timeout": 2000}
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, missing])
    await step_begun(user, run_id, 2)
    await ask(user, run_id, Control.pause)
    run = await until(user, run_id, status="paused")
    held = await computers.find_held(user, run.computer_id or uuid4())
    assert held is not None
    crash = asyncio.ensure_future(held.computer.active.cdp.send("Page.crash"))
    await asyncio.gather(crash, return_exceptions=True)
    async for _ in look(10):
        if held.crashes:
            break
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert run.error is not None
    assert (run.error["code"], run.error["step"]) == ("page_crashed", 2)


@pytest.mark.parametrize("how", ["page", "process"])
async def test_a_crash_fails_the_step_that_it_hit(user: str, site: Site, worker: UUID, how: str) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, FOREVER])
    await step_begun(user, run_id, 2)
    held = await computers.find_held(user, (await read(user, run_id)).computer_id or uuid4())
    assert held is not None
    if how == "page":
        crash = asyncio.ensure_future(held.computer.active.cdp.send("Page.crash"))
    else:
        held.computer._process.kill()
    run = await ended(user, run_id)
    if how == "page":
        await asyncio.gather(crash, return_exceptions=True)
    assert run.error is not None
    assert (run.status, run.error["code"], run.error["step"]) == ("failed", "page_crashed", 2)


async def test_a_missing_chromium_fails_the_run_with_the_remedy(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "chromium_path", "/nowhere/chromium")
    monkeypatch.delattr(computers._service().browsers, "_open_once")  # a Chromium of its own
    run = await ended(user, await start(user, [FOREVER]))
    assert run.error is not None
    assert run.error["code"] == "chromium_missing"
    assert "CHROMIUM_PATH" in run.error["detail"]


async def test_a_run_on_an_open_computer_uses_it_and_leaves_it_open(
    user: str, site: Site, worker: UUID
) -> None:
    computer_id = await open_computer(user)
    await computers.act(
        user, computer_id, ACTION.validate_python({"action": "navigate", "url": site.url("/second")})
    )
    first = await start(user, [TITLE], computer_id=str(computer_id))
    second = await start(user, [TITLE], computer_id=str(computer_id))
    for run_id in (first, second):
        run = await ended(user, run_id)
        assert (run.status, run.computer_id) == ("succeeded", computer_id)
        assert run.result == {"outputs": {"page": {"title": "Second"}}}
    assert len(await computers.tabs(user, computer_id)) == 1
    with pytest.raises(engine.WrongState):
        await start(user, [TITLE], computer_id=str(computer_id), allowed_domains=["example.com"])
    await computers.close(user, computer_id)
    with pytest.raises(ComputerClosed):
        await start(user, [TITLE], computer_id=str(computer_id))


@dataclass
class Before:
    """Who uses a computer before a run does."""

    run_id: UUID
    halted: bool = True

    def control_changed(self, *, expired: bool) -> None:
        """Not of interest here."""


@pytest.mark.parametrize("gone", ["tab", "computer"])
async def test_a_run_on_an_open_computer_leaves_it_whatever_becomes_of_its_last_tab(
    user: str, site: Site, worker: UUID, gone: str
) -> None:
    computer_id = await open_computer(user)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    await held.attach(Before(uuid7()))
    run_id = await start(
        user, [{"type": "navigate", "url": site.url("/second")}, TITLE], computer_id=str(computer_id)
    )
    async for _ in look(10):
        if held.vacant._waiters:
            break
    seen: list[object] = []

    def hand_on(*_: object) -> None:
        seen.append(held.browser and held.browser._active)
        held.driver = None
        held.vacant.set()

    if gone == "tab":
        held.computer.page.on("close", hand_on)
        await held.computer.page.close()
    else:
        await computers.close(user, computer_id)
        hand_on()
    run = await ended(user, run_id)
    if gone == "tab":
        assert seen == [None]
        assert (run.status, run.result) == ("succeeded", {"outputs": {"page": {"title": "Second"}}})
    else:
        assert (run.status, (run.error or {})["code"]) == ("failed", "computer_closed")
    async for _ in look(10):
        if held.driver is None:
            break
    await computers.close(user, computer_id)


async def test_closing_the_computer_fails_the_run_on_it(user: str, worker: UUID) -> None:
    computer_id = await open_computer(user)
    run_id = await start(user, [FOREVER], computer_id=str(computer_id))
    await step_begun(user, run_id, 1)
    await computers.close(user, computer_id)
    run = await ended(user, run_id)
    assert run.error is not None
    assert run.error["code"] == "computer_closed"


async def test_only_a_run_that_has_ended_is_deleted_and_its_files_go_with_it(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/second")}, FOREVER])
    await step_begun(user, run_id, 2)
    async with db.as_user(user) as tx:
        with pytest.raises(engine.WrongState):
            await engine.delete_run(tx, await tx.one(Run, id=run_id))
        kept = await tx.find(File, run_id=run_id)
    paths = [settings.data_dir / "files" / file.storage_key for file in kept]
    assert paths
    assert all(path.exists() for path in paths)
    await ask(user, run_id, Control.cancel)
    await ended(user, run_id)
    async for _ in look(10):
        if "computer.closed" in await kinds(user, run_id):
            break
    async with db.as_user(user) as tx:
        await engine.delete_run(tx, await tx.one(Run, id=run_id))
    await upkeep.remove_due()
    assert not any(path.exists() for path in paths)
    assert await steps_of(user, run_id) == []


async def test_a_run_deleted_while_its_last_download_is_stored_frees_its_place(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, FOREVER])
    await step_begun(user, run_id, 2)
    held = await computers.find_held(user, (await read(user, run_id)).computer_id or uuid4())
    assert held is not None
    assert engine._engine is not None
    store, arriving, deleted = files._store(), asyncio.Event(), asyncio.Event()
    put = store.put

    async def slow(key: str, chunks: Any, *, limit: int) -> Stored:
        arriving.set()
        await deleted.wait()
        return await put(key, chunks, limit=limit)

    monkeypatch.setattr(store, "put", slow)
    await held.computer.page.evaluate("() => { location.href = '/small' }")
    async with asyncio.timeout(30):
        await arriving.wait()
    await ask(user, run_id, Control.cancel)
    await ended(user, run_id)
    async with db.as_user(user) as tx:
        await engine.delete_run(tx, await tx.one(Run, id=run_id))
    drive = engine._engine.drives[run_id]
    deleted.set()
    async with asyncio.timeout(30):
        await held.gone.wait()
        await drive.task
    assert run_id not in engine._engine.drives
    told = {event.kind: orjson.loads(event.text)["data"] for event in await db.events(user, 0)}
    download = told["computer.download"]
    assert (download["state"], "deleted" in download["detail"]) == ("failed", True)
    async with db.as_user(user) as tx:
        assert await tx.find(File) == []


async def test_bad_workflows_and_params_are_refused_before_anything_is_queued(
    user: str, database: str
) -> None:
    with pytest.raises(InvalidWorkflow):
        await start(user, [{"type": "clik"}])
    with pytest.raises(InvalidParams):
        await start(user, [FOREVER], params={"unknown": 1})
    with pytest.raises(NoResultFound):
        async with db.as_user(user) as tx:
            await engine.enqueue(tx, RunCreate(workflow_id=uuid4()))
    async with db.as_user(user) as tx:
        assert await tx.find(Run) == []


async def test_params_with_defaults_reach_the_steps(user: str, site: Site, worker: UUID) -> None:
    parameters = {"properties": {"path": {"type": "string", "default": "/second"}}}
    definition = {"title": "P", "steps": [{"type": "navigate", "url": site.url("{{ params.path }}")}, TITLE]}
    async with db.as_user(user) as tx:
        workflow = await tx.add(Workflow, name="P", definition=definition, parameters=parameters)
        reply = await engine.enqueue(tx, RunCreate(workflow_id=workflow.id))
    run = await ended(user, UUID(orjson.loads(bytes(reply.body))["data"]["id"]))
    assert (run.params, run.workflow_id) == ({"path": "/second"}, workflow.id)
    assert run.result == {"outputs": {"page": {"title": "Second"}}}


# Queue, leases, takeover --------------------------------------------------------------------------


async def claim(worker_id: UUID, per_user: int = 2, *, room: bool = True) -> tuple[str, UUID] | None:
    async with db.as_system() as tx:
        rows = await tx.call("claim_run", worker_id, LEASE, per_user, room)
    return (rows[0]["user_id"], rows[0]["id"]) if rows else None


@pytest.fixture
async def queue(idle: None) -> AsyncIterator[list[str]]:
    """Ten users: the first has forty runs, the others five each; all are removed in the end."""
    users = [f"user_{uuid4().hex}" for _ in range(10)]
    for number, user_id in enumerate(users):
        await db.ensure_user(user_id)
        async with db.as_user(user_id) as tx:
            for _ in range(5 if number else 40):
                await tx.add(Run, title="Q", definition={}, timeout_seconds=60)
            await tx.change(Quota, {}, ready_at=LONG_AGO)
    yield users
    for user_id in users:
        async with db.as_user(user_id) as tx:
            await tx.remove(Run)


async def test_claiming_is_fair_between_users(queue: list[str]) -> None:
    owner = uuid7()
    claimed = [await claim(owner, per_user=5) for _ in range(50)]
    turns = [row[0] for row in claimed if row is not None]
    assert len(turns) == 50
    for number in range(0, 50, 10):
        assert sorted(turns[number : number + 10]) == sorted(queue)
    assert await claim(owner, per_user=5) is None


async def test_concurrent_claimers_take_exactly_what_each_user_may_have(queue: list[str]) -> None:
    async def keep_claiming(owner: UUID) -> list[tuple[str, UUID]]:
        taken, misses = [], 0
        while misses < 5:
            row = await claim(owner)
            misses = 0 if row else misses + 1
            taken += [row] if row else []
        return taken

    groups = await asyncio.gather(*(keep_claiming(uuid7()) for _ in range(6)))
    taken = [row for group in groups for row in group]
    assert len({run_id for _, run_id in taken}) == len(taken)
    assert {user_id: sum(owner == user_id for owner, _ in taken) for user_id in queue} == dict.fromkeys(
        queue, 2
    )


async def test_priority_goes_first_and_without_room_nothing_is_claimed(user: str, idle: None) -> None:
    async with db.as_user(user) as tx:
        ids = [
            (await tx.add(Run, title="Q", definition={}, timeout_seconds=60, priority=priority)).id
            for priority in (0, 5, 5, -1)
        ]
        await tx.change(Quota, {}, ready_at=LONG_AGO)
    owner = uuid7()
    assert await claim(owner, room=False) is None
    claimed = [await claim(owner, per_user=9) for _ in range(5)]
    assert claimed == [(user, ids[1]), (user, ids[2]), (user, ids[0]), (user, ids[3]), None]
    async with db.as_user(user) as tx:
        await tx.remove(Run)


async def test_a_user_is_not_looked_at_before_there_is_something_to_do(user: str, idle: None) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with db.as_user(user) as tx:
        await tx.add(Run, title="Later", definition={}, timeout_seconds=60, run_after=later)
        await look_at_queue(tx)
    owner = uuid7()
    assert await claim(owner) is None
    async with db.as_user(user) as tx:
        quota = await tx.one(Quota)
        assert (quota.turn, quota.ready_at) == (later, later)
        now = await tx.add(Run, title="Now", definition={}, timeout_seconds=60)
        await look_at_queue(tx)
    assert await claim(owner) == (user, now.id)
    async with db.as_user(user) as tx:
        await tx.remove(Run)


async def deaf() -> None:
    """A heartbeat that brings nothing, so that only the fence of a write tells of a lost lease."""
    assert engine._engine is not None
    engine._engine.beaten_at = asyncio.get_running_loop().time()


async def test_a_run_that_another_worker_took_is_written_no_more(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(user, [FOREVER | {"timeout": 2_000}])
    await step_begun(user, run_id, 1)
    monkeypatch.setitem(settings.__dict__, "max_runs", 0)
    assert engine._engine is not None
    monkeypatch.setattr(engine._engine, "beat_once", deaf)
    async with db.as_user(user) as tx:
        await tx.change(Run, {"id": run_id}, lease_expires_at=LONG_AGO)
    other = uuid7()
    assert await claim(other) == (user, run_id)
    async for _ in look(10):
        if run_id not in engine._engine.drives:
            break
    run = await read(user, run_id)
    assert (run.status, run.lease_owner, run.lease_epoch) == ("running", other, 2)
    assert [step.status for step in await steps_of(user, run_id)] == ["started"]
    assert "run.failed" not in await kinds(user, run_id)
    async with db.as_user(user) as tx:
        await tx.remove(Run)


async def test_a_fenced_worker_stops_everything_and_the_run_is_taken_up_again(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/second")}, FOREVER])
    await step_begun(user, run_id, 2)
    assert engine._engine is not None
    engine._engine.fence()
    async for _ in look(10):
        if run_id not in engine._engine.drives:
            break
    async with db.as_user(user) as tx:
        await tx.change(Run, {"id": run_id}, lease_expires_at=LONG_AGO)
    await until(user, run_id, lease_epoch=2)
    await ask(user, run_id, Control.cancel)
    assert (await ended(user, run_id)).status == "cancelled"


LATER = "localStorage.later"


async def write_later(user: str, run_id: UUID) -> UUID:
    """Change what the run's page keeps after its last checkpoint."""
    await step_begun(user, run_id, 2)
    computer_id = (await read(user, run_id)).computer_id
    held = await computers.find_held(user, computer_id or uuid4())
    assert held is not None
    await held.computer.page.evaluate(f"{LATER} = 'yes'")
    return held.id


async def test_a_run_that_is_handed_over_goes_on_with_what_its_page_kept_last(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/store")}, FOREVER])
    first = await write_later(user, run_id)
    assert engine._engine is not None
    engine._engine.drives[run_id].leave()
    await until(user, run_id, attempt=1, lease_epoch=2)
    async for _ in look(20):
        if [step.attempt for step in await steps_of(user, run_id)] == [1, 2]:
            break
    held = await computers.find_held(user, (await read(user, run_id)).computer_id or uuid4())
    assert held is not None
    assert held.id != first
    assert await held.computer.page.evaluate(LATER) == "yes"
    await ask(user, run_id, Control.cancel)
    await ended(user, run_id)


async def test_a_run_whose_time_is_over_keeps_its_page_for_another_try(
    user: str, site: Site, worker: UUID, vault: Vault
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/store")}, FOREVER], timeout_seconds=5)
    await write_later(user, run_id)
    run = await ended(user, run_id)
    assert (run.status, (run.error or {})["code"]) == ("failed", "timeout")
    kept = checkpoints.unseal(vault, run)
    assert kept is not None
    stored = {entry["name"]: entry["value"] for entry in kept["origins"][0]["localStorage"]}
    assert stored == {"kept": "yes", "later": "yes"}


async def test_a_checkpoint_that_was_not_had_is_taken_after_the_next_step(
    user: str, site: Site, worker: UUID, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage_state, asked = chromium.Computer.storage_state, 0

    async def late(self: chromium.Computer) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise TimeoutError
        return await storage_state(self)

    monkeypatch.setattr(chromium.Computer, "storage_state", late)
    steps: Steps = [{"type": "navigate", "url": site.url("/store")}, *[{"type": "scroll"}] * 2, FOREVER]
    run_id = await start(user, steps)
    await step_begun(user, run_id, 4)
    kept = checkpoints.unseal(vault, await read(user, run_id))
    assert kept is not None
    assert (kept["tabs"], kept["landed_at"], asked) == ([site.url("/store")], 1, 2)
    await ask(user, run_id, Control.cancel)
    await ended(user, run_id)


async def test_a_run_whose_lease_ran_out_unnoticed_is_driven_once_by_the_same_worker(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/second")}, FOREVER])
    await step_begun(user, run_id, 2)
    running = engine._engine
    assert running is not None
    before = running.drives[run_id]
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(running, "beat_once", deaf)
        async for _ in look(20):
            async with db.as_user(user) as tx:
                await tx.change(Run, {"id": run_id, "lease_epoch": 1}, lease_expires_at=LONG_AGO)
            if running.drives.get(run_id) not in (before, None):
                break
        drive = running.drives[run_id]
        await asyncio.wait({before.task}, timeout=10)
        assert (before.task.done(), drive.task.done()) == (True, False)
    async for _ in look(20):
        if [step.attempt for step in await steps_of(user, run_id)] == [1, 2]:
            break
    assert running.drives[run_id] is drive
    await ask(user, run_id, Control.cancel)
    run = await ended(user, run_id)
    assert (run.status, run.attempt, run.lease_epoch) == ("cancelled", 2, 2)


async def test_a_run_whose_workers_keep_dying_is_given_up(user: str, worker: UUID) -> None:
    async with db.as_user(user) as tx:
        run = await tx.add(
            Run,
            title="Q",
            definition={"title": "Q", "steps": [FOREVER]},
            timeout_seconds=60,
            status="running",
            attempt=5,
            lease_owner=uuid7(),
            lease_expires_at=LONG_AGO,
        )
    failed = await ended(user, run.id)
    assert failed.error is not None
    assert failed.error["code"] == "worker_died"


# A worker in a process of its own -----------------------------------------------------------------


async def test_a_killed_workers_run_is_taken_over_and_ends(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow: Steps = [
        {"type": "setViewport", "width": 700, "height": 500},
        {"type": "navigate", "url": site.url("/login")},
        {"type": "click", "selectors": ["text/In"], "assertedEvents": [{"type": "navigation"}]},
        {"type": "waitForExpression", "expression": "localStorage.go || window.never", "timeout": 60_000},
        {"type": "extract", "name": "page", "fields": {"text": {"selectors": ["p"]}}},
    ]
    run_id = await start(user, flow)
    async with other_worker() as process:
        await step_begun(user, run_id, 4)
        process.kill()
        await process.wait()
        monkeypatch.setitem(settings.__dict__, "max_runs", 4)
        taken = await until(user, run_id, attempt=2)
        async for _ in look(20):
            computer_id = (await read(user, run_id)).computer_id
            held = await computers.find_held(user, computer_id) if computer_id else None
            if [step.attempt for step in await steps_of(user, run_id)][3:] == [2]:
                break
        assert held is not None
        assert await held.computer.page.evaluate("[innerWidth, location.pathname]") == [700, "/second"]
        await held.computer.page.evaluate("localStorage.go = 1")
        run = await ended(user, run_id)
    assert (run.status, run.step_count) == ("succeeded", 5), run.error
    assert run.result == {"outputs": {"page": {"text": "second"}}}
    assert taken.lease_epoch == 2
    told = await kinds(user, run_id)
    assert told.count("run.step.finished") == 5
    assert told.count("run.started") == told.count("run.succeeded") == 1
    assert "run.log" in told


async def test_a_worker_killed_inside_an_unsafe_step_leaves_it_to_a_person(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    click = {
        "type": "click",
        "selectors": ["#go"],
        "assertedEvents": [{"type": "navigation"}],
        "timeout": 60_000,
    }
    flow: Steps = [{"type": "navigate", "url": site.url("/")}, click, TITLE]
    run_id = await start(user, flow)
    async with other_worker() as process:
        await step_begun(user, run_id, 2, acted=True)
        process.kill()
        await process.wait()
        monkeypatch.setitem(settings.__dict__, "max_runs", 4)
        waiting = await until(user, run_id, status="waiting_user")
        assert (waiting.reason, waiting.control, waiting.attempt) == ("may_have_landed", "pause", 2)
        assert [step.status for step in await steps_of(user, run_id)] == ["succeeded", "may_have_landed"]
        await ask(user, run_id, Control.run)
        run = await ended(user, run_id)
    assert (run.status, run.step_count) == ("succeeded", 2)
    assert run.result == {"outputs": {"page": {"title": "Form"}}}
    told = await kinds(user, run_id)
    assert told.count("run.waiting") == told.count("run.resumed") == 1


async def test_a_worker_that_is_told_to_stop_hands_its_run_over_at_once(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow: Steps = [{"type": "navigate", "url": site.url("/second")}, FOREVER]
    run_id = await start(user, flow)
    async with other_worker() as process:
        await step_begun(user, run_id, 2)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    left = await read(user, run_id)
    assert (left.status, left.attempt) == ("running", 0)
    assert left.lease_expires_at == LONG_AGO.replace(tzinfo=None)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    await until(user, run_id, attempt=1, lease_epoch=2)
    await ask(user, run_id, Control.cancel)
    assert (await ended(user, run_id)).status == "cancelled"


async def test_a_transaction_that_hangs_holds_up_its_own_run_and_no_other(
    user: str, worker: UUID, database: str
) -> None:
    stuck, other = [await start(user, [FOREVER]) for _ in range(2)]
    for run_id in (stuck, other):
        await step_begun(user, run_id, 1)
    link = await asyncpg.connect(database)
    try:
        async with link.transaction():
            await link.execute("select set_config('app.system', 'on', true)")
            assert await link.fetchval("select 1 from runs where id = $1 for update", stuck) == 1
            kept = (await read(user, other)).lease_expires_at
            await ask(user, other, Control.pause)
            paused = await until(user, other, 10, status="paused")
            async for _ in look(10):
                paused = await read(user, other)
                if paused.lease_expires_at and kept and paused.lease_expires_at > kept:
                    break
            assert (await read(user, stuck)).lease_owner == worker
    finally:
        await link.close()
    assert engine.alive()
    for run_id in (stuck, other):
        await ask(user, run_id, Control.cancel)
        assert (await ended(user, run_id)).attempt == 1
