"""Schedules: runs by the clock of a time zone, each fire exactly once."""

from starlette.responses import Response

import db
from models import Schedule
from schemas import ScheduleCreate, SchedulePreview, ScheduleUpdate


async def create(tx: db.Tx, body: ScheduleCreate) -> Response:
    raise NotImplementedError


async def update(tx: db.Tx, schedule: Schedule, body: ScheduleUpdate) -> Response:
    raise NotImplementedError


async def enable(tx: db.Tx, schedule: Schedule, *, on: bool) -> Response:
    raise NotImplementedError


async def run_now(tx: db.Tx, schedule: Schedule) -> Response:
    raise NotImplementedError


def preview(cron: str, time_zone: str, count: int) -> SchedulePreview:
    raise NotImplementedError
