"""A computer that another process owns, used from this one over Redis."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import orjson
import pytest
from pydantic import TypeAdapter
from sqlalchemy.exc import NoResultFound

import db
from browser.actions import ActionFailed, InputEvent
from browser.chromium import ComputerClosed
from browser.screencast import Frame
from infra.bus import LocalBus, make_bus
from infra.storage import open_directory
from models import Computer, uuid7
from runs import computers, remote
from schemas import ActionRead, ComputerCreate
from settings import settings
from tests.conftest import ROOT
from tests.pages import Site
from tests.test_bus import redis_server
from tests.workers import ACTION, act, look

INPUT: TypeAdapter[InputEvent] = TypeAdapter(InputEvent)


@pytest.fixture(scope="module")
async def owner(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python worker.py` beside this process, which opens no computers; both on one Redis."""
    directory = tmp_path_factory.mktemp("redis")
    async with redis_server(directory):
        url = f"unix://{directory}/redis"
        bus = make_bus(database, url)
        await bus.start()
        storage = await open_directory(settings.data_dir / "files")
        await computers.start(uuid7(), bus, storage, opens=False)
        environment = os.environ | {"REDIS_URL": url}
        process = await asyncio.create_subprocess_exec(sys.executable, "worker.py", cwd=ROOT, env=environment)
        yield process
        process.terminate()
        async with asyncio.timeout(20):
            await process.wait()
        await computers.stop()
        await bus.close()


async def create(user: str) -> UUID:
    async with db.as_user(user, "user") as tx:
        reply = await computers.create(tx, ComputerCreate())
    computer_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    async for _ in look(20):
        async with db.as_user(user) as tx:
            if (await tx.one(Computer, id=computer_id)).state == "open":
                break
    return computer_id


async def test_a_computer_of_another_process_is_used_like_ones_own(
    user: str, other_user: str, site: Site, owner: asyncio.subprocess.Process
) -> None:
    computer_id = await create(user)
    await act(user, computer_id, action="navigate", url=site.url("/"))
    assert [tab.title for tab in await computers.tabs(user, computer_id)] == ["Form"]
    assert (await computers.screenshot(user, computer_id)).startswith(b"\xff\xd8")
    with pytest.raises(ActionFailed) as failure:
        await act(user, computer_id, action="switch_tab", tab="t99")
    assert failure.value.code == "no_such_tab"
    frames: list[Frame] = []
    views: list[dict[str, Any]] = []
    watch = await computers.watch(user, computer_id, frames.append, views.append, 30)
    async for _ in look(10):
        if frames and views:
            break
    assert (frames[0].css, frames[0].jpeg[:2], views[0]["title"]) == ((1280, 720), b"\xff\xd8", "Form")
    taken = await computers.take_control(user, computer_id, "ada")
    assert (taken.state, taken.holder) == ("granted", "ada")
    await act(user, computer_id, action="click", target={"selector": "#name"})
    text = INPUT.validate_python({"type": "text", "text": "hi"})
    await computers.send_input(user, computer_id, taken.generation, text)
    with pytest.raises(computers.StaleControl):
        await computers.send_input(user, computer_id, taken.generation + 1, text)
    async for _ in look(5):
        value = await act(
            user, computer_id, action="evaluate", expression="document.querySelector('#name').value"
        )
        if value == {"value": "hi"}:
            break
    computers.release_keys(user, computer_id)
    assert (await computers.release_control(user, computer_id, taken.generation)).state == "released"
    watch.close()
    with pytest.raises(NoResultFound):
        await computers.tabs(other_user, computer_id)
    await computers.close(user, computer_id)
    with pytest.raises(ComputerClosed):
        await computers.tabs(user, computer_id)


async def test_a_computer_whose_owner_died_is_not_ready_until_somebody_closes_it(
    user: str, owner: asyncio.subprocess.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ACCEPT_SECONDS", 0.5)
    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    async with db.as_user(user) as tx:
        await tx.change(Computer, {"id": computer_id}, lease_owner=uuid7())
    with pytest.raises(computers.NotReady):
        await computers.tabs(user, computer_id)
    await computers.close(user, computer_id)
    with pytest.raises(ComputerClosed, match="user"):
        await computers.tabs(user, computer_id)


async def test_an_action_whose_fate_nobody_knows_is_not_done_again_under_its_key(
    user: str, owner: asyncio.subprocess.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.0)
    computer_id = await create(user)
    once = db.Idempotency(f"k-{computer_id}", "f")
    count = {"action": "evaluate", "expression": "window.times = (window.times || 0) + 1"}

    async def work() -> ActionRead:
        return await computers.act(user, computer_id, ACTION.validate_python(count))

    with pytest.raises(computers.NotReady):
        await db.do_once(user, once, work)
    with pytest.raises(db.KeyBusy):
        await db.do_once(user, once, work)
    monkeypatch.undo()
    async for _ in look(10):
        if (await act(user, computer_id, action="evaluate", expression="window.times || 0"))["value"]:
            break
    assert await act(user, computer_id, action="evaluate", expression="window.times") == {"value": 1}


class Odd(Exception):
    """What the owner refuses with."""


@pytest.mark.parametrize("answer", [{"number": 2**70}, Odd("\ud800"), ZeroDivisionError()])
async def test_an_answer_that_cannot_be_sent_is_an_error_at_once(bus: LocalBus, answer: Any) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(*_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def peers(me: UUID) -> remote.Peers:
        return remote.Peers(bus, me, serve, (Odd,), lambda work: tasks.add(asyncio.ensure_future(work)))

    asker, owner = peers(uuid7()), peers(owner_id := uuid7())
    with pytest.raises(remote.Refused) as refused:
        async with asyncio.timeout(10):
            await asker.ask(owner_id, "act", "ada", uuid7())
    assert (refused.value.kind, "log says what" in refused.value.arguments[0]) == ("", True)
    await asyncio.gather(*tasks)
    for each in (asker, owner):
        each.close()
