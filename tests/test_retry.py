"""Another try of a run that has ended: from the beginning, from a step, over the death of its worker."""

from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

import db
from browser.chromium import ComputerClosed
from models import Control, Run
from runs import computers, engine
from schemas import RunRetry
from settings import settings
from tests import make
from tests.pages import Site
from tests.workers import (
    FOREVER,
    TITLE,
    Steps,
    ask,
    ended,
    expire,
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

MISSING: dict[str, Any] = {"type": "waitForElement", "selectors": ["#nowhere"], "timeout": 300}
TEXT = {"type": "extract", "name": "body", "fields": {"text": {"selectors": ["p"]}}}


def signing_in(site: Site) -> Steps:
    """Opens a page, types, sends the form, reads, and fails."""
    return [
        {"type": "navigate", "url": site.url("/login")},
        {"type": "change", "selectors": ["[name=user]"], "value": "ada"},
        {"type": "click", "selectors": ["text/In"], "assertedEvents": [{"type": "navigation"}]},
        TEXT,
        MISSING,
        TITLE,
    ]


async def again(user: str, run_id: UUID, from_step: int = 1) -> UUID:
    async with db.as_user(user, "user") as tx:
        run = await tx.one(Run, lock=True, id=run_id)
        reply = await engine.retry(tx, run, RunRetry(from_step=from_step))
    data = orjson.loads(bytes(reply.body))["data"]
    assert (reply.status_code, reply.headers["location"]) == (202, f"/api/runs/{data['id']}")
    return UUID(data["id"])


async def numbers(user: str, run_id: UUID) -> list[int]:
    return [step.number for step in await steps_of(user, run_id)]


async def test_a_retry_from_the_beginning_is_another_run_of_the_same(
    user: str, site: Site, worker: UUID
) -> None:
    parameters = {"properties": {"n": {"type": "number"}}}
    more = {"params": {"n": 1}, "parameters": parameters, "priority": 3, "timeout_seconds": 77}
    run_id = await start(user, [{"type": "navigate", "url": site.url("/store")}, MISSING], **more)
    first = await ended(user, run_id)
    assert (first.status, first.checkpoint is not None) == ("failed", True)
    second = await ended(user, await again(user, run_id))
    same = ("title", "definition", "params", "priority", "timeout_seconds", "allowed_domains", "workflow_id")
    assert [getattr(second, name) for name in same] == [getattr(first, name) for name in same]
    assert (second.retry_of, second.first_step, second.attempt) == (run_id, 1, 1)
    assert await numbers(user, second.id) == [1, 2]
    assert (await kinds(user, second.id))[:2] == ["run.queued", "run.started"]
    async with db.as_user(user) as tx:
        await engine.delete_run(tx, await tx.one(Run, id=run_id))
    assert (await read(user, second.id)).retry_of is None


async def test_a_retry_from_a_step_has_the_page_and_the_outputs_that_it_needs(
    user: str, site: Site, worker: UUID
) -> None:
    run = await ended(user, await start(user, signing_in(site)))
    assert run.error is not None
    assert (run.status, run.error["step"]) == ("failed", 5)
    asked = len(site.asked)
    second = await ended(user, await again(user, run.id, 6))
    assert (second.status, second.step_count) == ("succeeded", 1), second.error
    assert second.result == {"outputs": {"body": {"text": "second"}, "page": {"title": "Second"}}}
    assert await numbers(user, second.id) == [6]
    assert (await steps_of(user, second.id))[0].url == site.url("/second?user=ada&password=&card=")
    assert not any("/login" in path for path in site.asked[asked:])
    assert second.checkpoint is None
    assert run.checkpoint is not None


async def test_a_retry_of_an_earlier_step_does_again_what_leads_to_it(
    user: str, site: Site, worker: UUID
) -> None:
    run = await ended(user, await start(user, signing_in(site)))
    asked = len(site.asked)
    second = await ended(user, await again(user, run.id, 3))
    assert second.error is not None
    assert (second.error["step"], second.step_count) == (5, 2)
    assert await numbers(user, second.id) == [3, 4, 5]
    assert any("user=ada" in path for path in site.asked[asked:])
    third = await ended(user, await again(user, second.id, 6))
    assert third.result == {"outputs": {"body": {"text": "second"}, "page": {"title": "Second"}}}


async def test_a_retry_whose_page_cannot_be_had_waits_for_a_person(
    user: str, site: Site, worker: UUID
) -> None:
    click = {"type": "click", "selectors": ["#go"]}
    run = await ended(
        user, await start(user, [{"type": "navigate", "url": site.url("/")}, click, MISSING, TITLE])
    )
    second = await again(user, run.id, 4)
    waiting = await until(user, second, status="waiting_user")
    assert (waiting.reason, await numbers(user, second)) == ("page_not_restored", [])
    await ask(user, second, Control.run)
    assert (await ended(user, second)).result == {"outputs": {"page": {"title": "Form"}}}


async def test_a_step_that_opens_an_address_needs_no_page(user: str, site: Site, worker: UUID) -> None:
    flow: Steps = [
        {"type": "setViewport", "width": 700, "height": 500},
        {"type": "navigate", "url": site.url("/")},
        {"type": "click", "selectors": ["#go"]},
        {"type": "navigate", "url": site.url("/second")},
        {"type": "waitForExpression", "expression": "innerWidth == 700"},
        TITLE | {"schema": {"properties": {"title": {"type": "object"}}}},
    ]
    run = await ended(user, await start(user, flow))
    assert run.error is not None
    assert run.error["code"] == "invalid_output"
    second = await ended(user, await again(user, run.id, 4))
    assert second.error is not None
    assert (second.error["code"], second.step_count) == ("invalid_output", 2)
    assert "run.waiting" not in await kinds(user, second.id)


async def test_a_cancelled_run_keeps_its_sign_ins_for_the_next_try(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [{"type": "navigate", "url": site.url("/store")}, FOREVER, TITLE]
    run_id = await start(user, flow)
    await step_begun(user, run_id, 2)
    held = await computers.find_held(user, (await read(user, run_id)).computer_id or run_id)
    assert held is not None
    await ask(user, run_id, Control.pause)
    await until(user, run_id, status="paused")
    await held.computer.page.evaluate("localStorage.kept = 'changed'")
    await ask(user, run_id, Control.run)
    await until(user, run_id, status="running")
    before = (await read(user, run_id)).checkpoint
    await ask(user, run_id, Control.pause)
    async for _ in look(20):
        if (await read(user, run_id)).checkpoint != before:
            break
    await ask(user, run_id, Control.cancel)
    cancelled = await ended(user, run_id)
    assert cancelled.checkpoint is not None
    assert b"changed" not in cancelled.checkpoint
    next_id = await again(user, run_id, 2)
    await step_begun(user, next_id, 2)
    held = await computers.find_held(user, (await read(user, next_id)).computer_id or run_id)
    assert held is not None
    assert await held.computer.page.evaluate("[location.pathname, localStorage.kept]") == [
        "/store",
        "changed",
    ]
    await ask(user, next_id, Control.cancel)
    await ended(user, next_id)


async def test_a_retry_goes_on_from_its_step_over_the_death_of_its_worker(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    waiting = {"type": "waitForExpression", "expression": "localStorage.go", "timeout": 60_000}
    flow = [*signing_in(site)[:5], waiting, TITLE]
    run = await ended(user, await start(user, flow))
    monkeypatch.setitem(settings.__dict__, "max_runs", 0)
    second = await again(user, run.id, 6)
    async with other_worker(LEASE_SECONDS="60") as process:
        await step_begun(user, second, 6)
        process.kill()
        await process.wait()
    await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    await until(user, second, 40, attempt=2)
    async for _ in look(30):
        if [step.attempt for step in await steps_of(user, second)] == [2]:
            break
    held = await computers.find_held(user, (await read(user, second)).computer_id or second)
    assert held is not None
    await held.computer.page.evaluate("localStorage.go = 1")
    ends = await ended(user, second)
    assert (ends.status, ends.step_count) == ("succeeded", 2), ends.error
    assert await numbers(user, second) == [6, 7]
    assert ends.result == {"outputs": {"body": {"text": "second"}, "page": {"title": "Second"}}}


async def test_a_retry_on_an_open_computer_uses_it_again_and_not_another(
    user: str, site: Site, worker: UUID
) -> None:
    computer_id = await open_computer(user)
    flow: Steps = [{"type": "navigate", "url": site.url("/second")}, MISSING, TITLE]
    run = await ended(user, await start(user, flow, computer_id=str(computer_id)))
    second = await ended(user, await again(user, run.id, 3))
    assert (second.status, second.computer_id) == ("succeeded", computer_id), second.error
    await computers.close(user, computer_id)
    with pytest.raises(ComputerClosed):
        await again(user, run.id, 3)


async def test_a_retry_is_refused_while_the_run_goes_on_and_beyond_its_steps(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    run = await make.run(alice)
    path = f"/api/runs/{run['id']}/retry"
    assert (await alice.post(path)).json()["code"] == "wrong_state"
    await alice.post(f"/api/runs/{run['id']}/cancel")
    await alice.get(f"/api/runs/{run['id']}", params={"wait": 20})
    assert (await bob.post(path)).status_code == 404
    for step, status, code in ((2, 422, "no_such_step"), (0, 422, "invalid"), (1001, 422, "invalid")):
        reply = await alice.post(path, json={"from_step": step})
        assert (reply.status_code, reply.json()["code"]) == (status, code)
    beyond = await alice.post(path, json={"from_step": 2})
    assert beyond.json()["errors"][0]["loc"] == ["from_step"]
    made = await alice.post(path, headers={"Idempotency-Key": run["id"]})
    assert made.status_code == 202
    data = made.json()["data"]
    assert made.headers["location"] == f"/api/runs/{data['id']}"
    assert (data["retry_of"], data["first_step"], data["status"]) == (run["id"], 1, "queued")
    repeat = await alice.post(path, headers={"Idempotency-Key": run["id"]})
    assert repeat.json() == made.json()
    await alice.post(f"/api/runs/{data['id']}/cancel")
