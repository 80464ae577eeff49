"""What a user has used: each run once, on the day it ended, kept when the run itself is gone."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

import db
import users
from models import Control, Quota, Run, RunStatus
from runs import engine, usage
from runs.usage import MONTHLY
from settings import settings
from tests import make
from tests.workers import look

LOOK: dict[str, Any] = {"title": "Look", "steps": [{"type": "waitForExpression", "expression": "true"}] * 2}


def today() -> date:
    return datetime.now(UTC).date()


async def frames_of(client: httpx.AsyncClient, run_id: str) -> int:
    """How many there are once those of its second, last step are stored, which may be after its end."""
    async for _ in look(30):
        frames = (await client.get(f"/api/runs/{run_id}/frames")).json()["data"]
        if any(frame["step"] == 2 for frame in frames):
            break
    return len(frames)


async def test_a_run_counts_when_it_ends_with_exactly_what_it_shows(alice: httpx.AsyncClient) -> None:
    assert (await alice.get("/api/me/usage")).json()["data"]["total"] is None
    ended: list[dict[str, Any]] = []
    for definition in (
        LOOK,
        {"title": "Fail", "steps": [LOOK["steps"][0], make.FLOW["steps"][0] | {"timeout": 1}]},
    ):
        run = await make.run(alice, definition=definition)
        ended.append((await alice.get(f"/api/runs/{run['id']}", params={"wait": 30})).json()["data"])
    assert [run["status"] for run in ended] == ["succeeded", "failed"]
    frames = [await frames_of(alice, run["id"]) for run in ended]
    used = (await alice.get("/api/me/usage", params={"days": 1})).json()["data"]
    stored = (await alice.get("/api/files")).json()["data"]
    assert [day["runs"] for day in used["days"]] == [2]
    assert used["total"]["active_ms"] == sum(run["active_ms"] for run in ended) > 0
    assert used["total"]["steps"] == sum(run["step_count"] for run in ended) == 3
    assert used["total"]["frames"] == sum(frames)
    assert used["stored_bytes"] == sum(file["size"] for file in stored) > 0
    assert used["limits"] == {
        "max_runs": settings.max_runs_per_user,
        "max_computers": settings.max_computers_per_user,
        "max_storage_bytes": settings.max_storage_mb_per_user * 2**20,
        "requests_per_minute": None,
        **dict.fromkeys(MONTHLY),
    }
    for run in ended:
        assert (await alice.delete(f"/api/runs/{run['id']}")).status_code == 200
    after = (await alice.get("/api/me/usage")).json()["data"]
    assert after == used | {"stored_bytes": 0}


async def test_a_run_that_ends_while_nobody_drives_it_counts_what_it_had_done(user: str) -> None:
    async with db.as_user(user) as tx:
        fields = {"title": "Q", "definition": {}, "timeout_seconds": 60}
        parked = await tx.add(Run, **fields, status="waiting_user", active_ms=1234, step_count=3)
        queued = await tx.add(Run, **fields)
    for run in (parked, queued):
        async with db.as_user(user) as tx:
            await engine.wish(tx, run, Control.cancel)
        async with db.as_user(user) as tx:
            assert (await tx.one(Run, id=run.id)).status == RunStatus.cancelled
            with pytest.raises(engine.WrongState):
                await engine.wish(tx, run, Control.cancel)
    [day] = (await users.usage(user, 1)).days
    assert (day.runs, day.active_ms, day.steps) == (2, 1234, 3)


async def test_amounts_of_many_add_up_and_what_is_undone_does_not_count(user: str) -> None:
    async def one(number: int) -> None:
        async with db.as_user(user) as tx:
            await usage.add(tx, frames=number, input_tokens=10, output_tokens=1, cost_micros=250_000)

    await asyncio.gather(*map(one, range(20)))
    with pytest.raises(ZeroDivisionError):
        async with db.as_user(user) as tx:
            await usage.add(tx, frames=1000)
            raise ZeroDivisionError
    [day] = (await users.usage(user, 1)).days
    assert (day.frames, day.input_tokens, day.output_tokens, day.cost_usd) == (190, 200, 20, 5.0)


async def test_days_go_back_as_far_as_asked_newest_first(user: str, other_user: str) -> None:
    async with db.as_user(user) as tx:
        for back in (0, 1, 6, 7, 365, 366):
            amounts = (1, 100, 2, 0, 0, 0, 1)
            await tx.call("add_usage", user, today() - timedelta(days=back), *amounts)
    for days, seen in ((1, 1), (2, 2), (7, 3), (8, 4), (366, 5)):
        used = await users.usage(user, days)
        assert len(used.days) == seen
        assert [day.day for day in used.days] == sorted((day.day for day in used.days), reverse=True)
        assert used.total is not None
        assert (used.total.day, used.total.runs, used.total.cost_usd) == (used.days[-1].day, seen, seen / 1e6)
    assert (await users.usage(other_user, 366)).days == []


async def test_limits_are_the_users_own_where_there_are_any(user: str) -> None:
    async with db.as_user(user) as tx:
        own: dict[str, float] = {
            "max_runs": 0,
            "max_computers": 7,
            "max_storage_bytes": 10,
            "requests_per_minute": 5,
        }
        own |= {
            "max_month_steps": 1,
            "max_month_tokens": 2,
            "max_month_cost_usd": 0.5,
            "max_month_seconds": 3,
        }
        await tx.change(Quota, {}, **own)
    assert (await users.usage(user, 1)).limits.model_dump() == own


@pytest.mark.parametrize("days", ["0", "367", "x", "-1", "1.5"])
async def test_days_out_of_range_are_refused(alice: httpx.AsyncClient, days: str) -> None:
    assert (await alice.get("/api/me/usage", params={"days": days})).status_code == 422
