"""A person who was asked about a reopened page is not asked again, whatever becomes of the workers meanwhile."""

from typing import Any
from uuid import UUID

import pytest

from models import Control
from runs import computers
from settings import settings
from tests.pages import Site
from tests.test_approvals import answer, question
from tests.workers import (
    TITLE,
    ask,
    ended,
    expire,
    kinds,
    look,
    other_worker,
    read,
    start,
    step_begun,
    until,
)

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

LONG = 60_000
CLICK = {"type": "click", "selectors": ["#go"], "assertedEvents": [{"type": "navigation"}], "timeout": LONG}
GO = {"type": "waitForExpression", "expression": "localStorage.go", "timeout": LONG}


async def killed_in_a_click(user: str, site: Site) -> UUID:
    """A run whose worker died as it clicked, free for the next one."""
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, CLICK, GO, TITLE])
    async with other_worker(LEASE_SECONDS="60") as process:
        await step_begun(user, run_id, 2, acted=True)
        process.kill()
        await process.wait()
    await expire(user)
    return run_id


async def held_of(user: str, run_id: UUID, before: UUID | None = None) -> computers.Held:
    """The run's computer once this process has it, another than the one `before`."""
    async for _ in look(20):
        computer_id = (await read(user, run_id)).computer_id
        held = await computers.find_held(user, computer_id) if computer_id else None
        if held is not None and held.id != before:
            return held
    raise AssertionError(computer_id)


async def go_on(user: str, run_id: UUID) -> Any:
    """Let the step end that the run is in, and the run."""
    held = await held_of(user, run_id)
    await step_begun(user, run_id, 3)
    await held.computer.page.evaluate("localStorage.go = 1")
    run = await ended(user, run_id)
    assert run.result == {"outputs": {"page": {"title": "Form"}}}, run.error


@pytest.mark.parametrize("how", ["answered_while_none_drives_it", "parked", "killed_after_the_answer"])
async def test_an_answer_holds_for_the_workers_that_follow(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run_id = await killed_in_a_click(user, site)
    async with other_worker(LEASE_SECONDS="60", PARK_SECONDS="1" if how == "parked" else "600") as process:
        await until(user, run_id, status="waiting_user", reason="may_have_landed")
        if how == "parked":
            await until(user, run_id, lease_owner=None)
        if how == "killed_after_the_answer":
            await ask(user, run_id, Control.run)
            await step_begun(user, run_id, 3)
        process.kill()
        await process.wait()
    if how != "killed_after_the_answer":
        await ask(user, run_id, Control.run)
    await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    await go_on(user, run_id)
    assert (await kinds(user, run_id)).count("run.waiting") == 1


async def test_who_waits_is_told_once_though_workers_come_and_go(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await killed_in_a_click(user, site)
    for attempt in (2, 3):
        async with other_worker(LEASE_SECONDS="60") as process:
            await until(user, run_id, status="waiting_user", attempt=attempt)
            process.kill()
            await process.wait()
        await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    await until(user, run_id, status="waiting_user", attempt=4)
    await held_of(user, run_id)
    await ask(user, run_id, Control.run)
    await go_on(user, run_id)
    told = await kinds(user, run_id)
    assert told.count("run.waiting") == told.count("run.resumed") == 1


async def test_what_a_person_did_in_a_page_that_is_lost_is_asked_about(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "park_seconds", 1)
    named = {
        "type": "waitForExpression",
        "expression": "document.querySelector('#name').value",
        "timeout": LONG,
    }
    pause = {"type": "pause", "title": "Fill it in"}
    run_id = await start(user, [{"type": "navigate", "url": site.url("/")}, pause, named, TITLE])
    await until(user, run_id, status="waiting_user", reason="Fill it in")
    held = await held_of(user, run_id)
    taken = await computers.take_control(user, held.id, "ada")
    await held.computer.page.fill("#name", "by hand")
    await computers.release_control(user, held.id, taken.generation)
    await until(user, run_id, lease_owner=None)
    await ask(user, run_id, Control.run)
    await until(user, run_id, status="waiting_user", reason="page_not_restored")
    monkeypatch.undo()
    held = await held_of(user, run_id, held.id)
    await held.computer.page.fill("#name", "again")
    await ask(user, run_id, Control.run)
    assert (await ended(user, run_id)).result == {"outputs": {"page": {"title": "Form"}}}
    assert (await kinds(user, run_id)).count("run.waiting") == 2


async def test_who_was_told_that_a_page_has_changed_is_not_told_again(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "park_seconds", 1)
    run_id = await start(
        user, [{"type": "navigate", "url": site.url("/")}, {"type": "approve", "title": "Pay?"}, TITLE]
    )
    held = await held_of(user, run_id)
    asked = await question(user, run_id)
    await computers.take_control(user, held.id, "ada")
    await until(user, run_id, status="paused", reason="control")
    await held.computer.page.goto(site.url("/second"))
    await answer(user, asked.id)
    await computers.release_control(user, held.id)
    await until(user, run_id, status="waiting_user", reason="page_changed")
    await until(user, run_id, lease_owner=None)
    await ask(user, run_id, Control.run)
    assert (await ended(user, run_id)).result == {"outputs": {"page": {"title": "Second"}}}
    assert (await kinds(user, run_id)).count("run.waiting") == 2
