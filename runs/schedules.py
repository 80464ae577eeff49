"""Schedules: runs by the clock of a time zone, each fire exactly once."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import asyncpg
import structlog
from cronsim import CronSim, CronSimError
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

import db
from models import Missed, Overlap, Profile, Quota, Schedule, Thread, User, Workflow
from runs import engine, workflows
from runs.computers import check_domains, forever
from runs.parameters import Invalid, Problem
from schemas import (
    RunCreate,
    ScheduleCreate,
    ScheduledRun,
    SchedulePreview,
    ScheduleRead,
    ScheduleUpdate,
)

log = structlog.get_logger()

MAX_SCHEDULES = 200
MAX_CATCH_UP = 100  # runs that one late look may start
MAX_WAITING = 100  # runs of one schedule that have not ended
LATE = timedelta(seconds=60)  # a fire that nobody was there for by then was missed
POLL_SECONDS = 1.0
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
GONE = "The profile or thread that its runs use is gone"
OF_THIS_MACHINE = ("Factory", "localtime", "posixrules")


class InvalidSchedule(Invalid):
    """The cron expression or the time zone cannot be used."""


class TooManySchedules(Exception):
    """The user has as many schedules as one may have."""


# The clock ----------------------------------------------------------------------------------------


@cache
def _zones() -> set[str]:
    """Reading the machine's tables takes too long for every look."""
    return available_timezones().difference(OF_THIS_MACHINE)


def zone_named(name: str) -> ZoneInfo:
    """The IANA time zone. Raises InvalidSchedule."""
    if name not in _zones():
        raise InvalidSchedule([Problem("/time_zone", f"{name} is no IANA time zone such as Europe/Berlin")])
    return ZoneInfo(name)


def fires(cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """The instants (UTC) of a five-field cron expression after `after`, by its zone's clock.

    As Debian's cron: a time that the clock skips in spring fires at the next one there is, and a time that it
    shows twice in autumn fires once; where the minute or the hour begins with a star, it fires whenever the
    clock shows such a time. Raises InvalidSchedule, also when it never fires.
    """
    instants = (fire.astimezone(UTC) for fire in _parsed(cron, after.astimezone(zone_named(time_zone))))
    found = (fire for fire in instants if fire > after)  # what is shown for the second time has fired
    first = next(found, None)
    if first is None:
        raise InvalidSchedule([Problem("/cron", "It never fires")])
    yield first
    yield from found


class _Clock(CronSim):
    """Goes on from minute to minute and from hour to hour as the zone's clock shows them.

    CronSim leaps by whole hours, which go past times that there are where a clock changes by half an hour.
    """

    def advance_minute(self) -> bool:
        if self.dt.minute in self.minutes:
            return False
        later = [minute for minute in self.minutes if minute > self.dt.minute]
        self.tick(60 * (min(later, default=60) - self.dt.minute) - self.dt.second)
        return True

    def advance_hour(self) -> bool:
        if self.dt.hour in self.hours:
            return False
        self.tick(60 * (60 - self.dt.minute) - self.dt.second)
        return True


def _parsed(cron: str, after: datetime) -> CronSim:
    fields = ALIASES.get(cron.lower(), cron)
    if len(fields.split()) != 5:
        text = "Write five fields (minute hour day month weekday), or one of " + ", ".join(ALIASES)
        raise InvalidSchedule([Problem("/cron", text)])
    try:
        return _Clock(fields, after)
    except CronSimError as error:
        raise InvalidSchedule([Problem("/cron", f"Not a cron expression: {error}")]) from error


def preview(cron: str, time_zone: str, count: int) -> SchedulePreview:
    """What the expression means, in words and fires. Raises InvalidSchedule."""
    now = datetime.now(UTC)
    upcoming = list(islice(fires(cron, time_zone, now), count))
    return SchedulePreview(explanation=_parsed(cron, now).explain(), fires=upcoming)


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule owes: `start` a run for each, `missed` were let go, and `next_at` comes next."""

    start: list[datetime]
    missed: int
    next_at: datetime | None


def due(cron: str, time_zone: str, first: datetime, now: datetime, policy: Missed) -> Due:
    """What is owed at `now` when nothing has been done from the fire at `first` on."""
    passed = [first]
    next_at = None
    for fire in fires(cron, time_zone, first):
        if fire > now:
            next_at = fire
            break
        passed.append(fire)
    late = [fire for fire in passed if now - fire > LATE]
    on_time = passed[len(late) :]
    if policy is Missed.all:
        start = passed[-MAX_CATCH_UP:]
    elif policy is Missed.once:
        start = on_time or passed[-1:]
    else:
        start = on_time
    return Due(start, len(passed) - len(start), next_at)


# What routes use ----------------------------------------------------------------------------------


async def create(tx: db.Tx, body: ScheduleCreate) -> Response:
    """Store a schedule.

    Raises NoResultFound, InvalidSchedule, InvalidWorkflow, InvalidParams, TooManySchedules.
    """
    await tx.find(Quota, lock=True)
    workflow = await tx.one(Workflow, lock=True, id=body.workflow_id)
    if len(await tx.find(Schedule)) >= MAX_SCHEDULES:
        raise TooManySchedules(f"There can be {MAX_SCHEDULES} schedules at most; delete one")
    await _check_run(tx, workflow, body.run)
    next_at = next(fires(body.cron, body.time_zone, datetime.now(UTC)))
    return await tx.create(Schedule, ScheduleRead, body, next_at=next_at if body.enabled else None)


async def update(tx: db.Tx, schedule: Schedule, body: ScheduleUpdate) -> Response:
    """Set the fields sent; it fires by a new clock from now on. Raises what `create` raises."""
    if body.run is not None:
        await _check_run(tx, await tx.one(Workflow, id=schedule.workflow_id), body.run)
    values: dict[str, Any] = {}
    if body.cron is not None or body.time_zone is not None:
        clock = body.cron or schedule.cron, body.time_zone or schedule.time_zone
        next_at = next(fires(*clock, datetime.now(UTC)))
        values["next_at"] = next_at if schedule.enabled else None
    return await tx.update(Schedule, ScheduleRead, schedule.id, body, **values)


async def enable(tx: db.Tx, schedule: Schedule, *, on: bool) -> Response:
    """Let it fire from now on, or no more; what it is already, it stays."""
    values: dict[str, Any] = {"enabled": on} if on else {"enabled": False, "next_at": None}
    if on and not schedule.enabled:
        values["next_at"] = next(fires(schedule.cron, schedule.time_zone, datetime.now(UTC)))
    return await tx.update(Schedule, ScheduleRead, schedule.id, **values)


async def run_now(tx: db.Tx, schedule: Schedule) -> Response:
    """Queue one run beside the clock's. Raises what `engine.enqueue` raises, WrongState for NoResultFound."""
    try:
        return await engine.enqueue(tx, _wanted(schedule), schedule_id=schedule.id)
    except NoResultFound as error:
        raise engine.WrongState(f"{GONE}; change the schedule's `run`") from error


async def _check_run(tx: db.Tx, workflow: Workflow, run: ScheduledRun) -> None:
    """What a run would be refused for, said now."""
    check_domains(run.allowed_domains, "/run/allowed_domains")
    for model, named in ((Profile, run.profile_id), (Thread, run.thread_id)):
        if named is not None:
            await tx.one(model, id=named)
    flow = await workflows.parse_aside(workflow.definition, workflow.parameters)
    await engine.require_secrets(tx, flow)
    await asyncio.to_thread(workflows.resolve_params, workflow.parameters, run.params)


def _wanted(schedule: Schedule) -> RunCreate:
    return RunCreate.model_validate({**schedule.run, "workflow_id": schedule.workflow_id})


# The scheduler ------------------------------------------------------------------------------------


async def fire_due() -> None:
    """Start what is due, one schedule a transaction, so that each fire is done once or not at all."""
    while await _fire_one():
        pass


async def _fire_one() -> bool:
    async with db.as_system("schedule") as tx:
        rows = await tx.call("claim_schedule")
        if not rows:
            return False
        tx.act_for(rows[0]["user_id"])
        schedule = await tx.one(Schedule, id=rows[0]["id"])
        try:
            owed = await _owed(tx, schedule)
        except InvalidSchedule as error:  # a zone that this machine's tables no longer have
            await tx.change(Schedule, {"id": schedule.id}, enabled=False)
            _say(tx, "schedule.missed", schedule, reason="refused", detail=str(error))
            return True
        last = {"last_at": owed.start[-1]} if owed.start else {}
        await tx.change(Schedule, {"id": schedule.id}, next_at=owed.next_at, **last)
        if owed.missed:
            _say(tx, "schedule.missed", schedule, reason="late", count=owed.missed)
        for fire in owed.start:
            await _fire(tx, schedule, fire)
    return True


async def _owed(tx: db.Tx, schedule: Schedule) -> Due:
    """What the schedule owes now; those of a disabled user are let go."""
    now = datetime.now(UTC)
    clock = schedule.cron, schedule.time_zone, schedule.next_at or now
    owed = await asyncio.to_thread(due, *clock, now, Missed(schedule.missed))
    if (await tx.one(User)).disabled_at is not None:
        return Due([], 0, owed.next_at)
    return owed


async def _fire(tx: db.Tx, schedule: Schedule, fire: datetime) -> None:
    most = 1 if schedule.overlap == Overlap.skip else MAX_WAITING
    [(going_on,)] = await tx.call("schedule_runs", tx.user_id, schedule.id, most)
    if going_on >= most:
        _say(tx, "schedule.missed", schedule, reason="overlap", scheduled_for=fire)
        return
    try:
        async with tx.savepoint():
            await engine.enqueue(tx, _wanted(schedule), schedule_id=schedule.id, scheduled_for=fire)
    except asyncpg.UniqueViolationError:
        log.info("fired_before", schedule=str(schedule.id), scheduled_for=str(fire))
    except (NoResultFound, Invalid) as error:
        detail = GONE if isinstance(error, NoResultFound) else str(error)
        _say(tx, "schedule.missed", schedule, reason="refused", scheduled_for=fire, detail=detail)
    except db.AWAY:
        raise
    except Exception:  # one that always fails must not keep the others from firing
        log.exception("fire_failed", schedule=str(schedule.id), scheduled_for=str(fire))
        _say(tx, "schedule.missed", schedule, reason="failed", scheduled_for=fire)
    else:
        _say(tx, "schedule.fired", schedule, scheduled_for=fire)


def _say(tx: db.Tx, kind: str, schedule: Schedule, **data: Any) -> None:
    tx.emit(kind, ("schedule", schedule.id), {"name": schedule.name, **data})


_loop: asyncio.Task[None] | None = None


async def start() -> None:
    """Begin to look for schedules that are due."""
    global _loop  # noqa: PLW0603 - one scheduler a process
    _loop = asyncio.create_task(forever(fire_due, asyncio.Event(), POLL_SECONDS))


async def stop() -> None:
    """Look no more; a transaction under way is rolled back, and the next scheduler does it."""
    global _loop  # noqa: PLW0603
    if _loop is not None:
        _loop.cancel()
        await asyncio.gather(_loop, return_exceptions=True)
        _loop = None
