"""This process as a worker, another one that can be killed, and what tests ask of their runs."""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from pydantic import TypeAdapter

import db
from browser.actions import Action
from browser.chromium import Options
from infra.bus import LocalBus
from infra.storage import open_directory
from infra.vault import Vault, load_vault
from models import Control, Run, RunStatus, Step, uuid7
from runs import computers, engine
from schemas import ComputerCreate, RunCreate
from settings import settings
from tests import pages
from tests.pages import Site

ROOT = Path(__file__).parent.parent
ACTION: TypeAdapter[Action] = TypeAdapter(Action)
PATIENCE = 3  # how many times as long as should do a test waits, on a machine that does much at once
Steps = list[dict[str, Any]]
FOREVER = {"type": "waitForExpression", "expression": "false", "timeout": 60_000}
TITLE = {"type": "extract", "name": "page", "fields": {"title": {"selectors": ["title"]}}}


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
    await computers.start(worker_id, bus, storage)
    await engine.start(worker_id, bus, vault)
    yield worker_id
    await engine.stop()
    await computers.stop()


@pytest.fixture(scope="module")
async def one_chromium(worker: UUID, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """One Chromium for all users of the file's tests, which is not ended between them.

    A computer is a context of its own in it, as those of one user are.
    """
    browsers = computers._service().browsers
    open_for = browsers._open_once
    options = Options(downloads=tmp_path_factory.mktemp("downloads"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browsers, "_open_once", lambda _user, *more: open_for("everybody", *more))
        keeper = await browsers.open("everybody", uuid4(), options, lambda _kind, _data: None)
        yield
        await keeper.close("shutdown")


@pytest.fixture(scope="module")
def unrecorded() -> Iterator[None]:
    """Runs keep no pictures of what they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.__dict__, "recording", "off")
        yield


async def start(user: str, steps: Steps, **more: Any) -> UUID:
    """Queue a run of these steps."""
    body = RunCreate.model_validate({"definition": {"title": "Test", "steps": steps}} | more)
    async with db.as_user(user, "user") as tx:
        reply = await engine.enqueue(tx, body)
    assert reply.status_code == 202
    run_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    assert reply.headers["location"] == f"/api/runs/{run_id}"
    return run_id


async def start_task(user: str, task: str, **more: Any) -> UUID:
    """Queue a task for the demo model, or whichever stands in its place."""
    body = RunCreate.model_validate({"task": task, "model": "demo"} | more)
    async with db.as_user(user, "user") as tx:
        reply = await engine.enqueue(tx, body)
    return UUID(orjson.loads(bytes(reply.body))["data"]["id"])


async def open_computer(user: str) -> UUID:
    async with db.as_user(user, "user") as tx:
        reply = await computers.create(tx, ComputerCreate())
    computer_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    await computers.tabs(user, computer_id)
    return computer_id


async def act(user: str, computer_id: UUID, **action: Any) -> Any:
    return (await computers.act(user, computer_id, ACTION.validate_python(action))).output


async def read(user: str, run_id: UUID) -> Run:
    async with db.as_user(user) as tx:
        return await tx.one(Run, id=run_id)


async def steps_of(user: str, run_id: UUID) -> list[Step]:
    async with db.as_user(user) as tx:
        return await tx.find(Step, run_id=run_id)


async def ended(user: str, run_id: UUID, seconds: float = 30) -> Run:
    await engine.wait(user, run_id, seconds * PATIENCE)
    run = await read(user, run_id)
    assert RunStatus(run.status).ended, (run.status, run.reason)
    return run


async def look(seconds: float) -> AsyncIterator[None]:
    """Time to look again, every 20 ms; TimeoutError long after so many seconds."""
    async with asyncio.timeout(seconds * PATIENCE):
        while True:
            yield
            await asyncio.sleep(0.02)


async def until(user: str, run_id: UUID, seconds: float = 20, **values: object) -> Run:
    """The run once it has these values."""
    async for _ in look(seconds):
        run = await read(user, run_id)
        if all(getattr(run, name) == value for name, value in values.items()):
            break
        assert not RunStatus(run.status).ended, (run.status, run.error)
    return run


async def step_begun(user: str, run_id: UUID, number: int, *, acted: bool = False) -> None:
    async for _ in look(20):
        if any(
            step.number == number and (step.acted_at or not acted) for step in await steps_of(user, run_id)
        ):
            break


async def ask(user: str, run_id: UUID, control: Control) -> None:
    async with db.as_user(user, "user") as tx:
        await engine.wish(tx, await tx.one(Run, id=run_id), control)


def tombstone(user_id: str) -> str:
    """The id under which an erased user is remembered."""
    return hashlib.sha256(user_id.encode()).hexdigest()


async def expire(*users: str) -> None:
    """Let the leases of a dead worker on what is theirs run out now."""
    async with db.as_system() as tx:
        for table in ("runs", "computers"):
            await tx.connection.execute(
                f"update {table} set lease_expires_at = now()"
                " where lease_owner is not null and user_id = any($1)",
                users,
            )


async def kinds(user: str, run_id: UUID) -> list[str]:
    events = await db.events(user, 0)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.kind for event in events if event.run_id == run_id]


@pytest.fixture
async def idle(worker: UUID, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """This process claims nothing for the time of the test."""
    monkeypatch.setitem(settings.__dict__, "max_runs", 0)
    yield


async def new_user() -> str:
    """The id of a user nobody else has."""
    user_id = f"user_{uuid4().hex}"
    await db.ensure_user(user_id)
    return user_id


@asynccontextmanager
async def other_worker(log: Path | None = None, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python worker.py` on this database, with a lease of two seconds, or settings in place of that."""
    usual = {"LEASE_SECONDS": "2", "LOG_LEVEL": "info", "RECORDING": settings.recording}
    environment = os.environ | usual | more
    with log.open("wb") if log else nullcontext() as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "worker.py", cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
