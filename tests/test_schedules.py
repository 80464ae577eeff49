"""Schedules fire by the clock of their zone, each fire exactly once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

import db
from infra import postgres
from models import Event, Missed, Profile, Run, Schedule, User, Workflow
from runs import engine, schedules
from runs.queue import look_at_queue
from runs.schedules import Due, due, fires
from schemas import ScheduleCreate
from tests import make
from tests.conftest import Backend
from tests.test_api import assert_problem


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The clock


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2027-03-27 12:00", ["2027-03-28 01:00", "2027-03-29 00:30"]),
        ("30 2 * * *", "Europe/Berlin", "2027-10-30 12:00", ["2027-10-31 00:30", "2027-11-01 01:30"]),
        ("0 9 * * MON-FRI", "Asia/Tokyo", "2026-11-27 01:00", ["2026-11-30 00:00", "2026-12-01 00:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01 00:00", ["2028-02-29 00:00"]),
        ("@hourly", "Asia/Kathmandu", "2026-11-27 00:00", ["2026-11-27 00:15", "2026-11-27 01:15"]),
    ],
)
def test_fires_follow_the_clock_of_their_zone(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert list(islice(fires(cron, zone, at(after)), len(expected))) == [at(fire) for fire in expected]


@pytest.mark.parametrize(
    ("policy", "now", "expected"),
    [
        (Missed.skip, "10:00:20", Due([at("2026-01-01 10:00")], 2, at("2026-01-01 11:00"))),
        (Missed.once, "10:00:20", Due([at("2026-01-01 10:00")], 2, at("2026-01-01 11:00"))),
        (Missed.skip, "10:30:00", Due([], 3, at("2026-01-01 11:00"))),
        (Missed.once, "10:30:00", Due([at("2026-01-01 10:00")], 2, at("2026-01-01 11:00"))),
        (
            Missed.all,
            "10:30:00",
            Due([at(f"2026-01-01 {hour}:00") for hour in ("08", "09", "10")], 0, at("2026-01-01 11:00")),
        ),
    ],
)
def test_what_was_missed_goes_by_the_policy(policy: Missed, now: str, expected: Due) -> None:
    assert due("0 * * * *", "UTC", at("2026-01-01 08:00"), at(f"2026-01-01 {now}"), policy) == expected


def test_a_scheduler_that_was_away_for_long_starts_a_bounded_number() -> None:
    owed = due("* * * * *", "UTC", at("2026-01-01 00:00"), at("2026-01-03 00:00"), Missed.all)
    assert (len(owed.start), owed.missed) == (100, 2 * 1440 + 1 - 100)
    assert owed.start[-1] == at("2026-01-03 00:00")


# Routes


async def test_a_schedule_is_made_seen_changed_and_deleted(alice: httpx.AsyncClient) -> None:
    workflow = await make.workflow(alice)
    made = await make.schedule(
        alice, workflow_id=workflow["id"], cron="0 9 * * 1-5", time_zone="Europe/Paris"
    )
    path = f"/api/schedules/{made['id']}"
    assert (made["missed"], made["overlap"], made["enabled"]) == ("once", "skip", True)
    assert (await alice.get(path)).json()["data"] == made
    shown = (await alice.get(f"{path}/preview?count=3")).json()["data"]
    assert shown["explanation"] == "At 09:00 on Monday through Friday"
    assert shown["fires"][0] == made["next_at"]
    assert len(shown["fires"]) == 3
    asked = {"cron": "0 9 * * 1-5", "time_zone": "Europe/Paris", "count": 3}
    assert (await alice.post("/api/schedules/preview", json=asked)).json()["data"] == shown
    moved = (await alice.patch(path, json={"cron": "30 9 * * 1-5"})).json()["data"]
    assert moved["next_at"] != made["next_at"]
    renamed = (await alice.patch(path, json={"name": "Other"})).json()["data"]
    assert renamed == moved | {"name": "Other", "updated_at": renamed["updated_at"]}
    paused = (await alice.post(f"{path}/pause")).json()["data"]
    assert (paused["enabled"], paused["next_at"]) == (False, None)
    assert (await alice.post(f"{path}/pause")).status_code == 200
    still = (await alice.patch(path, json={"cron": "45 9 * * 1-5"})).json()["data"]
    assert (still["cron"], still["next_at"]) == ("45 9 * * 1-5", None)
    found = (await alice.get("/api/schedules?enabled=false")).json()["data"]
    assert [row["id"] for row in found] == [made["id"]]
    resumed = (await alice.post(f"{path}/resume")).json()["data"]
    assert (resumed["enabled"], resumed["next_at"][11:16] in ("07:45", "08:45")) == (True, True)
    asleep = await make.schedule(alice, workflow_id=workflow["id"], enabled=False)
    assert (asleep["enabled"], asleep["next_at"]) == (False, None)
    assert (await alice.delete(path)).status_code == 200
    assert_problem(await alice.get(path), 404, "not_found")


async def test_a_schedule_goes_with_its_workflow_and_its_runs_stay(alice: httpx.AsyncClient) -> None:
    workflow = await make.workflow(alice)
    made = await make.schedule(alice, workflow_id=workflow["id"])
    reply = await alice.post(f"/api/schedules/{made['id']}/run")
    run = reply.json()["data"]
    assert (reply.status_code, run["schedule_id"], run["scheduled_for"]) == (202, made["id"], None)
    found = (await alice.get("/api/runs", params={"schedule_id": made["id"]})).json()["data"]
    assert [row["id"] for row in found] == [run["id"]]
    assert (await alice.delete(f"/api/workflows/{workflow['id']}")).status_code == 200
    assert_problem(await alice.get(f"/api/schedules/{made['id']}"), 404, "not_found")
    left = (await alice.get(f"/api/runs/{run['id']}")).json()["data"]
    assert (left["schedule_id"], left["workflow_id"]) == (None, None)


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({"cron": "* * * *"}, "/cron"),
        ({"cron": "0 * * * * *"}, "/cron"),
        ({"cron": "61 * * * *"}, "/cron"),
        ({"cron": "0 0 30 2 *"}, "/cron"),
        ({"cron": "@reboot"}, "/cron"),
        ({"cron": "often"}, "/cron"),
        ({"time_zone": "Mars/Olympus"}, "/time_zone"),
        ({"time_zone": "../../etc/passwd"}, "/time_zone"),
        ({"time_zone": "localtime"}, "/time_zone"),
    ],
)
async def test_a_clock_that_cannot_be_is_refused(
    alice: httpx.AsyncClient, values: dict[str, str], pointer: str
) -> None:
    workflow = await make.workflow(alice)
    body = {"name": "s", "workflow_id": workflow["id"], "cron": "@daily", **values}
    problem = assert_problem(await alice.post("/api/schedules", json=body), 422, "invalid_schedule")
    assert problem["errors"][0]["pointer"] == pointer
    asked = {"cron": body["cron"], "time_zone": body.get("time_zone", "UTC")}
    assert_problem(await alice.post("/api/schedules/preview", json=asked), 422, "invalid_schedule")


async def test_a_run_that_would_be_refused_is_refused_now(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    parameters = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    workflow = await make.workflow(alice, parameters=parameters)
    theirs, profile = await make.workflow(bob), await make.profile(bob)
    body = {"name": "s", "workflow_id": workflow["id"], "cron": "@daily"}
    assert_problem(await alice.post("/api/schedules", json=body), 422, "invalid_params")
    wrong = body | {"run": {"params": {"n": "x"}}}
    assert_problem(await alice.post("/api/schedules", json=wrong), 422, "invalid_params")
    right = body | {"run": {"params": {"n": 1}}}
    for foreign in (
        right | {"workflow_id": theirs["id"]},
        body | {"run": {"profile_id": profile["id"], "params": {"n": 1}}},
    ):
        assert_problem(await alice.post("/api/schedules", json=foreign), 404, "not_found")
    for odd in ({"priority": 101}, {"save_profile": True}):
        reply = await alice.post("/api/schedules", json=body | {"run": {"params": {"n": 1}, **odd}})
        assert_problem(reply, 422, "invalid")
    assert (await alice.post("/api/schedules", json=right)).status_code == 201
    fill = {"type": "change", "selectors": ["#a"], "value": "{{ secrets.none.text }}"}
    filling = await make.workflow(alice, definition={"title": "t", "steps": [fill]})
    reply = await alice.post("/api/schedules", json=body | {"workflow_id": filling["id"]})
    problem = assert_problem(reply, 422, "invalid_workflow")
    assert problem["errors"][0]["pointer"] == "/steps/0"


# The scheduler


@pytest.fixture(autouse=True)
async def _leave_no_work(database: str) -> AsyncIterator[None]:
    """Nobody else's worker should find these runs."""
    yield
    async with db.as_system() as tx:
        for run in await tx.find(Run):
            tx.user_id = run.user_id
            await tx.remove(Run, id=run.id)
            tx.user_id = ""


async def planned(user: str, *, ago: timedelta, cron: str = "* * * * *", **values: Any) -> UUID:
    """A schedule that has not been looked after since `ago`; an hourly one, since that hour."""
    since = (datetime.now(UTC) - ago).replace(second=0, microsecond=0)
    flow = {"title": "t", "steps": [{"type": "navigate", "url": "https://example.com/"}]}
    async with db.as_user(user) as tx:
        workflow = await tx.add(Workflow, name="w", definition=flow)
        row = await tx.add(
            Schedule,
            name="s",
            workflow_id=workflow.id,
            cron=cron,
            time_zone="UTC",
            next_at=since.replace(minute=0) if cron == "@hourly" else since,
            **{"missed": "all", "overlap": "queue"} | values,
        )
    return row.id


async def runs_of(user: str, schedule_id: UUID) -> list[Run]:
    async with db.as_user(user) as tx:
        return await tx.find(Run, schedule_id=schedule_id)


async def kinds(user: str) -> list[str]:
    async with db.as_user(user) as tx:
        return [event.kind for event in await tx.find(Event)]


async def test_many_late_and_doubled_schedulers_fire_each_fire_once(database: str) -> None:
    users = [f"user_{uuid4().hex}" for _ in range(10)]
    for user in users:
        await db.ensure_user(user)
    plans = [
        (user, await planned(user, ago=timedelta(hours=4), cron="@hourly"))
        for user in users
        for _ in range(6)
    ]
    await asyncio.gather(*(schedules.fire_due() for _ in range(8)))
    for user, plan in plans:
        fired = [run.scheduled_for for run in await runs_of(user, plan)]
        assert len(fired) == len(set(fired)) == 5, fired
    for user in users:
        assert (await kinds(user)).count("schedule.fired") == 30


async def test_a_scheduler_that_breaks_off_leaves_its_fire_to_the_next(database: str, user: str) -> None:
    plan = await planned(user, ago=timedelta(seconds=0))
    for _ in range(20):
        broken = asyncio.create_task(schedules.fire_due())
        await asyncio.sleep(0.001)
        broken.cancel()
        await asyncio.gather(broken, return_exceptions=True)
    await schedules.fire_due()
    assert len(await runs_of(user, plan)) == 1
    assert (await kinds(user)).count("schedule.fired") == 1


async def test_an_overlap_is_skipped_or_queued(database: str, user: str) -> None:
    skipping = await planned(user, ago=timedelta(minutes=2), overlap="skip")
    queueing = await planned(user, ago=timedelta(minutes=2), overlap="queue")
    await schedules.fire_due()
    assert (len(await runs_of(user, skipping)), len(await runs_of(user, queueing))) == (1, 3)
    assert (await kinds(user)).count("schedule.missed") == 2


async def test_no_more_than_so_many_runs_of_a_schedule_wait(
    database: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "MAX_WAITING", 2)
    plan = await planned(user, ago=timedelta(minutes=3))
    await schedules.fire_due()
    assert len(await runs_of(user, plan)) == 2
    assert (await kinds(user)).count("schedule.missed") == 2


async def claimed() -> list[UUID]:
    """What a worker with room for all of them takes now; one look passes over at most four users without work."""
    taken: list[UUID] = []
    for _ in range(10):
        async with db.as_system() as tx:
            rows = await tx.call("claim_run", uuid4(), timedelta(seconds=60), 5, True)
        taken += [row["id"] for row in rows]
    return taken


async def test_runs_of_a_schedule_wait_for_those_before_them(database: str, user: str) -> None:
    plan = await planned(user, ago=timedelta(minutes=2))
    await schedules.fire_due()
    waiting = await runs_of(user, plan)
    assert await claimed() == [waiting[0].id]
    async with db.as_user(user) as tx:
        await tx.change(
            Run, {"id": waiting[0].id}, status="succeeded", lease_owner=None, lease_expires_at=None
        )
        await look_at_queue(tx)
    assert await claimed() == [waiting[1].id]


async def test_a_fire_that_is_refused_says_why_and_the_clock_goes_on(database: str, user: str) -> None:
    async with db.as_user(user) as tx:
        profile = await tx.add(Profile, name="p")
    plan = await planned(user, ago=timedelta(seconds=0), run={"profile_id": str(profile.id)})
    async with db.as_user(user) as tx:
        await tx.remove(Profile, id=profile.id)
    await schedules.fire_due()
    assert await runs_of(user, plan) == []
    async with db.as_user(user) as tx:
        with pytest.raises(engine.WrongState, match="profile or thread"):
            await schedules.run_now(tx, await tx.one(Schedule, id=plan))
    async with db.as_user(user) as tx:
        schedule = await tx.one(Schedule, id=plan)
        missed = [event for event in await tx.find(Event) if event.kind == "schedule.missed"]
    assert schedule.next_at is not None
    assert schedule.next_at > datetime.now(UTC)
    assert missed[0].data["reason"] == "refused"


async def test_a_fire_that_always_fails_keeps_no_other_schedule_waiting(
    database: str, user: str, other_user: str
) -> None:
    broken = await planned(user, ago=timedelta(minutes=1), run={"priority": "none"})
    waiting = await planned(other_user, ago=timedelta(seconds=0))
    with capture_logs() as logs:
        await schedules.fire_due()
    assert await runs_of(user, broken) == []
    assert len(await runs_of(other_user, waiting)) == 1
    assert [line["schedule"] for line in logs if line["event"] == "fire_failed"] == [str(broken)] * 2
    async with db.as_user(user) as tx:
        missed = [event for event in await tx.find(Event) if event.kind == "schedule.missed"]
    assert [event.data["reason"] for event in missed] == ["failed", "failed"]


async def test_a_disabled_user_s_and_a_paused_schedule_start_nothing(database: str, user: str) -> None:
    plan = await planned(user, ago=timedelta(minutes=5))
    idle = await planned(user, ago=timedelta(minutes=5), enabled=False)
    async with db.as_user(user) as tx:
        await tx.change(User, {"id": user}, disabled_at=datetime.now(UTC))
    await schedules.fire_due()
    assert await runs_of(user, plan) == []
    assert await runs_of(user, idle) == []


async def make_due(backend: Backend, schedule_id: str) -> datetime:
    """Move a schedule of a server to this minute, which is returned."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    its = await postgres.start(backend.data)
    link = await asyncpg.connect(its.dsn)
    await link.execute("select set_config('app.system', 'on', false)")
    await link.execute("update schedules set next_at = $1 where id = $2", now, UUID(schedule_id))
    await link.close()
    await postgres.stop(its)
    return now


async def test_the_server_fires_by_itself(server: Backend, alice: httpx.AsyncClient) -> None:
    workflow = await make.workflow(
        alice, definition={"title": "t", "steps": [{"type": "waitForExpression", "expression": "true"}]}
    )
    made = await make.schedule(alice, workflow_id=workflow["id"], cron="0 0 1 1 *")
    due_at = await make_due(server, made["id"])
    runs: list[Any] = []
    async with asyncio.timeout(30):
        while not runs:
            runs = (await alice.get("/api/runs", params={"schedule_id": made["id"]})).json()["data"]
            await asyncio.sleep(0.1)
    [run] = runs
    assert datetime.fromisoformat(run["scheduled_for"]) == due_at
    assert (await alice.get(f"/api/schedules/{made['id']}")).json()["data"]["next_at"] == made["next_at"]
    ended = (await alice.get(f"/api/runs/{run['id']}", params={"wait": 30})).json()["data"]
    assert ended["status"] == "succeeded", ended["error"]
    fired = (await alice.get("/api/events", params={"kind": "schedule.fired"})).json()["data"]
    assert fired[0]["actor"] == "schedule"


async def test_schedules_made_at_once_have_the_same_limit(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setattr(schedules, "MAX_SCHEDULES", 2)
    async with db.as_user(user) as tx:
        made = [await tx.add(Workflow, name="W", definition=make.FLOW) for _ in range(6)]

    async def create(workflow: Workflow) -> bool:
        body = ScheduleCreate(workflow_id=workflow.id, name="S", cron="0 0 1 1 *")
        try:
            async with db.as_user(user) as tx:
                await schedules.create(tx, body)
        except schedules.TooManySchedules:
            return False
        return True

    assert sum(await asyncio.gather(*map(create, made))) == 2
