"""The wire: what each resource's requests and replies look like, and the messages of the socket."""

import re
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar
from uuid import UUID
from zoneinfo import available_timezones

from ag_ui.core import RunAgentInput
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from models import (
    ApprovalStatus,
    ComputerState,
    Control,
    ControlState,
    DeliveryStatus,
    Missed,
    Overlap,
    Role,
    RunStatus,
    SecretKind,
    StepStatus,
)

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
    model_config = ConfigDict(
        extra="forbid",
        from_attributes=True,
        ser_json_inf_nan="null",
        json_schema_serialization_defaults_required=True,
    )


def example(body: dict[str, Any]) -> ConfigDict:
    """What a request's body may look like, for its model's JSON Schema."""
    return ConfigDict(json_schema_extra={"examples": [body]})


EXAMPLE_ID = "0199b0a4-3c4e-7d1a-9a55-0d5b3c6e2f10"
EXAMPLE_FLOW: dict[str, Any] = {
    "title": "Look at a page",
    "steps": [
        {"type": "navigate", "url": "https://example.com/"},
        {"type": "extract", "name": "page", "fields": {"heading": {"selectors": ["h1"]}}},
    ],
}


class Patch(Wire):
    """Exactly the fields sent are set; null only empties a field named in `clearable`."""

    clearable: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*")
    @classmethod
    def _no_stray_null(cls, value: Any, field: ValidationInfo) -> Any:
        if value is None and field.field_name not in cls.clearable:
            raise ValueError("it cannot be null")
        return value


def _write_instant(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# What asyncpg writes as -infinity and infinity, and reads as something else.
_INFINITIES = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _with_zone(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("name the time zone, for example 2026-01-31T08:00:00Z")
    try:
        known = instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("no such instant in UTC") from error
    if known in _INFINITIES:
        raise ValueError("no such instant in the database")
    return known


Instant = Annotated[
    datetime,
    AfterValidator(_with_zone),
    PlainSerializer(_write_instant, return_type=str, when_used="json"),
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^(demo|[a-z-]+:[^\s]+)$", max_length=200),
    Field(examples=["anthropic:claude-sonnet-5-5"]),
]
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
        max_length=259,
        pattern=r"(?i)^[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?$",
    ),
]


def _without_port(domain: str) -> str:
    if ":" in domain:
        raise ValueError("name the domain without a port")
    return domain


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _known_zone(name: str) -> str:
    if name not in _time_zones():
        raise ValueError("name an IANA time zone, such as Europe/Berlin")
    return name


ZoneName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
TimeZone = Annotated[ZoneName, AfterValidator(_known_zone)]


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

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    loc: list[str | int] = Field(description="`body`, `query`, `path` or `header`, then names and indexes.")
    msg: str
    pointer: str | None = Field(None, description="JSON pointer into the workflow or its params.")


class ProblemRead(Wire):
    """A failure (RFC 9457)."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    success: Literal[False] = False
    type: str = Field(description="Where this kind of problem is described.")
    title: str = Field(
        description="What kind of problem it is, in words; the same for every one of its `code`."
    )
    status: int = Field(description="The reply's HTTP status.")
    detail: str = Field(description="What went wrong this time, for people.")
    code: str = Field(description="Stable name for programs.")
    errors: list[ProblemError] = Field([], description="Every offending field, where fields are to blame.")
    request_id: str = Field(description="The reply's `X-Request-ID`, by which the server's log tells more.")


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
    migrations: bool = Field(description="The database has what this server needs.")
    bus: bool = Field(description="This process hears the others; without, events come a second later.")
    storage: bool = Field(description="The file store answers.")
    browser: bool = Field(description="Chromium is there, where this process works.")
    worker: bool = Field(description="The worker goes on, where this process has one.")

    @property
    def all(self) -> bool:
        """Whether requests can be answered; a bus that is away takes no server out of service."""
        return self.database and self.migrations and self.storage and self.browser and self.worker


AuthMode = Literal["embedded", "clerk", "supabase", "oidc"]


class IssuerRead(Wire):
    name: str = Field(description="Its users' ids begin with it.")
    issuer: str = Field(description="Where OpenID Connect Discovery begins.")
    client_id: str | None = Field(description="Whom a web client signs in as, where the operator said.")


class AuthConfig(Wire):
    """Where people sign in: `mode` is the first choice, and every issuer named here is accepted."""

    mode: AuthMode
    publishable_key: str | None = Field(None, description="Clerk's.")
    supabase_url: str | None = Field(None, description="Address of the Supabase project.")
    supabase_key: str | None = Field(None, description="Supabase's publishable key.")
    issuers: list[IssuerRead] = Field([], description="OpenID providers.")
    registration: bool = Field(description="Whether anyone may sign up here, in mode `embedded`.")


class PublicConfig(Wire):
    """What a web client must know before anyone has signed in."""

    version: str
    auth: AuthConfig
    max_upload_mb: int = Field(description="Largest file that is taken, in MiB.")
    control_seconds: float = Field(description="How long control of a computer lasts without input.")
    socket_protocol: str = Field(description="WebSocket subprotocol of `/ws`.")


# Auth ---------------------------------------------------------------------------------------------


class Credentials(Wire):
    model_config = example({"email": "ann@example.com", "password": "correct horse battery"})
    email: Email
    password: str = Field(min_length=1, max_length=1024)


class Registration(Wire):
    model_config = example({"email": "ann@example.com", "password": "correct horse battery", "name": "Ann"})
    email: Email
    password: str = Field(min_length=10, max_length=1024, description="At least ten characters.")
    name: Name | None = None


class RefreshRequest(Wire):
    model_config = example({"refresh_token": "cur_…"})
    refresh_token: str = Field(max_length=256)


class ForgottenPassword(Wire):
    model_config = example({"email": "ann@example.com"})
    email: Email


class PasswordReset(Wire):
    model_config = example({"code": "7Gk…", "password": "battery staple correct"})
    code: str = Field(max_length=256, description="From the link in the mail.")
    password: str = Field(min_length=10, max_length=1024, description="At least ten characters.")


class EmailProof(Wire):
    model_config = example({"code": "7Gk…"})
    code: str = Field(max_length=256, description="From the link in the mail.")


class PasswordChange(Wire):
    model_config = example({"old": "correct horse battery", "new": "battery staple correct"})
    old: str = Field(min_length=1, max_length=1024)
    new: str = Field(min_length=10, max_length=1024, description="At least ten characters.")


class Tokens(Wire):
    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of the scheme (RFC 6750)
    expires_in: int = Field(description="Seconds until the access token ends.")


class SessionRead(Wire):
    id: UUID
    address: str | None = Field(description="From where it was begun.")
    user_agent: str | None
    created_at: Instant
    updated_at: Instant = Field(description="When it was last refreshed.")
    expires_at: Instant


# Me -----------------------------------------------------------------------------------------------


class Profiled(Wire):
    """What events tell of a user: all but what not only the database decides."""

    id: str
    email: str | None
    name: str | None
    image_url: str | None
    created_at: Instant
    updated_at: Instant


class MeRead(Profiled):
    role: Literal["user", "admin"] = Field(description="What this sign-in may do, whoever says so.")
    email_verified: bool = Field(description="Whether the issuer has seen that the address is its user's.")


class MeExport(Profiled):
    role: Literal["user", "admin"]
    preferences: dict[str, Any]


class MeUpdate(Patch):
    model_config = example({"name": "Ann"})
    clearable = frozenset({"name", "image_url"})
    name: Name | None = None
    image_url: Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://\S+$")] | None = None


class Preferences(BaseModel):
    """Whatever a client wants to remember; replaced as a whole, at most 64 KiB."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"theme": "dark", "panels": ["live", "steps"]}]}
    )

    @model_validator(mode="after")
    def _small(self) -> Self:
        if len(self.model_dump_json()) > 64 * 1024:
            raise ValueError("preferences take at most 64 KiB")
        return self


class UsageQuery(Wire):
    """How many days back, today (UTC) included."""

    days: int = Field(30, ge=1, le=366)


class UsageDay(Wire):
    """What ended on one day (UTC)."""

    day: date
    runs: int
    active_ms: int = Field(description="Time that runs spent acting, in milliseconds.")
    steps: int
    frames: int = Field(description="Pictures that recordings kept.")
    input_tokens: int
    output_tokens: int
    cost_usd: float


class LimitsRead(Wire):
    """What this user may use at once."""

    max_runs: int = Field(description="Runs that go on at once.")
    max_computers: int = Field(description="Computers that are open at once.")
    max_storage_bytes: int | None = Field(description="null is no limit.")
    requests_per_minute: int | None = Field(description="null is the server's own limit.")
    max_month_steps: int | None = Field(description="Of all agents in a month (UTC); null is no limit.")
    max_month_tokens: int | None
    max_month_cost_usd: float | None
    max_month_seconds: int | None


class UsageRead(Wire):
    days: list[UsageDay] = Field(description="Newest first; days without any use are left out.")
    total: UsageDay | None = Field(
        description="The sum of `days`, under the oldest of them; null without any."
    )
    stored_bytes: int = Field(description="Size of all files.")
    limits: LimitsRead


# Keys ---------------------------------------------------------------------------------------------

Scope = Literal["read", "run", "write"]


def _once_each(scopes: list[Scope]) -> list[Scope]:
    if len(set(scopes)) != len(scopes):
        raise ValueError("name each scope once")
    return sorted(scopes)


def _to_come(instant: datetime) -> datetime:
    if instant <= datetime.now(UTC):
        raise ValueError("has passed already")
    return instant


Scopes = Annotated[list[Scope], Field(min_length=1, max_length=3), AfterValidator(_once_each)]


class KeyCreate(Wire):
    """`read` reads; `run` starts, steers and answers runs and computers; `write` changes all the rest.

    None of the three includes another.
    """

    model_config = example(
        {"name": "Nightly bot", "scopes": ["read", "run"], "expires_at": "2030-01-01T00:00:00Z"}
    )
    name: Name
    scopes: Scopes = Field(["read"])
    expires_at: Annotated[Instant, AfterValidator(_to_come)] | None = Field(
        None, description="null is never."
    )


class KeyUpdate(Patch):
    """With fewer scopes or an earlier end, which may be past, the key's sockets close."""

    model_config = example({"scopes": ["read"]})
    clearable = frozenset({"expires_at"})
    name: Name | None = None
    scopes: Scopes | None = None
    expires_at: Instant | None = None


class KeyRead(Wire):
    id: UUID
    name: str
    start: str = Field(description="How the key begins, to tell it from others.")
    scopes: list[Scope]
    expires_at: Instant | None
    last_used_at: Instant | None = Field(description="Exact to a minute.")
    created_at: Instant
    updated_at: Instant


class KeyCreated(KeyRead):
    """The only time that the key itself is shown."""

    key: str = Field(description="Goes into `Authorization: Bearer` or `X-API-Key`.")


# Secrets ------------------------------------------------------------------------------------------

SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
SecretText = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Origin = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        to_lower=True,
        max_length=300,
        pattern=r"(?i)^https?://[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?$",
    ),
]
TotpSeed = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=8, max_length=2000),
    Field(description="A base32 seed or an otpauth:// address."),
]


class SecretCreate(Wire):
    """A `password` may come with a username and with the seed of one-time codes.

    Values are kept encrypted and never shown. Steps fill them in as `{{ secrets.<name>.<field> }}`.
    """

    model_config = example(
        {
            "name": "shop",
            "kind": "password",
            "username": "ann",
            "password": "s3cret",
            "origins": ["https://shop.example"],
        }
    )
    name: SecretName = Field(description="Unique among the user's secrets.")
    kind: SecretKind
    origins: list[Origin] = Field(
        [], max_length=50, description="The pages it is filled in at; another one needs every value again."
    )
    username: SecretText | None = None
    password: SecretText | None = None
    totp: TotpSeed | None = None
    text: SecretText | None = None


class SecretUpdate(Patch):
    """The kind stays; a value that is sent replaces the one before, null removes an optional one.

    Another origin needs every value again.
    """

    model_config = example({"password": "n3w"})
    clearable = frozenset({"username", "totp"})
    name: SecretName | None = None
    origins: list[Origin] | None = Field(None, max_length=50)
    username: SecretText | None = None
    password: SecretText | None = None
    totp: TotpSeed | None = None
    text: SecretText | None = None


class SecretRead(Wire):
    id: UUID
    name: str
    kind: SecretKind
    fields: list[str] = Field(description="Which values it has: username, password, totp, text.")
    origins: list[str]
    used_at: Instant | None = Field(description="When it was last filled in; null until then.")
    created_at: Instant
    updated_at: Instant


# Profiles -----------------------------------------------------------------------------------------


class ProfileCreate(Wire):
    model_config = example({"name": "Ann at the shop"})
    name: Name


class ProfileUpdate(Patch):
    model_config = example({"name": "Ann at work"})
    name: Name | None = None


class ProfileState(Wire):
    """Exactly one of the forms that browsers and their extensions export."""

    model_config = example(
        {"cookies": [{"name": "session", "value": "abc", "domain": "shop.example", "path": "/"}]}
    )
    storage_state: dict[str, Any] | None = Field(None, description="Playwright's storage state.")
    cookies_txt: str | None = Field(None, description="A Netscape cookies.txt.")
    cookies: list[dict[str, Any]] | None = Field(None, description="The JSON list that extensions export.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(form is not None for form in (self.storage_state, self.cookies_txt, self.cookies)) != 1:
            raise ValueError("give exactly one of storage_state, cookies_txt and cookies")
        return self


class ProfileCapture(Wire):
    model_config = example({"computer_id": EXAMPLE_ID})
    computer_id: UUID = Field(description="An open computer, whose cookies and storage are kept.")


class ProfileRead(Wire):
    id: UUID
    name: str
    domains: list[str] = Field(description="Where its cookies and storage belong; values are never shown.")
    cookie_count: int
    origin_count: int
    saved_at: Instant | None
    created_at: Instant
    updated_at: Instant


# Computers ----------------------------------------------------------------------------------------


class Viewport(Wire):
    """CSS pixels."""

    width: int = Field(1280, ge=200, le=3840)
    height: int = Field(720, ge=200, le=2160)


class ComputerSettings(Wire):
    viewport: Viewport = Viewport()
    locale: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=64)]
        | None
    ) = Field(None, description="BCP 47, such as `de-DE`.")
    time_zone: TimeZone | None = Field(None, description="IANA name, such as `Europe/Berlin`.")
    user_agent: Annotated[str, StringConstraints(max_length=500, pattern=r"^[\x20-\x7e]+$")] | None = None
    allowed_domains: list[Domain] = Field([], max_length=100, description="Empty allows every public host.")


class ComputerCreate(Wire):
    model_config = example(
        {"name": "Desk", "settings": {"viewport": {"width": 1280, "height": 720}, "locale": "de-DE"}}
    )
    name: Name = "Computer"
    profile_id: UUID | None = Field(None, description="Whose cookies and storage it begins with.")
    settings: ComputerSettings = ComputerSettings()


class ComputerUpdate(Patch):
    model_config = example({"name": "Other desk"})
    name: Name | None = None


class ComputerQuery(NamedQuery):
    state: ComputerState | None = None


class ComputerRead(Wire):
    id: UUID
    profile_id: UUID | None
    name: str
    state: ComputerState
    settings: dict[str, Any]
    url: str | None = Field(description="Of the active tab.")
    title: str | None
    closed_reason: str | None = Field(description="Why it is closed.")
    for_run: bool = Field(description="Opened by a run, and closed with it.")
    control_state: ControlState
    control_holder: str | None = Field(description="Who steers it, if a person does.")
    control_generation: int = Field(
        description="What input over the socket must present; counts up with each hand-over."
    )
    control_expires_at: Instant | None = Field(description="When control ends unless input renews it.")
    created_at: Instant
    updated_at: Instant


class ControlRead(Wire):
    state: ControlState
    holder: str | None
    generation: int = Field(description="What input over the socket must present.")
    expires_at: Instant | None = Field(description="When it ends unless input renews it.")


class TabRead(Wire):
    id: str
    url: str
    title: str
    active: bool


class ActionRead(Wire):
    """What an action answered; a screenshot is base64 JPEG."""

    output: Any = Field(description="What the action says, as JSON.")
    image: str | None = Field(None, description="Base64 JPEG or PNG.")


# Threads ------------------------------------------------------------------------------------------

Label = Annotated[str, StringConstraints(max_length=500)]


class ThreadCreate(Wire):
    model_config = example({"name": "Travel", "labels": {"team": "sales"}})
    name: Name = "Thread"
    labels: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], Label] = Field(
        {}, max_length=50
    )


class ThreadUpdate(Patch):
    model_config = example({"labels": {"team": "support"}})
    name: Name | None = None
    labels: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], Label] | None = Field(
        None, max_length=50
    )


class ThreadRead(Wire):
    id: UUID
    name: str
    labels: dict[str, str]
    created_at: Instant
    updated_at: Instant


class MessageCreate(Wire):
    """What its user says; `data` is for programs."""

    model_config = example({"text": "Take the earlier train."})
    text: str = Field(min_length=1, max_length=100_000)
    data: dict[str, Any] | None = Field(None, description="Anything for programs.")


class MessageRead(Wire):
    id: UUID
    thread_id: UUID | None
    run_id: UUID | None
    role: Role
    text: str
    data: dict[str, Any] | None
    taken_at: Instant | None = Field(description="When the run heard it.")
    created_at: Instant
    updated_at: Instant


# Workflows ----------------------------------------------------------------------------------------


class WorkflowCreate(Wire):
    model_config = example({"name": "Look at a page", "definition": EXAMPLE_FLOW})
    name: Name
    definition: dict[str, Any] = Field(description="A Chrome DevTools Recorder user flow.")
    parameters: dict[str, Any] = Field({}, description="JSON Schema of the run's `params`.")


class WorkflowUpdate(Patch):
    model_config = example({"name": "Look twice"})
    name: Name | None = None
    definition: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None


class WorkflowCheck(Wire):
    model_config = example({"definition": EXAMPLE_FLOW})
    definition: dict[str, Any]
    parameters: dict[str, Any] = {}


class WorkflowImport(Wire):
    model_config = example({"recording": EXAMPLE_FLOW})
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
    version: int = Field(description="Counts up from 1 with each save of the definition or parameters.")
    created_at: Instant
    updated_at: Instant


class WorkflowDetail(WorkflowRead):
    logged_as: ClassVar = WorkflowRead

    definition: dict[str, Any]


class WorkflowRestore(Wire):
    model_config = example({"version": 1})
    version: int = Field(ge=1, lt=2**31, description="What it was then becomes its newest version.")


class VersionRead(Wire):
    id: UUID
    workflow_id: UUID
    version: int = Field(description="Counts up from 1.")
    definition: dict[str, Any]
    parameters: dict[str, Any]
    actor: str = Field(description="Who saved it.")
    created_at: Instant


# Runs ---------------------------------------------------------------------------------------------


class ModelChoice(Wire):
    """A model, and where and with which key it is asked."""

    name: ModelName
    base_url: str | None = Field(None, max_length=500, description="Where its API is, if not at its maker's.")
    secret: str | None = Field(
        None, max_length=200, description="Name of the secret of kind `text` that holds its key."
    )


ApprovalMode = Literal["never", "sensitive", "always"]
Host = Annotated[Domain, AfterValidator(_without_port)]


class ApprovalPolicy(Wire):
    """When agents ask before they act: as the domain of the page says, or else `mode`."""

    mode: ApprovalMode = "sensitive"
    domains: dict[Host, ApprovalMode] = Field(
        {}, max_length=100, description="The most specific domain decides; subdomains count."
    )
    timeout_seconds: int = Field(
        86_400, ge=1, le=86_400 * 30, description="How long each question waits; no answer is a no."
    )


class ContextEntry(Wire):
    """Something that an agent may know, and what it is."""

    description: str = Field(max_length=2_000)
    value: str = Field(max_length=50_000)


class OwnTool(Wire):
    """A tool that whoever starts the run uses for the model."""

    name: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str = Field("", max_length=2_000)
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of its arguments.")


class Budget(Wire):
    """What a run may use; one that reaches any of it pauses and goes on when it may use more."""

    max_steps: int | None = Field(None, ge=1, le=10_000, description="Actions of its agents.")
    max_tokens: int | None = Field(None, ge=1, le=10**12, description="Tokens in and out.")
    max_cost_usd: float | None = Field(None, gt=0, le=10**6, allow_inf_nan=False)
    max_seconds: int | None = Field(None, ge=1, le=86_400 * 30, description="Time spent acting.")


class RunCreate(Budget):
    """A stored workflow, a definition of its own, or a task in words for an agent."""

    model_config = example({"definition": EXAMPLE_FLOW, "timeout_seconds": 120})
    workflow_id: UUID | None = None
    definition: dict[str, Any] | None = None
    task: str | None = Field(None, min_length=1, max_length=20_000, description="What an agent is to do.")
    result_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema that the result of the task has to fit."
    )
    context: list[ContextEntry] = Field(
        [],
        max_length=50,
        description="What its agents are told beside the task, as data: never an instruction.",
    )
    tools: list[OwnTool] = Field(
        [],
        max_length=50,
        description="What its agents may call beside their own: the run waits, and the next message to it is "
        "what came of the call.",
    )
    model: ModelName | ModelChoice | None = Field(None, description="Of its agents; default is the server's.")
    fallbacks: list[ModelName | ModelChoice] = Field(
        [], max_length=5, description="Models that are asked when one before cannot be."
    )
    approval: ApprovalMode | ApprovalPolicy = Field(
        "sensitive",
        description="Before which actions its agents ask: those that pay, send, publish, delete, sign in, "
        "upload, run scripts and the like (`sensitive`), all that do more than look, or none.",
    )
    parameters: dict[str, Any] = Field({}, description="JSON Schema of `params`, beside a definition.")
    params: dict[str, Any] = Field({}, description="Values for the workflow's parameters.")
    computer_id: UUID | None = Field(None, description="An open computer to use, and to leave open.")
    profile_id: UUID | None = Field(None, description="Whose cookies and storage its browser begins with.")
    save_profile: bool = Field(False, description="Keep them in the profile again when the run ends well.")
    thread_id: UUID | None = Field(
        None, description="The conversation it belongs to; one of its runs at a time."
    )
    on_conflict: Literal["reject", "enqueue", "interrupt"] = Field(
        "enqueue", description="What to do while another run of the thread goes on."
    )
    allowed_domains: list[Domain] = Field([], max_length=100, description="Empty allows every public host.")
    priority: int = Field(0, ge=-100, le=100, description="The higher first, among the user's own.")
    run_after: Instant | None = Field(None, description="Not before; default is now.")
    timeout_seconds: int | None = Field(
        None, ge=1, le=86400, description="How long it may act; default is the server's."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.workflow_id, self.definition, self.task)) != 1:
            raise ValueError("name exactly one of workflow_id, definition and task")
        if self.result_schema is not None and self.task is None:
            raise ValueError("a result_schema belongs to a task")
        if self.parameters and self.workflow_id is not None:
            raise ValueError("a stored workflow has its own parameters")
        _require_profile(self)
        return self


def _require_profile(run: "RunCreate | ScheduledRun") -> None:
    if run.save_profile and run.profile_id is None:
        raise ValueError("name the profile_id to save in")


class RunQuery(PageQuery):
    q: str | None = Field(None, min_length=1, max_length=200, description="Part of the title, in any case.")
    status: RunStatus | None = None
    workflow_id: UUID | None = None
    thread_id: UUID | None = None
    schedule_id: UUID | None = None


class RunUpdate(Patch, Budget):
    clearable = frozenset(Budget.model_fields)
    model_config = example({"max_steps": 400})


class RunRetry(Wire):
    model_config = example({"from_step": 2})
    from_step: int = Field(
        1, ge=1, le=1000, description="The step of the definition to begin with, counted from 1."
    )


class RunToWorkflow(Wire):
    model_config = example({"name": "Look again"})
    name: Name | None = Field(None, description="Default is the run's title.")


class RunRead(Wire):
    id: UUID
    workflow_id: UUID | None
    computer_id: UUID | None
    profile_id: UUID | None
    thread_id: UUID | None
    schedule_id: UUID | None
    scheduled_for: Instant | None = Field(description="The fire of its schedule.")
    retry_of: UUID | None = Field(description="The run that this one tries again.")
    first_step: int = Field(description="Number of the step that it begins with.")
    save_profile: bool
    title: str
    params: dict[str, Any]
    allowed_domains: list[str]
    status: RunStatus
    control: Control = Field(description="What its user wants; `status` follows within a second.")
    reason: str | None = Field(
        description="Why it is paused or waits: `requested`, `control`, `control_expired`, "
        "`may_have_landed`, `page_not_restored`, `page_changed`, `budget_…`, its agent's question, why no "
        "model can be asked (`model_…`, `secret_…`), or the title of its step."
    )
    priority: int
    position: int | None = Field(None, description="Place in the user's queue, from 1; null once started.")
    run_after: Instant
    timeout_seconds: int
    attempt: int = Field(description="Workers that have driven it; handing it over is not counted.")
    active_ms: int = Field(description="Time spent acting, pauses left out.")
    step_count: int = Field(description="Steps that have ended well.")
    budget: dict[str, float] = Field(
        description="What it may use before it pauses, by the names of a new run."
    )
    input_tokens: int
    output_tokens: int
    cost_usd: float = Field(description="What its models have cost, by their published prices.")
    result: dict[str, Any] | None = Field(description="What it brought, by the names of its steps.")
    error: dict[str, Any] | None = Field(description="Why it failed: `code`, `detail`, and where.")
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
    number: int = Field(description="Counts up from 1 in the order of the run.")
    pointer: str = Field(description="JSON pointer of the step in the definition; a loop comes to it again.")
    type: str
    title: str
    status: StepStatus
    attempt: int
    url: str | None
    call: dict[str, Any] | None = Field(
        description="What a model called: `id`, `tool`, `arguments`; null for a step of the definition."
    )
    screenshot_id: UUID | None = Field(description="File of the picture at its end.")
    output: Any = Field(description="What it brought.")
    error: dict[str, Any] | None = Field(description="Why it failed: `code` and `detail`.")
    started_at: Instant
    finished_at: Instant | None
    duration_ms: int | None


class TurnRead(Wire):
    """One reply of a model, for a user's export."""

    id: UUID
    run_id: UUID
    step: int = Field(description="Number of the `agent` step.")
    number: int
    model_name: str
    told: list[Any]
    response: dict[str, Any]
    results: list[Any] = Field(description="What came of its calls.")
    input_tokens: int
    output_tokens: int
    duration_ms: int
    created_at: Instant


class FrameQuery(OldestFirstQuery):
    """`after` is the `number` to continue from."""

    after: int | None = Field(None, ge=0, lt=2**31)
    step: int | None = Field(None, ge=1, lt=2**31, description="Frames captured while this step went on.")
    seq: int | None = Field(
        None, ge=1, le=2**62, description="The one frame to show for this event: the newest from before it."
    )


class FrameRead(Wire):
    id: UUID
    run_id: UUID
    number: int = Field(description="Counts up from 1 without gaps, in the order of capture.")
    seq: int | None = Field(description="Newest event of the user's log at the capture.")
    step: int | None = Field(description="Number of the step that went on.")
    captured_at: Instant
    length: int = Field(description="Bytes of its JPEG.")
    width: int
    height: int


class RecordingRead(Wire):
    frames: int
    segments: int = Field(description="Files of kind `recording` that hold them.")
    bytes: int
    first_at: Instant | None
    last_at: Instant | None
    duration_ms: int = Field(description="From the first frame to the last.")


# Approvals ----------------------------------------------------------------------------------------


class ApprovalQuery(PageQuery):
    status: ApprovalStatus | None = None
    run_id: UUID | None = None


class ApprovalDecision(Wire):
    """`arguments` may be edited on the way; `digest`, when given, must be that of the question answered."""

    model_config = example({"decision": "approve", "note": "Fine by me."})
    decision: Literal["approve", "deny"]
    digest: str | None = Field(None, max_length=64)
    arguments: dict[str, Any] | None = None
    note: str | None = Field(None, max_length=2000, description="For whoever reads it later.")

    @model_validator(mode="after")
    def _edits_what_is_approved(self) -> Self:
        if self.arguments is not None and self.decision == "deny":
            raise ValueError("arguments are for what is approved")
        return self


class ApprovalRead(Wire):
    id: UUID
    run_id: UUID
    step_id: UUID | None
    screenshot_id: UUID | None = Field(description="What the page looked like when it was asked.")
    status: ApprovalStatus
    title: str = Field(description="What is asked.")
    action: dict[str, Any] = Field(description="Exactly what would be done.")
    digest: str = Field(
        description="SHA-256 of one JSON object of `action`, `run_id`, `step` (its number) and `url`: names"
        " sorted, no spaces, UTF-8."
    )
    url: str | None
    arguments: dict[str, Any] | None = Field(description="The action's arguments as its user edited them.")
    note: str | None
    decided_by: str | None = Field(description="The actor: `user` or `key:<id>`.")
    decided_at: Instant | None
    expires_at: Instant = Field(description="Denied by then, if nobody answers.")
    used_at: Instant | None = Field(description="When its run went on with it; a yes serves once.")
    created_at: Instant
    updated_at: Instant


# Schedules ----------------------------------------------------------------------------------------

Cron = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class ScheduledRun(Wire):
    """What each run is made of, beside the workflow."""

    params: dict[str, Any] = {}
    profile_id: UUID | None = None
    save_profile: bool = False
    thread_id: UUID | None = None
    allowed_domains: list[Domain] = Field([], max_length=100)
    priority: int = Field(0, ge=-100, le=100)
    timeout_seconds: int | None = Field(None, ge=1, le=86400)

    @model_validator(mode="after")
    def _saves_where_it_began(self) -> Self:
        _require_profile(self)
        return self


class ScheduleCreate(Wire):
    model_config = example(
        {"workflow_id": EXAMPLE_ID, "name": "Mornings", "cron": "0 8 * * 1-5", "time_zone": "Europe/Berlin"}
    )
    workflow_id: UUID
    name: Name
    cron: Cron = Field(
        description="Five fields (minute hour day month weekday), or @hourly, @daily and the like."
    )
    time_zone: ZoneName = Field("UTC", description="IANA name, such as Europe/Berlin.")
    missed: Missed = Missed.once
    overlap: Overlap = Overlap.skip
    run: ScheduledRun = ScheduledRun()
    enabled: bool = True


class ScheduleUpdate(Patch):
    model_config = example({"cron": "30 9 * * 1-5"})
    name: Name | None = None
    cron: Cron | None = None
    time_zone: ZoneName | None = None
    missed: Missed | None = None
    overlap: Overlap | None = None
    run: ScheduledRun | None = None


class ScheduleQuery(NamedQuery):
    workflow_id: UUID | None = None
    enabled: bool | None = None


class ScheduleRead(Wire):
    id: UUID
    workflow_id: UUID
    name: str
    cron: str
    time_zone: str
    missed: Missed
    overlap: Overlap
    run: dict[str, Any]
    enabled: bool
    next_at: Instant | None = Field(description="Its next fire; null while it is paused.")
    last_at: Instant | None = Field(description="Its newest fire.")
    created_at: Instant
    updated_at: Instant


class PreviewQuery(Wire):
    count: int = Field(5, ge=1, le=50)


class CronPreview(PreviewQuery):
    model_config = example({"cron": "0 8 * * 1-5", "time_zone": "Europe/Berlin", "count": 3})
    cron: Cron
    time_zone: ZoneName = "UTC"


class SchedulePreview(Wire):
    explanation: str = Field(description="The cron expression in words.")
    fires: list[Instant] = Field(description="The next fires.")


# Files --------------------------------------------------------------------------------------------


FileKind = Literal["screenshot", "download", "upload", "recording"]
FILE_NAME_CHARS = 200
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # and what turns text around


class FileQuery(NamedQuery):
    run_id: UUID | None = None
    kind: FileKind | None = None


def clean_file_name(name: str) -> str:
    """The last part of a path without what cannot be seen, its ending kept; `file` where nothing remains."""
    name = _UNSEEN.sub("", re.split(r"[/\\]", name)[-1]).strip()
    if not name.strip("."):
        return "file"
    stem, dot, ending = name.rpartition(".")
    if len(name) <= FILE_NAME_CHARS or not stem or len(ending) > 20:
        return name[:FILE_NAME_CHARS].rstrip()
    return stem[: FILE_NAME_CHARS - len(ending) - 1] + dot + ending


def _clean_already(name: str) -> str:
    if name != clean_file_name(name):
        raise ValueError("a file's name holds no path and no control characters")
    return name


class FileUpdate(Patch):
    model_config = example({"name": "May.csv"})
    name: Annotated[Name, AfterValidator(_clean_already)] | None = None


FILE_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {
                            "type": "string",
                            "maxLength": FILE_NAME_CHARS,
                            "description": "What to call it; default is the file's own name.",
                        },
                    },
                }
            }
        },
    }
}
"""An upload in the OpenAPI document; `infra/forms.py` reads it as it arrives."""


class ContentHeaders(BaseModel):
    """What a client may ask of a file's content (RFC 9110)."""

    range: str | None = Field(None, description="One range, for example `bytes=0-1023`.")
    if_range: str | None = Field(None, description="The `ETag` for which the range is meant.")
    if_none_match: str | None = Field(None, description="The `ETag` that is there already.")


class FileLink(Wire):
    """An address that needs no sign-in until it expires."""

    url: str
    expires_at: Instant


class FileRead(Wire):
    id: UUID
    run_id: UUID | None = Field(description="The run that made it.")
    computer_id: UUID | None
    kind: FileKind
    name: str
    content_type: str = Field(description="What its bytes are, whatever its name says.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Hex.")
    created_at: Instant
    updated_at: Instant


class FrameExport(Wire):
    """Where a picture of a recording lies: `length` bytes at `position` of a file."""

    id: UUID
    run_id: UUID
    file_id: UUID
    number: int
    seq: int | None
    step: int | None
    captured_at: Instant
    position: int
    length: int
    width: int
    height: int


# Webhooks -----------------------------------------------------------------------------------------

WebhookUrl = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=2000, pattern=r"^https?://\S+$")
]
EventFilter = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z_]+(\.[a-z_]+)*\.?)$", max_length=100)]


class WebhookCreate(Wire):
    model_config = example(
        {"name": "Ops", "url": "https://hooks.example.com/cua", "events": ["run.", "approval.requested"]}
    )
    name: Name = "Webhook"
    url: WebhookUrl
    events: list[EventFilter] = Field(
        ["*"], min_length=1, max_length=50, description="Kinds, beginnings that end in a dot, or `*`."
    )


class WebhookUpdate(Patch):
    model_config = example({"enabled": True})
    name: Name | None = None
    url: WebhookUrl | None = None
    events: list[EventFilter] | None = Field(None, min_length=1, max_length=50)
    enabled: bool | None = None


class WebhookRead(Wire):
    id: UUID
    name: str
    url: str
    events: list[str] = Field(description="Kinds, beginnings that end in a dot, or `*`.")
    enabled: bool
    disabled_reason: Literal["requested", "gone", "failing"] | None = Field(
        description="`gone`: it answered 410; `failing`: nothing but failures for a day."
    )
    failing_since: Instant | None = Field(description="When the failures that go on began.")
    old_secret_until: Instant | None = Field(description="How long the secret before also signs.")
    created_at: Instant
    updated_at: Instant


class WebhookCreated(WebhookRead):
    """The only time that the signing secret is shown."""

    secret: str = Field(description="`whsec_…`, as Standard Webhooks' verifiers take it.")


class DeliveryQuery(PageQuery):
    status: DeliveryStatus | None = None


class AttemptRead(Wire):
    """One request and the head of its reply; the reply's body is never kept."""

    at: Instant
    duration_ms: int
    status: int | None = Field(description="HTTP status of the reply; null when none came.")
    error: str | None
    request_headers: dict[str, str]
    response_headers: dict[str, str]


class DeliveryRead(Wire):
    id: UUID
    webhook_id: UUID
    event_id: UUID = Field(description="The event's id, and the `webhook-id` of every request.")
    kind: str = Field(description="The event's.")
    status: DeliveryStatus
    attempt: int = Field(description="Requests made.")
    next_at: Instant | None = Field(description="When it is tried next.")
    finished_at: Instant | None
    created_at: Instant
    updated_at: Instant


class DeliveryDetail(DeliveryRead):
    payload: str = Field(description="The body of every request, byte by byte.")
    attempts: list[AttemptRead] = Field(description="The newest twenty, oldest first.")


# Events -------------------------------------------------------------------------------------------


class EventQuery(OldestFirstQuery):
    """`after` is the `seq` to continue from."""

    after: int | None = Field(None, ge=0, le=2**62)
    kind: str | None = Field(None, max_length=100, description="A kind, or a beginning that ends in a dot.")
    run_id: UUID | None = None
    resource_type: str | None = Field(None, max_length=50)
    resource_id: str | None = Field(None, max_length=300)


class ActivityRead(Wire):
    """An event in words."""

    seq: int
    id: UUID
    at: Instant
    text: str = Field(description="What happened, as a sentence.")
    kind: str
    run_id: UUID | None
    resource: "ResourceRead"


class ResourceRead(Wire):
    type: str = Field(description="What kind of thing it happened to, such as `run`.")
    id: str


class EventRead(Wire):
    seq: int = Field(description="The user's own count, without gaps, in commit order.")
    id: UUID
    kind: str
    run_id: UUID | None
    resource: ResourceRead
    at: Instant
    actor: str = Field(description="`user`, `agent`, `schedule`, `system` or `key:<id>`.")
    data: dict[str, Any] = Field(description="The thing as its route reads it, or what its kind tells.")


class WebhookPayload(Wire):
    """What other servers are sent."""

    type: str = Field(description="The event's kind.")
    timestamp: Instant = Field(description="When it happened.")
    data: EventRead


# Analytics ----------------------------------------------------------------------------------------


class AnalyticsQuery(Wire):
    """Runs created from `since` to before `until`, at most 366 days; default is the last 30 days."""

    since: Instant | None = None
    until: Instant | None = None
    workflow_id: UUID | None = None


class TimelineQuery(AnalyticsQuery):
    by: Literal["day", "week"] = "day"
    time_zone: TimeZone = "UTC"


class RunCounts(Wire):
    """How runs went; durations are of those that ended well or failed, in milliseconds, pauses left out."""

    runs: int
    succeeded: int
    failed: int
    cancelled: int
    success_rate: float | None = Field(description="Of those that succeeded or failed; null without any.")
    p50_ms: float | None
    p95_ms: float | None


class AnalyticsSummary(RunCounts):
    live: int = Field(description="Runs that have not ended.")


class TimelinePoint(RunCounts):
    start: date = Field(description="The day, or the Monday of the week.")


class WorkflowCounts(RunCounts):
    workflow_id: UUID | None = Field(description="null for runs of their own definitions.")
    name: str | None
    failing_step: int | None = Field(description="Number of the step that failed most often.")
    failing_step_title: str | None


# Admin --------------------------------------------------------------------------------------------


class AdminUserQuery(PageQuery):
    q: str | None = Field(None, min_length=1, max_length=200, description="Part of the id, email or name.")
    role: Literal["user", "admin"] | None = None
    disabled: bool | None = None


class UserRead(Wire):
    """What an administrator sees of a user: never any contents."""

    id: str
    email: str | None
    name: str | None
    role: Literal["user", "admin"]
    disabled_at: Instant | None = Field(description="Since when every credential is refused.")
    max_runs: int | None
    max_computers: int | None
    max_storage_bytes: int | None
    requests_per_minute: int | None
    max_month_steps: int | None
    max_month_tokens: int | None
    max_month_cost_usd: float | None
    max_month_seconds: int | None
    stored_bytes: int
    created_at: Instant
    updated_at: Instant


class UserUpdate(Patch):
    """Limits that are null are the server's; those of a month (UTC) bound what a user's agents do."""

    model_config = example({"max_runs": 4})
    clearable = frozenset(
        [
            "max_runs",
            "max_computers",
            "max_storage_bytes",
            "requests_per_minute",
            "max_month_steps",
            "max_month_tokens",
            "max_month_cost_usd",
            "max_month_seconds",
        ]
    )
    role: Literal["user", "admin"] | None = None
    disabled: bool | None = Field(None, description="Ends sockets and runs, and refuses every credential.")
    max_runs: int | None = Field(None, ge=0, le=1000)
    max_computers: int | None = Field(None, ge=0, le=1000)
    max_storage_bytes: int | None = Field(None, ge=0, le=2**50)
    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000)
    max_month_steps: int | None = Field(None, ge=0, le=10**12)
    max_month_tokens: int | None = Field(None, ge=0, le=10**15)
    max_month_cost_usd: float | None = Field(None, ge=0, le=10**9, allow_inf_nan=False)
    max_month_seconds: int | None = Field(None, ge=0, le=10**12)


class AdminRunQuery(PageQuery):
    status: RunStatus | None = None
    owner: str | None = Field(None, max_length=300, description="A user's id.")


class AdminRunRead(Wire):
    """A run without what it is about."""

    id: UUID
    owner: str = Field(description="The user's id.")
    status: RunStatus
    control: Control
    priority: int
    attempt: int
    active_ms: int
    step_count: int
    error_code: str | None
    started_at: Instant | None
    finished_at: Instant | None
    created_at: Instant


class StatsRead(Wire):
    users: int
    disabled_users: int
    runs: dict[str, int] = Field(description="By status.")
    oldest_queued_seconds: float | None = Field(description="How long the run has waited that waits longest.")
    computers: int = Field(description="Open browsers.")
    stored_bytes: int
    pending_deliveries: int = Field(description="Of webhooks.")


# Agent --------------------------------------------------------------------------------------------


class AgentInput(RunAgentInput):
    """What AG-UI's clients send; fields that they add are let be."""

    model_config = example(
        {
            "threadId": "shopping",
            "runId": "1",
            "messages": [{"id": "1", "role": "user", "content": "Find the cheapest tea."}],
            "tools": [],
            "context": [],
            "forwardedProps": {"allowed_domains": ["example.com"], "max_steps": 50},
        }
    )


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


class DeltaMessage(Wire):
    """Text of a message while a model still writes it; the event `message.created` has the whole.

    No delta is kept or repeated: where `offset` is not what has come so far, some are missing, and 0 begins
    anew.
    """

    type: Literal["delta"] = "delta"
    run_id: UUID
    message_id: UUID
    offset: int = Field(description="Characters of the message before this text.")
    text: str


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
    | DeltaMessage
    | PositionMessage
    | WatchingMessage
    | ViewMessage
    | UnwatchedMessage
    | ControlledMessage
    | ErrorMessage,
    Field(discriminator="type"),
]
