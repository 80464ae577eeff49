"""Approvals: a run asks about exactly one action and waits for the answer.

Whoever writes an approval holds its run's row first, as the run's worker does with every write.
"""

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from starlette.responses import Response

import db
from models import Approval, ApprovalStatus, Run, RunStatus, Step
from runs.parameters import Invalid, Problem, pointer_to, violations
from runs.queue import look_at_queue
from schemas import ApprovalDecision, ApprovalRead, RunRead

MAX_EXPIRED = 100


class AlreadyDecided(Exception):
    """The question has its answer, or went with its run."""


class Expired(Exception):
    """Nobody answered in time, which is a no."""


class WrongDigest(Exception):
    """The answer is to another question than this one."""


class NotEditable(Invalid):
    """The action has no such arguments that its user could change, or must not have such values."""


def digest(action: dict[str, Any], url: str | None, run_id: UUID, number: int) -> str:
    """What binds an answer to one action, on one page, in one step of one run."""
    question = {"action": action, "url": url, "run_id": str(run_id), "step": number}
    return hashlib.sha256(orjson.dumps(question, option=orjson.OPT_SORT_KEYS)).hexdigest()


# What a run's worker does, under its fence ----------------------------------------------------------


async def request(
    tx: db.Tx,
    step: Step,
    *,
    title: str,
    action: dict[str, Any],
    url: str | None,
    screenshot_id: UUID | None,
    expires_at: datetime,
) -> Approval:
    """Ask about the action of a step; a step that has asked before gets that question back."""
    for asked in await tx.find(Approval, run_id=step.run_id, step_id=step.id):
        return asked
    approval = await tx.add(
        Approval,
        run_id=step.run_id,
        step_id=step.id,
        screenshot_id=screenshot_id,
        title=title,
        action=action,
        digest=digest(action, url, step.run_id, step.number),
        url=url,
        expires_at=expires_at,
    )
    tx.announce("approval.requested", approval, ApprovalRead, run_id=step.run_id)
    return approval


async def use(tx: db.Tx, approval: Approval, action: dict[str, Any], number: int) -> bool:
    """Spend the yes on what is about to be done; False unless it is one, unspent, and to just that."""
    for now in await tx.find(Approval, lock=True, id=approval.id):
        if now.status != ApprovalStatus.approved or now.used_at is not None:
            return False
        if now.digest != digest(action, approval.url, now.run_id, number):
            return False
        await tx.change(Approval, {"id": now.id}, used_at=datetime.now(UTC))
        return True
    return False


async def withdraw(tx: db.Tx, run_id: UUID) -> None:
    """Cancel what a run that ends still asks."""
    for row in await tx.change(
        Approval, {"run_id": run_id, "status": ApprovalStatus.pending}, status=ApprovalStatus.cancelled
    ):
        tx.announce("approval.cancelled", row, ApprovalRead, run_id=run_id)


async def pending(tx: db.Tx, run_id: UUID) -> Approval | None:
    """What the run asks now."""
    return next(iter(await tx.find(Approval, run_id=run_id, status=ApprovalStatus.pending)), None)


# What people and time do ----------------------------------------------------------------------------


async def decide(tx: db.Tx, id: UUID, body: ApprovalDecision) -> Response:
    """Answer once, in time; the run goes on.

    Raises NoResultFound, AlreadyDecided, Expired, WrongDigest, NotEditable.
    """
    run = await tx.one(Run, lock=True, id=(await tx.one(Approval, id=id)).run_id)
    approval = await tx.one(Approval, lock=True, id=id)
    late = approval.status == ApprovalStatus.pending and approval.expires_at <= datetime.now(UTC)
    if late or approval.status == ApprovalStatus.expired:
        raise Expired("Nobody answered in time; that was taken as a no")
    if approval.status != ApprovalStatus.pending:
        raise AlreadyDecided(f"It is {approval.status} already")
    if body.digest not in (None, approval.digest):
        raise WrongDigest("The digest is of another question; read this one again before you answer it")
    if body.arguments is not None:
        await asyncio.to_thread(_check_arguments, approval.action, body.arguments)
    approved = body.decision == "approve"
    rows = await tx.change(
        Approval,
        {"id": id},
        status=ApprovalStatus.approved if approved else ApprovalStatus.denied,
        arguments=body.arguments,
        note=body.note,
        decided_by=tx.actor,
        decided_at=datetime.now(UTC),
    )
    tx.announce("approval.decided", rows[0], ApprovalRead, run_id=run.id)
    await _go_on(tx, run)
    return tx.reply(ApprovalRead.model_validate(rows[0]))


def _check_arguments(action: dict[str, Any], changed: dict[str, Any]) -> None:
    """Raise NotEditable unless the action has these arguments and may have such ones."""
    if "arguments" not in action:
        raise NotEditable([Problem("/arguments", "This action has no arguments to change")])
    asked = action["arguments"]
    if problems := [
        Problem(pointer_to("arguments", name), "This action has no such argument")
        for name in changed.keys() - asked
    ]:
        raise NotEditable(problems)
    found = violations(action.get("schema", {}), asked | changed)
    if found:
        raise NotEditable([Problem(f"/arguments{problem.pointer}", problem.message) for problem in found])


async def expire_due() -> None:
    """Take as denied what nobody has answered in time, whoever drives its run or nobody."""
    async with db.as_system() as tx:
        due = await tx.call("due_approvals", MAX_EXPIRED)
    for row in due:
        async with db.as_user(row["user_id"]) as tx:
            await _expire(tx, row["id"])


async def _expire(tx: db.Tx, id: UUID) -> None:
    for asked in await tx.find(Approval, id=id):
        for run in await tx.find(Run, lock=True, id=asked.run_id):
            still = {"id": id, "status": ApprovalStatus.pending}
            for row in await tx.change(Approval, still, status=ApprovalStatus.expired):
                tx.announce("approval.expired", row, ApprovalRead, run_id=run.id)
                await _go_on(tx, run)


async def _go_on(tx: db.Tx, run: Run) -> None:
    """Tell the run's worker that there is an answer; a parked run is queued, unless its user paused it."""
    if run.lease_owner is not None:
        tx.hint("wishes")
    elif run.status == RunStatus.waiting_approval:
        queued = (await tx.change(Run, {"id": run.id}, status=RunStatus.queued, reason=None))[0]
        tx.announce("run.queued", queued, RunRead)
        await look_at_queue(tx)
