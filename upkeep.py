"""What is past its time is removed, and what erasures and removals have begun is finished."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

import db
import users
from infra.bus import Bus
from runs import files
from runs.computers import forever
from settings import settings

log = structlog.get_logger()

REMOVAL_SECONDS = 60.0
ROUND_SECONDS = 3600.0
REMOVALS = 32
RUNS = 20  # of one user in one transaction, each with all its steps and files
SEGMENTS = 50  # likewise, each with the frames in it
ROWS = 1000
USERS = 500

_stops: list[Callable[[], object]] = []
_loops: list[asyncio.Task[None]] = []


async def start(bus: Bus) -> None:
    """Begin to remove bytes as they fall due, and to go round once an hour."""
    wake = asyncio.Event()
    _stops.extend((bus.subscribe("removals", lambda _payload: wake.set()), bus.on_gap(wake.set)))
    _loops.append(asyncio.create_task(forever(remove_due, wake, REMOVAL_SECONDS)))
    _loops.append(asyncio.create_task(forever(go_round, asyncio.Event(), ROUND_SECONDS)))


async def stop() -> None:
    """Leave off; whoever comes next goes on from here."""
    for undo in _stops:
        undo()
    for loop in _loops:
        loop.cancel()
    await asyncio.gather(*_loops, return_exceptions=True)
    _stops.clear()
    _loops.clear()


async def remove_due() -> None:
    """Remove all bytes that no row speaks of and whose time has come; what the store refuses comes again.

    Raises db.Unavailable.
    """
    while True:
        async with db.as_system() as tx:
            places = [row["place"] for row in await tx.call("due_removals", REMOVALS)]
        done = await asyncio.gather(*map(files.remove, places))
        async with db.as_system() as tx:
            await tx.call(
                "forget_removals", [place for place, gone in zip(places, done, strict=True) if gone]
            )
        if len(places) < REMOVALS or not all(done):
            return


async def go_round() -> None:
    """Finish what erasures have begun, then remove what is past its time, in batches that lock little.

    One process at a time does it; another one leaves off. Raises db.Unavailable.
    """
    async with db.as_system() as tx:
        begun = [row["id"] for row in await tx.call("erasing")]
        await tx.call("revisit_erased")
        tx.hint("removals")
    for user_id in begun:
        await users.erase(user_id)
    if not await _repeat("tidy", ROWS):
        return
    if settings.retention_days:
        await _of_each_user("users_after", "retire", settings.retention_days, RUNS)
    if settings.recording_days is not None:
        await _of_each_user("users_recorded", "forget_recordings", settings.recording_days, SEGMENTS)


async def _of_each_user(users_after: str, remove: str, days: int, batch: int) -> None:
    """Go through the users, and call `remove` for those of whom something is older than so many days."""
    before, last = datetime.now(UTC) - timedelta(days=days), ""
    while True:
        async with db.as_system() as tx:
            rows = await tx.call(users_after, last, USERS, before)
        for row in rows:
            if row["past"] and not await _repeat(remove, row["id"], before, batch):
                return
        if len(rows) < USERS:  # the last ones, or another process is at it
            return
        last = rows[-1]["id"]


async def _repeat(function: str, *arguments: object) -> bool:
    """Call it until nothing is left for it to remove; False when another process is at it."""
    while True:
        async with db.as_system() as tx:
            [(gone,)] = await tx.call(function, *arguments)
            if gone:
                tx.hint("removals")
        if not gone:
            return gone is not None
        log.info("past_its_time", function=function, rows=gone)
