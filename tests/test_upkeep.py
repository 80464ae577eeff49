"""Bytes that no row speaks of, and what is past its time: gone, whoever dies in between, and nothing else."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import NoResultFound
from websockets.asyncio.client import connect

import db
import upkeep
from infra.bus import LocalBus
from infra.storage import Storage, StorageUnavailable, open_directory
from models import (
    Approval,
    AuthSession,
    Computer,
    Delivery,
    Event,
    File,
    Frame,
    IdempotencyKey,
    Message,
    Quota,
    Run,
    Step,
    Stream,
    Thread,
    Usage,
    Webhook,
)
from runs import files, recording, usage
from schemas import FrameQuery
from settings import Settings, settings
from tests.conftest import ROOT, Backend
from tests.test_analytics import id_at

STORE = settings.data_dir / "files"
NOW = datetime.now(UTC)
OLD, NEW = NOW - timedelta(days=31), NOW - timedelta(days=29)
RUN: dict[str, Any] = {"title": "R", "definition": {}, "timeout_seconds": 1}


@pytest.fixture(autouse=True)
async def store(database: str) -> Storage:
    storage = await open_directory(STORE)
    files.start(storage)
    return storage


async def save(user: str, run_id: UUID | None = None) -> File:
    return await files.save(
        user, kind="screenshot", name="n", content_type="text/plain", data=b"12345", limit=9, run_id=run_id
    )


async def removals(user: str) -> list[str]:
    """The places of the user's that wait to be removed."""
    async with db.as_system() as tx:
        rows = await tx.connection.fetch(
            "select place from removals where starts_with(place, $1)", files.place_of(user)
        )
    return [row["place"] for row in rows]


async def make_due(user: str) -> None:
    """A day later."""
    async with db.as_system() as tx:
        await tx.connection.execute(
            "update removals set not_before = now() where starts_with(place, $1)", files.place_of(user)
        )


def stored(user: str) -> list[str]:
    below = STORE / files.place_of(user)
    return sorted(str(path.relative_to(STORE)) for path in below.rglob("*") if path.is_file())


# Bytes --------------------------------------------------------------------------------------------


async def test_bytes_are_announced_before_they_are_stored_and_spoken_for_after(user: str) -> None:
    seen: list[list[str]] = []

    async def chunks() -> AsyncIterator[bytes]:
        seen.append(await removals(user))
        yield b"12345"

    file = await files.save(user, kind="upload", name="n", content_type="text/plain", data=chunks(), limit=9)
    assert seen == [[file.storage_key]]
    assert await removals(user) == []
    await upkeep.remove_due()
    assert stored(user) == [file.storage_key]


async def test_bytes_of_every_row_that_goes_go_too(user: str, other_user: str) -> None:
    """One file, a run's files, and all at once: the rows are told by the table, whoever deletes them."""
    kept = await save(other_user)
    async with db.as_user(user) as tx:
        run = await tx.add(Run, **RUN)
    alone, *ofrun = [await save(user), await save(user, run.id), await save(user, run.id)]
    async with db.as_user(user) as tx:
        await files.delete(tx, alone.id)
        await tx.remove(Run, id=run.id)
    assert (
        sorted(await removals(user)) == sorted(file.storage_key for file in (alone, *ofrun)) == stored(user)
    )
    await upkeep.remove_due()
    assert (await removals(user), stored(user)) == ([], [])
    assert stored(other_user) == [kept.storage_key]


async def test_more_than_one_batch_goes_and_workers_share_the_work(user: str) -> None:
    for _ in range(3):
        await save(user)
    async with db.as_system() as tx:
        await tx.connection.execute(
            "insert into removals (place) select $1 || '/none/' || n from generate_series(1, 200) n",
            files.place_of(user),
        )
    async with db.as_user(user) as tx:
        await tx.remove(File)
    await asyncio.gather(*(upkeep.remove_due() for _ in range(4)))
    await upkeep.remove_due()
    assert (await removals(user), stored(user)) == ([], [])


async def test_what_the_store_refuses_waits_and_goes_later(
    user: str, store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(user)
    async with db.as_user(user) as tx:
        await tx.remove(File)

    async def away(_key: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(store, "delete", away)
        await upkeep.remove_due()
        assert len(await removals(user)) == len(stored(user)) == 1
    await upkeep.remove_due()
    assert len(await removals(user)) == 1  # its turn comes in five minutes
    await make_due(user)
    await upkeep.remove_due()
    assert (await removals(user), stored(user)) == ([], [])


SAVER = """
import asyncio, os, signal, sys
import db
from infra.storage import open_directory
from models import File
from pathlib import Path
from runs import files
import upkeep
def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)
async def main(dsn, store, user, moment):
    await db.open_database(dsn, size=4)
    storage = await open_directory(Path(store))
    files.start(storage)
    if moment == "before the bytes":
        storage.put = die
    if moment == "before the row":
        db.Tx.add = die
    file = await files.save(user, kind="upload", name="n", content_type="a/b", data=b"12345", limit=9)
    async with db.as_user(user) as tx:
        await tx.remove(File, id=file.id)
    if moment == "before the removal":
        die()
    if moment == "amid the removal":
        storage.delete = die
    if moment == "after the removal":
        call = db.Tx.call
        db.Tx.call = lambda tx, name, *rest: die() if name == "forget_removals" else call(tx, name, *rest)
    await upkeep.remove_due()
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "moment",
    ["before the bytes", "before the row", "before the removal", "amid the removal", "after the removal"],
)
async def test_a_process_that_is_killed_leaves_nothing_for_good(
    user: str, database: str, moment: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SAVER, database, str(STORE), user, moment),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert await process.wait() == -signal.SIGKILL
    assert len(await removals(user)) == 1
    assert len(stored(user)) == (0 if moment in ("before the bytes", "after the removal") else 1)
    async with db.as_user(user) as tx:
        assert await tx.find(File) == []
    await make_due(user)
    await upkeep.remove_due()
    assert (await removals(user), stored(user)) == ([], [])


async def test_a_hint_wakes_the_loop_and_it_stops(user: str, bus: LocalBus) -> None:
    await save(user)
    await upkeep.start(bus)
    try:
        await asyncio.sleep(0.2)
        async with db.as_user(user) as tx:
            [file] = await tx.find(File)
            await files.delete(tx, file.id)
        async with asyncio.timeout(5):
            while stored(user):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await upkeep.stop()
    assert upkeep._loops == []


# Retention ----------------------------------------------------------------------------------------


async def emit(user: str, count: int, at: datetime) -> None:
    for _ in range(count):
        async with db.as_user(user) as tx:
            tx.emit("run.log", ("run", uuid4()), {"message": "m"})
    async with db.as_user(user) as tx:
        await tx.connection.execute(
            "update events set at = $2 where user_id = $1 and seq > (select last_seq from streams "
            "where user_id = $1) - $3",
            *(user, at, count),
        )


async def ended_run(user: str, at: datetime, **more: Any) -> Run:
    values = {"status": "succeeded", "finished_at": at, "created_at": at} | more
    async with db.as_user(user) as tx:
        return await tx.add(Run, id=id_at(at), **RUN, **values)


async def test_what_is_past_its_time_goes_and_nothing_else(user: str) -> None:
    async with db.as_user(user) as tx:
        thread = await tx.add(Thread, name="T")
    old = await ended_run(user, OLD)
    kept = {
        (await ended_run(user, NEW)).id,
        (await ended_run(user, OLD, thread_id=thread.id)).id,
        (await ended_run(user, OLD, status="queued", finished_at=None)).id,
        (await ended_run(user, OLD, status="paused", finished_at=None)).id,
        (await ended_run(user, OLD, finished_at=NEW)).id,
    }
    file, mine = await save(user, old.id), await save(user)
    async with db.as_user(user) as tx:
        step = {"number": 1, "pointer": "/steps/0", "type": "x", "title": "x", "attempt": 1, "safe": True}
        made = await tx.add(Step, run_id=old.id, screenshot_id=file.id, **step)
        question = {"title": "?", "action": {}, "digest": "", "expires_at": NOW}
        await tx.add(Approval, run_id=old.id, step_id=made.id, screenshot_id=file.id, **question)
        await tx.add(Message, run_id=old.id, role="user", text="hear")
        await tx.add(Message, thread_id=thread.id, role="user", text="stay", created_at=OLD)
        closed = {"name": "C", "state": "closed"}
        await tx.add(Computer, id=id_at(OLD), updated_at=OLD, **closed)
        computers = {(await tx.add(Computer, id=id_at(OLD), updated_at=NEW, **closed)).id}
        computers.add((await tx.add(Computer, id=id_at(OLD), name="C", updated_at=OLD)).id)
        hook = await tx.add(
            Webhook, name="W", url="http://x", events=["*"], secret=b"", cursor=0, enabled=False
        )
        sent = {"webhook_id": hook.id, "event_id": uuid4(), "kind": "k", "payload": "{}"}
        await tx.add(Delivery, id=id_at(OLD), **sent, status="failed", finished_at=OLD)
        deliveries = {(await tx.add(Delivery, id=id_at(OLD), **sent)).id}
        deliveries.add((await tx.add(Delivery, id=id_at(OLD), **sent, status="failed", finished_at=NEW)).id)
        await usage.add(tx, runs=1)
    await upkeep.go_round()
    await upkeep.remove_due()
    async with db.as_user(user) as tx:
        assert {row.id for row in await tx.find(Run)} == kept
        assert [row.text for row in await tx.find(Message)] == ["stay"]
        assert {row.id for row in await tx.find(Computer)} == computers
        assert {row.id for row in await tx.find(Delivery)} == deliveries
        assert [len(await tx.find(model)) for model in (Step, Approval, Usage, Thread, Webhook)] == [
            0,
            0,
            1,
            1,
            1,
        ]
        await tx.remove(Run)
        await tx.remove(Computer)
    assert stored(user) == [mine.storage_key]


async def test_the_log_loses_its_beginning_only_and_never_counts_anew(user: str) -> None:
    await emit(user, 3, OLD)
    await emit(user, 1, NEW)
    await emit(user, 2, OLD)  # a clock that went back must not make a hole
    await emit(user, 2, NOW)
    await upkeep.go_round()
    assert [event.seq for event in await db.events(user, 0)] == [4, 5, 6, 7, 8]
    assert await db.log_bounds(user) == (4, 8)
    async with db.as_user(user) as tx:
        await tx.connection.execute("update events set at = $2 where user_id = $1", user, OLD)
    await upkeep.go_round()
    assert await db.log_bounds(user) == (9, 8)
    await emit(user, 1, NOW)
    assert [event.seq for event in await db.events(user, 0)] == [9]
    async with db.as_user(user) as tx:
        assert (await tx.one(Stream)).last_seq == 9


async def test_many_batches_go_in_one_round_and_the_round_says_nothing(user: str) -> None:
    async with db.as_user(user) as tx:
        await tx.connection.execute(
            "insert into events (user_id, seq, id, kind, resource_type, resource_id, at, actor, data) "
            "select $1, n, gen_random_uuid(), 'run.log', 'run', 'x', $2, 'user', '{}' from generate_series(1, 2500) n",
            *(user, OLD),
        )
        await tx.change(Stream, {}, last_seq=2500)
    for _ in range(45):
        await ended_run(user, OLD)
    await upkeep.go_round()
    async with db.as_user(user) as tx:
        assert await tx.find(Run) == []
    assert await db.log_bounds(user) == (2501, 2500)


async def test_nothing_is_past_its_time_where_all_is_kept_for_ever(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "retention_days", 0)
    run = await ended_run(user, OLD)
    await emit(user, 1, OLD)
    async with db.as_user(user) as tx:
        for key, age in (("old", 25), ("new", 23)):
            at = NOW - timedelta(hours=age)
            await tx.add(IdempotencyKey, key=key, fingerprint="f", created_at=at)
        session = {"family_hash": b"", "refresh_hash": b""}
        await tx.add(AuthSession, expires_at=NOW - timedelta(seconds=1), **session)
        open_session = await tx.add(AuthSession, expires_at=NOW + timedelta(days=1), **session)
    async with db.as_system() as tx:
        for name, days in (("old", 8), ("new", 6)):
            received = NOW - timedelta(days=days)
            await tx.connection.execute("insert into inbox values ($1, $2)", f"{name} {user}", received)
    await upkeep.go_round()
    async with db.as_user(user) as tx:
        assert [row.id for row in await tx.find(Run)] == [run.id]
        assert len(await tx.find(Event)) == 1
        assert [row.key for row in await tx.find(IdempotencyKey)] == ["new"]
        assert [row.id for row in await tx.find(AuthSession)] == [open_session.id]
    async with db.as_system() as tx:
        kept = await tx.connection.fetch("select id from inbox where id like '%' || $1", user)
    assert [row["id"] for row in kept] == [f"new {user}"]


async def test_one_worker_at_a_time_and_the_other_leaves_off(user: str) -> None:
    await ended_run(user, OLD)
    async with db.as_system() as tx:
        assert (await tx.call("tidy", 1))[0][0] is not None
        await upkeep.go_round()
    async with db.as_user(user) as tx:
        assert len(await tx.find(Run)) == 1
    await upkeep.go_round()
    async with db.as_user(user) as tx:
        assert await tx.find(Run) == []


async def test_only_users_of_whom_something_is_past_its_time_are_gone_through(
    user: str, other_user: str
) -> None:
    before = datetime.now(UTC) - timedelta(days=30)
    async with db.as_user(other_user) as tx:
        thread = await tx.add(Thread, name="T")
    await ended_run(other_user, before + timedelta(hours=1))
    await ended_run(other_user, before - timedelta(hours=1), thread_id=thread.id)

    async def past(user_id: str) -> bool:
        async with db.as_system() as tx:
            rows = await tx.call("users_after", user_id[:-1], 10, before)
        return bool({row["id"]: row["past"] for row in rows}[user_id])

    assert not await past(user)
    await ended_run(user, before - timedelta(hours=1))
    assert await past(user)
    assert not await past(other_user)
    await emit(other_user, 1, before - timedelta(hours=1))
    assert await past(other_user)


async def test_a_run_that_somebody_holds_is_left_for_the_next_round(user: str) -> None:
    run = await ended_run(user, OLD)
    async with db.as_user(user) as tx:
        await tx.one(Run, lock=True, id=run.id)
        async with asyncio.timeout(5):
            await upkeep.go_round()
        assert len(await tx.find(Run)) == 1
    await upkeep.go_round()
    async with db.as_user(user) as tx:
        assert await tx.find(Run) == []


# Recordings ---------------------------------------------------------------------------------------

DAYS_AGO_8, DAYS_AGO_6 = NOW - timedelta(days=8), NOW - timedelta(days=6)


@pytest.fixture
def kept_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are kept for seven days, runs for ever."""
    monkeypatch.setitem(settings.__dict__, "retention_days", 0)
    monkeypatch.setitem(settings.__dict__, "recording_days", 7)


async def backdate(user: str, file: File, at: datetime) -> UUID:
    """Give a file the id that it would have had then."""
    made = id_at(at)
    async with db.as_user(user) as tx:
        await tx.connection.execute("update files set id = $1 where id = $2", made, file.id)
    return made


async def record(user: str, run: Run, at: datetime, segments: int = 1) -> list[str]:
    """Segments of a run's recording from that time, with three frames each; their places in the store."""
    places = []
    for number in range(segments):
        file = await files.save(
            user, kind="recording", name="r", content_type="x/y", data=b"1234567", limit=9, run_id=run.id
        )
        began, segment = at + timedelta(seconds=number), await backdate(user, file, at)
        frame = {"step": 1, "position": 0, "length": 7, "width": 1, "height": 1}
        frames = [{"captured_at": began + timedelta(milliseconds=n), **frame} for n in range(3)]
        async with db.as_user(user) as tx:
            await db.add_frames(tx, run.id, segment, frames)
        places.append(file.storage_key)
    return places


async def recorded(user: str, run: Run) -> tuple[int, int, list[int]]:
    """Frames and bytes of a run's recording, and the frame shown for its first event."""
    found = await recording.measure(user, run.id)
    shown = json.loads(bytes((await recording.list_frames(user, run.id, FrameQuery(seq=1))).body))
    return found.frames, found.bytes, [frame["number"] for frame in shown["data"]]


@pytest.mark.usefixtures("kept_a_week")
async def test_recordings_go_before_their_runs_and_nothing_else_does(user: str, other_user: str) -> None:
    async with db.as_user(user) as tx:
        thread = await tx.add(Thread, name="T")
    old = DAYS_AGO_8
    gone = [await ended_run(user, old), await ended_run(user, old, thread_id=thread.id, status="failed")]
    gone.append(await ended_run(other_user, old))
    kept = [
        await ended_run(user, DAYS_AGO_6),
        await ended_run(user, old, finished_at=DAYS_AGO_6),
        await ended_run(user, old, status="paused", finished_at=None),
        await ended_run(user, old, status="waiting_user", finished_at=None),
    ]
    for run in (*gone, *kept):
        await record(run.user_id, run, run.created_at, segments=2)
    picture = await save(user, gone[0].id)
    await backdate(user, picture, old)
    before = stored(user)
    async with db.as_user(user) as tx:
        full = (await tx.one(Quota)).stored_bytes
        head = (await tx.one(Stream)).last_seq
    await upkeep.go_round()
    await upkeep.remove_due()
    for run in gone:
        assert await recorded(run.user_id, run) == (0, 0, [])
        with pytest.raises(NoResultFound):
            await recording.read_frame(run.user_id, run.id, 1)
    for run in kept:
        assert await recorded(user, run) == (6, 14, [1])
    async with db.as_user(user) as tx:
        assert len(await tx.find(Run)) == 6
        assert len(await tx.find(Frame)) == 6 * len(kept)
        assert full - (await tx.one(Quota)).stored_bytes == 4 * len(b"1234567")
        assert (await tx.one(Stream)).last_seq == head
    assert set(before) - set(stored(user)) == {place for place in before if _is_of(place, gone[:2], picture)}
    assert picture.storage_key in stored(user)
    assert (await removals(user), stored(other_user)) == ([], [])


def _is_of(place: str, runs: list[Run], picture: File) -> bool:
    return place != picture.storage_key and any(str(run.id) in place for run in runs)


@pytest.mark.parametrize(("days", "left"), [(None, [3, 3]), (0, [0, 0]), (8, [3, 3]), (7, [0, 3])])
async def test_recordings_stay_as_long_as_the_setting_says(
    user: str, monkeypatch: pytest.MonkeyPatch, days: int | None, left: list[int]
) -> None:
    monkeypatch.setenv("RECORDING_DAYS", "" if days is None else str(days))
    monkeypatch.setitem(settings.__dict__, "recording_days", Settings().recording_days)
    runs = [await ended_run(user, at) for at in (NOW - timedelta(days=7, hours=1), NOW)]
    for run in runs:
        await record(user, run, run.created_at)
    await upkeep.go_round()
    assert [(await recorded(user, run))[0] for run in runs] == left


@pytest.mark.usefixtures("kept_a_week")
async def test_recordings_go_in_batches_by_one_worker_and_a_held_segment_waits(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SEGMENTS", 2)
    run = await ended_run(user, DAYS_AGO_8)
    await record(user, run, DAYS_AGO_8, segments=5)
    async with db.as_system() as tx:
        assert (await tx.call("tidy", 1))[0][0] is not None
        await upkeep.go_round()
    assert (await recorded(user, run))[0] == 15
    async with db.as_user(user) as tx:
        held = (await tx.find(File))[2]
        await tx.one(File, lock=True, id=held.id)
        async with asyncio.timeout(5):
            await upkeep.go_round()
        assert [file.id for file in await tx.find(File)] == [held.id]
    await asyncio.gather(*(upkeep.go_round() for _ in range(3)))
    await upkeep.go_round()
    assert await recorded(user, run) == (0, 0, [])
    await upkeep.remove_due()
    assert stored(user) == []


async def test_a_socket_that_resumes_below_the_floor_is_told_so(own_server: Backend) -> None:
    async with own_server.sign_up() as client:
        for number in range(4):
            assert (await client.post("/api/threads", json={"name": str(number)})).status_code == 201
        await own_server.kill()
        await _age_events(own_server)
        await own_server.start()  # a round comes with the start
        async with asyncio.timeout(10):
            while (await client.get("/api/events")).json()["data"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        headers = {"Authorization": client.headers["Authorization"]}
        async with connect(own_server.socket_url, additional_headers=headers) as link:
            await link.send(json.dumps({"type": "subscribe", "id": 1, "after": 2}))
            async with asyncio.timeout(10):
                async for message in link:
                    if (body := json.loads(message))["type"] == "subscribed":
                        break
            assert (body["recovered"], body["from"], body["head"]) == (False, 5, 5)
            assert (await client.post("/api/threads", json={})).status_code == 201
            async with asyncio.timeout(10):
                async for message in link:
                    if (body := json.loads(message))["type"] == "events":
                        break
            assert [event["seq"] for event in body["events"]] == [6]


async def _age_events(backend: Backend) -> None:
    """A month passes while the server is down."""
    code = (
        "import asyncio, asyncpg, sys\nfrom pathlib import Path\nfrom infra import postgres\n"
        "async def main(data):\n"
        "    server = await postgres.start(Path(data))\n"
        "    link = await asyncpg.connect(server.dsn)\n"
        "    await link.execute(\"select set_config('app.system', 'on', false)\")\n"
        "    await link.execute(\"update events set at = at - interval '31 days'\")\n"
        "    await link.close()\n"
        "    await postgres.stop(server)\n"
        "asyncio.run(main(sys.argv[1]))\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(backend.data)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert await process.wait() == 0
