"""The queue of runs: how the workers are told to look at a user's."""

from datetime import UTC, datetime

import db
from models import Quota

LONG_AGO = datetime.min.replace(tzinfo=UTC)  # -infinity in PostgreSQL


async def look_at_queue(tx: db.Tx) -> None:
    """Have the workers look at this user's queue; claiming sets the true time when nothing is due."""
    await tx.change(Quota, {}, ready_at=LONG_AGO)
    tx.hint("runs")
