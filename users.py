"""Users as a whole: what they used, their end, and what administrators do."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

import db
from models import Quota, Usage
from runs import computers, files
from runs.computers import wait_for, woken
from schemas import (
    AdminRunQuery,
    AdminRunRead,
    AdminUserQuery,
    LimitsRead,
    UsageDay,
    UsageRead,
    UserRead,
    UserUpdate,
)
from settings import settings

log = structlog.get_logger()

SETTLE_SECONDS = 5.0
LOOK_SECONDS = 0.2
ERASED_RUNS = 20  # in one transaction, each with all its steps and files


# What they used -----------------------------------------------------------------------------------


async def usage(user_id: str, days: int) -> UsageRead:
    """The last so many days (UTC), today included. Raises db.Unavailable."""
    first = datetime.now(UTC).date() - timedelta(days=days - 1)
    async with db.as_user(user_id) as tx:
        rows = await tx.call("usage_since", user_id, first)
        quota = await tx.one(Quota)
    used = [_day(Usage(**row)) for row in rows]
    return UsageRead(
        days=used,
        total=_total(used) if used else None,
        stored_bytes=quota.stored_bytes,
        limits=_limits(quota),
    )


def _day(row: Usage) -> UsageDay:
    return UsageDay(
        day=row.day,
        runs=row.runs,
        active_ms=row.active_ms,
        steps=row.steps,
        frames=row.frames,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost_usd=row.cost_micros / 1e6,
    )


def _total(used: list[UsageDay]) -> UsageDay:
    sums = {name: sum(getattr(day, name) for day in used) for name in UsageDay.model_fields if name != "day"}
    return UsageDay(day=used[-1].day, **sums | {"cost_usd": round(sums["cost_usd"], 6)})


def _limits(quota: Quota) -> LimitsRead:
    return LimitsRead(
        max_runs=settings.max_runs_per_user if quota.max_runs is None else quota.max_runs,
        max_computers=settings.max_computers_per_user if quota.max_computers is None else quota.max_computers,
        max_storage_bytes=quota.max_storage_bytes,
        requests_per_minute=quota.requests_per_minute,
    )


# Their end ----------------------------------------------------------------------------------------


async def erase(user_id: str) -> None:
    """Remove a user and all that is the user's for good; what was begun, upkeep finishes.

    Again, or for somebody who never was, it changes nothing. Raises db.Unavailable.
    """
    async with db.as_system() as tx:
        await tx.call("begin_erasing", user_id)
        _revoke(tx, user_id)
    await _settle(user_id)
    gone = 1
    while gone:
        async with db.as_system() as tx:
            [(gone,)] = await tx.call("erase_some", user_id, ERASED_RUNS)
    async with db.as_system() as tx:
        await tx.call("finish_erasing", user_id, files.place_of(user_id))
        _revoke(tx, user_id)
        tx.hint("removals")
    db.forget_user(user_id)
    log.info("user_erased", place=files.place_of(user_id))


def _revoke(tx: db.Tx, user_id: str) -> None:
    """Refuse the user's credentials and close sockets; workers look what became of their leases."""
    tx.hint("revoked", f"user:{user_id}".encode())
    tx.hint("wishes")


async def _settle(user_id: str) -> None:
    """Give runs and browsers, wherever they are, a moment to end; whoever is late finds no row to write."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLE_SECONDS
    closing: dict[UUID, asyncio.Task[None]] = {}
    with woken(f"user:{user_id}") as changed:
        while loop.time() < end:
            async with db.as_system() as tx:
                leases = await tx.call("leases_of", user_id)
            if not leases:
                break
            for row in leases:
                if row["closes"] and row["id"] not in closing:
                    closing[row["id"]] = asyncio.create_task(_close(user_id, row["id"]))
            await wait_for(changed, LOOK_SECONDS)
    for task in closing.values():
        task.cancel()
    await asyncio.gather(*closing.values(), return_exceptions=True)


async def _close(user_id: str, computer_id: UUID) -> None:
    """Close a computer that this process can reach; others close when their owner finds the row gone."""
    try:
        await computers.close(user_id, computer_id, "erased")
    except (NoResultFound, computers.NeedsRedis, computers.NotReady, *db.AWAY) as error:
        log.info("computer_left_to_its_owner", computer_id=str(computer_id), error=repr(error))


# Administration -----------------------------------------------------------------------------------


async def page(query: AdminUserQuery) -> Response:
    raise NotImplementedError


async def read(user_id: str) -> UserRead:
    raise NotImplementedError


async def change(user_id: str, body: UserUpdate, *, by: str) -> UserRead:
    raise NotImplementedError


async def runs(query: AdminRunQuery) -> Response:
    raise NotImplementedError


async def cancel_run(run_id: UUID) -> AdminRunRead:
    raise NotImplementedError
