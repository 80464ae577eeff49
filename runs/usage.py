"""What is added to a user's day (UTC) as it is used."""

from datetime import UTC, datetime

import db


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
