"""The queue of runs: how the workers are told to look at a user's."""

from datetime import UTC, datetime

import db

LONG_AGO = datetime.min.replace(tzinfo=UTC)  # -infinity in PostgreSQL


async def look_at_queue(tx: db.Tx) -> None:
    """Have the workers look at this user's queue."""
    await tx.call("look_at_queue", tx.user_id)
    tx.hint("runs")
