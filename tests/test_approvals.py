"""A run asks a person about one action and waits: answered, late, twice, elsewhere, over the death of its worker."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from pydantic import TypeAdapter
from sqlalchemy.exc import NoResultFound

import db
from browser.actions import Action
from models import Approval, Control, File, Run, uuid7
from runs import approvals, computers, engine
from schemas import ApprovalDecision
from settings import settings
from tests import make
from tests.pages import Site
from tests.workers import (
    FOREVER,
    TITLE,
    Steps,
    ask,
    ended,
    expire,
    kinds,
    look,
    new_user,
    other_worker,
    read,
    start,
    step_begun,
    steps_of,
    until,
)

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

ACTION: TypeAdapter[Action] = TypeAdapter(Action)
PAY: dict[str, Any] = {"type": "approve", "title": "Pay 42 €?"}


def buying(site: Site, **more: Any) -> Steps:
    return [{"type": "navigate", "url": site.url("/second")}, PAY | more, TITLE]


async def question(user: str, run_id: UUID) -> Approval:
    """What the run asks, once it waits for the answer."""
    await until(user, run_id, status="waiting_approval")
    return (await questions(user, run_id))[-1]


async def questions(user: str, run_id: UUID) -> list[Approval]:
    async with db.as_user(user) as tx:
        return await tx.find(Approval, run_id=run_id)


async def answer(user: str, approval_id: UUID, decision: str = "approve", **more: Any) -> None:
    async with db.as_user(user, "user") as tx:
        await approvals.decide(
            tx, approval_id, ApprovalDecision.model_validate({"decision": decision} | more)
        )


async def halted(user: str, run_id: UUID) -> None:
    """Return once the drive has halted the browser, not only said so."""
    assert engine._engine is not None
    async for _ in look(40):
        if run_id in engine._engine.drives and engine._engine.drives[run_id].halted:
            break


async def deaf() -> None:
    """A heartbeat that brings nothing."""
    assert engine._engine is not None
    engine._engine.beaten_at = asyncio.get_running_loop().time()


@pytest.fixture
def parking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits gives its browser back after a second."""
    monkeypatch.setitem(settings.__dict__, "park_seconds", 1)


# Answers ------------------------------------------------------------------------------------------


async def test_a_yes_lets_the_run_go_on_and_serves_once(user: str, site: Site, worker: UUID) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    waiting = await read(user, run_id)
    assert (waiting.reason, waiting.control, waiting.finished_at) == ("Pay 42 €?", "run", None)
    assert (asked.status, asked.title, asked.url) == ("pending", "Pay 42 €?", site.url("/second"))
    assert asked.action == {"type": "approve", "title": "Pay 42 €?"}
    bound = {"action": asked.action, "run_id": str(run_id), "step": 2, "url": asked.url}
    canonical = json.dumps(bound, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert asked.digest == hashlib.sha256(canonical.encode()).hexdigest()
    left = (asked.expires_at - datetime.now(UTC)).total_seconds()
    assert 86_400 - 30 < left <= 86_400
    async with db.as_user(user) as tx:
        picture = await tx.one(File, id=asked.screenshot_id)
    assert (picture.kind, picture.run_id) == ("screenshot", run_id)
    await halted(user, run_id)
    await answer(user, asked.id, digest=asked.digest, note="Fine")
    run = await ended(user, run_id)
    assert (run.status, run.step_count, run.attempt) == ("succeeded", 3, 1), run.error
    (kept,) = await questions(user, run_id)
    assert (kept.status, kept.decided_by, kept.note, kept.arguments) == ("approved", "user", "Fine", None)
    assert kept.decided_at is not None and kept.used_at is not None
    step = (await steps_of(user, run_id))[1]
    assert (step.id, step.attempt, step.status) == (asked.step_id, 1, "succeeded")
    assert step.output == {"approval_id": str(asked.id), "decided_by": "user", "note": "Fine"}
    told = [kind for kind in await kinds(user, run_id) if kind.split(".")[0] in ("approval", "run")]
    assert told == [
        "run.queued", "run.started", "run.step.started", "run.step.finished", "run.step.started",
        "approval.requested", "run.waiting", "approval.decided", "run.resumed", "run.step.finished",
        "run.step.started", "run.step.finished", "run.succeeded",
    ]  # fmt: skip
    async with db.as_user(user) as tx:
        assert not await approvals.use(tx, kept, kept.action, 2)


async def test_a_yes_is_used_for_nothing_else_than_what_was_asked(user: str, database: str) -> None:
    async with db.as_user(user) as tx:
        run = await tx.add(Run, title="Q", definition={}, timeout_seconds=60)
        action = {"tool": "click", "arguments": {"x": 1}}
        approval = await tx.add(
            Approval,
            run_id=run.id,
            title="Click?",
            action=action,
            digest=approvals.digest(action, None, run.id, 1),
            expires_at=datetime.now(UTC) + timedelta(minutes=1),
        )
        assert not await approvals.use(tx, approval, action, 1)
    await answer(user, approval.id, arguments={"x": 2})
    async with db.as_user(user) as tx:
        assert (await tx.one(Approval, id=approval.id)).arguments == {"x": 2}
        assert not await approvals.use(tx, approval, action | {"tool": "key"}, 1)
        assert not await approvals.use(tx, approval, action, 2)
        assert await approvals.use(tx, approval, action, 1)
        assert not await approvals.use(tx, approval, action, 1)
        await tx.remove(Run, id=run.id)
        assert await tx.find(Approval, run_id=run.id) == []


async def test_a_no_fails_the_run_and_says_which_answer_it_was(user: str, site: Site, worker: UUID) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    await answer(user, asked.id, "deny", note="Too much")
    run = await ended(user, run_id)
    assert run.error == {
        "code": "approval_denied",
        "detail": "Denied: Too much",
        "step": 2,
        "pointer": "/steps/1",
        "approval_id": str(asked.id),
        "screenshot_id": str(asked.screenshot_id),
    }
    assert [step.status for step in await steps_of(user, run_id)] == ["succeeded", "failed"]
    assert (await questions(user, run_id))[0].used_at is None
    assert "run.resumed" not in await kinds(user, run_id)


async def test_no_answer_in_time_is_a_no(user: str, site: Site, worker: UUID) -> None:
    run_id = await start(user, buying(site, timeout=1000))
    asked = await question(user, run_id)
    run = await ended(user, run_id)
    assert datetime.now(UTC) - asked.expires_at < timedelta(seconds=4)
    assert run.error is not None
    assert (run.error["code"], run.error["approval_id"]) == ("approval_expired", str(asked.id))
    (kept,) = await questions(user, run_id)
    assert (kept.status, kept.decided_by, kept.decided_at) == ("expired", None, None)
    assert (await kinds(user, run_id)).count("approval.expired") == 1
    with pytest.raises(approvals.Expired):
        await answer(user, asked.id)


async def test_an_answer_that_comes_before_the_sweep_is_late_all_the_same(user: str, database: str) -> None:
    async with db.as_user(user) as tx:
        run = await tx.add(Run, title="Q", definition={}, timeout_seconds=60, status="paused")
        late = await tx.add(
            Approval, run_id=run.id, title="?", action={}, digest="", expires_at=datetime.now(UTC)
        )
    with pytest.raises(approvals.Expired):
        await answer(user, late.id)
    await asyncio.gather(approvals.expire_due(), approvals.expire_due())
    assert (await questions(user, run.id))[0].status == "expired"
    assert await kinds(user, run.id) == ["approval.expired"]
    assert (await read(user, run.id)).status == "paused"


async def test_of_many_answers_at_once_exactly_one_counts(user: str, site: Site, worker: UUID) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    tries = [answer(user, asked.id, ("approve", "deny")[number % 2]) for number in range(8)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(outcome is None or isinstance(outcome, approvals.AlreadyDecided) for outcome in outcomes)
    run = await ended(user, run_id)
    (kept,) = await questions(user, run_id)
    assert (run.status, kept.status) in (("succeeded", "approved"), ("failed", "denied"))
    assert (await kinds(user, run_id)).count("approval.decided") == 1


async def test_an_answer_to_something_else_changes_nothing(
    user: str, other_user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    with pytest.raises(approvals.WrongDigest):
        await answer(user, asked.id, digest="0" * 64)
    with pytest.raises(approvals.NotEditable):
        await answer(user, asked.id, arguments={"title": "Pay 1 €?"})
    for stranger, approval_id in ((other_user, asked.id), (user, uuid4())):
        with pytest.raises(NoResultFound):
            await answer(stranger, approval_id)
    assert (await questions(user, run_id))[0].status == "pending"
    await ask(user, run_id, Control.cancel)
    assert (await ended(user, run_id)).status == "cancelled"
    assert (await questions(user, run_id))[0].status == "cancelled"
    with pytest.raises(approvals.AlreadyDecided, match="cancelled"):
        await answer(user, asked.id)
    told = await kinds(user, run_id)
    assert told.index("approval.cancelled") < told.index("run.cancelled")


async def test_placeholders_tell_what_is_asked_and_a_missing_one_asks_nothing(
    user: str, site: Site, worker: UUID
) -> None:
    flow = buying(site, title="Open {{ outputs.page.title }} for {{ params.sum }} €?")
    flow[1], flow[2] = flow[2], flow[1]
    run_id = await start(
        user, flow, parameters={"properties": {"sum": {"type": "number"}}}, params={"sum": 42}
    )
    assert (await question(user, run_id)).title == "Open Second for 42 €?"
    await ask(user, run_id, Control.cancel)
    flow[2] = PAY | {"title": "Open {{ outputs.page.nothing }}?"}
    run = await ended(user, await start(user, flow))
    assert run.error is not None
    assert run.error["code"] == "placeholder_missing"
    assert await questions(user, run.id) == []


# While it waits -----------------------------------------------------------------------------------


async def test_the_time_limit_does_not_count_waiting_for_an_answer(
    user: str, site: Site, worker: UUID
) -> None:
    limit = 3
    run_id = await start(user, buying(site), timeout_seconds=limit)
    asked = await question(user, run_id)
    await halted(user, run_id)
    waited = await read(user, run_id)
    await asyncio.sleep(limit - waited.active_ms / 1000 + 0.5)
    await answer(user, asked.id)
    run = await ended(user, run_id)
    assert run.status == "succeeded", run.error
    assert run.active_ms < 1000 * limit


async def test_an_answer_to_a_paused_run_waits_until_it_is_resumed(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    with pytest.raises(engine.WrongState, match="approval"):
        await ask(user, run_id, Control.run)
    await ask(user, run_id, Control.pause)
    await until(user, run_id, status="paused", reason="requested")
    await ask(user, run_id, Control.run)
    await until(user, run_id, status="waiting_approval", reason="Pay 42 €?")
    await ask(user, run_id, Control.pause)
    await until(user, run_id, status="paused", reason="requested")
    await answer(user, asked.id)
    await asyncio.sleep(1.5)
    assert (await read(user, run_id)).status == "paused"
    await ask(user, run_id, Control.run)
    assert (await ended(user, run_id)).status == "succeeded"
    told = [
        kind for kind in await kinds(user, run_id) if kind in ("run.paused", "run.waiting", "run.resumed")
    ]
    assert told == ["run.waiting", "run.paused", "run.waiting", "run.paused", "run.resumed"]


async def test_a_person_may_steer_while_the_run_waits_for_an_answer(
    user: str, site: Site, worker: UUID
) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    await halted(user, run_id)
    computer_id = (await read(user, run_id)).computer_id
    assert computer_id is not None
    assert (await computers.take_control(user, computer_id, "ada")).state == "granted"
    await until(user, run_id, status="paused", reason="control")
    go = ACTION.validate_python({"action": "navigate", "url": site.url("/static")})
    await computers.act(user, computer_id, go)
    await computers.release_control(user, computer_id)
    await until(user, run_id, status="waiting_approval")
    await computers.take_control(user, computer_id, "ada")
    await until(user, run_id, status="paused", reason="control")
    await answer(user, asked.id)
    await asyncio.sleep(1.2)
    assert (await read(user, run_id)).reason == "control"
    await computers.release_control(user, computer_id)
    await until(user, run_id, status="waiting_user", reason="page_changed")
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert run.result == {"outputs": {"page": {"title": "Static"}}}
    assert len(await questions(user, run_id)) == 1


async def test_a_parked_question_keeps_and_its_answer_brings_the_run_back(
    user: str, site: Site, worker: UUID, parking: None
) -> None:
    flow = buying(site)
    flow[0] = {"type": "navigate", "url": site.url("/store")}
    run_id = await start(user, flow)
    asked = await question(user, run_id)
    parked = await until(user, run_id, lease_owner=None)
    assert (parked.status, parked.reason) == ("waiting_approval", "Pay 42 €?")
    with pytest.raises(engine.WrongState, match="approval"):
        await ask(user, run_id, Control.run)
    await answer(user, asked.id)
    run = await ended(user, run_id)
    assert (run.status, run.step_count, run.attempt) == ("succeeded", 3, 1), run.error
    assert run.result == {"outputs": {"page": {"title": "Store"}}}
    assert run.computer_id != parked.computer_id
    assert [kept.id for kept in await questions(user, run_id)] == [asked.id]
    told = [
        kind
        for kind in await kinds(user, run_id)
        if kind.startswith(("approval", "run.")) and "step" not in kind
    ]
    assert told == [
        "run.queued", "run.started", "approval.requested", "run.waiting", "approval.decided", "run.queued",
        "run.resumed", "run.log", "run.succeeded",
    ]  # fmt: skip


async def test_a_parked_run_is_paused_resumed_and_cancelled_without_a_browser(
    user: str, site: Site, worker: UUID, parking: None
) -> None:
    run_id = await start(user, buying(site))
    asked = await question(user, run_id)
    await until(user, run_id, lease_owner=None)
    await ask(user, run_id, Control.pause)
    assert (await read(user, run_id)).status == "paused"
    await ask(user, run_id, Control.run)
    back = await read(user, run_id)
    assert (back.status, back.reason, back.lease_owner) == ("waiting_approval", "Pay 42 €?", None)
    await ask(user, run_id, Control.pause)
    await answer(user, asked.id, "deny")
    assert (await read(user, run_id)).status == "paused"
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert run.error is not None
    assert (run.error["code"], run.error["step"], run.computer_id) == ("approval_denied", 2, back.computer_id)
    assert [step.status for step in await steps_of(user, run_id)] == ["succeeded", "failed"]
    other_id = await start(user, buying(site))
    await question(user, other_id)
    await until(user, other_id, lease_owner=None)
    await ask(user, other_id, Control.cancel)
    assert (await read(user, other_id)).status == "cancelled"
    assert (await questions(user, other_id))[0].status == "cancelled"


async def test_a_parked_question_expires_and_fails_its_run(
    user: str, site: Site, worker: UUID, parking: None
) -> None:
    run_id = await start(user, buying(site, timeout=4000))
    await question(user, run_id)
    parked = await until(user, run_id, lease_owner=None)
    assert parked.status == "waiting_approval"
    run = await ended(user, run_id)
    assert run.error is not None
    assert run.error["code"] == "approval_expired"
    assert run.computer_id == parked.computer_id


@pytest.mark.parametrize("told", ["answer", "resume", "cancel"])
async def test_what_is_told_while_a_run_is_being_parked_is_not_lost(
    user: str, worker: UUID, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setitem(settings.__dict__, "park_seconds", 3)
    assert engine._engine is not None
    run_id = await start(user, [PAY | {"type": "pause"}, TITLE] if told == "resume" else [PAY, TITLE])
    async for _ in look(20):
        if (await read(user, run_id)).reason == PAY["title"]:
            break
    await halted(user, run_id)
    with monkeypatch.context() as patch:
        patch.setattr(engine._engine, "beat_once", deaf)
        await asyncio.sleep(0.3)  # a beat under way still brings its news
        if told == "answer":
            await answer(user, (await questions(user, run_id))[0].id)
        else:
            await ask(user, run_id, Control.run if told == "resume" else Control.cancel)
        assert (await read(user, run_id)).lease_owner is not None
        async for _ in look(20):
            if (await kinds(user, run_id)).count("run.queued") == 2:
                break
    run = await ended(user, run_id)
    assert run.status == ("cancelled" if told == "cancel" else "succeeded"), run.error


# The death of its worker ----------------------------------------------------------------------------


async def test_a_worker_that_dies_before_it_has_asked_leaves_the_asking_to_the_next(
    user: str, site: Site, idle: None, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await asyncpg.connect(database)
    try:
        await held.execute("begin; lock table approvals in share mode")
        run_id = await start(user, buying(site))
        async with other_worker(LEASE_SECONDS="60") as process:
            await step_begun(user, run_id, 2)
            async for _ in look(10):
                waits = "select count(*) from pg_locks where not granted and relation = 'approvals'::regclass"
                if await held.fetchval(waits):
                    break
            process.kill()
            await process.wait()
    finally:
        await held.close()
    assert await questions(user, run_id) == []
    await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    asked = await question(user, run_id)
    await answer(user, asked.id)
    run = await ended(user, run_id)
    assert (run.status, run.attempt, run.step_count) == ("succeeded", 2, 3), run.error
    assert [kept.id for kept in await questions(user, run_id)] == [asked.id]
    assert [step.attempt for step in await steps_of(user, run_id)] == [1, 2, 1]


async def test_a_question_outlives_the_worker_that_asked_it(
    site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered while its worker is dead, or only when the next one waits."""
    users = {decision: await new_user() for decision in ("approve", "deny", None)}
    runs = {decision: await start(user, buying(site)) for decision, user in users.items()}
    async with other_worker(LEASE_SECONDS="60") as process:
        asked = {decision: await question(user, runs[decision]) for decision, user in users.items()}
        process.kill()
        await process.wait()
    for said in ("approve", "deny"):
        await answer(users[said], asked[said].id, said)
    await expire(*users.values())
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    user, run_id = users[None], runs[None]
    await until(user, run_id, attempt=2, status="waiting_approval")
    await halted(user, run_id)
    assert "run.resumed" not in await kinds(user, run_id)
    assert (await kinds(user, run_id)).count("run.waiting") == 1
    await answer(user, asked[None].id)
    for decision, user in users.items():
        run = await ended(user, runs[decision])
        assert run.attempt == 2
        assert [kept.id for kept in await questions(user, run.id)] == [asked[decision].id]
        if decision == "deny":
            assert run.error is not None
            assert (run.error["code"], run.error["approval_id"]) == ("approval_denied", str(asked["deny"].id))
            assert [step.status for step in await steps_of(user, run.id)] == ["succeeded", "failed"]
        else:
            assert (run.status, run.step_count) == ("succeeded", 3), run.error
            assert run.result == {"outputs": {"page": {"title": "Second"}}}


async def test_an_answer_that_its_worker_did_not_live_to_act_on_serves_the_next(
    user: str, site: Site, idle: None, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The yes is spent in the transaction that goes on with it, which never came to its end here."""
    run_id = await start(user, buying(site))
    held = await asyncpg.connect(database)
    async with other_worker(LEASE_SECONDS="60") as process:
        try:
            asked = await question(user, run_id)
            await held.execute("begin; select set_config('app.system', 'on', true)")
            assert await held.fetch("select 1 from steps where id = $1 for update", asked.step_id)
            await answer(user, asked.id)
            await until(user, run_id, status="running")
            async for _ in look(10):
                if await held.fetchval("select count(*) from pg_locks where not granted"):
                    break
            process.kill()
            await process.wait()
        finally:
            await held.close()
    (kept,) = await questions(user, run_id)
    assert (kept.status, kept.used_at) == ("approved", None)
    await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    run = await ended(user, run_id)
    assert (run.status, run.step_count, run.attempt) == ("succeeded", 3, 2), run.error
    (kept,) = await questions(user, run_id)
    assert kept.used_at is not None
    assert (await kinds(user, run_id)).count("approval.requested") == 1


# Pauses -------------------------------------------------------------------------------------------

WAIT: dict[str, Any] = {"type": "pause", "title": "Sign in, please"}


async def test_a_pause_waits_for_its_user_and_says_why(user: str, site: Site, worker: UUID) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/second")}, WAIT, TITLE, WAIT])
    waiting = await until(user, run_id, status="waiting_user")
    assert (waiting.reason, waiting.control, waiting.step_count) == ("Sign in, please", "pause", 2)
    await halted(user, run_id)
    await ask(user, run_id, Control.run)
    await until(user, run_id, status="waiting_user", step_count=4)
    await ask(user, run_id, Control.run)
    assert (await ended(user, run_id)).status == "succeeded"
    told = [kind for kind in await kinds(user, run_id) if kind in ("run.waiting", "run.resumed")]
    assert told == ["run.waiting", "run.resumed"] * 2


@pytest.mark.parametrize("how", ["killed", "parked"])
async def test_a_pause_is_not_repeated_for_the_next_worker(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run_id = await start(user, [{"type": "navigate", "url": site.url("/second")}, WAIT, TITLE])
    if how == "killed":
        async with other_worker(LEASE_SECONDS="60") as process:
            await until(user, run_id, status="waiting_user")
            process.kill()
            await process.wait()
        await expire(user)
        monkeypatch.setitem(settings.__dict__, "max_runs", 4)
        await until(user, run_id, attempt=2)
        await halted(user, run_id)
        assert (await read(user, run_id)).status == "waiting_user"
    else:
        monkeypatch.setitem(settings.__dict__, "park_seconds", 1)
        monkeypatch.setitem(settings.__dict__, "max_runs", 4)
        await until(user, run_id, status="waiting_user", lease_owner=None)
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id)
    assert (run.status, run.step_count) == ("succeeded", 3), run.error
    assert [step.attempt for step in await steps_of(user, run_id)] == [1, 1, 1]
    assert (await kinds(user, run_id)).count("run.waiting") == 1


async def test_a_wish_to_cancel_is_not_overwritten_by_a_pause(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(user, [FOREVER | {"expression": "window.go"}, WAIT])
    await step_begun(user, run_id, 1)
    computer_id = (await read(user, run_id)).computer_id
    held = await computers.find_held(user, computer_id or uuid4())
    assert held is not None
    assert engine._engine is not None
    with monkeypatch.context() as patch:
        patch.setattr(engine._engine, "beat_once", deaf)
        await ask(user, run_id, Control.cancel)
        await held.computer.page.evaluate("window.go = true")
        waiting = await until(user, run_id, status="waiting_user")
        assert waiting.control == "cancel"
    assert (await ended(user, run_id)).status == "cancelled"


# Over HTTP ----------------------------------------------------------------------------------------


async def test_every_wrong_answer_has_its_own_problem(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    asked = await make.approval(alice)
    path = f"/api/approvals/{asked['id']}"
    run = (await alice.get(f"/api/runs/{asked['run_id']}")).json()["data"]
    assert (run["status"], run["reason"]) == ("waiting_approval", asked["title"])

    async def decide(client: httpx.AsyncClient = alice, **body: Any) -> tuple[int, str]:
        reply = await client.post(f"{path}/decision", json=body)
        return reply.status_code, reply.json().get("code", "")

    assert await decide(bob, decision="approve") == (404, "not_found")
    assert await decide(decision="perhaps") == (422, "invalid")
    assert await decide(decision="approve", digest=asked["digest"], sure=True) == (422, "invalid")
    assert await decide(decision="deny", arguments={}) == (422, "invalid")
    assert await decide(decision="approve", arguments={}) == (422, "not_editable")
    assert await decide(decision="approve", digest="0" * 64) == (409, "wrong_digest")
    assert (await alice.get(path)).json()["data"] == asked
    for query, found in (
        ({"status": "pending"}, 1),
        ({"status": "denied"}, 0),
        ({"run_id": str(uuid7())}, 0),
    ):
        assert len((await alice.get("/api/approvals", params=query)).json()["data"]) == found
    assert await decide(decision="approve", digest=asked["digest"], note="Yes") == (200, "")
    assert await decide(decision="deny") == (409, "already_decided")
    run = (await alice.get(f"/api/runs/{asked['run_id']}", params={"wait": 20})).json()["data"]
    assert run["status"] == "succeeded", run["error"]
    kept = (await alice.get(path)).json()["data"]
    assert (kept["status"], kept["decided_by"], kept["note"]) == ("approved", "user", "Yes")
    assert kept["used_at"] is not None
    events = (await alice.get(f"/api/runs/{run['id']}/events", params={"limit": 200})).json()["data"]
    decided = next(event for event in events if event["kind"] == "approval.decided")
    assert decided["data"] == kept | {"used_at": None, "updated_at": decided["data"]["updated_at"]}
    assert (decided["resource"], decided["actor"]) == ({"type": "approval", "id": kept["id"]}, "user")
    late = await make.approval(alice, timeout=1000)
    await alice.get(f"/api/runs/{late['run_id']}", params={"wait": 20})
    reply = await alice.post(f"/api/approvals/{late['id']}/decision", json={"decision": "approve"})
    assert (reply.status_code, reply.json()["code"]) == (409, "expired")
    async for _ in look(10):  # 503 while the worker that ended it still writes
        if (await alice.delete(f"/api/runs/{late['run_id']}")).status_code == 200:
            break
    assert (await alice.get(f"/api/approvals/{late['id']}")).status_code == 404
