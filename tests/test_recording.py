"""Recordings: what changed on a real page, a frame for each step, kept in segments and found by event."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from sqlalchemy.exc import NoResultFound
from structlog.testing import capture_logs

import db
import models
import upkeep
from browser.chromium import Browsers, Computer, Options
from browser.recording import MAX_WAITING, Recorder, Segment, now_us
from browser.screencast import Frame as Shown
from browser.screencast import Screencast, jpeg_size
from infra.bus import LocalBus
from infra.storage import open_directory
from infra.vault import load_vault
from models import Control, File, Frame, Run, uuid7
from runs import computers, engine, files, recording
from runs.recording import Recording
from schemas import FrameQuery
from settings import settings
from tests import make
from tests.pages import Site
from tests.workers import FOREVER, Steps, ended, expire, look, other_worker, read, start, step_begun, until


@pytest.fixture(scope="module")
async def browsers() -> AsyncIterator[Browsers]:
    running = Browsers()
    await running.start()
    yield running
    await running.close()


@pytest.fixture
async def computer(browsers: Browsers, tmp_path: Path) -> AsyncIterator[Computer]:
    opened = await browsers.open("ada", uuid4(), Options(downloads=tmp_path), lambda _kind, _data: None)
    yield opened
    await opened.close()


class Kept(list[Segment]):
    """Segments that were finished."""

    @property
    def frames(self) -> list[Any]:
        return [frame for segment in self for frame in segment.frames]

    def pictures(self) -> list[bytes]:
        """Each frame's bytes, checked to be a whole JPEG of the size that the frame says."""
        found = []
        for segment in self:
            data = segment.path.read_bytes()
            assert len(data) == segment.size
            for frame in segment.frames:
                jpeg = data[frame.offset : frame.offset + frame.length]
                assert (jpeg[:2], jpeg[-2:]) == (b"\xff\xd8", b"\xff\xd9")
                assert jpeg_size(jpeg) == frame.image
                found.append(jpeg)
        return found


# The recorder ---------------------------------------------------------------------------------------


async def test_a_page_that_moves_is_recorded_twice_a_second_and_its_viewers_see_all_of_it(
    computer: Computer, site: Site, tmp_path: Path
) -> None:
    await computer.page.goto(site.url("/animated"))
    kept, seen, began = Kept(), list[Shown](), time.monotonic()
    recorder = Recorder(computer.screencast, tmp_path, kept.append)
    viewer = computer.screencast.watch(seen.append, max_fps=60)
    async for _ in look(20):
        if recorder._number >= 7:
            break
    lasted = time.monotonic() - began
    viewer.close()
    await recorder.close()
    # The first comes at once, and the last one without waiting for its turn.
    assert 7 <= len(kept.frames) <= 2 * lasted + 2
    assert len(seen) > 3 * len(kept.frames)
    assert [frame.number for frame in kept.frames] == list(range(1, len(kept.frames) + 1))
    assert len(set(kept.pictures())) == len(kept.frames)
    assert {(frame.image, frame.css, frame.tag) for frame in kept.frames} == {
        ((1280, 720), (1280, 720), None)
    }
    async for _ in look(5):
        if not computer.screencast.casting:
            break


async def test_a_page_that_stands_still_is_one_frame_however_it_is_taken(
    computer: Computer, site: Site, tmp_path: Path
) -> None:
    await computer.page.goto(site.url("/login"))
    kept = Kept()
    recorder = Recorder(computer.screencast, tmp_path, kept.append)
    numbers = []
    for _ in range(6):  # each has Chromium draw the page anew
        await computer.screenshot(quality=60)
        await asyncio.sleep(0.3)
        numbers.append(computer.screencast.last and computer.screencast.last.number)
    await recorder.close()
    assert len(set(numbers)) > 1
    assert len(kept.frames) == 1


async def test_the_smallest_change_that_a_person_sees_is_a_frame(
    computer: Computer, site: Site, tmp_path: Path
) -> None:
    await computer.page.goto(site.url("/login"))
    kept = Kept()
    recorder = Recorder(computer.screencast, tmp_path, kept.append)
    for number, typed in enumerate(("i", "i.", "i.e"), 1):
        async for _ in look(10):
            if recorder._number == number:
                break
        await computer.page.evaluate("text => document.querySelector('[name=user]').value = text", typed)
    async for _ in look(10):
        if recorder._number == 4:
            break
    await recorder.close()
    assert len(kept.frames) == 4


async def test_a_marked_picture_is_a_frame_and_costs_nothing_where_the_page_stands_still(
    computer: Computer, site: Site, tmp_path: Path
) -> None:
    await computer.page.goto(site.url("/static"))
    kept = Kept()
    recorder = Recorder(computer.screencast, tmp_path, kept.append)
    async for _ in look(10):
        if recorder._number:
            break
    for step in (1, 2):
        recorder.tag(step)
        taken_us = now_us()
        recorder.mark(await computer.screenshot(), taken_us)
    recorder.tag(3)
    await computer.page.goto(site.url("/second"))
    taken_us = now_us()
    recorder.mark(await computer.screenshot(), taken_us)
    recorder.tag(None)
    await recorder.close()
    tags = [frame.tag for frame in kept.frames]
    assert (tags[:3], set(tags[3:])) == ([None, 1, 2], {3})
    places = [frame.offset for frame in kept.frames]
    assert places[:3] == [0, 0, 0]
    assert places[3] == kept.frames[0].length
    times = [frame.captured_us for frame in kept.frames]
    assert times == sorted(set(times))
    assert kept.pictures()


async def test_between_its_frames_a_moving_page_is_not_cast_and_a_still_one_is_watched(
    computer: Computer, site: Site, tmp_path: Path
) -> None:
    await computer.page.goto(site.url("/animated"))
    recorder = Recorder(computer.screencast, tmp_path, Kept().append, fps=0.5)
    async for _ in look(10):
        if recorder._number:
            break
    looks = []
    async for _ in look(20):
        looks.append(computer.screencast.casting)
        if recorder._number == 3:
            break
    assert len(looks) > 50
    assert sum(looks) < len(looks) / 2
    await computer.page.goto(site.url("/static"))
    async for _ in look(10):
        if recorder._number >= 4 and computer.screencast.casting:
            break
    await asyncio.sleep(1)
    assert computer.screencast.casting
    await recorder.close()


async def test_a_picture_that_comes_late_bears_the_tag_of_its_capture(
    computer: Computer, tmp_path: Path
) -> None:
    kept = Kept()
    recorder = Recorder(Screencast(), tmp_path, kept.append)
    recorder.tag(1)
    jpeg, taken_us = await computer.screenshot(), now_us()
    recorder.tag(2)
    recorder.mark(jpeg, taken_us)
    recorder.mark(jpeg, now_us())
    await recorder.close()
    assert [frame.tag for frame in kept.frames] == [1, 2]


async def test_segments_end_with_their_time_and_their_size(
    computer: Computer, site: Site, tmp_path: Path
) -> None:
    await computer.page.goto(site.url("/animated"))
    by_time, by_size = Kept(), Kept()
    timed = Recorder(computer.screencast, tmp_path / "time", by_time.append, segment_seconds=1.2)
    sized = Recorder(computer.screencast, tmp_path / "size", by_size.append, segment_bytes=1)
    async for _ in look(20):
        if len(by_time) >= 2 and len(by_size) >= 4:
            break
    handed_over = len(by_time)
    await timed.close()
    await sized.close()
    assert len(by_time) in (handed_over, handed_over + 1)
    for segment in by_time:
        assert segment.frames[-1].captured_us - segment.frames[0].captured_us < 2_000_000
    assert len(by_time.frames) > len(by_time)
    assert all(len(segment.frames) == 1 for segment in by_size)
    assert by_time.pictures()
    assert by_size.pictures()
    assert [frame.number for frame in by_size.frames] == list(range(1, len(by_size) + 1))


async def test_a_slow_disk_holds_up_neither_the_loop_nor_much_memory(
    computer: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, disk, woken = Kept(), threading.Event(), list[bool]()
    recorder = Recorder(Screencast(), tmp_path, kept.append)
    opening = recorder._open

    def slowly() -> Any:
        disk.wait(20)
        woken.append(True)
        return opening()

    monkeypatch.setattr(recorder, "_open", slowly)
    jpeg = await computer.screenshot()
    for _ in range(1000):
        recorder.mark(jpeg, now_us())
        await asyncio.sleep(0)
    assert not woken
    assert len(recorder._waiting) <= MAX_WAITING
    disk.set()
    await recorder.close()
    assert len(kept.frames) == MAX_WAITING + 1
    assert kept[0].size == len(jpeg)


async def test_a_disk_that_fails_costs_its_frames_and_no_more(computer: Computer, tmp_path: Path) -> None:
    kept, place = Kept(), tmp_path / "full"
    place.write_text("a file where the directory should be")
    recorder = Recorder(Screencast(), place, kept.append)
    jpeg = await computer.screenshot()
    with capture_logs() as logs:
        recorder.mark(jpeg, now_us())
        async for _ in look(5):
            if logs:
                break
        place.unlink()
        recorder.mark(b"no picture", now_us())
        recorder.mark(jpeg, now_us())
        await recorder.close()
        await recorder.close()
        recorder.mark(jpeg, now_us())
    assert [line["event"] for line in logs] == ["frames_not_written"] * 2
    assert [(frame.number, frame.length) for frame in kept.frames] == [(1, len(jpeg))]
    assert await inside(place) == [kept[0].path]


# Runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def worker(database: str, bus: LocalBus) -> AsyncIterator[UUID]:
    """This process as a worker."""
    worker_id = uuid7()
    await computers.start(worker_id, bus, await open_directory(settings.data_dir / "files"))
    await engine.start(worker_id, bus, load_vault(settings.data_dir, ()))
    yield worker_id
    await engine.stop()
    await computers.stop()


async def frames_of(user: str, run_id: UUID) -> list[Frame]:
    """The frames that are stored once nothing is on its way: a run is told to have ended before its drive is over."""
    assert engine._engine is not None
    async for _ in look(30):
        if run_id not in engine._engine.drives:
            break
    await recording.settle()
    async with db.as_user(user) as tx:
        return await tx.find(Frame, run_id=run_id)


async def frame_for(user: str, run_id: UUID, seq: int) -> dict[str, Any]:
    reply = orjson.loads(bytes((await recording.list_frames(user, run_id, FrameQuery(seq=seq))).body))
    assert len(reply["data"]) == 1
    found: dict[str, Any] = reply["data"][0]
    return found


async def stored(user: str) -> list[Path]:
    """What the file store holds of this user's runs."""
    place = settings.data_dir / "files" / files.place_of(user)
    return await asyncio.to_thread(lambda: [path for path in place.rglob("*") if path.is_file()])


async def test_each_step_has_its_frame_and_each_event_shows_the_page_of_its_time(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/login")},
        {"type": "change", "selectors": ["[name=user]"], "value": "ada"},
        {"type": "click", "selectors": ["text/In"], "assertedEvents": [{"type": "navigation"}]},
        {"type": "waitForElement", "selectors": ["p"]},
    ]
    run_id = await start(user, flow)
    run = await ended(user, run_id)
    assert run.status == "succeeded", run.error
    frames = await frames_of(user, run_id)
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    times = [frame.captured_at for frame in frames]
    assert times == sorted(set(times))
    last = {frame.step: frame for frame in frames}
    assert {1, 2, 3, 4} <= last.keys()
    seen = set()
    events = [orjson.loads(event.text) for event in await db.events(user, 0)]
    for event in events:
        shown = await frame_for(user, run_id, event["seq"])
        before = [frame for frame in frames if frame.captured_at < datetime.fromisoformat(event["at"])]
        assert shown["number"] == (before[-1].number if before else 1)
        if event["kind"] == "run.step.finished":
            assert shown["step"] == event["data"]["number"]
            seen.add(shown["number"])
        if event["kind"] == "run.step.started" and before:
            assert (shown["step"] or 0) < event["data"]["number"]
    assert len(seen) == 4
    by_step = await recording.list_frames(user, run_id, FrameQuery(step=3))
    assert {frame["step"] for frame in orjson.loads(bytes(by_step.body))["data"]} == {3}
    typed, landed = [await recording.read_frame(user, run_id, last[step].number) for step in (2, 3)]
    assert typed.body != landed.body
    assert jpeg_size(bytes(typed.body)) == (last[2].width, last[2].height) == (1280, 720)


async def test_a_run_that_is_not_to_be_recorded_is_not_even_cast(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "recording", "off")
    run_id = await start(user, [{"type": "navigate", "url": site.url("/animated")}, FOREVER])
    await step_begun(user, run_id, 2)
    held = await computers.find_held(user, (await read(user, run_id)).computer_id or uuid4())
    assert held is not None
    assert not held.computer.screencast.casting
    async with db.as_user(user) as tx:
        await engine.wish(tx, await tx.one(Run, id=run_id), Control.cancel)
    await ended(user, run_id)
    assert await frames_of(user, run_id) == []


async def test_a_deleted_run_leaves_no_frame_even_if_its_last_ones_come_later(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [{"type": "navigate", "url": site.url("/static")}]
    kept, early = await start(user, flow), await start(user, flow)
    for run_id in (kept, early):
        await ended(user, run_id)
    await frames_of(user, kept)
    late = await start(user, flow)
    await ended(user, late)
    for run_id in (late, early):
        async with db.as_user(user) as tx:
            await engine.delete_run(tx, await tx.one(Run, id=run_id))
        with pytest.raises(NoResultFound):
            await recording.list_frames(user, run_id, FrameQuery())
    assert await frames_of(user, late) == await frames_of(user, early) == []
    assert len(await frames_of(user, kept)) > 0
    await upkeep.remove_due()
    assert {path.parent.name for path in await stored(user)} == {str(kept)}
    async with db.as_user(user) as tx:
        [segment] = await tx.find(File, kind="recording")
        await files.delete(tx, segment.id)
    assert await frames_of(user, kept) == []


async def test_a_store_that_fails_costs_a_run_its_pictures_and_nothing_else(
    user: str, site: Site, worker: UUID
) -> None:
    place = settings.data_dir / "files" / files.place_of(user)
    await asyncio.to_thread(place.write_text, "a file where the directory should be")
    with capture_logs() as logs:
        run_id = await start(user, [{"type": "navigate", "url": site.url("/static")}])
        run = await ended(user, run_id)
        frames = await frames_of(user, run_id)
        async for _ in look(10):  # a run is told to have ended before its recording is over
            if not await inside(computers._service().browsers.files / "recordings"):
                break
    assert (run.status, frames) == ("succeeded", [])
    assert [line["frames"] > 0 for line in logs if line["event"] == "frames_lost"] == [True]
    await asyncio.to_thread(place.unlink)


async def inside(place: Path) -> list[Path]:
    return await asyncio.to_thread(lambda: list(place.iterdir()))


async def some_run(user: str) -> Run:
    async with db.as_user(user) as tx:
        return await tx.add(Run, title="R", definition={}, timeout_seconds=60, status="succeeded")


async def test_a_slow_store_holds_a_few_segments_and_a_full_recording_ends(
    user: str, worker: UUID, computer: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, jpeg = await some_run(user), await computer.screenshot()
    async with db.as_user(user) as tx:
        opened = await tx.add(models.Computer, name="C")
    mine = Recording(run, opened.id, Screencast(), tmp_path)
    async with mine._turn:
        for _ in range(recording.MAX_WAITING + 2):
            kept = Kept()
            recorder = Recorder(Screencast(), tmp_path, kept.append)
            recorder.mark(jpeg, now_us())
            await recorder.close()
            mine._keep(kept[0])
        async for _ in look(5):
            if len(await inside(tmp_path)) == recording.MAX_WAITING:
                break
    frames = await frames_of(user, run.id)
    assert [frame.number for frame in frames] == list(range(1, recording.MAX_WAITING + 1))
    assert await inside(tmp_path) == []
    monkeypatch.setitem(settings.__dict__, "recording_mb", 0)
    recorder = Recorder(Screencast(), tmp_path, mine._keep)
    recorder.mark(jpeg, now_us())
    await recorder.close()
    assert len(await frames_of(user, run.id)) == recording.MAX_WAITING + 1
    mine.mark(jpeg, now_us())
    mine.end()
    assert len(await frames_of(user, run.id)) == recording.MAX_WAITING + 1


async def test_what_a_worker_brings_after_its_successor_is_left_out(user: str) -> None:
    run, began = await some_run(user), datetime.now(UTC)

    async def bring(*seconds: float) -> None:
        frames = [
            {
                "captured_at": began + timedelta(seconds=second),
                "step": None,
                "position": 0,
                "length": 1,
                "width": 1,
                "height": 1,
            }
            for second in seconds
        ]
        async with db.as_user(user) as tx:
            file = await tx.add(
                File,
                run_id=run.id,
                kind="recording",
                name="r",
                content_type="x/y",
                size=1,
                sha256="",
                storage_key=str(uuid4()),
            )
            await db.add_frames(tx, run.id, file.id, frames)

    assert await db.clock_lead() == timedelta()  # one machine, one clock, however slow the answer
    await bring(1, 2)
    await bring(3, 5)
    await bring(4, 6)
    frames = await frames_of(user, run.id)
    assert [(frame.number, round((frame.captured_at.replace(tzinfo=UTC) - began).total_seconds())) for frame in frames] == [
        (1, 1), (2, 2), (3, 3), (4, 5), (5, 6),
    ]  # fmt: skip


async def test_a_killed_worker_loses_its_last_segment_and_its_successor_counts_on(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "max_runs", 0)
    flow: Steps = [
        {"type": "navigate", "url": site.url("/animated")},
        {"type": "waitForExpression", "expression": "window.go", "timeout": 60_000},
    ]
    run_id = await start(user, flow)
    async with other_worker(LEASE_SECONDS="60") as process:
        async for _ in look(45):
            if first := await frames_of(user, run_id):
                break
        await asyncio.sleep(1)
        process.kill()
        await process.wait()
    assert [frame.number for frame in first] == list(range(1, len(first) + 1))
    assert len(first) >= 10
    await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    await until(user, run_id, attempt=2, seconds=40)
    async for _ in look(40):
        computer_id = (await read(user, run_id)).computer_id
        held = await computers.find_held(user, computer_id) if computer_id else None
        if held is not None:
            break
    assert held is not None
    await asyncio.sleep(1)
    await held.computer.page.evaluate("window.go = true")
    run = await ended(user, run_id)
    assert run.status == "succeeded", run.error
    frames = await frames_of(user, run_id)
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame.id for frame in frames[: len(first)]] == [frame.id for frame in first]
    assert len(frames) > len(first)
    times = [frame.captured_at for frame in frames]
    assert times == sorted(set(times))


# Routes ---------------------------------------------------------------------------------------------


async def test_frames_over_the_wire(alice: httpx.AsyncClient, bob: httpx.AsyncClient, site: Site) -> None:
    steps = [{"type": "navigate", "url": site.url(path)} for path in ("/static", "/login", "/second")]
    run = await make.run(alice, definition={"title": "Look", "steps": steps})
    path = f"/api/runs/{run['id']}"
    await alice.get(path, params={"wait": 30})
    async with asyncio.timeout(10):
        while True:
            segments = (
                await alice.get("/api/files", params={"run_id": run["id"], "kind": "recording"})
            ).json()
            if segments["data"]:
                break
            await asyncio.sleep(0.05)
    listed = (await alice.get(f"{path}/frames")).json()["data"]
    assert [frame["number"] for frame in listed] == list(range(1, len(listed) + 1))
    assert {1, 2, 3} <= {frame["step"] for frame in listed}
    first = (await alice.get(f"{path}/frames", params={"limit": 1})).json()
    rest = await alice.get(f"{path}/frames", params={"cursor": first["next_cursor"]})
    assert first["data"] + rest.json()["data"] == listed
    after = await alice.get(f"{path}/frames", params={"after": 1})
    assert after.json()["data"] == listed[1:]
    told = (await alice.get("/api/events", params={"kind": "run.step.finished"})).json()["data"]
    shown = [
        (await alice.get(f"{path}/frames", params={"seq": event["seq"]})).json()["data"] for event in told
    ]
    assert [[frame["step"] for frame in frames] for frames in shown] == [[1], [2], [3]]
    summary = (await alice.get(f"{path}/recording")).json()["data"]
    lasted = datetime.fromisoformat(summary["last_at"]) - datetime.fromisoformat(summary["first_at"])
    assert summary == {
        "frames": len(listed),
        "segments": len(segments["data"]),
        "bytes": sum(file["size"] for file in segments["data"]),
        "first_at": listed[0]["captured_at"],
        "last_at": listed[-1]["captured_at"],
        "duration_ms": round(lasted / timedelta(milliseconds=1)),
    }
    reply = await alice.get(f"{path}/frames/{listed[-1]['number']}")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
    assert reply.headers["cache-control"] == "private, max-age=86400, immutable"
    assert len(reply.content) == listed[-1]["length"]
    assert jpeg_size(reply.content) == (listed[-1]["width"], listed[-1]["height"]) == (1280, 720)
    again = await alice.get(
        f"{path}/frames/{listed[-1]['number']}", headers={"If-None-Match": reply.headers["etag"]}
    )
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", reply.headers["etag"])
    whole = await alice.get(f"/api/files/{segments['data'][0]['id']}/content")
    assert reply.content in whole.content
    for number, status in ((0, 422), ("x", 422), (2**31, 422), (len(listed) + 1, 404)):
        assert (await alice.get(f"{path}/frames/{number}")).status_code == status
    for query in ({"seq": 0}, {"step": 0}, {"after": -1}, {"after": 2**31}, {"frame": 1}):
        assert (await alice.get(f"{path}/frames", params=query)).status_code == 422
    for place in ("frames", "frames?seq=5", "frames/1", "recording"):
        assert (await bob.get(f"{path}/{place}")).status_code == 404
    assert (await alice.delete(path)).status_code == 200
    for place in ("frames", "frames/1", "recording"):
        assert (await alice.get(f"{path}/{place}")).status_code == 404
