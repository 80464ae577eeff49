"""Computers of people: opened, acted on, watched, steered, closed; and the files that come of it."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from pydantic import TypeAdapter
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

import db
import upkeep
from browser.actions import Action, ActionFailed, InputEvent
from browser.chromium import ComputerClosed, TooManyComputers
from browser.screencast import Frame
from infra.bus import LocalBus
from infra.storage import FileMissing, TooLarge, open_directory
from models import Computer, File, uuid7
from runs import computers, files
from runs.queue import LONG_AGO
from schemas import ComputerCreate, ContentHeaders
from settings import settings
from tests.pages import Site
from tests.workers import act, look

ACTION: TypeAdapter[Action] = TypeAdapter(Action)
INPUT: TypeAdapter[InputEvent] = TypeAdapter(InputEvent)


@pytest.fixture(scope="module")
async def worker(database: str, bus: LocalBus) -> AsyncIterator[UUID]:
    """This process as one that opens computers; nothing keeps their leases, which last long enough."""
    worker_id = uuid7()
    before = settings.lease_seconds
    settings.__dict__["lease_seconds"] = 300
    storage = await open_directory(settings.data_dir / "files")
    await computers.start(worker_id, bus, storage)
    yield worker_id
    await computers.stop()
    settings.__dict__["lease_seconds"] = before


async def create(user: str, **more: Any) -> UUID:
    async with db.as_user(user, "user") as tx:
        reply = await computers.create(tx, ComputerCreate.model_validate(more))
    assert reply.status_code == 201
    return UUID(orjson.loads(bytes(reply.body))["data"]["id"])


async def row(user: str, computer_id: UUID) -> Computer:
    async with db.as_user(user) as tx:
        return await tx.one(Computer, id=computer_id)


async def held_of(user: str, computer_id: UUID) -> computers.Held:
    """The computer in this process, once it is open."""
    await computers.tabs(user, computer_id)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    return held


async def closed(user: str, computer_id: UUID) -> Computer:
    async for _ in look(10):
        found = await row(user, computer_id)
        if found.state == "closed":
            break
    return found


async def event(user: str, kind: str, seconds: float = 10) -> dict[str, Any]:
    """The data of the user's latest event of this kind, once there is one."""
    async for _ in look(seconds):
        found = [event for event in await db.events(user, 0) if event.kind == kind]
        if found:
            break
    data: dict[str, Any] = orjson.loads(found[-1].text)["data"]
    return data


async def body_of(response: Response) -> bytes:
    """What an ASGI server would send."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


async def test_a_computer_opens_acts_is_seen_and_closes(user: str, site: Site, worker: UUID) -> None:
    computer_id = await create(user, settings={"viewport": {"width": 640, "height": 480}})
    await act(user, computer_id, action="navigate", url=site.url("/second"))
    shown = await computers.tabs(user, computer_id)
    assert [(tab.url, tab.title, tab.active) for tab in shown] == [(site.url("/second"), "Second", True)]
    assert (await computers.screenshot(user, computer_id)).startswith(b"\xff\xd8")
    taken = await computers.act(user, computer_id, ACTION.validate_python({"action": "screenshot"}))
    assert taken.image is not None
    assert await event(user, "computer.navigated") == {
        "tab": "t1",
        "url": site.url("/second"),
        "title": "Second",
    }
    async for _ in look(5):
        found = await row(user, computer_id)
        if found.title == "Second":
            break
    assert (found.state, found.url, found.lease_owner) == ("open", site.url("/second"), worker)
    await computers.close(user, computer_id)
    found = await row(user, computer_id)
    assert (found.state, found.closed_reason, found.lease_owner) == ("closed", "user", None)
    with pytest.raises(ComputerClosed):
        await computers.tabs(user, computer_id)
    await computers.close(user, computer_id)
    kinds = [event.kind for event in await db.events(user, 0)]
    assert kinds[:2] == ["computer.created", "computer.opened"]
    assert (kinds[-1], kinds.count("computer.closed")) == ("computer.closed", 1)


async def test_somebody_elses_computer_is_not_found(user: str, other_user: str, worker: UUID) -> None:
    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    calls: list[Any] = [
        lambda: computers.tabs(other_user, computer_id),
        lambda: computers.screenshot(other_user, computer_id),
        lambda: act(other_user, computer_id, action="reload"),
        lambda: computers.close(other_user, computer_id),
        lambda: computers.take_control(other_user, computer_id, "eve"),
        lambda: computers.release_control(other_user, computer_id),
        lambda: computers.watch(other_user, computer_id, lambda _: None),
        lambda: computers.send_input(
            other_user, computer_id, 0, INPUT.validate_python({"type": "text", "text": "x"})
        ),
    ]
    for call in calls:
        with pytest.raises(NoResultFound):
            await call()
    assert await computers.find_held(other_user, computer_id) is None
    computers.release_keys(other_user, computer_id)
    await computers.close(user, computer_id)


async def test_a_user_has_only_so_many_computers_even_when_asking_at_once(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "max_computers_per_user", 2)
    answers = await asyncio.gather(*(create(user) for _ in range(5)), return_exceptions=True)
    made = [answer for answer in answers if isinstance(answer, UUID)]
    assert len(made) == 2
    assert all(isinstance(answer, TooManyComputers) for answer in answers if answer not in made)
    for computer_id in made:
        await computers.tabs(user, computer_id)
        await computers.close(user, computer_id)
    await computers.close(user, await create(user))


async def test_a_computer_waits_for_room_and_can_be_closed_meanwhile(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computers, "READY_SECONDS", 1)
    monkeypatch.setattr(computers, "room", lambda: False)
    computer_id = await create(user)
    with pytest.raises(computers.NotReady):
        await computers.tabs(user, computer_id)
    await computers.close(user, computer_id)
    assert (await row(user, computer_id)).state == "closed"


async def test_a_computer_of_another_process_needs_redis(
    user: str, bus: LocalBus, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "carries_frames", False)
    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    async with db.as_user(user) as tx:
        await tx.change(Computer, {"id": computer_id}, lease_owner=uuid7(), lease_epoch=held.epoch + 1)
    computers.kept([computer_id], {})
    async for _ in look(10):
        if await computers.find_held(user, computer_id) is None and held.gone.is_set():
            break
    with pytest.raises(computers.NeedsRedis):
        await computers.tabs(user, computer_id)
    assert (await row(user, computer_id)).state == "open"
    async with db.as_user(user) as tx:
        await tx.change(Computer, {"id": computer_id}, lease_expires_at=LONG_AGO)
    found = await closed(user, computer_id)
    assert found.closed_reason == "worker_died"


async def test_a_computer_of_another_process_is_closed_without_redis_too(
    user: str, bus: LocalBus, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "carries_frames", False)
    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    held = computers._service().held.pop(computer_id)  # this process looks like one that has not got it
    async with db.as_user(user) as tx:
        await tx.change(Computer, {"id": computer_id}, lease_owner=uuid7())
    await computers.close(user, computer_id)
    found = await row(user, computer_id)
    assert (found.state, found.closed_reason, found.lease_owner) == ("closed", "user", None)
    computers._service().held[computer_id] = held
    computers.kept([computer_id], {})  # what the owner's next heartbeat brings
    async with asyncio.timeout(10):
        await held.gone.wait()
    assert held.lost
    assert (await row(user, computer_id)).updated_at == found.updated_at


async def test_a_computer_that_is_just_closing_is_closed_for_who_asks_meanwhile(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write = asyncio.Event(), computers._write_news

    async def late(*news: Any) -> bool:
        await go_on.wait()
        return await write(*news)

    monkeypatch.setattr(computers, "_write_news", late)
    computer_id = await create(user)
    held = await held_of(user, computer_id)
    await held.computer.close("idle")
    asked = [
        asyncio.ensure_future(computers.close(user, computer_id)),
        asyncio.ensure_future(
            computers._serve("close", user, computer_id, {"reason": "user", "actor": "user"})
        ),
    ]
    _, waiting = await asyncio.wait(asked, timeout=0.5)
    assert len(waiting) == 2
    go_on.set()
    assert await asyncio.gather(*asked) == [None, None]
    assert (await row(user, computer_id)).closed_reason == "idle"


async def test_a_picture_that_its_computer_does_not_live_to_give_is_no_fault_of_the_page(
    user: str, site: Site, worker: UUID
) -> None:
    computer_id = await create(user)
    await act(user, computer_id, action="navigate", url=site.url("/hang"))
    held = await held_of(user, computer_id)
    stuck = asyncio.ensure_future(held.computer.page.evaluate("for (;;);"))
    with pytest.raises(TimeoutError):
        async for _ in look(10):
            async with asyncio.timeout(0.5):
                await held.computer.screenshot()
    asked = asyncio.ensure_future(computers.screenshot(user, computer_id))
    await asyncio.sleep(0.2)
    await computers.close(user, computer_id)
    with pytest.raises(ComputerClosed):
        await asked
    await asyncio.gather(stuck, return_exceptions=True)


async def test_an_unused_computer_is_closed(user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    computer_id = await create(user)
    watch = await computers.watch(user, computer_id, lambda _: None)
    monkeypatch.setitem(settings.__dict__, "computer_idle_seconds", 0)
    await asyncio.sleep(1.2)
    assert (await row(user, computer_id)).state == "open"
    watch.close()
    assert (await closed(user, computer_id)).closed_reason == "idle"


async def test_a_missing_chromium_closes_the_computer_with_the_reason(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert computers.browser_found()
    monkeypatch.setitem(settings.__dict__, "chromium_path", "/nowhere/chromium")
    assert not computers.browser_found()
    computer_id = await create(user)
    assert (await closed(user, computer_id)).closed_reason == "chromium_missing"
    with pytest.raises(ComputerClosed, match="chromium_missing"):
        await computers.tabs(user, computer_id)


async def test_a_killed_browser_is_told_and_closes_its_computer(user: str, worker: UUID) -> None:
    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    held.computer._process.kill()
    assert (await closed(user, computer_id)).closed_reason == "crashed"
    assert "process" in await event(user, "computer.crashed")
    with pytest.raises(ComputerClosed):
        await act(user, computer_id, action="reload")


@pytest.mark.parametrize("shown_by", ["news", "control"])
async def test_a_computer_that_another_worker_took_is_closed_here_and_served_no_more(
    user: str, site: Site, worker: UUID, shown_by: str
) -> None:
    computer_id = await create(user)
    await computers.take_control(user, computer_id, "one")
    held = await computers.find_held(user, computer_id)
    assert held is not None
    async with db.as_user(user) as tx:
        taken = await tx.change(Computer, {"id": computer_id}, lease_owner=uuid7(), lease_epoch=2)
    if shown_by == "news":
        await act(user, computer_id, action="navigate", url=site.url("/second"))
    else:
        held.expires_at = LONG_AGO
    async with asyncio.timeout(10):
        await held.gone.wait()
    assert (held.lost, computer_id in computers.leased()) == (True, False)
    with pytest.raises(computers.NotReady):
        await computers.tabs(user, computer_id)
    found = await row(user, computer_id)
    assert (found.state, found.lease_epoch, found.updated_at) == ("open", 2, taken[0].updated_at)
    async with db.as_user(user) as tx:
        await tx.remove(Computer)


async def test_frames_reach_whoever_watches(user: str, site: Site, worker: UUID) -> None:
    computer_id = await create(user)
    frames: list[Frame] = []
    views: list[dict[str, Any]] = []
    watch = await computers.watch(user, computer_id, frames.append, views.append, 30)
    await act(user, computer_id, action="navigate", url=site.url("/second"))
    async for _ in look(10):
        if frames and views and views[-1]["title"] == "Second":
            break
    watch.close()
    assert frames[0].css == (1280, 720)
    await computers.close(user, computer_id)


async def test_control_passes_on_and_only_its_generation_steers(user: str, site: Site, worker: UUID) -> None:
    computer_id = await create(user)
    await act(user, computer_id, action="navigate", url=site.url("/"))
    text = INPUT.validate_python({"type": "text", "text": "hi"})
    with pytest.raises(computers.StaleControl):
        await computers.send_input(user, computer_id, 0, text)
    first = await computers.take_control(user, computer_id, "one")
    second = await computers.take_control(user, computer_id, "two")
    assert (first.state, second.state, second.holder) == ("granted", "granted", "two")
    assert second.generation == first.generation + 1
    with pytest.raises(computers.StaleControl):
        await computers.send_input(user, computer_id, first.generation, text)
    with pytest.raises(computers.StaleControl):
        await computers.release_control(user, computer_id, first.generation)
    await act(user, computer_id, action="click", target={"selector": "#name"})
    await computers.send_input(user, computer_id, second.generation, text)
    async for _ in look(5):
        value = await act(
            user, computer_id, action="evaluate", expression="document.querySelector('#name').value"
        )
        if value == {"value": "hi"}:
            break
    found = await row(user, computer_id)
    assert (found.control_state, found.control_holder, found.control_generation) == ("granted", "two", 2)
    down = INPUT.validate_python({"type": "key", "event": "down", "key": "Shift"})
    await computers.send_input(user, computer_id, second.generation, down)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    pressed = [held.computer.input.held]
    await computers.release_control(user, computer_id, second.generation)
    pressed.append(held.computer.input.held)
    assert pressed == [True, False]
    with pytest.raises(computers.StaleControl):
        await computers.send_input(user, computer_id, second.generation, text)
    assert (await row(user, computer_id)).control_state == "released"
    await computers.close(user, computer_id)


async def test_input_renews_control_and_silence_ends_it(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "control_seconds", 3)
    computer_id = await create(user)
    taken = await computers.take_control(user, computer_id, "one")
    for _ in range(2):
        await asyncio.sleep(1)
        move = INPUT.validate_python({"type": "mouse", "event": "move", "x": 5, "y": 5})
        await computers.send_input(user, computer_id, taken.generation, move)
    assert (await row(user, computer_id)).control_expires_at > taken.expires_at  # type: ignore[operator]
    assert (await event(user, "control.released"))["generation"] == taken.generation
    assert (await row(user, computer_id)).control_state == "released"
    await computers.close(user, computer_id)


async def test_actions_steer_too(user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.__dict__, "control_seconds", 3)
    computer_id = await create(user)
    taken = await computers.take_control(user, computer_id, "one")
    count = ACTION.validate_python({"action": "evaluate", "expression": "window.n = (window.n || 0) + 1"})
    for times in (1, 2, 3, 4):
        await asyncio.sleep(1)
        assert (await computers.act(user, computer_id, count, taken.generation)).output == {"value": times}
    assert (await row(user, computer_id)).control_state == "granted"
    again = await computers.take_control(user, computer_id, "two")
    with pytest.raises(computers.StaleControl):
        await computers.act(user, computer_id, count, taken.generation)
    await computers.release_control(user, computer_id, again.generation)
    with pytest.raises(computers.StaleControl):
        await computers.act(user, computer_id, count, again.generation)
    assert (await computers.act(user, computer_id, count)).output == {"value": 5}
    await computers.close(user, computer_id)


# Files --------------------------------------------------------------------------------------------


async def test_a_download_becomes_a_file_of_its_user(
    user: str, other_user: str, site: Site, worker: UUID
) -> None:
    computer_id = await create(user)
    await act(user, computer_id, action="navigate", url=site.url("/small"))
    told = await event(user, "computer.download")
    assert (told["state"], told["size"], "path" in told) == ("completed", 1000, False)
    file_id = UUID(told["file_id"])
    reply = await files.content(user, file_id, ContentHeaders())
    assert (reply.status_code, await body_of(reply)) == (200, b"x" * 1000)
    assert reply.headers["content-disposition"].startswith("attachment; filename=")
    assert (
        reply.headers["x-content-type-options"],
        "sandbox" in reply.headers["content-security-policy"],
    ) == (
        "nosniff",
        True,
    )
    with pytest.raises(NoResultFound):
        await files.content(other_user, file_id, ContentHeaders())
    assert not list((computers._service().browsers.files / "downloads").iterdir())
    await computers.close(user, computer_id)


async def test_a_computer_whose_news_cannot_be_written_is_closed(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    browser = held.computer
    monkeypatch.setattr(files._store(), "put", broken)
    await act(user, computer_id, action="navigate", url=site.url("/small"))
    assert (await closed(user, computer_id)).closed_reason == "internal"
    async with asyncio.timeout(10):
        await browser.closed.wait()
        await held.gone.wait()
    assert computer_id not in computers.leased()
    await computers.close(user, computer_id)


async def test_a_download_that_too_many_reports_wait_before_leaves_no_file(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computers, "MAX_REPORTS", 0)
    computer_id = await create(user)
    await computers.tabs(user, computer_id)
    held = await computers.find_held(user, computer_id)
    assert held is not None
    told: list[tuple[str, dict[str, Any]]] = []

    def report(kind: str, data: dict[str, Any]) -> None:
        told.append((kind, data))
        held.report(kind, data)

    held.computer._report = report
    await act(user, computer_id, action="navigate", url=site.url("/small"))
    async for _ in look(10):
        paths = [data["path"] for kind, data in told if kind == "download"]
        if paths:
            break
    assert paths[0] is not None
    assert not list((computers._service().browsers.files / "downloads").iterdir())
    await computers.close(user, computer_id)


async def test_one_file_chosen_twice_at_once_is_whole_both_times(user: str, worker: UUID) -> None:
    data = os.urandom(3_000_000)
    file = await files.save(user, kind="upload", name="n.bin", data=data, limit=len(data))
    place = settings.data_dir / "chosen"
    async with (
        files.fetched(user, str(file.id), place) as (name, first),
        files.fetched(user, str(file.id), place) as (_, second),
    ):
        assert (name, first.read_bytes() == data, second.read_bytes() == data) == ("n.bin", True, True)
        assert first != second
    assert list(place.iterdir()) == []


async def test_a_download_over_the_limit_is_refused(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "max_upload_mb", 1)
    computer_id = await create(user)
    await act(user, computer_id, action="navigate", url=site.url("/large"))
    assert (await event(user, "computer.download"))["state"] == "too_large"
    async with db.as_user(user) as tx:
        assert await tx.find(File) == []
    await computers.close(user, computer_id)


async def test_a_file_that_cannot_be_recorded_leaves_no_bytes(user: str, worker: UUID) -> None:
    place = settings.data_dir / "files" / files.place_of(user) / "files"
    with pytest.raises(TooLarge):
        await files.save(user, kind="upload", name="n", content_type="text/plain", data=b"12345", limit=4)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await files.save(
            user,
            kind="upload",
            name="n",
            content_type="text/plain",
            data=b"1",
            limit=4,
            computer_id=uuid4(),
        )
    assert not place.exists() or not list(place.iterdir())


async def test_deleting_a_file_deletes_its_bytes_once_that_is_committed(user: str, worker: UUID) -> None:
    file = await files.save(user, kind="upload", name="n", content_type="text/plain", data=b"1", limit=4)
    path = settings.data_dir / "files" / file.storage_key
    with pytest.raises(KeyboardInterrupt):
        async with db.as_user(user) as tx:
            await files.delete(tx, file.id)
            raise KeyboardInterrupt
    assert path.exists()
    async with db.as_user(user) as tx:
        await files.delete(tx, file.id)
    await upkeep.remove_due()
    assert not path.exists()
    with pytest.raises(NoResultFound):
        await files.content(user, file.id, ContentHeaders())


async def test_bytes_that_are_gone_are_told_before_the_reply_begins(user: str, worker: UUID) -> None:
    file = await files.save(user, kind="upload", name="n", content_type="text/plain", data=b"1", limit=4)
    (settings.data_dir / "files" / file.storage_key).unlink()
    with pytest.raises(FileMissing):
        await files.content(user, file.id, ContentHeaders())


async def test_only_ones_own_files_are_chosen_in_a_page(
    user: str, other_user: str, site: Site, worker: UUID
) -> None:
    mine, foreign = [
        await files.save(
            owner, kind="upload", name="n.txt", content_type="text/plain", data=b"12345", limit=9
        )
        for owner in (user, other_user)
    ]
    computer_id = await create(user)
    await act(user, computer_id, action="navigate", url=site.url("/"))
    for refused in (str(foreign.id), str(uuid4()), "/etc/passwd"):
        with pytest.raises(ActionFailed, match="no such file"):
            await act(user, computer_id, action="file_upload", files=[refused], target={"selector": "#file"})
    await act(user, computer_id, action="file_upload", files=[str(mine.id)], target={"selector": "#file"})
    told = await act(user, computer_id, action="evaluate", expression="events.at(-1)")
    assert told == {"value": "file:n.txt5"}
    await computers.close(user, computer_id)
    assert not (computers._service().browsers.files / "uploads" / str(computer_id)).exists()
