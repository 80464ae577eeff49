"""What is added to a user's day (UTC) as it is used."""

from datetime import UTC, datetime

import db
from models import Quota, Usage

MONTHLY = ("max_month_steps", "max_month_tokens", "max_month_cost_usd", "max_month_seconds")
"""Limits of what a user's agents do in a calendar month (UTC), as columns of `quotas`."""


async def add(
    tx: db.Tx,
    *,
    runs: int = 0,
    active_ms: int = 0,
    steps: int = 0,
    frames: int = 0,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cost_micros: int = 0,
) -> None:
    """Add to today's usage of the transaction's user; it is there when `tx` is committed.

    Call it last, after what locks the quota: whoever else adds waits for that commit.
    """
    day = datetime.now(UTC).date()
    amounts = (runs, active_ms, steps, frames, input_tokens, output_tokens, cost_micros)
    await tx.call("add_usage", tx.user_id, day, *amounts)


async def add_run(tx: db.Tx, *, active_ms: int, steps: int) -> None:
    """Add a run that has ended, however many workers have driven it."""
    await add(tx, runs=1, active_ms=active_ms, steps=steps)


async def month_used_up(tx: db.Tx, *, steps: int, active_ms: int) -> str | None:
    """The monthly limit that the user has reached, None for none.

    `steps` and `active_ms` are of a run that goes on, which `add_run` has not added yet.
    """
    (quota,) = await tx.find(Quota)
    limits = {name: most for name in MONTHLY if (most := getattr(quota, name)) is not None}
    if not limits:
        return None
    first = datetime.now(UTC).date().replace(day=1)
    days = [Usage(**row) for row in await tx.call("usage_since", tx.user_id, first)]
    used = {
        "max_month_steps": steps + sum(day.steps for day in days),
        "max_month_tokens": sum(day.input_tokens + day.output_tokens for day in days),
        "max_month_cost_usd": sum(day.cost_micros for day in days) / 1e6,
        "max_month_seconds": (active_ms + sum(day.active_ms for day in days)) / 1000,
    }
    return next((name for name, most in limits.items() if used[name] >= most), None)
