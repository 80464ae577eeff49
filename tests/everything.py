"""A user who has one of everything, and a look through every table and file for what is left of one."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import db
from models import (
    Account,
    ApiKey,
    Approval,
    AuthCode,
    AuthSession,
    Base,
    Computer,
    Delivery,
    Event,
    File,
    Frame,
    IdempotencyKey,
    Message,
    Outbox,
    Profile,
    Run,
    Schedule,
    Secret,
    Step,
    Thread,
    Turn,
    User,
    Webhook,
    Workflow,
    WorkflowVersion,
)
from runs import files, usage

SEALED = b"sealed-value-that-nobody-may-see"
SOON = datetime.now(UTC) + timedelta(days=1)


async def one_of_everything(user: str, email: str, *, contents: bytes = b"contents") -> dict[type[Base], Any]:
    """Make a row of the user's in every table; returns their ids by model. `files.start` comes first."""
    made: dict[type[Base], Any] = {}
    async with db.as_system() as tx:
        tx.act_for(user)
        await tx.change(User, {"id": user}, email=email, name="Al", preferences={"theme": email})

        async def add(model: type[Base], **values: Any) -> UUID:
            made[model] = (await tx.add(model, **values)).id  # type: ignore[attr-defined]
            return UUID(str(made[model]))

        account = await add(Account, email=email, password_hash="h")
        code = {"account_id": account, "purpose": "reset", "code_hash": SEALED, "expires_at": SOON}
        await add(AuthCode, **code)
        await add(AuthSession, family_hash=SEALED, refresh_hash=SEALED, expires_at=SOON, address="::1")
        await add(ApiKey, name=email, start="cua_ab", key_hash=SEALED, scopes=["read"])
        await add(Secret, name="shop", kind="password", fields=["password"], origins=[], sealed=SEALED)
        profile = await add(Profile, name="P", state=SEALED, domains=["example.com"])
        computer = await add(Computer, name="C", state="closed", profile_id=profile, url=f"http://{email}")
        thread = await add(Thread, name="T")
        workflow = await add(Workflow, name="W", definition={"title": email})
        kept = {"version": 1, "definition": {}, "parameters": {}, "actor": "user"}
        await add(WorkflowVersion, workflow_id=workflow, **kept)
        clock = {"cron": "@daily", "time_zone": "UTC", "missed": "once", "overlap": "skip", "next_at": SOON}
        schedule = await add(Schedule, workflow_id=workflow, name="S", **clock)
        parents = {
            "workflow_id": workflow,
            "computer_id": computer,
            "profile_id": profile,
            "thread_id": thread,
        }
        fields = {"title": "R", "definition": {}, "timeout_seconds": 9, "status": "succeeded"}
        run = await add(
            Run,
            **parents,
            **fields,
            schedule_id=schedule,
            checkpoint=SEALED,
            finished_at=SOON,
            params={"to": email},
        )
        await add(Message, thread_id=thread, run_id=run, role="user", text=email)
        webhook = await add(Webhook, name="H", url="http://x", events=["*"], secret=SEALED, cursor=0)
        await add(Delivery, webhook_id=webhook, event_id=uuid4(), kind="k", payload=email)
        if not await tx.find(Outbox):
            await tx.add(Outbox, seq=10**9)
        await tx.add(IdempotencyKey, key=email, fingerprint="f", status=201, reply="{}", sealed_reply=SEALED)
        await usage.add(tx, runs=1, cost_micros=5)
    for name, run_id in (("a/../b.txt", None), ("page.jpg", run)):
        file = await files.save(
            user,
            kind="upload",
            name=name,
            content_type="text/plain",
            data=contents,
            limit=2**28,
            run_id=run_id,
        )
        made[File] = file.id
    async with db.as_user(user) as tx:
        step = {"number": 1, "pointer": "/steps/0", "type": "x", "title": "x", "attempt": 1, "safe": True}
        made[Step] = (await tx.add(Step, run_id=run, screenshot_id=file.id, **step)).id
        question = {"title": "?", "action": {}, "digest": "", "expires_at": SOON, "step_id": made[Step]}
        turn = {
            "step": 1,
            "number": 1,
            "model_name": "demo",
            "told": [email],
            "response": {},
            "duration_ms": 1,
        }
        made[Turn] = (await tx.add(Turn, run_id=run, **turn)).id
        made[Approval] = (await tx.add(Approval, run_id=run, screenshot_id=file.id, **question)).id
        place = {"position": 0, "length": 1, "width": 1, "height": 1, "captured_at": SOON}
        made[Frame] = (await tx.add(Frame, run_id=run, file_id=file.id, number=1, **place)).id
        tx.emit("run.log", ("run", run), {"message": email})
    made[Event] = (await db.events(user, 0))[-1].seq
    return made


async def traces(words: Iterable[str]) -> list[str]:
    """Where any of the words stands in any column of any table, whatever its type."""
    found: list[str] = []
    any_of = "|".join(re.escape(word.lower()) for word in words)
    async with db.as_system() as tx:
        columns = await tx.connection.fetch(
            "select table_name, column_name, data_type from information_schema.columns "
            "where table_schema = current_schema() order by 1, 2"
        )
        tables: dict[str, dict[str, str]] = {}
        for table, column, kind in columns:
            text = f"encode({column}, 'escape')" if kind == "bytea" else f'"{column}"::text'
            tables.setdefault(table, {})[column] = f"bool_or(lower({text}) ~ $1)"
        assert len(tables) > 25
        for table, tests in tables.items():
            holding = await tx.connection.fetchrow(f"select {', '.join(tests.values())} from {table}", any_of)
            assert holding is not None
            found += [f"{table}.{column}" for column, holds in zip(tests, holding, strict=True) if holds]
    return found


def bytes_of(store: Path, user: str) -> list[str]:
    """The user's files in a store on disk."""
    return [str(path) for path in (store / files.place_of(user)).rglob("*") if path.is_file()]
