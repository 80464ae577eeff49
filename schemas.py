"""The wire: what each resource's requests and replies look like, and the messages of the socket."""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)

from models import ComputerState, Control, ControlState, RunStatus, StepStatus

T = TypeVar("T")


MAX_NESTING = 64


def nests_too_deep(value: Any) -> bool:
    """Whether JSON holds lists and objects more than `MAX_NESTING` deep; Pydantic writes 255, and fails."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [
            inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


class Wire(BaseModel):
    """Unknown names are refused, so that a misspelt field is never silently dropped.

    `logged_as` is the smaller shape that events carry, where there is one.
    """

    logged_as: ClassVar[type[BaseModel] | None] = None
    model_config = ConfigDict(extra="forbid", from_attributes=True, ser_json_inf_nan="null")


class Patch(Wire):
    """Exactly the fields sent are set; null only empties a field named in `clearable`."""

    clearable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _no_stray_null(self) -> Self:
        for name in self.model_fields_set - self.clearable:
            if getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


def _write_instant(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _with_zone(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("name the time zone, for example 2026-01-31T08:00:00Z")
    return instant


Instant = Annotated[
    datetime,
    AfterValidator(_with_zone),
    PlainSerializer(_write_instant, return_type=str, when_used="json"),
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Email = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        to_lower=True,
        max_length=254,
        pattern=r"^[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]+\.[^@\s.\x00-\x1f]+$",
    ),
]
Domain = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        to_lower=True,
        max_length=260,
        pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?$",
    ),
]


class Reply(Wire, Generic[T]):
    """The envelope of one thing."""

    success: Literal[True] = True
    data: T


class Page(Wire, Generic[T]):
    """The envelope of a list; `next_cursor` asks for what follows, null at the end."""

    success: Literal[True] = True
    data: list[T]
    next_cursor: str | None


class ProblemError(Wire):
    """One offending field: where it is and what is wrong with it."""

    loc: list[str | int]
    msg: str
    pointer: str | None = Field(None, description="JSON pointer into the workflow or its params.")


class ProblemRead(Wire):
    """A failure (RFC 9457)."""

    success: Literal[False] = False
    type: str = Field(description="Page that describes this kind of problem.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name for programs.")
    errors: list[ProblemError] | None = None
    request_id: str


class PageQuery(Wire):
    """Paging, newest first."""

    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the page before.")
    order: Literal["asc", "desc"] = "desc"


class OldestFirstQuery(PageQuery):
    """Paging, oldest first."""

    order: Literal["asc", "desc"] = "asc"


class NamedQuery(PageQuery):
    """Paging with a search in names."""

    q: str | None = Field(None, min_length=1, max_length=200, description="Part of the name, in any case.")


# Ops ----------------------------------------------------------------------------------------------


class Health(Wire):
    status: Literal["ok"] = "ok"
    version: str


class Readiness(Wire):
    database: bool
    browser: bool
    worker: bool

    @property
    def all(self) -> bool:
        return self.database and self.browser and self.worker


AuthMode = Literal["embedded", "clerk", "supabase", "oidc"]


class IssuerRead(Wire):
    name: str = Field(description="Its users' ids begin with it.")
    issuer: str = Field(description="Where OpenID Connect Discovery begins.")
    client_id: str | None = Field(description="Whom a web client signs in as, where the operator said.")


class AuthConfig(Wire):
    """Where people sign in: `mode` is the first choice, and every issuer named here is accepted."""

    mode: AuthMode
    publishable_key: str | None = Field(None, description="Clerk's.")
    supabase_url: str | None = None
    supabase_key: str | None = Field(None, description="Supabase's publishable key.")
    issuers: list[IssuerRead] = Field([], description="OpenID providers.")
    registration: bool = Field(description="Whether anyone may sign up here, in mode `embedded`.")


class PublicConfig(Wire):
    """What a web client must know before anyone has signed in."""

    version: str
    auth: AuthConfig
    max_upload_mb: int
    socket_protocol: str


# Auth ---------------------------------------------------------------------------------------------


class Credentials(Wire):
    email: Email
    password: str = Field(min_length=1, max_length=1024)


class Registration(Wire):
    email: Email
    password: str = Field(min_length=10, max_length=1024, description="At least ten characters.")
    name: Name | None = None


class RefreshRequest(Wire):
    refresh_token: str = Field(max_length=256)


class ForgottenPassword(Wire):
    email: Email


class PasswordReset(Wire):
    code: str = Field(max_length=256, description="From the link in the mail.")
    password: str = Field(min_length=10, max_length=1024, description="At least ten characters.")


class EmailProof(Wire):
    code: str = Field(max_length=256, description="From the link in the mail.")


class PasswordChange(Wire):
    old: str = Field(min_length=1, max_length=1024)
    new: str = Field(min_length=10, max_length=1024, description="At least ten characters.")


class Tokens(Wire):
    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of the scheme (RFC 6750)
    expires_in: int = Field(description="Seconds until the access token ends.")


class SessionRead(Wire):
    id: UUID
    address: str | None
    user_agent: str | None
    created_at: Instant
    updated_at: Instant
    expires_at: Instant


# Me -----------------------------------------------------------------------------------------------


class MeRead(Wire):
    id: str
    email: str | None
    name: str | None
    image_url: str | None
    role: Literal["user", "admin"]
    created_at: Instant
    updated_at: Instant


class MeUpdate(Patch):
    clearable = frozenset({"name", "image_url"})
    name: Name | None = None
    image_url: Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://\S+$")] | None = None


class Preferences(BaseModel):
    """Whatever a client wants to remember; replaced as a whole, at most 64 KiB."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _small(self) -> Self:
        if len(self.model_dump_json()) > 64 * 1024:
            raise ValueError("preferences take at most 64 KiB")
        return self


# Computers ----------------------------------------------------------------------------------------


class Viewport(Wire):
    """CSS pixels."""

    width: int = Field(1280, ge=200, le=3840)
    height: int = Field(720, ge=200, le=2160)


class ComputerSettings(Wire):
    viewport: Viewport = Viewport()
    locale: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = None
    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]+(/[A-Za-z0-9_+-]+){0,2}$")] | None = None
    user_agent: Annotated[str, StringConstraints(max_length=500, pattern=r"^[\x20-\x7e]+$")] | None = None
    allowed_domains: list[Domain] = Field([], max_length=100, description="Empty allows every public host.")


class ComputerCreate(Wire):
    name: Name = "Computer"
    settings: ComputerSettings = ComputerSettings()


class ComputerUpdate(Patch):
    name: Name | None = None


class ComputerQuery(NamedQuery):
    state: ComputerState | None = None


class ComputerRead(Wire):
    id: UUID
    name: str
    state: ComputerState
    settings: dict[str, Any]
    url: str | None
    title: str | None
    closed_reason: str | None
    for_run: bool = Field(description="Opened by a run, and closed with it.")
    control_state: ControlState
    control_holder: str | None
    control_generation: int
    control_expires_at: Instant | None
    created_at: Instant
    updated_at: Instant


class ControlRead(Wire):
    state: ControlState
    holder: str | None
    generation: int
    expires_at: Instant | None


class TabRead(Wire):
    id: str
    url: str
    title: str
    active: bool


class ActionRead(Wire):
    """What an action answered; a screenshot is base64 JPEG."""

    output: Any
    image: str | None = None


# Workflows ----------------------------------------------------------------------------------------


class WorkflowCreate(Wire):
    name: Name
    definition: dict[str, Any] = Field(description="A Chrome DevTools Recorder user flow.")
    parameters: dict[str, Any] = Field({}, description="JSON Schema of the run's `params`.")


class WorkflowUpdate(Patch):
    name: Name | None = None
    definition: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None


class WorkflowCheck(Wire):
    definition: dict[str, Any]
    parameters: dict[str, Any] = {}


class WorkflowImport(Wire):
    recording: dict[str, Any] = Field(description="The JSON that Chrome DevTools' Recorder exports.")
    name: Name | None = Field(None, description="Default is the recording's title.")
    parameters: dict[str, Any] = {}


class WorkflowProblem(Wire):
    pointer: str = Field(description="JSON pointer (RFC 6901) into the definition.")
    message: str


class WorkflowVerdict(Wire):
    valid: bool
    problems: list[WorkflowProblem]


class WorkflowRead(Wire):
    id: UUID
    name: str
    parameters: dict[str, Any]
    version: int
    created_at: Instant
    updated_at: Instant


class WorkflowDetail(WorkflowRead):
    logged_as: ClassVar = WorkflowRead

    definition: dict[str, Any]


# Runs ---------------------------------------------------------------------------------------------


class RunCreate(Wire):
    """Either a stored workflow or a definition of its own."""

    workflow_id: UUID | None = None
    definition: dict[str, Any] | None = None
    parameters: dict[str, Any] = Field({}, description="JSON Schema of `params`, beside a definition.")
    params: dict[str, Any] = {}
    computer_id: UUID | None = Field(None, description="An open computer to use, and to leave open.")
    allowed_domains: list[Domain] = Field([], max_length=100, description="Empty allows every public host.")
    priority: int = Field(0, ge=-100, le=100)
    run_after: Instant | None = None
    timeout_seconds: int | None = Field(None, ge=1, le=86400)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.workflow_id is None) == (self.definition is None):
            raise ValueError("name either workflow_id or definition")
        if self.parameters and self.workflow_id is not None:
            raise ValueError("a stored workflow has its own parameters")
        return self


class RunQuery(PageQuery):
    status: RunStatus | None = None
    workflow_id: UUID | None = None


class RunRead(Wire):
    id: UUID
    workflow_id: UUID | None
    computer_id: UUID | None
    title: str
    params: dict[str, Any]
    allowed_domains: list[str]
    status: RunStatus
    control: Control = Field(description="What its user wants; `status` follows within a second.")
    reason: str | None = Field(description="Why it is paused or waits.")
    priority: int
    position: int | None = Field(None, description="Place in the user's queue, from 1; null once started.")
    run_after: Instant
    timeout_seconds: int
    attempt: int = Field(description="Workers that have driven it; handing it over is not counted.")
    active_ms: int = Field(description="Time spent acting, pauses left out.")
    step_count: int = Field(description="Steps that have ended well.")
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    started_at: Instant | None
    finished_at: Instant | None
    created_at: Instant
    updated_at: Instant


class RunDetail(RunRead):
    logged_as: ClassVar = RunRead

    definition: dict[str, Any]


class RunWait(Wire):
    wait: float = Field(0, ge=0, le=60, description="Seconds to wait for the run to end.")


class StepRead(Wire):
    id: UUID
    run_id: UUID
    number: int
    pointer: str = Field(description="JSON pointer of the step in the definition.")
    type: str
    title: str
    status: StepStatus
    attempt: int
    url: str | None
    screenshot_id: UUID | None
    output: Any
    error: dict[str, Any] | None
    started_at: Instant
    finished_at: Instant | None
    duration_ms: int | None


# Files --------------------------------------------------------------------------------------------


class FileQuery(NamedQuery):
    run_id: UUID | None = None
    kind: Literal["screenshot", "download", "upload"] | None = None


class FileUpdate(Patch):
    name: Name | None = None


class FileRead(Wire):
    id: UUID
    run_id: UUID | None
    computer_id: UUID | None
    kind: Literal["screenshot", "download", "upload"]
    name: str
    content_type: str
    size: int
    sha256: str
    created_at: Instant
    updated_at: Instant


# Events -------------------------------------------------------------------------------------------


class EventQuery(OldestFirstQuery):
    """`after` is the `seq` to continue from."""

    after: int | None = Field(None, ge=0, le=2**62)
    kind: str | None = Field(None, max_length=100)
    run_id: UUID | None = None


class ResourceRead(Wire):
    type: str
    id: str


class EventRead(Wire):
    seq: int = Field(description="The user's own count, without gaps, in commit order.")
    id: UUID
    kind: str
    run_id: UUID | None
    resource: ResourceRead
    at: Instant
    actor: str
    data: dict[str, Any]


# Socket -------------------------------------------------------------------------------------------

RequestId = (
    Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,64}$")] | Annotated[int, Field(ge=0, lt=2**53)]
)
Kind = Annotated[str, StringConstraints(pattern=r"^[a-z_]+(\.[a-z_]+)*\.?$", max_length=100)]
Uint32 = Annotated[int, Field(ge=1, lt=2**32)]
Generation = Annotated[int, Field(ge=0, lt=2**31)]


class AuthRequest(Wire):
    """First message without an `Authorization` header, and later a newer token of the same user."""

    type: Literal["auth"]
    id: RequestId | None = None
    token: str = Field(max_length=8192)


class SubscribeRequest(Wire):
    type: Literal["subscribe"]
    id: RequestId
    after: int | None = Field(None, ge=0, le=2**62, description="`seq` to continue from; null is live only.")
    run_id: UUID | None = None
    kinds: list[Kind] | None = Field(
        None, min_length=1, max_length=32, description="Exact kinds, or beginnings that end in a dot."
    )


class UnsubscribeRequest(Wire):
    type: Literal["unsubscribe"]
    id: RequestId | None = None
    subscription: Uint32


class WatchRequest(Wire):
    type: Literal["watch"]
    id: RequestId
    computer_id: UUID
    max_fps: float = Field(15, ge=0.1, le=60)


class UnwatchRequest(Wire):
    type: Literal["unwatch"]
    id: RequestId | None = None
    stream: Uint32


class AckRequest(Wire):
    """Acknowledges this frame of the stream and all before it."""

    type: Literal["ack"]
    stream: Uint32
    frame: int = Field(ge=0, lt=2**64)


class ControlRequest(Wire):
    type: Literal["control"]
    id: RequestId
    computer_id: UUID
    action: Literal["take", "release"]


class InputRequest(Wire):
    type: Literal["input"]
    id: RequestId | None = None
    computer_id: UUID
    generation: Generation
    event: dict[str, Any] = Field(description="mouse, wheel, key, text, touch, navigate or tab.")


SocketRequest = Annotated[
    AuthRequest
    | SubscribeRequest
    | UnsubscribeRequest
    | WatchRequest
    | UnwatchRequest
    | AckRequest
    | ControlRequest
    | InputRequest,
    Field(discriminator="type"),
]


class SocketLimits(Wire):
    """What one connection may do; beyond it come errors or the close codes of docs/socket.md."""

    message_bytes: int
    messages_per_second: int
    subscriptions: int
    streams: int
    queued_bytes: int
    queued_events: int
    unacknowledged_frames: int


class HelloMessage(Wire):
    type: Literal["hello"] = "hello"
    connection_id: UUID
    ping_seconds: float = Field(description="Longest silence of the server while all is well.")
    limits: SocketLimits
    server_time: Instant


class ReadyMessage(Wire):
    type: Literal["ready"] = "ready"
    id: RequestId | None = None
    user_id: str
    head: int = Field(description="Newest `seq` of the user's log.")
    expires_at: Instant


class AuthExpiringMessage(Wire):
    type: Literal["auth_expiring"] = "auth_expiring"
    expires_at: Instant


class SubscribedMessage(Wire):
    type: Literal["subscribed"] = "subscribed"
    id: RequestId
    subscription: int
    from_: int = Field(serialization_alias="from", description="The events that follow begin after this.")
    head: int
    recovered: bool = Field(description="False: events after the asked position are gone; read state anew.")


class EventsMessage(Wire):
    type: Literal["events"] = "events"
    subscription: int
    events: list[EventRead]
    upto: int = Field(description="Cursor to resume from, also where a filter left events out.")


class PositionMessage(Wire):
    """The server's sign of life; without subscriptions `subscription` and `upto` are null."""

    type: Literal["position"] = "position"
    subscription: int | None
    upto: int | None
    head: int


class UnsubscribedMessage(Wire):
    type: Literal["unsubscribed"] = "unsubscribed"
    id: RequestId
    subscription: int
    upto: int


class WatchingMessage(Wire):
    type: Literal["watching"] = "watching"
    id: RequestId
    stream: int
    width: int
    height: int


class ViewMessage(Wire):
    """The stream follows the active tab; this is the tab from now on."""

    type: Literal["view"] = "view"
    stream: int
    tab: str
    url: str
    title: str


class UnwatchedMessage(Wire):
    type: Literal["unwatched"] = "unwatched"
    id: RequestId | None = None
    stream: int
    reason: str | None = None


class ControlledMessage(ControlRead):
    type: Literal["controlled"] = "controlled"
    id: RequestId


class ErrorMessage(Wire):
    type: Literal["error"] = "error"
    id: RequestId | None = None
    code: str
    detail: str
    retryable: bool
    retry_after_ms: int | None = None


SocketMessage = Annotated[
    HelloMessage
    | ReadyMessage
    | AuthExpiringMessage
    | SubscribedMessage
    | UnsubscribedMessage
    | EventsMessage
    | PositionMessage
    | WatchingMessage
    | ViewMessage
    | UnwatchedMessage
    | ControlledMessage
    | ErrorMessage,
    Field(discriminator="type"),
]
