"""Runs: queued, claimed under a lease, kept by a heartbeat that brings wishes, and handed over."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from starlette.responses import Response

import db
from browser.chromium import ComputerClosed
from infra.bus import Bus
from infra.vault import Vault
from models import Computer, ComputerState, Control, Run, RunStatus, Workflow
from runs import computers, files, recording, workflows
from runs.computers import check_domains, forever, wait_for, woken
from runs.drive import Drive, look_at_queue
from schemas import RunCreate, RunRead
from settings import settings

log = structlog.get_logger()

POLL_SECONDS = 1.0
LEAVE_SECONDS = 8.0


class WrongState(Exception):
    """The run's state does not allow this."""


# What routes use ----------------------------------------------------------------------------------


async def enqueue(tx: db.Tx, body: RunCreate) -> Response:
    """Queue a run and answer 202.

    Raises NoResultFound, InvalidWorkflow, InvalidParams, ComputerClosed, WrongState.
    """
    definition, parameters = body.definition, body.parameters
    if body.workflow_id is not None:
        workflow = await tx.one(Workflow, id=body.workflow_id)
        definition, parameters = workflow.definition, workflow.parameters
    flow = workflows.parse(definition or {}, parameters)
    check_domains(body.allowed_domains, "/allowed_domains")
    if body.computer_id is not None:
        computer = await tx.one(Computer, id=body.computer_id)
        if computer.state == ComputerState.closed:
            raise ComputerClosed(f"The computer is closed ({computer.closed_reason})")
        if body.allowed_domains:
            raise WrongState("On an open computer its own allowed_domains hold; leave the run's out")
    given = body.model_dump(
        exclude={"definition", "parameters", "params", "timeout_seconds"}, exclude_none=True
    )
    response = await tx.create(
        Run,
        RunRead,
        event="queued",
        status=202,
        title=flow.title,
        definition=definition,
        params=await asyncio.to_thread(workflows.resolve_params, parameters, body.params),
        timeout_seconds=body.timeout_seconds or settings.run_timeout_seconds,
        **given,
    )
    await look_at_queue(tx)
    return response


async def wish(tx: db.Tx, run: Run, control: Control) -> Response:
    """Ask a run to pause, go on or end: at once if no worker drives it, else within a second.

    Raises WrongState when it has ended, or waits in the queue and should go on.
    """
    run = await tx.one(Run, lock=True, id=run.id)
    status = RunStatus(run.status)
    if status.ended:
        raise WrongState(f"The run has ended ({status}); start another one")
    if status is RunStatus.queued and control is Control.run:
        raise WrongState("The run waits in the queue and starts by itself")
    values: dict[str, Any] = {"control": control}
    event = None
    if run.lease_owner is not None:
        tx.hint("wishes")
    elif control is Control.cancel:
        event = RunStatus.cancelled
        values |= {"status": event, "reason": None, "finished_at": datetime.now(UTC), "checkpoint": None}
    elif control is Control.run:
        event = RunStatus.queued
        values |= {"status": event, "reason": None}
        await look_at_queue(tx)
    elif status is RunStatus.queued:
        event = RunStatus.paused
        values |= {"status": event, "reason": "requested"}
    changed = (await tx.change(Run, {"id": run.id}, **values))[0]
    if event is not None:
        tx.announce(f"run.{event}", changed, RunRead)
    return tx.reply(RunRead.model_validate(changed))


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
    files.delete_run_files(tx, run.id)
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
        drive = self.drives[run.id] = Drive(run, self.vault)
        drive.task = asyncio.create_task(drive.go())
        drive.task.add_done_callback(lambda task: self.ended(run.id, task))
        return True

    def ended(self, run_id: UUID, task: "asyncio.Task[None]") -> None:
        """Its place is free; if it broke, its lease runs out."""
        self.drives.pop(run_id, None)
        self.work.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("drive_broke", run_id=str(run_id), exc_info=error)

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
    ]


async def stop() -> None:
    """Stop claiming, and hand the runs over to whichever worker comes next."""
    global _engine  # noqa: PLW0603
    if (engine := _engine) is None:
        return
    claim, beat = engine.loops
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)
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
