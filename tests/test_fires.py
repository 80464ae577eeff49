"""Every fire once, none lost, none made up: compared with a reckoning that goes from minute to minute."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, product, takewhile
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

import db
from models import Event, Missed, Overlap, Quota, Run, Schedule, Workflow
from runs import schedules
from runs.schedules import fires
from tests.conftest import ROOT
from tests.make import FLOW

MINUTE, HALF_HOUR = timedelta(minutes=1), timedelta(minutes=30)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")


@dataclass(frozen=True)
class Plan:
    """The minutes and hours of a cron expression; `fixed` when neither begins with a star."""

    cron: str
    minutes: frozenset[int]
    hours: frozenset[int]
    fixed: bool = True

    def times(self, day: datetime) -> list[datetime]:
        return [day + timedelta(hours=h, minutes=m) for h in self.hours for m in self.minutes]


def plan(minutes: str, hours: str, day: str = "* *") -> Plan:
    """Of fields that are `*`, `*/n` or numbers."""

    def numbers(field: str, most: int) -> frozenset[int]:
        if field.startswith("*"):
            return frozenset(range(0, most, int(field[2:] or 1)))
        return frozenset(map(int, field.split(",")))

    fixed = not (minutes.startswith("*") or hours.startswith("*"))
    return Plan(f"{minutes} {hours} {day} *", numbers(minutes, 60), numbers(hours, 24), fixed)


def reckon(plan: Plan, zone: str, since: datetime, until: datetime) -> list[datetime]:
    """When the plan fires every day: whenever the clock shows a time, or once it has passed a fixed one."""
    shown = []
    while since < until:
        shown.append((since, since.astimezone(ZoneInfo(zone)).replace(tzinfo=None)))
        since += MINUTE
    if not plan.fixed:
        return [at for at, clock in shown if clock.minute in plan.minutes and clock.hour in plan.hours]
    days = {clock.replace(hour=0, minute=0) for _, clock in shown}
    ahead = sorted(time for day in days for time in plan.times(day) if time >= shown[0][1])
    found = []
    for at, clock in shown:
        if passed := list(takewhile(clock.__ge__, ahead)):
            found.append(at)
            del ahead[: len(passed)]
    return found


def changes(zone: str, since: datetime) -> Iterator[datetime]:
    """When the zone's clock is changed within a year."""
    for number in range(366 * 48):
        at = since + number * HALF_HOUR
        before, after = [it.astimezone(ZoneInfo(zone)).utcoffset() for it in (at - MINUTE, at)]
        if before != after:
            yield at


@pytest.mark.parametrize("zone", [*ZONES, "America/Santiago", "Antarctica/Troll"])
def test_none_is_lost_or_made_up_where_a_clock_is_changed(zone: str) -> None:
    plans = [plan("30", "2"), plan("15,45", "1,2,3"), plan("0,20", "0,2"), plan("45", "*"), plan("0", "*/3")]
    plans += [plan("*/15", "*"), plan("*/15", "1,3"), plan("*", "2")]
    around = list(changes(zone, datetime(2027, 1, 1, tzinfo=UTC)))
    assert len(around) == 2
    for change, each in product(around, plans):
        since, until = change - timedelta(hours=30), change + timedelta(hours=30)
        expected = reckon(each, zone, since, until)
        found = takewhile(until.__gt__, fires(each.cron, zone, since - MINUTE))
        assert list(found) == expected, (zone, each.cron)
        for number in range(30, 44):
            asked = since + number * timedelta(minutes=47, seconds=10)
            assert next(fires(each.cron, zone, asked)) == next(at for at in expected if at > asked)


# Many schedulers ----------------------------------------------------------------------------------

SCHEDULER = """
import asyncio, os, signal, sys
import db
from runs import schedules
schedules.LATE *= 10  # so that what is due now is not late on a slow machine
async def main(dsn, lives):
    await db.open_database(dsn, size=2)
    fire, lives = schedules._fire, int(lives)
    async def fire_and_die(*arguments):
        nonlocal lives
        await fire(*arguments)
        lives -= 1
        if lives == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    schedules._fire = fire_and_die
    await schedules.fire_due()
asyncio.run(main(*sys.argv[1:]))
"""
NEVER = 1_000_000


async def scheduler(dsn: str, lives: int) -> int:
    """The end of a scheduler in a process of its own, which is killed amid its so-manieth fire."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCHEDULER, dsn, str(lives)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass(frozen=True)
class Kept:
    """A schedule in the database, and what it owes by an independent reckoning."""

    user: str
    id: UUID
    missed: Missed
    overlap: Overlap
    owed: list[datetime]
    on_time: bool

    def started(self) -> list[datetime]:
        start = {
            Missed.all: self.owed,
            Missed.once: self.owed[-1:],
            Missed.skip: self.owed if self.on_time else [],
        }[self.missed]
        return start[:1] if self.overlap is Overlap.skip else start


def owing(now: datetime) -> Iterator[tuple[str, str, list[datetime], bool]]:
    """Expressions, zones, and what has come due of each: now, within the hour, for days, at a clock's change."""
    long_ago = now - timedelta(days=370)
    for zone in ZONES:
        clock = now.astimezone(ZoneInfo(zone))
        away = [(clock.minute + shift) % 60 for shift in (20, 30, 40)]
        often = plan(",".join(map(str, away)), "*")
        yield often.cron, zone, [now], True
        yield often.cron, zone, reckon(often, zone, now - timedelta(hours=2), now), False
        daily = plan(str(away[0]), str((clock.hour + 12) % 24))
        yield daily.cron, zone, reckon(daily, zone, now - timedelta(days=4), now), False
        for change in changes(zone, long_ago):
            if change + timedelta(days=2) < now:
                before = (change - MINUTE).astimezone(ZoneInfo(zone))
                yearly = plan("15,45", "1,2,3", f"{before.day} {before.month}")
                since = change - timedelta(hours=before.hour, minutes=before.minute + 1)
                owed = reckon(yearly, zone, since, since + timedelta(hours=20))
                yield yearly.cron, zone, owed, False


@pytest.fixture
async def kept(database: str) -> AsyncIterator[list[Kept]]:
    """Two hundred schedules of ten users; nobody's worker finds their runs."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    users = [f"user_{uuid4().hex}" for _ in range(10)]
    workflows = {}
    for user in users:
        await db.ensure_user(user)
        async with db.as_user(user) as tx:
            await tx.change(Quota, {}, max_runs=0)
            workflows[user] = await tx.add(Workflow, name="W", definition=FLOW)
    ways = product(list(owing(now)), Missed, Overlap)
    made = []
    for number, ((cron, zone, owed, on_time), missed, overlap) in enumerate(islice(_again(ways), 200)):
        user = users[number % len(users)]
        values = {"cron": cron, "time_zone": zone, "missed": missed, "overlap": overlap, "next_at": owed[0]}
        async with db.as_user(user) as tx:
            row = await tx.add(Schedule, name="S", workflow_id=workflows[user].id, **values)
        made.append(Kept(user, row.id, missed, overlap, owed, on_time))
    yield made
    for user in users:
        async with db.as_user(user) as tx:
            await tx.remove(Schedule)
            await tx.remove(Run)


def _again(ways: Any) -> Iterator[Any]:
    everyone = list(ways)
    while True:
        yield from everyone


async def told(user: str) -> dict[UUID, list[tuple[str, str, int]]]:
    """What the log says of each schedule: of which fire, and of how many that were late."""
    found: dict[UUID, list[tuple[str, str, int]]] = {}
    async with db.as_user(user) as tx:
        events = await tx.find(Event, resource_type="schedule")
    for event in events:
        if event.kind.startswith("schedule."):
            what = (
                event.data.get("reason", "fired"),
                event.data.get("scheduled_for", ""),
                event.data.get("count", 1),
            )
            found.setdefault(UUID(event.resource_id), []).append(what)
    return found


async def test_two_hundred_schedules_fire_each_fire_once_though_schedulers_die(
    database: str, kept: list[Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "LATE", schedules.LATE * 10)
    began = datetime.now(UTC)
    assert sum(len(each.owed) for each in kept) > 600
    async with asyncio.timeout(100):
        dead = await asyncio.gather(*(scheduler(database, lives) for lives in (5, 11, 17)))
        assert dead == [-signal.SIGKILL] * 3
        others = [asyncio.create_task(scheduler(database, NEVER)) for _ in range(2)]
        for number in range(20):
            broken = asyncio.create_task(schedules.fire_due())
            await asyncio.sleep(0.002 * number)
            broken.cancel()
            await asyncio.gather(broken, return_exceptions=True)
        await asyncio.gather(*(schedules.fire_due() for _ in range(3)))
        assert await asyncio.gather(*others) == [0, 0]
    await schedules.fire_due()
    log = {user: await told(user) for user in {each.user for each in kept}}
    for each in kept:
        started = each.started()
        async with db.as_user(each.user) as tx:
            runs = await tx.find(Run, schedule_id=each.id)
            row = await tx.one(Schedule, id=each.id)
        assert [run.scheduled_for for run in runs] == started, each
        assert row.next_at is not None
        assert row.next_at > began
        said = log[each.user].pop(each.id)
        assert sum(count for _, _, count in said) == len(each.owed), (each, said)
        fired = [datetime.fromisoformat(fire) for what, fire, _ in said if what == "fired"]
        assert fired == started
        once = [fire for _, fire, _ in said if fire]
        assert len(once) == len(set(once))
    assert not any(log.values())
