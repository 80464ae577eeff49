"""Runs on a real Chromium: claimed, driven, steered, taken over, ended."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import orjson
import pytest

import db
from infra.bus import LocalBus
from infra.storage import open_directory
from infra.vault import Vault, load_vault
from models import Computer, Control, File, Run, RunStatus, Step, uuid7
from runs import computers, engine
from schemas import RunCreate
from settings import settings
from tests import pages
from tests.pages import Site

Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    async with pages.serve() as running:
        yield running


@pytest.fixture(scope="module")
async def vault() -> Vault:
    return load_vault(settings.data_dir, ())


@pytest.fixture(scope="module")
async def worker(database: str, bus: LocalBus, vault: Vault) -> AsyncIterator[UUID]:
    """This process as a worker."""
    worker_id = uuid7()
    storage = await open_directory(settings.data_dir / "files")
    await computers.start(worker_id, bus, storage, vault)
    await engine.start(worker_id, bus, storage, vault)
    yield worker_id
    await engine.stop()
    await computers.stop()


async def start(user: str, steps: Steps, **more: Any) -> UUID:
    """Queue a run of these steps."""
    body = RunCreate.model_validate({"definition": {"title": "Test", "steps": steps}} | more)
    async with db.as_user(user, "user") as tx:
        reply = await engine.enqueue(tx, body)
    assert reply.status_code == 202
    run_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    assert reply.headers["location"] == f"/api/runs/{run_id}"
    return run_id


async def read(user: str, run_id: UUID) -> Run:
    async with db.as_user(user) as tx:
        return await tx.one(Run, id=run_id)


async def steps_of(user: str, run_id: UUID) -> list[Step]:
    async with db.as_user(user) as tx:
        return await tx.find(Step, run_id=run_id)


async def ended(user: str, run_id: UUID, seconds: float = 30) -> Run:
    await engine.wait(user, run_id, seconds)
    run = await read(user, run_id)
    assert RunStatus(run.status).ended, (run.status, run.reason)
    return run


async def until(user: str, run_id: UUID, seconds: float = 20, **values: object) -> Run:
    """The run once it has these values."""
    async with asyncio.timeout(seconds):
        while True:
            run = await read(user, run_id)
            if all(getattr(run, name) == value for name, value in values.items()):
                return run
            assert not RunStatus(run.status).ended, (run.status, run.error)
            await asyncio.sleep(0.02)


async def step_begun(user: str, run_id: UUID, number: int) -> None:
    async with asyncio.timeout(20):
        while not any(step.number == number for step in await steps_of(user, run_id)):
            await asyncio.sleep(0.02)


async def ask(user: str, run_id: UUID, control: Control) -> None:
    async with db.as_user(user, "user") as tx:
        await engine.wish(tx, await tx.one(Run, id=run_id), control)


async def kinds(user: str, run_id: UUID) -> list[str]:
    events = await db.events(user, 0)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.kind for event in events if event.run_id == run_id]


FOREVER = {"type": "waitForExpression", "expression": "false", "timeout": 60_000}
TITLE = {"type": "extract", "name": "page", "fields": {"title": {"selectors": ["title"]}}}


async def test_a_run_does_its_steps_and_keeps_what_they_brought(user: str, site: Site, worker: UUID) -> None:
    flow = [
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
    async with asyncio.timeout(10):
        while opened.state != "closed":
            await asyncio.sleep(0.05)
            async with db.as_user(user) as tx:
                opened = await tx.one(Computer, id=run.computer_id)
    assert (opened.for_run, opened.closed_reason) == (True, "run_ended")
