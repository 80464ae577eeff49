"""Threads: what is said in them and to their runs, and one run at a time."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from sqlalchemy.exc import NoResultFound

import db
from models import Control, Message, Profile, Quota, Run, Thread, uuid7
from runs import engine
from runs.queue import LONG_AGO
from schemas import MessageCreate, RunCreate
from tests import make
from tests.workers import FOREVER, ask, ended, kinds, read, start, step_begun, until

FLOW: dict[str, Any] = {"title": "Test", "steps": [FOREVER]}


async def thread_of(user: str) -> UUID:
    async with db.as_user(user) as tx:
        return (await tx.add(Thread, name="Talk")).id


async def claim(user: str) -> UUID | None:
    """The next run of the user that a worker gets, if any; what other tests have left goes by, four at a look."""
    for _ in range(20):
        async with db.as_system() as tx:
            rows = await tx.call("claim_run", uuid7(), timedelta(seconds=15), 9, True)
        if rows and rows[0]["user_id"] == user:
            return UUID(str(rows[0]["id"]))
    return None


# One run at a time --------------------------------------------------------------------------------


async def test_of_two_runs_at_once_that_will_not_wait_exactly_one_wins(user: str, idle: None) -> None:
    thread_id = await thread_of(user)
    tries = [start(user, [FOREVER], thread_id=str(thread_id), on_conflict="reject") for _ in range(6)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, UUID)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, engine.ThreadBusy)]
    assert len(refused) == 5
    assert all(str(winner) in str(refusal) for refusal in refused)
    async with db.as_user(user) as tx:
        assert [run.id for run in await tx.find(Run)] == [winner]
    await ask(user, winner, Control.cancel)
    again = await start(user, [FOREVER], thread_id=str(thread_id), on_conflict="reject")
    await ask(user, again, Control.cancel)


async def test_runs_of_a_thread_are_claimed_one_after_the_other(user: str, idle: None) -> None:
    thread_id = await thread_of(user)
    ids = [await start(user, [FOREVER], thread_id=str(thread_id)) for _ in range(3)]
    claimed = await asyncio.gather(*(claim(user) for _ in range(5)))
    assert sorted(map(str, claimed)) == sorted(map(str, [ids[0], None, None, None, None]))
    async with db.as_user(user) as tx:
        await tx.change(Run, {"id": ids[0]}, status="waiting_approval", lease_owner=None)
        await tx.change(Quota, {}, ready_at=LONG_AGO)
    assert await claim(user) is None
    async with db.as_user(user) as tx:
        await tx.change(Run, {"id": ids[0]}, status="queued")
    assert await claim(user) == ids[0]
    async with db.as_user(user) as tx:
        await tx.change(Run, {"id": ids[0]}, status="succeeded", lease_owner=None)
    assert await claim(user) == ids[1]
    async with db.as_user(user) as tx:
        await tx.remove(Run)


async def test_an_interrupt_ends_the_run_that_goes_on_and_comes_next(user: str, worker: UUID) -> None:
    thread_id = str(await thread_of(user))
    first = await start(user, [FOREVER], thread_id=thread_id)
    await step_begun(user, first, 1)
    second = await start(
        user, [FOREVER | {"expression": "true"}], thread_id=thread_id, on_conflict="interrupt"
    )
    run = await ended(user, second)
    assert (run.status, (await read(user, first)).status) == ("succeeded", "cancelled")
    assert (await read(user, first)).finished_at < run.started_at  # type: ignore[operator]


async def test_an_interrupt_lets_those_that_wait_in_the_queue_wait(user: str, idle: None) -> None:
    thread_id = str(await thread_of(user))
    first = await start(user, [FOREVER], thread_id=thread_id)
    assert await claim(user) == first
    second = await start(user, [FOREVER], thread_id=thread_id, on_conflict="enqueue")
    third = await start(user, [FOREVER], thread_id=thread_id, on_conflict="interrupt")
    states = [(await read(user, run_id)) for run_id in (first, second, third)]
    assert [(run.status, run.control) for run in states] == [
        ("running", "cancel"), ("queued", "run"), ("queued", "run"),
    ]  # fmt: skip
    async with db.as_user(user) as tx:
        await tx.change(Run, {"id": first}, lease_owner=None, status="paused", control="run")
    fourth = await start(user, [FOREVER], thread_id=thread_id, on_conflict="interrupt")
    assert (await read(user, first)).status == "cancelled"
    assert (await kinds(user, first))[-1] == "run.cancelled"
    assert await claim(user) == second
    async with db.as_user(user) as tx:
        assert {run.id for run in await tx.find(Run)} == {first, second, third, fourth}
        await tx.remove(Run)


async def test_another_users_thread_and_profile_are_not_found(
    user: str, other_user: str, database: str
) -> None:
    thread_id = await thread_of(other_user)
    async with db.as_user(other_user) as tx:
        profile = await tx.add(Profile, name="Theirs")
    for name, value in (("thread_id", thread_id), ("profile_id", profile.id), ("thread_id", uuid4())):
        with pytest.raises(NoResultFound):
            await start(user, [FOREVER], **{name: str(value)})
    async with db.as_user(user) as tx:
        mine = await tx.add(Profile, name="Mine")
        body = RunCreate.model_validate({"definition": FLOW, "run_after": "2100-01-01T00:00:00Z"})
        body.profile_id, body.save_profile = mine.id, True
        run = orjson.loads(bytes((await engine.enqueue(tx, body)).body))["data"]
    assert (run["profile_id"], run["save_profile"]) == (str(mine.id), True)


# What is said -------------------------------------------------------------------------------------


async def test_guidance_is_kept_with_its_run_and_its_thread(user: str, idle: None) -> None:
    thread_id = await thread_of(user)
    run_id = await start(user, [FOREVER], thread_id=str(thread_id))
    async with db.as_user(user, "user") as tx:
        run = await tx.one(Run, lock=True, id=run_id)
        reply = await engine.guide(tx, run, MessageCreate(text="Take the second one", data={"row": 2}))
    said = orjson.loads(bytes(reply.body))["data"]
    assert reply.status_code == 201
    assert (said["run_id"], said["thread_id"], said["role"]) == (str(run_id), str(thread_id), "user")
    assert (said["text"], said["data"], said["taken_at"]) == ("Take the second one", {"row": 2}, None)
    assert (await kinds(user, run_id))[-1] == "message.created"
    await ask(user, run_id, Control.cancel)
    async with db.as_user(user) as tx:
        with pytest.raises(engine.WrongState):
            await engine.guide(tx, await tx.one(Run, lock=True, id=run_id), MessageCreate(text="Too late"))
        assert [message.text for message in await tx.find(Message)] == ["Take the second one"]


async def test_guidance_and_the_end_of_its_thread_do_not_hinder_each_other(user: str, idle: None) -> None:
    for _ in range(5):
        thread_id = await thread_of(user)
        runs = [await start(user, [FOREVER], thread_id=str(thread_id)) for _ in range(3)]

        async def guide(run_id: UUID) -> None:
            async with db.as_user(user) as tx:
                run = await tx.one(Run, lock=True, id=run_id)
                await asyncio.sleep(0.01)
                await engine.guide(tx, run, MessageCreate(text="Go on"))

        async def drop(thread_id: UUID = thread_id) -> None:
            async with db.as_user(user) as tx:
                await engine.delete_thread(tx, await tx.one(Thread, lock=True, id=thread_id))

        async def interrupt(thread_id: UUID = thread_id) -> None:
            await start(user, [FOREVER], thread_id=str(thread_id), on_conflict="interrupt")

        outcomes = await asyncio.gather(
            *map(guide, runs), drop(), interrupt(), *map(guide, runs), return_exceptions=True
        )
        assert all(outcome is None or isinstance(outcome, NoResultFound) for outcome in outcomes), outcomes
        async with db.as_user(user) as tx:
            assert {run.thread_id for run in await tx.find(Run)} == {None}
            await tx.remove(Run)


async def test_threads_over_http(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    thread = await make.thread(alice, name="Trip", labels={"for": "work"})
    path = f"/api/threads/{thread['id']}"
    run = await make.run(alice, thread_id=thread["id"])
    other = await make.run(alice)
    busy = await alice.post(
        "/api/runs", json={"definition": FLOW, "thread_id": thread["id"], "on_conflict": "reject"}
    )
    assert (busy.status_code, busy.json()["code"]) == (409, "thread_busy")
    assert run["id"] in busy.json()["detail"]
    wrong = {"definition": FLOW, "thread_id": thread["id"], "on_conflict": "hope"}
    assert (await alice.post("/api/runs", json=wrong)).status_code == 422
    assert (
        await bob.post("/api/runs", json={"definition": FLOW, "thread_id": thread["id"]})
    ).status_code == 404
    first = await alice.post(f"{path}/messages", json={"text": "Hello"})
    guided = await alice.post(f"/api/runs/{run['id']}/messages", json={"text": "Left"})
    assert first.status_code == guided.status_code == 201
    assert guided.headers["location"] == f"/api/runs/{run['id']}/messages"
    assert [(await alice.get(reply.headers["location"])).status_code for reply in (first, guided)] == [
        200,
        200,
    ]
    for bad in ({}, {"text": ""}, {"text": "x" * 100_001}, {"text": "x", "role": "system"}, {"text": "\0"}):
        assert (await alice.post(f"/api/runs/{run['id']}/messages", json=bad)).status_code == 422
    assert (await bob.post(f"/api/runs/{run['id']}/messages", json={"text": "Right"})).status_code == 404

    async def texts(place: str) -> list[str]:
        return [message["text"] for message in (await alice.get(f"{place}/messages")).json()["data"]]

    assert await texts(path) == ["Hello", "Left"]
    assert await texts(f"/api/runs/{run['id']}") == ["Left"]
    runs = (await alice.get("/api/runs", params={"thread_id": thread["id"]})).json()["data"]
    assert [(found["id"], found["thread_id"]) for found in runs] == [(run["id"], thread["id"])]
    assert (await alice.get("/api/runs", params={"schedule_id": str(uuid4())})).json()["data"] == []
    shown = (await alice.get(f"/api/runs/{run['id']}")).json()["data"]
    new = ("profile_id", "schedule_id", "scheduled_for", "retry_of", "first_step", "save_profile")
    assert [shown[name] for name in new] == [None, None, None, None, 1, False]
    for made in (run, other):
        await alice.post(f"/api/runs/{made['id']}/cancel")
        await alice.get(f"/api/runs/{made['id']}", params={"wait": 20})
    late = await alice.post(f"/api/runs/{run['id']}/messages", json={"text": "Late"})
    assert (late.status_code, late.json()["code"]) == (409, "wrong_state")
    assert (await alice.delete(path)).status_code == 200
    assert (await alice.get(f"{path}/messages")).status_code == 404
    shown = (await alice.get(f"/api/runs/{run['id']}")).json()["data"]
    assert (shown["thread_id"], shown["status"]) == (None, "cancelled")
    assert await texts(f"/api/runs/{run['id']}") == []


async def test_a_run_that_ends_lets_the_next_of_its_thread_begin(user: str, worker: UUID) -> None:
    thread_id = str(await thread_of(user))
    first = await start(user, [FOREVER], thread_id=thread_id)
    second = await start(user, [FOREVER], thread_id=thread_id)
    await step_begun(user, first, 1)
    assert (await read(user, second)).status == "queued"
    await ask(user, first, Control.cancel)
    await until(user, second, status="running")
    await ask(user, second, Control.cancel)
    await ended(user, second)
