"""How runs went, counted by PostgreSQL."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import db
from schemas import (
    AnalyticsQuery,
    AnalyticsSummary,
    StatsRead,
    TimelinePoint,
    TimelineQuery,
    WorkflowCounts,
)

DEFAULT_RANGE = timedelta(days=30)
LONGEST_RANGE = timedelta(days=366)
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MOST_WORKFLOWS = 200
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("runs", "succeeded", "failed", "cancelled"), 0),
    **dict.fromkeys(("p50_ms", "p95_ms")),
}


class InvalidRange(Exception):
    """`since` and `until` are not a range of at most 366 days."""


async def summary(user_id: str, query: AnalyticsQuery) -> AnalyticsSummary:
    """All the range's runs together. Raises InvalidRange, db.Unavailable."""
    since, until = _range(query)
    async with db.as_user(user_id) as tx:
        [row] = await tx.call("run_summary", user_id, since, until, query.workflow_id)
    return AnalyticsSummary(**_counts(dict(row)))


async def timeline(user_id: str, query: TimelineQuery) -> list[TimelinePoint]:
    """The range's days or weeks as the zone's clocks count them. Raises InvalidRange, db.Unavailable."""
    since, until = _range(query)
    starts = _starts(since, until, timedelta(days=7 if query.by == "week" else 1), ZoneInfo(query.time_zone))
    async with db.as_user(user_id) as tx:
        rows = await tx.call("run_timeline", user_id, since, until, query.workflow_id, list(starts.values()))
    counted = {row["place"]: {name: row[name] for name in NOTHING} for row in rows}
    return [
        TimelinePoint(start=start, **_counts(counted.get(place, NOTHING)))
        for place, start in enumerate(starts, 1)
    ]


async def workflows(user_id: str, query: AnalyticsQuery) -> list[WorkflowCounts]:
    """Each workflow's runs, the most used first. Raises InvalidRange, db.Unavailable."""
    since, until = _range(query)
    async with db.as_user(user_id) as tx:
        rows = await tx.call("workflow_counts", user_id, since, until, query.workflow_id, MOST_WORKFLOWS)
    return [WorkflowCounts(**_counts(dict(row))) for row in rows]


async def stats() -> StatsRead:
    """The whole system in numbers, for administrators. Raises db.Unavailable."""
    async with db.as_system() as tx:
        [row] = await tx.call("system_stats")
    return StatsRead(**dict(row))


def _range(query: AnalyticsQuery) -> tuple[datetime, datetime]:
    for instant in (query.since, query.until):
        if instant is not None and not EARLIEST <= instant <= LATEST:
            raise InvalidRange(f"since and until lie between {EARLIEST:%Y-%m-%d} and {LATEST:%Y-%m-%d}")
    until = query.until or datetime.now(UTC)
    since = query.since or until - DEFAULT_RANGE
    if not since < until:
        raise InvalidRange("since has to be before until")
    if until - since > LONGEST_RANGE:
        raise InvalidRange(f"A range has at most {LONGEST_RANGE.days} days")
    return since, until


def _starts(since: datetime, until: datetime, step: timedelta, zone: ZoneInfo) -> dict[date, datetime]:
    """The first day of each period, and the instant at which it begins there."""
    day = since.astimezone(zone).date()
    if step.days == 7:
        day -= timedelta(days=day.weekday())
    starts: dict[date, datetime] = {}
    while (begin := datetime.combine(day, time(), zone).astimezone(UTC)) < until:
        starts[day] = begin
        day += step
    return starts


def _counts(row: Mapping[str, Any]) -> dict[str, Any]:
    judged = row["succeeded"] + row["failed"]
    return {**row, "success_rate": row["succeeded"] / judged if judged else None}
