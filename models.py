"""Tables: every owned row is keyed by its owner, so it cannot even point at another user's row."""

import os
import threading
import time
from collections.abc import Callable
from datetime import date, datetime
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
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    TextClause,
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
    """`__order__` pages lists; `__expressions__` are Read fields and filters that are computed from the row.

    `__search__` are the columns that `?q=` looks into. `__collection__` is the name in paths and events
    where it differs from the table's. `__tagged__` rows have an `ETag`: their wire form must depend on
    nothing but the row.
    """

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
    __collection__: ClassVar[str] = ""
    __order__: ClassVar[str] = "id"
    __search__: ClassVar[tuple[str, ...]] = ("name",)
    __expressions__: ClassVar[dict[str, Callable[[FromClause], ColumnElement[Any]]]] = {}
    __tagged__: ClassVar[bool] = False

    @classmethod
    def collection(cls) -> str:
        """The name of all such things in paths: `runs`."""
        return cls.__collection__ or str(cls.__tablename__)

    @classmethod
    def resource(cls) -> str:
        """The name of one such thing in events: `run` for the table `runs`."""
        name = cls.collection()
        return f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


def _where(condition: str) -> TextClause:
    """The rows that a partial index has."""
    return text(condition)


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


def _of_quota(name: str) -> Callable[[FromClause], ColumnElement[Any]]:
    """A column of the user's row in `quotas`."""

    def read(user: FromClause) -> ColumnElement[Any]:
        quotas = Base.metadata.tables["quotas"]
        return select(quotas.c[name]).where(quotas.c.user_id == user.c.id).correlate(user).scalar_subquery()

    return read


class User(Base):
    """Mirrors the caller; the id is the issuer's subject, `number` the order in which users came.

    `mirrored_at` is the issuer's own time of the profile kept here, so that older news never replaces newer;
    `banned` says that the issuer disabled the user, and may enable one again; `erasing` that it has an end.
    """

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    email: Mapped[str | None]
    name: Mapped[str | None]
    image_url: Mapped[str | None]
    role: Mapped[str] = mapped_column(server_default="user")
    preferences: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    disabled_at: Mapped[datetime | None]
    banned: Mapped[bool] = mapped_column(server_default=text("false"))
    erasing: Mapped[bool] = mapped_column(server_default=text("false"))
    mirrored_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    __table_args__ = (
        CheckConstraint("role in ('user', 'admin')", name="role"),
        Index(None, "number"),
        Index(None, "created_at"),
        Index("users_erasing_ix", "id", postgresql_where=_where("erasing")),
    )
    __order__ = "number"
    __search__ = ("id", "email", "name")
    __expressions__: ClassVar = {
        "disabled": lambda row: row.c.disabled_at.is_not(None),
        **{
            name: _of_quota(name)
            for name in (
                "max_runs",
                "max_computers",
                "max_storage_bytes",
                "requests_per_minute",
                "max_month_steps",
                "max_month_tokens",
                "max_month_cost_usd",
                "max_month_seconds",
                "stored_bytes",
            )
        },
    }


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
        Index(None, "expires_at"),
    )


class ErasedUser(Base):
    """A user who was erased, by the SHA-256 of the id: late news must not bring one back; a system table."""

    __tablename__ = "erased_users"
    id: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime] = _now()


class Inbox(Base):
    """A message from outside that was taken in, so that its repetition changes nothing; a system table."""

    __tablename__ = "inbox"
    id: Mapped[str] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = _now()
    __table_args__ = (Index(None, "received_at"),)


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
    __table_args__ = (Index(None, "expires_at"),)


class ApiKey(Owned, Base):
    """A program's credential: shown once, kept as its SHA-256; `start` is what its owner knows it by."""

    __tablename__ = "api_keys"
    name: Mapped[str]
    start: Mapped[str]
    key_hash: Mapped[bytes]
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    __table_args__ = (Index(None, "key_hash"),)
    __collection__ = "keys"


# The log ------------------------------------------------------------------------------------------


class Stream(Base):
    """The head of a user's log; its row lock orders the user's commits.

    Who is not `hooked` has never had a webhook, so that a commit need not look for any.
    """

    __tablename__ = "streams"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    last_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    hooked: Mapped[bool] = mapped_column(server_default=text("false"))
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
        Index(None, "user_id", "run_id", "seq", postgresql_where=_where("run_id is not null")),
        Index(None, "user_id", "resource_id", "seq"),
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
    etag: Mapped[str | None]
    reply: Mapped[str | None]
    sealed_reply: Mapped[bytes | None]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (PrimaryKeyConstraint("user_id", "key"), Index(None, "created_at"))


# Webhooks -----------------------------------------------------------------------------------------


class Outbox(Base):
    """A log of a user with webhooks has moved to `seq`; written in the commit that logs, taken by a worker.

    A row for each commit: one that several wrote would make them wait for the worker that takes it.
    """

    __tablename__ = "outbox"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    seq: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (PrimaryKeyConstraint("user_id", "seq"), Index(None, "due_at"))


class Webhook(Owned, Base):
    """An address that is told what happens; `cursor` is the `seq` up to which it has deliveries.

    `due_at` says when to look for deliveries to send: since when it waits, or when the next is to be tried.
    """

    __tablename__ = "webhooks"
    name: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]]
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    disabled_reason: Mapped[str | None]
    failing_since: Mapped[datetime | None]
    secret: Mapped[bytes]
    old_secret: Mapped[bytes | None]
    old_secret_until: Mapped[datetime | None]
    cursor: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime | None]
    __table_args__ = (Index("webhooks_due_ix", "due_at", postgresql_where=_where("due_at is not null")),)


class DeliveryStatus(StrEnum):
    """`pending` is tried at `next_at`; the others are final until its user asks for it again."""

    pending = "pending"
    succeeded = "succeeded"
    failed = "failed"


class Delivery(Owned, Base):
    """One event on its way to one webhook; `attempts` are the heads of the newest requests and replies.

    `attempt` counts them all, `tried_before` those before its user asked for it again. `tried_since` is the
    first try after that.
    """

    __tablename__ = "deliveries"
    webhook_id: Mapped[UUID]
    event_id: Mapped[UUID]
    kind: Mapped[str]
    payload: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    attempt: Mapped[int] = mapped_column(server_default="0")
    tried_before: Mapped[int] = mapped_column(server_default="0")
    tried_since: Mapped[datetime | None]
    attempts: Mapped[list[Any]] = mapped_column(server_default="[]")
    next_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        _parent("webhooks", "webhook_id", "CASCADE"),
        _one_of("status", DeliveryStatus),
        Index(None, "user_id", "webhook_id", "id"),
        Index(
            "deliveries_due_ix",
            "user_id",
            "webhook_id",
            "next_at",
            postgresql_where=_where("status = 'pending'"),
        ),
    )


# Browsers and what they do ------------------------------------------------------------------------


class Quota(Base):
    """A user's limits, null for the server's, and place in the queue.

    What starts with `max_month` is for all agents of a calendar month (UTC) together. `turn` makes claims
    fair and is never before `ready_at`, which says when to look for work; `stored_bytes` follows the files'
    rows.
    """

    __tablename__ = "quotas"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    max_runs: Mapped[int | None]
    max_computers: Mapped[int | None]
    max_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    requests_per_minute: Mapped[int | None]
    max_month_steps: Mapped[int | None] = mapped_column(BigInteger)
    max_month_tokens: Mapped[int | None] = mapped_column(BigInteger)
    max_month_cost_usd: Mapped[float | None]
    max_month_seconds: Mapped[int | None] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    turn: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    ready_at: Mapped[datetime | None]
    __table_args__ = (Index(None, "turn", postgresql_where=_where("ready_at is not null")),)


class Usage(Base):
    """What a user has used on one day (UTC); kept when the runs themselves are gone."""

    __tablename__ = "usage"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    day: Mapped[date]
    runs: Mapped[int] = mapped_column(server_default="0")
    active_ms: Mapped[int] = mapped_column(BigInteger, server_default="0")
    steps: Mapped[int] = mapped_column(server_default="0")
    frames: Mapped[int] = mapped_column(server_default="0")
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cost_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
    __table_args__ = (PrimaryKeyConstraint("user_id", "day"),)
    __order__ = "day"
    __expressions__: ClassVar = {"cost_usd": lambda row: row.c.cost_micros / text("1000000.0")}


class SecretKind(StrEnum):
    """What a secret holds: a sign-in, a seed of one-time codes, or any text."""

    password = "password"  # noqa: S105 - the name of a kind
    totp = "totp"
    text = "text"


class Secret(Owned, Base):
    """Sealed values that are pinned to `origins` and never shown; `fields` names what is sealed."""

    __tablename__ = "secrets"
    name: Mapped[str]
    kind: Mapped[str]
    fields: Mapped[list[str]]
    origins: Mapped[list[str]]
    sealed: Mapped[bytes]
    used_at: Mapped[datetime | None]
    __table_args__ = (_one_of("kind", SecretKind), UniqueConstraint("user_id", "name"))


class Profile(Owned, Base):
    """Cookies and storage of signed-in sites, sealed; what is shown of them are `domains` and counts."""

    __tablename__ = "profiles"
    name: Mapped[str]
    state: Mapped[bytes | None]
    domains: Mapped[list[str]] = mapped_column(server_default="{}")
    cookie_count: Mapped[int] = mapped_column(server_default="0")
    origin_count: Mapped[int] = mapped_column(server_default="0")
    saved_at: Mapped[datetime | None]
    __table_args__ = (UniqueConstraint("user_id", "name"),)


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
    profile_id: Mapped[UUID | None]
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
        _optional("profiles", "profile_id"),
        Index(None, "user_id", "profile_id", postgresql_where=_where("profile_id is not null")),
        _one_of("state", ComputerState),
        _one_of("control_state", ControlState),
        Index("computers_waiting_ix", "user_id", "id", postgresql_where=_where("state = 'opening'")),
        Index("computers_lease_ix", "lease_owner", postgresql_where=_where("lease_owner is not null")),
    )


class Thread(Owned, Base):
    """A conversation that runs belong to."""

    __tablename__ = "threads"
    name: Mapped[str]
    labels: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    __table_args__ = (
        Index(
            "threads_agui_ix",
            "user_id",
            text("(labels ->> 'agui')"),
            unique=True,
            postgresql_where=_where("labels ->> 'agui' is not null"),
        ),
    )


class Workflow(Owned, Base):
    """A Recorder user flow under a name."""

    __tablename__ = "workflows"
    name: Mapped[str]
    definition: Mapped[dict[str, Any]]
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    version: Mapped[int] = mapped_column(server_default="1")
    __tagged__ = True


class WorkflowVersion(Owned, Base):
    """What a workflow was; every save of its definition or parameters makes one."""

    __tablename__ = "workflow_versions"
    workflow_id: Mapped[UUID]
    version: Mapped[int]
    definition: Mapped[dict[str, Any]]
    parameters: Mapped[dict[str, Any]]
    actor: Mapped[str]
    __table_args__ = (
        _parent("workflows", "workflow_id", "CASCADE"),
        UniqueConstraint("user_id", "workflow_id", "version"),
    )
    __order__ = "version"


class Missed(StrEnum):
    """What a schedule does about fires that no scheduler was there for."""

    skip = "skip"
    once = "once"
    all = "all"


class Overlap(StrEnum):
    """What a schedule does at a fire while its run before still goes on."""

    skip = "skip"
    queue = "queue"


class Schedule(Owned, Base):
    """Starts runs of a workflow by the clock of a time zone; `run` is what each of them is made of."""

    __tablename__ = "schedules"
    workflow_id: Mapped[UUID]
    name: Mapped[str]
    cron: Mapped[str]
    time_zone: Mapped[str]
    missed: Mapped[str]
    overlap: Mapped[str]
    run: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    next_at: Mapped[datetime | None]
    last_at: Mapped[datetime | None]
    __table_args__ = (
        _parent("workflows", "workflow_id", "CASCADE"),
        _one_of("missed", Missed),
        _one_of("overlap", Overlap),
        Index(None, "user_id", "workflow_id"),
        Index("schedules_due_ix", "next_at", postgresql_where=_where("enabled and next_at is not null")),
    )


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
    return case((run.c.status == "queued", queue.correlate(run).scalar_subquery()))


class Run(Owned, Base):
    """One execution of a workflow; driven by whoever holds its lease in the current epoch.

    `agent` says how its models are asked and what they may do alone; `budget` is what it may use.
    """

    __tablename__ = "runs"
    workflow_id: Mapped[UUID | None]
    computer_id: Mapped[UUID | None]
    profile_id: Mapped[UUID | None]
    thread_id: Mapped[UUID | None]
    schedule_id: Mapped[UUID | None]
    scheduled_for: Mapped[datetime | None]
    retry_of: Mapped[UUID | None]
    first_step: Mapped[int] = mapped_column(server_default="1")
    save_profile: Mapped[bool] = mapped_column(server_default=text("false"))
    title: Mapped[str]
    definition: Mapped[dict[str, Any]]
    params: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    agent: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    budget: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
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
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cost_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
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
        _optional("profiles", "profile_id"),
        _optional("threads", "thread_id"),
        _optional("schedules", "schedule_id"),
        _optional("runs", "retry_of"),
        _one_of("status", RunStatus),
        _one_of("control", Control),
        UniqueConstraint("user_id", "schedule_id", "scheduled_for"),
        Index(None, "id"),
        Index(None, "user_id", "status", "id"),
        Index(None, "user_id", "schedule_id", "id", postgresql_where=_where("schedule_id is not null")),
        Index(
            "runs_begun_ix",
            "user_id",
            "thread_id",
            "started_at",
            postgresql_where=_where(
                "thread_id is not null and status not in ('succeeded', 'failed', 'cancelled')"
            ),
        ),
        Index(
            "runs_scheduled_ix",
            "user_id",
            "schedule_id",
            "id",
            postgresql_where=_where(
                "schedule_id is not null and status not in ('succeeded', 'failed', 'cancelled')"
            ),
        ),
        Index(None, "user_id", "workflow_id", "id"),
        Index(None, "user_id", "thread_id", "id", postgresql_where=_where("thread_id is not null")),
        Index(None, "user_id", "profile_id", postgresql_where=_where("profile_id is not null")),
        Index(None, "user_id", "retry_of", postgresql_where=_where("retry_of is not null")),
        Index(
            "runs_queued_ix",
            "user_id",
            text("priority desc"),
            "id",
            postgresql_where=_where("status = 'queued'"),
        ),
        Index("runs_lease_ix", "lease_owner", postgresql_where=_where("lease_owner is not null")),
        Index("runs_live_ix", "user_id", postgresql_where=_where("lease_owner is not null")),
        Index(
            "runs_computer_ix", "user_id", "computer_id", postgresql_where=_where("computer_id is not null")
        ),
    )
    __search__ = ("title",)

    @property
    def cost_usd(self) -> float:
        """What its models have cost, in US dollars."""
        return (self.cost_micros or 0) / 1_000_000

    __expressions__: ClassVar = {
        "position": _position,
        "owner": lambda row: row.c.user_id,
        "cost_usd": lambda row: row.c.cost_micros / text("1000000.0"),
        "error_code": lambda row: row.c.error["code"].as_string(),
    }


class StepStatus(StrEnum):
    """`may_have_landed`: its worker died between the intent and the outcome of an action."""

    started = "started"
    succeeded = "succeeded"
    failed = "failed"
    interrupted = "interrupted"
    may_have_landed = "may_have_landed"


class Step(Owned, Base):
    """One step of a run: the intent is committed before acting, the outcome after.

    A step that a model has asked for has a `call`: its id, tool and arguments; `recorded` are the steps of a
    flow that do the same again.
    """

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
    call: Mapped[dict[str, Any] | None]
    recorded: Mapped[list[Any] | None]
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
        Index(None, "user_id", "screenshot_id", postgresql_where=_where("screenshot_id is not null")),
    )
    __order__ = "number"


class Role(StrEnum):
    """Who says a message."""

    user = "user"
    assistant = "assistant"
    system = "system"


class Message(Owned, Base):
    """Something said in a thread or to a run; `taken_at` is when the run heard it."""

    __tablename__ = "messages"
    thread_id: Mapped[UUID | None]
    run_id: Mapped[UUID | None]
    role: Mapped[str]
    text: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    taken_at: Mapped[datetime | None]
    __table_args__ = (
        _parent("threads", "thread_id", "CASCADE"),
        _parent("runs", "run_id", "CASCADE"),
        _one_of("role", Role),
        CheckConstraint("thread_id is not null or run_id is not null", name="place"),
        Index(None, "user_id", "thread_id", "id", postgresql_where=_where("thread_id is not null")),
        Index(None, "user_id", "run_id", "id", postgresql_where=_where("run_id is not null")),
        Index(
            "messages_user_id_run_id_unheard_ix",
            "user_id",
            "run_id",
            postgresql_where=_where("role = 'user' and taken_at is null"),
        ),
    )


class Turn(Owned, Base):
    """One reply of a model, with what it was told before and what came of the tools that it called.

    `step` is the number of the step whose model it is; pictures are named by their files' ids.
    """

    __tablename__ = "turns"
    run_id: Mapped[UUID]
    step: Mapped[int]
    number: Mapped[int]
    model_name: Mapped[str]
    told: Mapped[list[Any]]
    response: Mapped[dict[str, Any]]
    results: Mapped[list[Any]] = mapped_column(server_default="[]")
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cost_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
    duration_ms: Mapped[int]
    __table_args__ = (
        _parent("runs", "run_id", "CASCADE"),
        UniqueConstraint("user_id", "run_id", "step", "number"),
    )
    __order__ = "number"


class ApprovalStatus(StrEnum):
    """All but `pending` are final."""

    pending = "pending"
    approved = "approved"
    denied = "denied"
    expired = "expired"
    cancelled = "cancelled"


class Approval(Owned, Base):
    """A question of a run about exactly one action, named by `digest`; a yes serves once, at `used_at`.

    `arguments` are its user's edit.
    """

    __tablename__ = "approvals"
    run_id: Mapped[UUID]
    step_id: Mapped[UUID | None]
    screenshot_id: Mapped[UUID | None]
    status: Mapped[str] = mapped_column(server_default="pending")
    title: Mapped[str]
    action: Mapped[dict[str, Any]]
    digest: Mapped[str]
    url: Mapped[str | None]
    arguments: Mapped[dict[str, Any] | None]
    note: Mapped[str | None]
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    __table_args__ = (
        _parent("runs", "run_id", "CASCADE"),
        _optional("steps", "step_id"),
        _optional("files", "screenshot_id"),
        _one_of("status", ApprovalStatus),
        Index(None, "user_id", "run_id", "id"),
        Index(None, "user_id", "step_id", postgresql_where=_where("step_id is not null")),
        Index(None, "user_id", "screenshot_id", postgresql_where=_where("screenshot_id is not null")),
        Index("approvals_pending_ix", "expires_at", postgresql_where=_where("status = 'pending'")),
    )


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
        CheckConstraint("kind in ('screenshot', 'download', 'upload', 'recording')", name="kind"),
        Index(None, "user_id", "run_id", "id", postgresql_where=_where("run_id is not null")),
        Index(None, "user_id", "computer_id", postgresql_where=_where("computer_id is not null")),
        Index(None, "user_id", "id", postgresql_where=_where("kind = 'recording'")),
    )


class Frame(Owned, Base):
    """One picture of a run's recording: `length` bytes at `position` of a segment file."""

    __tablename__ = "frames"
    run_id: Mapped[UUID]
    file_id: Mapped[UUID]
    number: Mapped[int]
    seq: Mapped[int | None] = mapped_column(BigInteger)
    step: Mapped[int | None]
    captured_at: Mapped[datetime]
    position: Mapped[int] = mapped_column(BigInteger)
    length: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    __table_args__ = (
        _parent("runs", "run_id", "CASCADE"),
        _parent("files", "file_id", "CASCADE"),
        UniqueConstraint("user_id", "run_id", "number"),
        Index(None, "user_id", "file_id"),
    )
    __order__ = "number"


class Removal(Base):
    """Bytes in the file store that no row speaks of, to be removed from `not_before` on; a system table.

    Written before bytes are stored and when their row is deleted, and gone once a row speaks of them.
    """

    __tablename__ = "removals"
    place: Mapped[str] = mapped_column(primary_key=True)
    not_before: Mapped[datetime] = _now()
    __table_args__ = (Index(None, "not_before"),)


SYSTEM_TABLES = (Account, AuthCode, ErasedUser, Inbox, Removal, SigningKey)
OWNED_TABLES = tuple(
    mapper.class_ for mapper in Base.registry.mappers if mapper.class_ not in (User, *SYSTEM_TABLES)
)
