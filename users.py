"""Users as a whole: what they used, all of theirs in one file, their end, and what administrators do."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from starlette.responses import Response

import clerk_auth
import db
from clerk_auth import Caller
from models import Control, Quota, Run, User
from runs import computers, engine
from runs.queue import look_at_queue
from schemas import (
    AdminRunQuery,
    AdminRunRead,
    AdminUserQuery,
    LimitsRead,
    MeRead,
    MeUpdate,
    Profiled,
    UsageRead,
    UserRead,
    UserUpdate,
)
from settings import settings

log = structlog.get_logger()


class OwnAccount(Exception):
    """Administrators neither demote nor disable themselves."""

    def __init__(self) -> None:
        super().__init__("Nobody demotes or disables oneself; ask another administrator.")


class LastAdmin(Exception):
    """Without this user there would be no administrator."""

    def __init__(self) -> None:
        super().__init__("This is the last administrator; make another one first.")


# One's own ----------------------------------------------------------------------------------------


async def me(caller: Caller) -> MeRead:
    """The caller's profile and present role."""
    role = await clerk_auth.role_of(caller)
    async with db.as_user(caller.user_id) as tx:
        return _me(await tx.one(User), role)


async def change_me(caller: Caller, body: MeUpdate) -> MeRead:
    """Set the fields sent of the caller's profile."""
    role = await clerk_auth.role_of(caller)
    async with db.as_user(caller.user_id, caller.actor) as tx:
        await tx.update(User, MeRead, caller.user_id, body)
        return _me(await tx.one(User), role)


def _me(user: User, role: str) -> MeRead:
    return MeRead.model_validate(user).model_copy(update={"role": role})


async def limits(user_id: str) -> LimitsRead:
    """What the user may use at once: the user's own limits, or else the server's."""
    async with db.as_user(user_id) as tx:
        quota = await tx.one(Quota)
    return LimitsRead(
        max_runs=settings.max_runs_per_user if quota.max_runs is None else quota.max_runs,
        max_computers=(
            settings.max_computers_per_user if quota.max_computers is None else quota.max_computers
        ),
        max_storage_bytes=quota.max_storage_bytes,
        requests_per_minute=quota.requests_per_minute,
    )


async def usage(user_id: str, days: int) -> UsageRead:
    raise NotImplementedError


async def export(user_id: str) -> Response:
    raise NotImplementedError


async def erase(user_id: str) -> None:
    raise NotImplementedError


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
        if account := {name: value for name, value in changed.items() if name not in _LIMITS}:
            user = await _change_account(tx, account)
        if changed:
            await look_at_queue(tx)
            data = Profiled.model_validate(user).model_dump(mode="json")
            tx.emit("user.updated", ("user", user_id), {**data, "changed": changed})
    if changed.get("disabled"):
        await engine.cancel_all(user_id, f"admin:{by}")
    log.info("user_changed", user=user_id, by=by, changed=changed)
    return _shown(user, quota)


_LIMITS = ("max_runs", "max_computers", "max_storage_bytes", "requests_per_minute")


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
        values["disabled_at"] = datetime.now(UTC) if changed["disabled"] else None
    if changed.get("disabled"):
        await computers.close_all(tx, "account_disabled")
        tx.hint("revoked", f"user:{tx.user_id}".encode())
    return (await tx.change(User, {}, **values))[0]


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
