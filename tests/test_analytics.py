"""Analytics against plain Python over random runs, at the edges of days, weeks, zones and ranges."""

import random
from datetime import UTC, date, datetime, timedelta
from math import ceil, floor
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import pytest

import analytics
import db
from models import Run, RunStatus, Step, Workflow, uuid7
from schemas import AnalyticsQuery, TimelineQuery

BEGIN, END = datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 4, 10, tzinfo=UTC)  # clocks change in between
LIVE = [status for status in RunStatus if not status.ended]
ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Asia/Beirut",
    "Pacific/Chatham",
)


def id_at(instant: datetime) -> UUID:
    """A UUIDv7 of an instant."""
    milliseconds = int(instant.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | uuid7().int & (2**80 - 1))


@pytest.fixture(scope="module")
async def ran(database: str) -> tuple[str, list[Run], dict[UUID, list[Step]]]:
    """A user with random runs of two months, and the steps of those that failed."""
    user, dice = f"user_{uuid4().hex}", random.Random(11)
    await db.ensure_user(user)
    runs: list[Run] = []
    steps: dict[UUID, list[Step]] = {}
    async with db.as_user(user) as tx:
        flows = [(await tx.add(Workflow, name=f"w{n}", definition={})).id for n in range(3)]
        for _ in range(700):
            at = BEGIN + (END - BEGIN) * dice.random()
            if dice.random() < 0.3:  # on the hour, where days begin somewhere
                at = at.replace(minute=dice.choice((0, 30, 45)), second=0, microsecond=dice.choice((0, 1)))
            status = dice.choice(
                [RunStatus.succeeded] * 4 + [RunStatus.failed] * 3 + [RunStatus.cancelled, *LIVE]
            )
            run = await tx.add(
                Run,
                id=id_at(at),
                created_at=at,
                title="R",
                definition={},
                timeout_seconds=1,
                workflow_id=dice.choice([*flows[:2], flows[0], None]),
                status=status,
                active_ms=dice.randrange(100_000),
            )
            runs.append(run)
            if status is RunStatus.failed and dice.random() < 0.9:
                number = dice.randrange(1, 4)
                for n in range(1, number + 1):
                    fields = {"type": "click", "attempt": 1, "safe": False, "pointer": f"/steps/{n}"}
                    steps.setdefault(run.id, []).append(
                        await tx.add(
                            Step,
                            run_id=run.id,
                            number=n,
                            title=f"click {n}",
                            status="failed" if n == number else "succeeded",
                            **fields,
                        )
                    )
    return user, runs, steps


def percentile(values: list[int], share: float) -> float | None:
    if not values:
        return None
    ordered, place = sorted(values), share * (len(values) - 1)
    low, high = ordered[floor(place)], ordered[ceil(place)]
    return low + (high - low) * (place - floor(place))


def counts(runs: list[Run]) -> dict[str, Any]:
    """What RunCounts says of these runs."""
    by = {status: sum(run.status == status for run in runs) for status in RunStatus}
    judged = [run.active_ms for run in runs if run.status in ("succeeded", "failed")]
    return {
        "runs": len(runs),
        **{name: by[RunStatus(name)] for name in ("succeeded", "failed", "cancelled")},
        "success_rate": by[RunStatus.succeeded] / len(judged) if judged else None,
        "p50_ms": pytest.approx(percentile(judged, 0.5)),
        "p95_ms": pytest.approx(percentile(judged, 0.95)),
    }


def between(runs: list[Run], since: datetime, until: datetime) -> list[Run]:
    return [run for run in runs if since <= run.created_at < until]


Ran = tuple[str, list[Run], dict[UUID, list[Step]]]
RANGES = [
    (BEGIN, END),
    (BEGIN + timedelta(days=3, hours=7), BEGIN + timedelta(days=30, minutes=11)),
    (datetime(2026, 3, 8, 6, 59, 59, 999999, UTC), datetime(2026, 3, 8, 7, 0, 0, 1, UTC)),
    (END, END + timedelta(days=366)),
]


@pytest.mark.parametrize(("since", "until"), RANGES)
async def test_the_summary_is_what_python_counts(ran: Ran, since: datetime, until: datetime) -> None:
    user, runs, _ = ran
    for workflow_id in (None, runs[0].workflow_id, runs[1].workflow_id):
        chosen = between(runs, since, until)
        chosen = [run for run in chosen if workflow_id in (None, run.workflow_id)]
        query = AnalyticsQuery(since=since, until=until, workflow_id=workflow_id)
        live = sum(run.status in LIVE for run in chosen)
        assert (await analytics.summary(user, query)).model_dump() == counts(chosen) | {"live": live}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("by", ["day", "week"])
async def test_the_timeline_is_what_python_counts_with_no_day_left_out(ran: Ran, zone: str, by: str) -> None:
    user, runs, _ = ran
    for since, until in RANGES[:3]:
        query = TimelineQuery.model_validate({"since": since, "until": until, "time_zone": zone, "by": by})
        points = await analytics.timeline(user, query)

        def start(instant: datetime) -> date:
            day = instant.astimezone(ZoneInfo(zone)).date()
            return day - timedelta(days=day.weekday()) if by == "week" else day

        grouped: dict[date, list[Run]] = {}
        day = start(since)
        while day <= start(until - timedelta(microseconds=1)):
            grouped[day] = []
            day += timedelta(days=7 if by == "week" else 1)
        for run in between(runs, since, until):
            grouped[start(run.created_at)].append(run)
        expected = [{"start": day} | counts(chosen) for day, chosen in grouped.items()]
        assert [point.model_dump() for point in points] == expected


async def test_a_day_that_a_zone_skipped_is_there_and_empty(user: str) -> None:
    """Samoa went from 29 to 31 December 2011."""
    since, until = datetime(2011, 12, 29, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC)
    async with db.as_user(user) as tx:
        for hour in range(0, 72, 6):
            at = since + timedelta(hours=hour)
            run = {"title": "R", "definition": {}, "timeout_seconds": 1}
            await tx.add(Run, id=id_at(at), created_at=at, **run)
    query = TimelineQuery(since=since, until=until, time_zone="Pacific/Apia")
    told = {point.start.day: point.runs for point in await analytics.timeline(user, query)}
    assert told == {28: 2, 29: 4, 30: 0, 31: 4, 1: 2}


async def test_workflows_are_counted_apart_with_the_step_that_fails_most(ran: Ran) -> None:
    user, runs, steps = ran
    told = await analytics.workflows(user, AnalyticsQuery(since=BEGIN, until=END))
    assert [row.runs for row in told] == sorted((row.runs for row in told), reverse=True)
    assert {row.workflow_id for row in told} == {run.workflow_id for run in runs}
    for row in told:
        chosen = [run for run in runs if run.workflow_id == row.workflow_id]
        assert {name: getattr(row, name) for name in counts(chosen)} == counts(chosen)
        failed = [steps[run.id][-1].number for run in chosen if run.id in steps and run.status == "failed"]
        most = max(sorted(set(failed)), key=failed.count)
        assert (row.failing_step, row.failing_step_title) == (most, f"click {most}")
        assert row.name == (None if row.workflow_id is None else f"w{['w0', 'w1'].index(str(row.name))}")
    [one] = await analytics.workflows(
        user, AnalyticsQuery(since=BEGIN, until=END, workflow_id=told[0].workflow_id or told[1].workflow_id)
    )
    assert one in told


async def test_nobody_counts_anothers_runs(ran: Ran, other_user: str) -> None:
    user, runs, _ = ran
    workflow_id = next(run.workflow_id for run in runs if run.workflow_id)
    for query in (AnalyticsQuery(since=BEGIN, until=END), AnalyticsQuery(workflow_id=workflow_id)):
        assert (await analytics.summary(other_user, query)).runs == 0
        assert await analytics.workflows(other_user, query) == []
    async with db.as_user(other_user) as tx:
        [row] = await tx.call("run_summary", user, BEGIN, END, None)
    assert row["runs"] == 0


async def test_only_the_range_is_read(ran: Ran, database: str) -> None:
    """The key is ordered by time: of a million runs a range reads its own."""
    user, *_ = ran
    owner = await asyncpg.connect(database)
    await owner.execute("analyze runs")
    await owner.close()
    async with db.as_user(user) as tx:
        await tx.connection.execute("set local enable_seqscan = off")
        for call in (
            "run_summary($1, $2, $3, null)",
            "run_timeline($1, $2, $3, null, array[$2::timestamptz])",
        ):
            rows = await tx.connection.fetch(
                f"explain (analyze, costs off, timing off) select * from {call}",
                *(user, BEGIN, BEGIN + timedelta(days=2)),
            )
            plan = "\n".join(row[0] for row in rows)
            assert "runs_pkey" in plan, plan
            assert "Function Scan" not in plan, plan
            condition = next(line for line in plan.splitlines() if "Index Cond" in line)
            assert "(id >= " in condition and "(id < " in condition, plan


async def test_the_whole_system_in_numbers(user: str) -> None:
    before = await analytics.stats()
    async with db.as_user(user) as tx:
        long_ago = datetime.now(UTC) - timedelta(days=400)
        fields = {"title": "R", "definition": {}, "timeout_seconds": 1}
        await tx.add(Run, **fields, created_at=long_ago, run_after=long_ago)
        await tx.add(Run, **fields, status="failed")
    after = await analytics.stats()
    assert after.runs["queued"] == before.runs.get("queued", 0) + 1
    assert after.runs["failed"] == before.runs.get("failed", 0) + 1
    assert after.oldest_queued_seconds == pytest.approx(400 * 86400, abs=60)
    assert after.users >= 1
    async with db.as_user(user) as tx:
        await tx.remove(Run)


@pytest.mark.parametrize(
    "query",
    [
        {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"since": "2025-01-01T00:00:00Z", "until": "2026-01-02T00:00:01Z"},
        {"since": "2099-01-01T00:00:00Z"},
        {"since": "2020-01-01T00:00:00Z"},
        {"until": "0001-01-01T00:00:00Z"},
        {"since": "0001-01-01T00:00:00+14:00", "until": "0001-02-01T00:00:00Z"},
        {"since": "9999-12-31T23:59:59Z", "until": "9999-12-31T23:59:59.5Z"},
        {"since": "2026-01-01T00:00:00"},
        {"since": "yesterday"},
        {"workflow_id": "1"},
        {"unknown": "1"},
    ],
)
async def test_ranges_that_are_none_are_refused(alice: httpx.AsyncClient, query: dict[str, str]) -> None:
    for path in ("summary", "timeline", "workflows"):
        reply = await alice.get(f"/api/analytics/{path}", params=query)
        assert reply.status_code == 422, reply.text
        assert reply.json()["code"] in ("invalid_range", "invalid")


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "../etc/passwd", "America", "UTC+3", "", "europe/berlin", "x" * 65]
)
async def test_zones_that_are_none_are_refused(alice: httpx.AsyncClient, zone: str) -> None:
    reply = await alice.get("/api/analytics/timeline", params={"time_zone": zone})
    assert reply.status_code == 422, reply.text
    assert (await alice.get("/api/analytics/timeline", params={"by": "month"})).status_code == 422


async def test_a_full_year_at_its_limits_is_answered(alice: httpx.AsyncClient) -> None:
    year = {"since": "2025-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
    points = (await alice.get("/api/analytics/timeline", params=year)).json()["data"]
    assert (len(points), points[0]["start"], points[-1]["start"]) == (366, "2025-01-01", "2026-01-01")
    assert (await alice.get("/api/analytics/summary")).json()["data"]["success_rate"] is None
    assert len((await alice.get("/api/analytics/timeline")).json()["data"]) in (30, 31)
