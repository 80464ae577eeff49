"""Agents: a model's loop in a real browser, durable from turn to turn."""

from uuid import UUID

import orjson

import db
from models import Message, Turn
from runs import engine
from schemas import RunCreate
from tests.pages import Site
from tests.workers import ended, steps_of


async def begin(user: str, *lines: str, **more: object) -> UUID:
    """Queue a task for the demo model."""
    async with db.as_user(user, "user") as tx:
        reply = await engine.enqueue(
            tx, RunCreate.model_validate({"task": "\n".join(lines), "model": "demo"} | more)
        )
    return UUID(orjson.loads(bytes(reply.body))["data"]["id"])


async def test_a_task_is_done_by_the_model_and_ends_with_its_result(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await begin(user, f"open {site.url('/second')}", "say 'Nearly there'", "finish 'All done'")
    run = await ended(user, run_id)
    assert run.status == "succeeded", run.error
    assert run.result == {"outputs": {"result": "All done"}}
    steps = await steps_of(user, run_id)
    assert [(step.number, step.pointer, step.type, step.status) for step in steps] == [
        (1, "/steps/0", "agent", "succeeded"),
        (2, "/steps/0/calls/0", "navigate", "succeeded"),
        (3, "/steps/0/calls/1", "screenshot", "succeeded"),
        (4, "/steps/0/calls/2", "finish", "succeeded"),
    ]
    async with db.as_user(user) as tx:
        turns = await tx.find(Turn, run_id=run_id)
        said = await tx.find(Message, run_id=run_id)
    assert [turn.number for turn in turns] == [1, 2, 3]
    assert "Second" in turns[0].results[0]["page"]
    assert turns[0].results[0]["picture_id"] == str(steps[1].screenshot_id)
    assert [message.text for message in said] == [f"I open {site.url('/second')}.", "Nearly there"]
