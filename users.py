"""Users as a whole: what they used, their end, and what administrators do."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

import clerk_auth
import db
from clerk_auth import Caller
from models import Control, Quota, Run, Usage, User
from runs import computers, engine, files
from runs.computers import wait_for, woken
from runs.queue import look_at_queue
from runs.usage import MONTHLY
from schemas import (
    AdminRunQuery,
    AdminRunRead,
    AdminUserQuery,
    LimitsRead,
    MeRead,
    MeUpdate,
    Profiled,
    UsageDay,
    UsageRead,
    UserRead,
    UserUpdate,
)
from settings import settings

log = structlog.get_logger()

SETTLE_SECONDS = 5.0
LOOK_SECONDS = 0.2
ERASED_RUNS = 20  # in one transaction, each with all its steps and files


class OwnAccount(Exception):
    """Administrators neither demote nor disable themselves."""

    def __init__(self) -> None:
        super().__init__("Nobody demotes or disables oneself; ask another administrator.")


class LastAdmin(Exception):
    """Without this user nobody would have an administrator's role in the database."""

    def __init__(self) -> None:
        super().__init__("This is the last user with an administrator's role; give it to another one first.")


# One's own ----------------------------------------------------------------------------------------


async def me(caller: Caller) -> MeRead:
    """The caller's profile, present role, and whether the address is known to be the caller's."""
    standing = await db.ensure_user(caller.user_id)
    role, verified = clerk_auth.role_in(caller, standing), clerk_auth.verified_emails(caller, standing)
    async with db.as_user(caller.user_id) as tx:
        user = await tx.one(User)
    shown = Profiled.model_validate(user).model_dump()
    return MeRead(**shown, role=role, email_verified=(user.email or "").lower() in verified)


async def change_me(caller: Caller, body: MeUpdate) -> MeRead:
    """Set the fields sent of the caller's profile."""
    async with db.as_user(caller.user_id, caller.actor) as tx:
        await tx.update(User, Profiled, caller.user_id, body)
    return await me(caller)


async def usage(user_id: str, days: int) -> UsageRead:
    """The last so many days (UTC), today included. Raises db.Unavailable."""
    first = datetime.now(UTC).date() - timedelta(days=days - 1)
    async with db.as_user(user_id) as tx:
        rows = await tx.call("usage_since", user_id, first)
        quota = await tx.one(Quota)
    used = [_day(Usage(**row)) for row in rows]
    return UsageRead(
        days=used,
        total=_total(used) if used else None,
        stored_bytes=quota.stored_bytes,
        limits=_limits(quota),
    )


def _day(row: Usage) -> UsageDay:
    return UsageDay(
        day=row.day,
        runs=row.runs,
        active_ms=row.active_ms,
        steps=row.steps,
        frames=row.frames,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost_usd=row.cost_micros / 1e6,
    )


def _total(used: list[UsageDay]) -> UsageDay:
    sums = {name: sum(getattr(day, name) for day in used) for name in UsageDay.model_fields if name != "day"}
    return UsageDay(day=used[-1].day, **sums | {"cost_usd": round(sums["cost_usd"], 6)})


def _limits(quota: Quota) -> LimitsRead:
    return LimitsRead(
        max_runs=settings.max_runs_per_user if quota.max_runs is None else quota.max_runs,
        max_computers=settings.max_computers_per_user if quota.max_computers is None else quota.max_computers,
        max_storage_bytes=(
            settings.max_storage_mb_per_user * 2**20 or None
            if quota.max_storage_bytes is None
            else quota.max_storage_bytes
        ),
        requests_per_minute=quota.requests_per_minute,
        **{name: getattr(quota, name) for name in MONTHLY},
    )


# Their end ----------------------------------------------------------------------------------------


async def erase(user_id: str) -> None:
    """Remove a user and all that is the user's for good; what was begun, upkeep finishes.

    Again, or for somebody who never was, it changes nothing. Raises db.Unavailable.
    """
    async with db.as_system() as tx:
        await tx.call("begin_erasing", user_id)
        _revoke(tx, user_id)
    await _settle(user_id)
    gone = 1
    while gone:
        async with db.as_system() as tx:
            [(gone,)] = await tx.call("erase_some", user_id, ERASED_RUNS)
    async with db.as_system() as tx:
        await tx.call("finish_erasing", user_id, files.place_of(user_id))
        _revoke(tx, user_id)
        tx.hint("removals")
    log.info("user_erased", place=files.place_of(user_id))


def _revoke(tx: db.Tx, user_id: str) -> None:
    """Refuse the user's credentials and close sockets; workers look what became of their leases."""
    tx.hint("revoked", f"user:{user_id}".encode())
    tx.hint("wishes")


async def _settle(user_id: str) -> None:
    """Give runs and browsers, wherever they are, a moment to end; whoever is late finds no row to write."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLE_SECONDS
    closing: dict[UUID, asyncio.Task[None]] = {}
    with woken(f"user:{user_id}") as changed:
        while loop.time() < end:
            async with db.as_system() as tx:
                leases = await tx.call("leases_of", user_id)
            if not leases:
                break
            for row in leases:
                if row["closes"] and row["id"] not in closing:
                    closing[row["id"]] = asyncio.create_task(_close(user_id, row["id"]))
            await wait_for(changed, LOOK_SECONDS)
    for task in closing.values():
        task.cancel()
    await asyncio.gather(*closing.values(), return_exceptions=True)


async def _close(user_id: str, computer_id: UUID) -> None:
    """Close a computer that this process can reach; others close when their owner finds the row gone."""
    try:
        await computers.close_where_it_is(user_id, computer_id, "erased")
    except (NoResultFound, *db.AWAY) as error:
        log.info("computer_left_to_its_owner", computer_id=str(computer_id), error=repr(error))


# For administrators -------------------------------------------------------------------------------


async def page(query: AdminUserQuery) -> Response:
    """Everyone, the newest first. Raises InvalidCursor."""
    return await db.page_all(User, UserRead, query)


async def read(user_id: str) -> UserRead:
    """One user. Raises NoResultFound."""
    async with db.as_system() as tx:
        return _shown(await tx.one(User, id=user_id), await tx.one(Quota, user_id=user_id))


async def change(user_id: str, body: UserUpdate, *, by: str) -> UserRead:
    """Set a user's role and limits, or disable: that refuses every credential and ends sockets and runs.

    The user's log says so. Raises NoResultFound, OwnAccount, LastAdmin.
    """
    async with db.as_system(f"admin:{by}") as tx:
        rows = await tx.find(User, lock=_takes_power(body), role="admin")
        admins = [row.id for row in rows if row.disabled_at is None]
        tx.act_for(user_id)
        user, quota = await tx.one(User, lock=True), await tx.one(Quota, lock=True)
        _require_power_stays(user, body, admins, by)
        changed = _changes(user, quota, body)
        if limited := {name: value for name, value in changed.items() if name in _LIMITS}:
            [quota] = await tx.change(Quota, {}, **limited)
            await engine.go_on_within_budget(tx)
        if account := {name: value for name, value in changed.items() if name not in _LIMITS}:
            user = await _change_account(tx, account)
        if changed:
            await look_at_queue(tx)
            data = Profiled.model_validate(user).model_dump(mode="json")
            tx.emit("user.updated", ("user", user_id), {**data, "changed": changed})
    if body.disabled:  # once more where it broke off after the commit
        await engine.cancel_all(user_id, f"admin:{by}")
    log.info("user_changed", user=user_id, by=by, changed=changed)
    return _shown(user, quota)


_LIMITS = ("max_runs", "max_computers", "max_storage_bytes", "requests_per_minute", *MONTHLY)


def _takes_power(body: UserUpdate) -> bool:
    return body.role == "user" or body.disabled is True


def _require_power_stays(user: User, body: UserUpdate, admins: list[str], by: str) -> None:
    """Two administrators who demote each other at once wait for the locks on all of them."""
    demotes = body.role == "user" and user.role == "admin"
    if user.id == by and (demotes or body.disabled):
        raise OwnAccount
    if admins == [user.id] and _takes_power(body):
        raise LastAdmin


def _changes(user: User, quota: Quota, body: UserUpdate) -> dict[str, Any]:
    """What the fields sent make different."""
    before = {
        "role": user.role,
        "disabled": user.disabled_at is not None,
        **{name: getattr(quota, name) for name in _LIMITS},
    }
    sent = body.model_dump(exclude_unset=True)
    return {name: value for name, value in sent.items() if value != before[name]}


async def _change_account(tx: db.Tx, changed: dict[str, Any]) -> User:
    values: dict[str, Any] = {name: value for name, value in changed.items() if name == "role"}
    if "disabled" in changed:
        # By a person: the end of a ban at the issuer does not enable this user again.
        values |= await standing(tx, disabled=changed["disabled"], banned=False)
    return (await tx.change(User, {}, **values))[0]


async def standing(tx: db.Tx, *, disabled: bool, banned: bool) -> dict[str, Any]:
    """The columns of a user who is disabled or enabled again: sign-ins and computers end, or runs go on.

    The runs of one who is disabled end by `engine.cancel_all`, after the commit.
    """
    if disabled:
        await computers.close_all(tx, "account_disabled")
        tx.hint("revoked", f"user:{tx.user_id}".encode())
    else:
        await look_at_queue(tx)
    return {"disabled_at": datetime.now(UTC) if disabled else None, "banned": banned}


def _shown(user: User, quota: Quota) -> UserRead:
    columns = {name: getattr(quota, name) for name in (*_LIMITS, "stored_bytes")}
    of_user = set(UserRead.model_fields) - columns.keys()
    return UserRead(**{name: getattr(user, name) for name in of_user}, **columns)


async def runs(query: AdminRunQuery) -> Response:
    """Everyone's runs, the newest first, without what they are about. Raises InvalidCursor."""
    return await db.page_all(Run, AdminRunRead, query)


async def cancel_run(by: str, run_id: UUID) -> AdminRunRead:
    """Wish for the end of anybody's run. Raises NoResultFound, WrongState."""
    async with db.as_system(f"admin:{by}") as tx:
        run = await tx.one(Run, id=run_id)
        tx.act_for(run.user_id)
        await engine.wish(tx, run, Control.cancel)
        run = await tx.one(Run, id=run_id)
    of_run = set(AdminRunRead.model_fields) - {"owner", "error_code"}
    values = {name: getattr(run, name) for name in of_run}
    return AdminRunRead(owner=run.user_id, error_code=(run.error or {}).get("code"), **values)
