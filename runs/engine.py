"""Runs: queued, claimed under a lease, kept by a heartbeat that brings wishes, and handed over."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from starlette.responses import Response

import db
from browser.chromium import ComputerClosed
from infra.bus import Bus
from infra.vault import Vault
from models import (
    Computer,
    ComputerState,
    Control,
    Message,
    Profile,
    Role,
    Run,
    RunStatus,
    Step,
    StepStatus,
    Thread,
    Workflow,
    uuid7,
)
from runs import approvals, checkpoints, computers, providers, recording, secrets, usage, workflows
from runs.computers import check_domains, forever, wait_for, woken
from runs.drive import Drive
from runs.parameters import Invalid, Problem, pointer_to, schema_problems
from runs.queue import look_at_queue
from runs.tools import TOOLS
from runs.trail import landed_earlier
from runs.workflows import Flow
from schemas import (
    ApprovalPolicy,
    Budget,
    MessageCreate,
    MessageRead,
    RunCreate,
    RunRead,
    RunRetry,
    RunUpdate,
)
from settings import settings

log = structlog.get_logger()

POLL_SECONDS = 1.0
CANCELLED_AT_ONCE = 100
LEAVE_SECONDS = 8.0
ASK_USER = "ask_user"
OF_AGENTS = {"task", "result_schema", "context", "tools", "model", "fallbacks", "approval"}
NOT_COLUMNS = {"definition", "parameters", "params", "timeout_seconds", "on_conflict", *OF_AGENTS}
REPEATED = (
    "workflow_id",
    "profile_id",
    "thread_id",
    "save_profile",
    "title",
    "definition",
    "params",
    "agent",
    "budget",
    "allowed_domains",
    "priority",
    "timeout_seconds",
)


class WrongState(Exception):
    """The state of a run, webhook or delivery does not allow this."""


class ThreadBusy(Exception):
    """Another run of the thread has not ended, and this one was not to wait for it."""


class InvalidModel(Invalid):
    """A model that the run names cannot be asked; pointers lead into the request."""


class NoSuchStep(Invalid):
    """The run has fewer steps than that."""


# What routes use ----------------------------------------------------------------------------------


async def enqueue(tx: db.Tx, body: RunCreate, **more: Any) -> Response:
    """Queue a run and answer 202; `more` are columns that no request names.

    Raises NoResultFound, InvalidWorkflow, InvalidParams, ComputerClosed, WrongState, ThreadBusy.
    """
    definition, parameters = body.definition, body.parameters
    if body.task is not None:
        definition = workflows.of_task(body.task, body.result_schema)
    if body.workflow_id is not None:
        workflow = await tx.one(Workflow, id=body.workflow_id)
        definition, parameters = workflow.definition, workflow.parameters
    flow = await workflows.parse_aside(definition or {}, parameters)
    await require_secrets(tx, flow)
    check_domains(body.allowed_domains, "/allowed_domains")
    if body.profile_id is not None:
        await tx.one(Profile, id=body.profile_id)
    if body.computer_id is not None:
        await _require_open(tx, body.computer_id)
        if body.allowed_domains:
            raise WrongState("On an open computer its own allowed_domains hold; leave the run's out")
        if body.profile_id is not None and not body.save_profile:
            raise WrongState("An open computer has its own cookies; name a profile only to save them in it")
    if body.thread_id is not None:
        await _take_turn(tx, body.thread_id, body.on_conflict)
    budget = body.model_dump(include={*Budget.model_fields}, exclude_none=True)
    models = await _models(tx, body)
    given = body.model_dump(exclude=NOT_COLUMNS | {*Budget.model_fields}, exclude_none=True)
    params = await asyncio.to_thread(workflows.resolve_params, parameters, body.params)
    limit = body.timeout_seconds or settings.run_timeout_seconds
    made: dict[str, Any] = {"title": flow.title, "definition": definition, "params": params}
    made |= {"id": uuid7(), "timeout_seconds": limit, "budget": budget}
    told = {"context": [entry.model_dump() for entry in body.context], "tools": await _own_tools(body)}
    made |= {"agent": {"models": models, "approval": _approval(body)} | told}
    reply = await _queue(tx, **made, **given, **more)
    if body.task is not None:
        place = {"thread_id": body.thread_id, "run_id": made["id"]}
        await _add_message(tx, text=body.task, taken_at=datetime.now(UTC), **place)
    return reply


def _approval(body: RunCreate) -> dict[str, Any]:
    """When the run's agents ask first."""
    given = body.approval
    return (ApprovalPolicy(mode=given) if isinstance(given, str) else given).model_dump()


async def _own_tools(body: RunCreate) -> list[dict[str, Any]]:
    """The tools that its user brings. Raises InvalidWorkflow."""
    found: list[Problem] = []
    names = [*TOOLS, *(tool.name for tool in body.tools)]
    for index, tool in enumerate(body.tools):
        if names.count(tool.name) > 1:
            found.append(Problem(pointer_to("tools", index, "name"), "There is another tool of this name"))
        at = pointer_to("tools", index, "parameters")
        found += await asyncio.to_thread(schema_problems, tool.parameters or {}, at)
    if found:
        raise workflows.InvalidWorkflow(found)
    return [tool.model_dump() for tool in body.tools]


async def _models(tx: db.Tx, body: RunCreate) -> list[dict[str, Any]]:
    """The models that the run's agents ask, the first one first. Raises InvalidModel."""
    chosen = {pointer_to("model"): body.model} if body.model is not None else {}
    chosen |= {pointer_to("fallbacks", index): one for index, one in enumerate(body.fallbacks)}
    made, found = [], []
    for at, one in chosen.items():
        given = {"name": one} if isinstance(one, str) else one.model_dump(exclude_none=True)
        choice = providers.Choice(**given)
        why = providers.problem(choice)
        if why is None and choice.secret and await secrets.missing(tx, [choice.secret]):
            why = f"There is no secret {choice.secret}; store it first"
        found += [Problem(at, why)] if why else []
        made.append(given)
    if found:
        raise InvalidModel(found)
    return made


async def require_secrets(tx: db.Tx, flow: Flow) -> None:
    """Refuse a run that would come to a step whose secret does not exist. Raises InvalidWorkflow."""
    named = workflows.named_secrets(flow.steps)
    if missing := await secrets.missing(tx, named):
        raise workflows.InvalidWorkflow(
            [Problem(named[name], f"There is no secret {name}; store it first") for name in missing]
        )


async def _queue(tx: db.Tx, **values: Any) -> Response:
    response = await tx.create(Run, RunRead, event="queued", status=202, **values)
    await look_at_queue(tx)
    return response


async def _require_open(tx: db.Tx, computer_id: UUID) -> Computer:
    computer = await tx.one(Computer, id=computer_id)
    if computer.state == ComputerState.closed:
        raise ComputerClosed(f"The computer is closed ({computer.closed_reason})")
    return computer


async def _take_turn(tx: db.Tx, thread_id: UUID, on_conflict: str) -> None:
    """Settle it with the thread's runs that have not ended. Raises NoResultFound, ThreadBusy."""
    await tx.one(Thread, lock=True, id=thread_id)
    others = await tx.call("thread_runs", tx.user_id, thread_id)
    if on_conflict == "reject" and others:
        raise ThreadBusy(f"Run {others[0]['id']} of this thread has not ended")
    for row in others if on_conflict == "interrupt" else ():
        for run in await tx.find(Run, lock=True, id=row["id"]):
            if row["begun"] and not RunStatus(run.status).ended:
                await _wish(tx, run, Control.cancel)


async def change_budget(tx: db.Tx, run: Run, body: RunUpdate) -> Response:
    """Change what a run may use; one that had paused for want of it goes on. Raises WrongState."""
    run = await tx.one(Run, lock=True, id=run.id)
    if RunStatus(run.status).ended:
        raise WrongState(f"The run has ended ({run.status}); start another one")
    changed = body.model_dump(exclude_unset=True)
    budget = {name: most for name, most in (run.budget | changed).items() if most is not None}
    if run.status == RunStatus.paused and (run.reason or "").startswith("budget_"):
        run = await _wish(tx, run, Control.run)
    return await tx.update(Run, RunRead, run.id, budget=budget)


async def go_on_within_budget(tx: db.Tx) -> None:
    """Let the user's runs go on that had paused for want of a month's budget; they look for themselves."""
    for run in await tx.find(Run, lock=True, status=RunStatus.paused):
        if (run.reason or "").startswith("budget_month_"):
            await _wish(tx, run, Control.run)


async def wish(tx: db.Tx, run: Run, control: Control) -> Response:
    """Ask a run to pause, go on or end: at once if no worker drives it, else within a second.

    Raises WrongState when it has ended, or should go on and waits in the queue or for an approval.
    """
    run = await tx.one(Run, lock=True, id=run.id)
    status = RunStatus(run.status)
    if status.ended:
        raise WrongState(f"The run has ended ({status}); start another one")
    if status is RunStatus.queued and control is Control.run:
        raise WrongState("The run waits in the queue and starts by itself")
    if status is RunStatus.waiting_approval and control is Control.run and run.control == Control.run:
        raise WrongState("The run waits for an approval; answer that")
    return tx.reply(RunRead.model_validate(await _wish(tx, run, control)))


async def _wish(tx: db.Tx, run: Run, control: Control) -> Run:
    """The same of a run that has not ended, locked."""
    values: dict[str, Any] = {"control": control}
    event = None
    if run.lease_owner is not None:
        tx.hint("wishes")
    elif control is Control.cancel:
        event = "cancelled"
        values |= {"status": RunStatus.cancelled, "reason": None, "finished_at": datetime.now(UTC)}
        await approvals.withdraw(tx, run.id)
        await look_at_queue(tx)
        await usage.add_run(tx, active_ms=run.active_ms, steps=run.step_count)
    elif control is Control.run:
        event, values = await _go_on(tx, run, values)
    elif run.status in (RunStatus.queued, RunStatus.waiting_approval):
        event = "paused"
        values |= {"status": RunStatus.paused, "reason": "requested"}
    changed = (await tx.change(Run, {"id": run.id}, **values))[0]
    if event is not None:
        tx.announce(f"run.{event}", changed, RunRead)
    return changed


async def _go_on(tx: db.Tx, run: Run, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A parked run is queued, or waits on for the answer to what it has asked."""
    if (asked := await approvals.pending(tx, run.id)) is not None:
        return "waiting", values | {"status": RunStatus.waiting_approval, "reason": asked.title}
    await look_at_queue(tx)
    return "queued", values | {"status": RunStatus.queued, "reason": None}


async def cancel_all(user_id: str, actor: str) -> None:
    """Wish for the end of every run of a user; those that no worker drives have ended on return."""
    count = CANCELLED_AT_ONCE
    while count == CANCELLED_AT_ONCE:
        async with db.as_user(user_id, actor) as tx:
            rows = await tx.call("cancel_runs", user_id, CANCELLED_AT_ONCE)
            ended = [run for run in (Run(**row) for row in rows) if run.status == RunStatus.cancelled]
            for run in ended:
                await approvals.withdraw(tx, run.id)
                tx.announce("run.cancelled", run, RunRead)
            tx.hint("wishes")
            if ended:
                lasted, steps = sum(run.active_ms for run in ended), sum(run.step_count for run in ended)
                await usage.add(tx, runs=len(ended), active_ms=lasted, steps=steps)
        count = len(rows)


async def retry(tx: db.Tx, run: Run, body: RunRetry) -> Response:
    """Queue another run of the same and answer 202; from a later step with what the steps before brought.

    Raises WrongState, NoSuchStep, ComputerClosed, InvalidWorkflow.
    """
    if not RunStatus(run.status).ended:
        raise WrongState("The run goes on; cancel it first")
    flow = await workflows.parse_aside(run.definition, None, any_params=True)
    if body.from_step > len(flow.steps):
        problem = Problem("/from_step", f"There is no such step; the run's last one is {len(flow.steps)}")
        raise NoSuchStep([problem])
    values: dict[str, Any] = {name: getattr(run, name) for name in REPEATED}
    for computer in await tx.find(Computer, id=run.computer_id, for_run=False) if run.computer_id else ():
        values["computer_id"] = (await _require_open(tx, computer.id)).id
    new_id = uuid7()
    if (done := body.from_step - 1) > 0:
        values["outputs"] = await _outputs_until(tx, run, flow, done)
        values["checkpoint"] = await asyncio.to_thread(_checkpoint_until, run, flow, done, new_id)
    return await _queue(tx, id=new_id, retry_of=run.id, first_step=body.from_step, **values)


async def _outputs_until(tx: db.Tx, run: Run, flow: Flow, done: int) -> dict[str, Any]:
    """What the first `done` steps brought, in this run or in those that it had retried."""
    names = {*workflows.named_outputs(flow.steps[:done])}
    outputs = {name: value for name, value in run.outputs.items() if name in names}
    wanted = {f"/steps/{index}": step for index, step in enumerate(flow.steps[:done])}
    for done_step in await tx.find(Step, run_id=run.id, status=StepStatus.succeeded):
        step = wanted.get(done_step.pointer)
        if step is not None and workflows.brings_output(step) and step["type"] != "forEach":
            outputs[step["name"]] = done_step.output
    return outputs


def _checkpoint_until(run: Run, flow: Flow, done: int, new_id: UUID) -> bytes | None:
    """The run's checkpoint, sealed for another run that goes on after the first `done` steps."""
    state = checkpoints.unseal(db.vault(), run)
    if state is None or (earlier := landed_earlier(state, flow, done)) is None:
        return None
    return checkpoints.seal(db.vault(), run, earlier, for_id=new_id)


async def guide(tx: db.Tx, run: Run, body: MessageCreate) -> Response:
    """Tell a run something while it goes on, or what its agent has asked; its thread hears it too.

    Raises WrongState.
    """
    if RunStatus(run.status).ended:
        raise WrongState(f"The run has ended ({run.status}); nobody would hear it")
    run = await tx.one(Run, lock=True, id=run.id)
    if await question(tx, run):
        await _wish(tx, run, Control.run)
    return await _say(tx, body, f"/api/runs/{run.id}/messages", run_id=run.id, thread_id=run.thread_id)


async def question(tx: db.Tx, run: Run) -> Step | None:
    """The call of its agent that waits for what its user says; another worker may have begun it."""
    if run.status != RunStatus.waiting_user:
        return None
    asking = {ASK_USER, *(own["name"] for own in run.agent.get("tools", ()))}
    under_way = [
        step
        for status in (StepStatus.started, StepStatus.interrupted)
        for step in await tx.find(Step, run_id=run.id, status=status)
    ]
    return max((s for s in under_way if s.type in asking), key=lambda s: s.number, default=None)


async def say(tx: db.Tx, thread: Thread, body: MessageCreate) -> Response:
    """Add what its user says to a thread; no run is told."""
    return await _say(tx, body, f"/api/threads/{thread.id}/messages", thread_id=thread.id)


async def _say(tx: db.Tx, body: MessageCreate, location: str, **place: UUID | None) -> Response:
    message = await _add_message(tx, **body.model_dump(), **place)
    return tx.reply(MessageRead.model_validate(message), 201, location)


async def _add_message(tx: db.Tx, **values: Any) -> Message:
    message = await tx.add(Message, role=Role.user, **values)
    tx.announce("message.created", message, MessageRead, run_id=message.run_id)
    return message


async def delete_thread(tx: db.Tx, thread: Thread) -> Response:
    """Delete a thread with its messages; its runs stay."""
    for row in await tx.call("thread_runs", tx.user_id, thread.id):
        await tx.find(Run, lock=True, id=row["id"])  # whoever holds one may still add a message
    return await tx.delete(Thread, thread.id)


async def wait(user_id: str, id: UUID, seconds: float) -> None:
    """Return when the run has ended, or after so many seconds. Raises NoResultFound."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    with woken(f"user:{user_id}") as changed:
        while True:
            async with db.as_user(user_id) as tx:
                run = await tx.one(Run, id=id)
            if RunStatus(run.status).ended or loop.time() >= end:
                return
            await wait_for(changed, min(POLL_SECONDS, end - loop.time()))


async def delete_run(tx: db.Tx, run: Run) -> Response:
    """Delete a run that has ended, with its steps, files and recording. Raises WrongState."""
    run = await tx.one(Run, lock=True, id=run.id)
    if not RunStatus(run.status).ended:
        raise WrongState("The run goes on; cancel it first")
    tx.hint("removals")
    return await tx.delete(Run, run.id)


# The worker ---------------------------------------------------------------------------------------


class _Engine:
    """The runs that this process drives, and the loops that claim them and keep their leases."""

    def __init__(self, worker_id: UUID, vault: Vault) -> None:
        self.worker_id, self.vault = worker_id, vault
        self.drives: dict[UUID, Drive] = {}
        self.work = asyncio.Event()
        self.pulse = asyncio.Event()
        self.loops: list[asyncio.Task[None]] = []
        self.unsubscribe: list[Callable[[], None]] = []
        self.beaten_at = asyncio.get_running_loop().time()

    async def claim(self) -> None:
        """Claim runs while there is room for them."""
        while len(self.drives) < settings.max_runs and await self.claim_one():
            pass

    async def claim_one(self) -> bool:
        lease = timedelta(seconds=settings.lease_seconds)
        async with db.as_system() as tx:
            limits = (
                settings.max_runs_per_user,
                computers.room(sum(drive.opening for drive in self.drives.values())),
            )
            rows = await tx.call("claim_run", self.worker_id, lease, *limits)
            if not rows:
                return False
            tx.act_for(rows[0]["user_id"])
            run = await tx.one(Run, id=rows[0]["id"])
            if rows[0]["event"]:
                tx.announce(rows[0]["event"], run, RunRead)
        before = self.drives.get(run.id)
        drive = self.drives[run.id] = Drive(run, self.vault)
        drive.task = asyncio.create_task(self.drive_after(before, drive))
        drive.task.add_done_callback(partial(self.ended, drive))
        return True

    async def drive_after(self, before: Drive | None, drive: Drive) -> None:
        """Drive a run; one of this process whose lease ran out unnoticed has let go of it first."""
        if before is not None:
            before.lose()
            await asyncio.wait({before.task})
        await drive.go()

    def ended(self, drive: Drive, task: "asyncio.Task[None]") -> None:
        """Its place is free; if it broke, its lease runs out."""
        if self.drives.get(drive.run_id) is drive:
            del self.drives[drive.run_id]
        self.work.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("drive_broke", run_id=str(drive.run_id), exc_info=error)

    async def beat(self) -> None:
        """Renew all leases, and stop everything when that has failed for too long."""
        patience = max(settings.lease_seconds - 3, settings.lease_seconds / 2)
        try:
            async with asyncio.timeout(patience):
                await self.beat_once()
        finally:
            if asyncio.get_running_loop().time() - self.beaten_at > patience:
                self.fence()

    async def beat_once(self) -> None:
        began = asyncio.get_running_loop().time()
        drives, leased = list(self.drives.values()), computers.leased()
        async with db.as_system() as tx:
            rows = await tx.call(
                "beat",
                self.worker_id,
                [drive.run.id for drive in drives],
                leased,
                timedelta(seconds=settings.lease_seconds),
            )
        self.beaten_at = began
        runs = {row["id"]: row for row in rows if row["kind"] == "run"}
        for drive in drives:
            row = runs.get(drive.run_id)
            drive.heard(row["epoch"] if row else 0, Control(row["control"] if row else "run"), began)
        computers.kept(leased, {row["id"]: row["epoch"] for row in rows if row["kind"] == "computer"})

    def fence(self) -> None:
        """Let go of everything without a word: other workers may have it already."""
        if self.drives:
            log.error("worker_fenced", runs=len(self.drives))
        for drive in self.drives.values():
            drive.lose()
        computers.fence()


_engine: _Engine | None = None


async def start(worker_id: UUID, bus: Bus, vault: Vault) -> None:
    """Begin to claim and drive runs; `computers` is started before."""
    global _engine  # noqa: PLW0603 - one engine a process
    _engine = engine = _Engine(worker_id, vault)
    engine.unsubscribe = [
        bus.subscribe("runs", lambda _payload: engine.work.set()),
        bus.subscribe("wishes", lambda _payload: engine.pulse.set()),
        bus.on_gap(engine.pulse.set),
    ]
    engine.loops = [
        asyncio.create_task(forever(engine.claim, engine.work, POLL_SECONDS)),
        asyncio.create_task(
            forever(engine.beat, engine.pulse, min(POLL_SECONDS, settings.lease_seconds / 4))
        ),
        asyncio.create_task(forever(approvals.expire_due, asyncio.Event(), POLL_SECONDS)),
    ]


async def stop() -> None:
    """Stop claiming, and hand the runs over to whichever worker comes next."""
    global _engine  # noqa: PLW0603
    if (engine := _engine) is None:
        return
    claim, beat, expiry = engine.loops
    claim.cancel()
    expiry.cancel()
    await asyncio.gather(claim, expiry, return_exceptions=True)
    for drive in engine.drives.values():
        drive.leave()
    tasks = [drive.task for drive in engine.drives.values()]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    beat.cancel()
    await asyncio.gather(beat, return_exceptions=True)
    for unsubscribe in engine.unsubscribe:
        unsubscribe()
    await recording.settle()
    _engine = None


def alive() -> bool:
    """Whether this process drives runs and keeps its leases."""
    if _engine is None:
        return False
    return asyncio.get_running_loop().time() - _engine.beaten_at < settings.lease_seconds
