"""Tables: every owned row is keyed by its owner, so it cannot even point at another user's row."""

import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    case,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_clock_lock = threading.Lock()
_last_tick = 0


def uuid7() -> UUID:
    """A time-ordered UUID, strictly increasing within this process (RFC 9562, section 6.2, method 3)."""
    global _last_tick  # noqa: PLW0603 - the process's one clock
    with _clock_lock:
        _last_tick = max(_last_tick + 1, (time.time_ns() << 12) // 1_000_000)
        tick = _last_tick
    milliseconds, fraction = tick >> 12, tick & 0xFFF
    tail = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail)


class Base(DeclarativeBase):
    """`__order__` pages lists; `__expressions__` are Read fields that are computed from the row."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_ix",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        int: Integer,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        list[str]: ARRAY(Text),
    }
    __order__: ClassVar[str] = "id"
    __expressions__: ClassVar[dict[str, Callable[[FromClause], ColumnElement[Any]]]] = {}

    @classmethod
    def resource(cls) -> str:
        """The name of one such thing in events: `run` for the table `runs`."""
        return str(cls.__tablename__).removesuffix("s")


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)


def _parent(table: str, column: str, ondelete: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["user_id", column], [f"{table}.user_id", f"{table}.id"], ondelete=ondelete)


def _optional(table: str, column: str) -> ForeignKeyConstraint:
    return _parent(table, column, f"SET NULL ({column})")


class Owned:
    """`(user_id, id)` is the key: newest-first listing is an index scan and a user is one shard."""

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()


# People and their sign-ins ------------------------------------------------------------------------


class User(Base):
    """Mirrors the caller; the id is the issuer's subject."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None]
    name: Mapped[str | None]
    image_url: Mapped[str | None]
    role: Mapped[str] = mapped_column(server_default="user")
    preferences: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    __table_args__ = (CheckConstraint("role in ('user', 'admin')", name="role"),)


class Account(Base):
    """A sign-in at the embedded issuer; a system table."""

    __tablename__ = "accounts"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), unique=True)
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    email_verified_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()


class AuthCode(Base):
    """A code that was mailed to an account's address; a system table."""

    __tablename__ = "auth_codes"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    purpose: Mapped[str]
    code_hash: Mapped[bytes]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        CheckConstraint("purpose in ('verify', 'reset')", name="purpose"),
        Index(None, "account_id"),
    )


class SigningKey(Base):
    """A key of the embedded issuer, sealed at rest; a system table."""

    __tablename__ = "signing_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    private_key: Mapped[bytes]
    retired_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class AuthSession(Owned, Base):
    """One signed-in device at the embedded issuer; refresh tokens rotate within it."""

    __tablename__ = "auth_sessions"
    family_hash: Mapped[bytes]
    refresh_hash: Mapped[bytes]
    rotated_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime]
    address: Mapped[str | None]
    user_agent: Mapped[str | None]


# The log ------------------------------------------------------------------------------------------


class Stream(Base):
    """The head of a user's log; its row lock orders the user's commits."""

    __tablename__ = "streams"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    last_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)


class Event(Base):
    """One thing that happened; `seq` is gap-free per user and in commit order."""

    __tablename__ = "events"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    seq: Mapped[int] = mapped_column(BigInteger)
    id: Mapped[UUID]
    kind: Mapped[str]
    run_id: Mapped[UUID | None]
    resource_type: Mapped[str]
    resource_id: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    actor: Mapped[str]
    data: Mapped[dict[str, Any]]
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "seq"),
        Index(None, "user_id", "run_id", "seq", postgresql_where=text("run_id is not null")),
    )
    __order__ = "seq"
    __expressions__: ClassVar = {
        "resource": lambda row: func.json_build_object(
            text("'type'"), row.c.resource_type, text("'id'"), row.c.resource_id
        )
    }


class IdempotencyKey(Base):
    """The stored reply of a POST, so that a repeat of it does nothing twice."""

    __tablename__ = "idempotency_keys"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key: Mapped[str]
    fingerprint: Mapped[str]
    status: Mapped[int | None]
    location: Mapped[str | None]
    reply: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (PrimaryKeyConstraint("user_id", "key"),)


# Browsers and what they do ------------------------------------------------------------------------


class Quota(Base):
    """A user's place in the queue: `turn` makes claims fair, `ready_at` says when to look for work."""

    __tablename__ = "quotas"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    max_runs: Mapped[int | None]
    turn: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    ready_at: Mapped[datetime | None]
    __table_args__ = (Index(None, "turn", postgresql_where=text("ready_at is not null")),)


class ComputerState(StrEnum):
    """`opening` waits for a worker; `open` has an owner process; `closed` is final."""

    opening = "opening"
    open = "open"
    closed = "closed"


class ControlState(StrEnum):
    """Whether a person steers a computer; `pending` until a run has come to a halt."""

    released = "released"
    pending = "pending"
    granted = "granted"


class Computer(Owned, Base):
    """One browser session; owned by one process at a time, fenced by `lease_epoch`."""

    __tablename__ = "computers"
    name: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="opening")
    settings: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    url: Mapped[str | None]
    title: Mapped[str | None]
    closed_reason: Mapped[str | None]
    for_run: Mapped[bool] = mapped_column(server_default=text("false"))
    control_state: Mapped[str] = mapped_column(server_default="released")
    control_holder: Mapped[str | None]
    control_generation: Mapped[int] = mapped_column(server_default="0")
    control_expires_at: Mapped[datetime | None]
    lease_owner: Mapped[UUID | None]
    lease_epoch: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime] = _now()
    __table_args__ = (
        _one_of("state", ComputerState),
        _one_of("control_state", ControlState),
        Index("computers_waiting_ix", "user_id", "id", postgresql_where=text("state = 'opening'")),
        Index("computers_lease_ix", "lease_owner", postgresql_where=text("lease_owner is not null")),
    )


class Workflow(Owned, Base):
    """A Recorder user flow under a name."""

    __tablename__ = "workflows"
    name: Mapped[str]
    definition: Mapped[dict[str, Any]]
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    version: Mapped[int] = mapped_column(server_default="1")


class RunStatus(StrEnum):
    """The fact: what a run is doing."""

    queued = "queued"
    running = "running"
    paused = "paused"
    waiting_approval = "waiting_approval"
    waiting_user = "waiting_user"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (RunStatus.succeeded, RunStatus.failed, RunStatus.cancelled)


class Control(StrEnum):
    """The wish: what its user wants the run to do."""

    run = "run"
    pause = "pause"
    cancel = "cancel"


def _position(run: FromClause) -> ColumnElement[Any]:
    """How many of the user's queued runs come first, and this one; null once it has started."""
    ahead = Base.metadata.tables["runs"].alias("ahead")
    first = (ahead.c.priority > run.c.priority) | (
        (ahead.c.priority == run.c.priority) & (ahead.c.id < run.c.id)
    )
    queue = select(func.count() + 1).where(
        ahead.c.user_id == run.c.user_id, ahead.c.status == "queued", first
    )
    return case((run.c.status == "queued", queue.scalar_subquery()))


class Run(Owned, Base):
    """One execution of a workflow; driven by whoever holds its lease in the current epoch."""

    __tablename__ = "runs"
    workflow_id: Mapped[UUID | None]
    computer_id: Mapped[UUID | None]
    title: Mapped[str]
    definition: Mapped[dict[str, Any]]
    params: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    allowed_domains: Mapped[list[str]] = mapped_column(server_default="{}")
    status: Mapped[str] = mapped_column(server_default="queued")
    control: Mapped[str] = mapped_column(server_default="run")
    reason: Mapped[str | None]
    priority: Mapped[int] = mapped_column(server_default="0")
    run_after: Mapped[datetime] = _now()
    timeout_seconds: Mapped[int]
    attempt: Mapped[int] = mapped_column(server_default="0")
    active_ms: Mapped[int] = mapped_column(BigInteger, server_default="0")
    step_count: Mapped[int] = mapped_column(server_default="0")
    outputs: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    checkpoint: Mapped[bytes | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    lease_owner: Mapped[UUID | None]
    lease_epoch: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_expires_at: Mapped[datetime | None]
    __table_args__ = (
        _optional("workflows", "workflow_id"),
        _optional("computers", "computer_id"),
        _one_of("status", RunStatus),
        _one_of("control", Control),
        Index(None, "user_id", "workflow_id", "id"),
        Index(
            "runs_queued_ix",
            "user_id",
            text("priority desc"),
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("runs_lease_ix", "lease_owner", postgresql_where=text("lease_owner is not null")),
        Index("runs_live_ix", "user_id", postgresql_where=text("lease_owner is not null")),
        Index("runs_computer_ix", "user_id", "computer_id", postgresql_where=text("computer_id is not null")),
    )
    __expressions__: ClassVar = {"position": _position}


class StepStatus(StrEnum):
    """`may_have_landed`: its worker died between the intent and the outcome of an action."""

    started = "started"
    succeeded = "succeeded"
    failed = "failed"
    interrupted = "interrupted"
    may_have_landed = "may_have_landed"


class Step(Owned, Base):
    """One step of a run: the intent is committed before acting, the outcome after."""

    __tablename__ = "steps"
    run_id: Mapped[UUID]
    number: Mapped[int]
    pointer: Mapped[str]
    type: Mapped[str]
    title: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="started")
    attempt: Mapped[int]
    safe: Mapped[bool]
    url: Mapped[str | None]
    screenshot_id: Mapped[UUID | None]
    output: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime] = _now()
    acted_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    duration_ms: Mapped[int | None]
    __table_args__ = (
        _parent("runs", "run_id", "CASCADE"),
        _optional("files", "screenshot_id"),
        _one_of("status", StepStatus),
        UniqueConstraint("user_id", "run_id", "number"),
    )
    __order__ = "number"


class File(Owned, Base):
    """What a run saw, fetched or made; its bytes are in the file store under `storage_key`."""

    __tablename__ = "files"
    run_id: Mapped[UUID | None]
    computer_id: Mapped[UUID | None]
    kind: Mapped[str]
    name: Mapped[str]
    content_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    storage_key: Mapped[str]
    __table_args__ = (
        _parent("runs", "run_id", "CASCADE"),
        _optional("computers", "computer_id"),
        CheckConstraint("kind in ('screenshot', 'download', 'upload')", name="kind"),
        Index(None, "user_id", "run_id", "id", postgresql_where=text("run_id is not null")),
    )


SYSTEM_TABLES = (Account, AuthCode, SigningKey)
OWNED_TABLES = tuple(
    mapper.class_ for mapper in Base.registry.mappers if mapper.class_ not in (User, *SYSTEM_TABLES)
)
