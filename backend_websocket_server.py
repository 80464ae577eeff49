"""Every HTTP route and WebSocket of CUA Backend, and nothing else.

Ops · Auth · Me · Keys · Secrets · Profiles · Computers · Threads · Workflows · Runs · Approvals · Schedules ·
Files · Webhooks · Events · Analytics · Admin · Agent · Sockets
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from asyncpg import IntegrityConstraintViolationError, UniqueViolationError
from fastapi import Body, Depends, Header, Path, Query, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from sqlalchemy.exc import NoResultFound
from starlette.requests import ClientDisconnect
from starlette.responses import Response

import activity
import analytics
import api
import api_keys
import clerk_auth
import db
import export
import identity
import live
import metrics
import process
import users
from api import CurrentDevice, Problem
from browser import actions, chromium
from browser.actions import Action
from clerk_auth import (
    CurrentCaller,
    CurrentUser,
    Once,
    RepeatKey,
    SignedInCaller,
    SignedInTx,
    Tx,
    mine,
)
from contract import openapi, pages
from db import envelope
from infra import forms, rates, storage, vault
from models import (
    ApiKey,
    Approval,
    AuthSession,
    Computer,
    Control,
    Delivery,
    Event,
    File,
    Message,
    Profile,
    Run,
    Schedule,
    Secret,
    Step,
    Thread,
    User,
    Webhook,
    Workflow,
    WorkflowVersion,
)
from runs import approvals, computers, engine, files, profiles, recording, schedules, secrets, workflows
from schemas import (
    FILE_FORM,
    ActionRead,
    ActivityRead,
    AdminRunQuery,
    AdminRunRead,
    AdminUserQuery,
    AgentInput,
    AnalyticsQuery,
    AnalyticsSummary,
    ApprovalDecision,
    ApprovalQuery,
    ApprovalRead,
    ComputerCreate,
    ComputerQuery,
    ComputerRead,
    ComputerUpdate,
    ContentHeaders,
    ControlRead,
    Credentials,
    CronPreview,
    DeliveryDetail,
    DeliveryQuery,
    DeliveryRead,
    EmailProof,
    EventQuery,
    EventRead,
    FileLink,
    FileQuery,
    FileRead,
    FileUpdate,
    ForgottenPassword,
    FrameQuery,
    FrameRead,
    Health,
    KeyCreate,
    KeyCreated,
    KeyRead,
    KeyUpdate,
    MeRead,
    MessageCreate,
    MessageRead,
    MeUpdate,
    NamedQuery,
    OldestFirstQuery,
    Page,
    PageQuery,
    PasswordChange,
    PasswordReset,
    Preferences,
    PreviewQuery,
    ProfileCapture,
    ProfileCreate,
    ProfileRead,
    ProfileState,
    ProfileUpdate,
    PublicConfig,
    Readiness,
    RecordingRead,
    RefreshRequest,
    Registration,
    Reply,
    RunCreate,
    RunDetail,
    RunQuery,
    RunRead,
    RunRetry,
    RunToWorkflow,
    RunUpdate,
    RunWait,
    ScheduleCreate,
    SchedulePreview,
    ScheduleQuery,
    ScheduleRead,
    ScheduleUpdate,
    SecretCreate,
    SecretRead,
    SecretUpdate,
    SessionRead,
    StatsRead,
    StepRead,
    TabRead,
    ThreadCreate,
    ThreadRead,
    ThreadUpdate,
    TimelinePoint,
    TimelineQuery,
    Tokens,
    UsageQuery,
    UsageRead,
    UserRead,
    UserUpdate,
    VersionRead,
    WebhookCreate,
    WebhookCreated,
    WebhookRead,
    WebhookUpdate,
    WorkflowCheck,
    WorkflowCounts,
    WorkflowCreate,
    WorkflowDetail,
    WorkflowImport,
    WorkflowRead,
    WorkflowRestore,
    WorkflowUpdate,
    WorkflowVerdict,
)
from webhooks import clerk, endpoints

PROBLEMS: dict[type[Exception], Problem] = {  # the only place where an exception becomes a status
    clerk.InvalidSignature: Problem(400, "invalid_signature", "The signature is not valid"),
    ClientDisconnect: Problem(400, "client_disconnected", "The request was cut off", "The sender went away."),
    clerk_auth.NotSignedIn: Problem(401, "unauthorized", "Sign in again", "The credential is not valid."),
    identity.SessionEnded: Problem(401, "session_ended", "Sign in again"),
    identity.WrongCredentials: Problem(401, "wrong_credentials", "Wrong email or password"),
    files.LinkInvalid: Problem(403, "link_invalid", "The link does not work"),
    identity.AccountDisabled: Problem(403, "account_disabled", "The account is disabled"),
    clerk_auth.MissingScope: Problem(403, "missing_scope", "The API key lacks a scope"),
    clerk_auth.OnlySignedIn: Problem(403, "only_signed_in", "A person must do this"),
    clerk_auth.NotAdmin: Problem(403, "not_admin", "Only administrators may do this"),
    identity.RegistrationClosed: Problem(403, "registration_closed", "Registration is closed"),
    NoResultFound: Problem(404, "not_found", "No such thing, or not yours", "No such thing, or not yours."),
    identity.IssuerOff: Problem(404, "not_found", "People sign in elsewhere"),
    clerk.ClerkEventsOff: Problem(404, "not_found", "Clerk's events are not taken in here"),
    storage.FileMissing: Problem(404, "file_missing", "The file's content is gone"),
    files.UploadStalled: Problem(408, "upload_stalled", "The upload stood still"),
    endpoints.TooManyWebhooks: Problem(409, "too_many_webhooks", "Delete a webhook first"),
    identity.EmailTaken: Problem(409, "email_taken", "There is an account with this address"),
    UniqueViolationError: Problem(409, "already_exists", "It already exists", "There is one already."),
    IntegrityConstraintViolationError: Problem(
        409, "conflict", "Conflict", "It already exists, or refers to something that does not."
    ),
    api_keys.TooManyKeys: Problem(409, "too_many_keys", "Delete a key first"),
    users.OwnAccount: Problem(409, "own_account", "Not of oneself"),
    users.LastAdmin: Problem(409, "last_admin", "There must be an administrator"),
    engine.WrongState: Problem(409, "wrong_state", "Its state does not allow that"),
    engine.ThreadBusy: Problem(409, "thread_busy", "Another run of the thread goes on"),
    approvals.AlreadyDecided: Problem(409, "already_decided", "There is an answer already"),
    approvals.Expired: Problem(409, "expired", "The time for an answer is over"),
    approvals.WrongDigest: Problem(409, "wrong_digest", "The answer is to another question"),
    chromium.ComputerClosed: Problem(409, "computer_closed", "The computer is closed"),
    computers.ComputerBusy: Problem(409, "computer_busy", "The computer is in use"),
    computers.StaleControl: Problem(409, "stale_control", "Somebody else has control"),
    db.KeyBusy: Problem(409, "may_have_landed", "The first request is not answered yet"),
    schedules.TooManySchedules: Problem(409, "too_many_schedules", "Delete a schedule first"),
    db.Changed: Problem(412, "precondition_failed", "It is not what If-Match names"),
    files.QuotaExceeded: Problem(413, "quota_exceeded", "There is no room left for your files"),
    storage.TooLarge: Problem(413, "too_large", "The file is too large"),
    forms.NotAForm: Problem(415, "unsupported_media_type", "Send the file as a form"),
    files.RangeNotSatisfiable: Problem(416, "range_not_satisfiable", "There are no such bytes"),
    forms.InvalidForm: Problem(422, "invalid", "The form is not valid"),
    actions.ActionFailed: Problem(422, "action_failed", "The browser could not do that"),
    workflows.InvalidWorkflow: Problem(422, "invalid_workflow", "The workflow is not valid"),
    schedules.InvalidSchedule: Problem(422, "invalid_schedule", "The schedule is not valid"),
    secrets.InvalidSecret: Problem(422, "invalid_secret", "The values do not make such a secret"),
    profiles.InvalidState: Problem(422, "invalid_state", "The cookies or storage cannot be read"),
    engine.InvalidModel: Problem(422, "invalid_model", "No such model can be asked"),
    workflows.InvalidParams: Problem(422, "invalid_params", "The params do not fit the workflow"),
    engine.NoSuchStep: Problem(422, "no_such_step", "The run has no such step"),
    approvals.NotEditable: Problem(422, "not_editable", "There is nothing to edit"),
    clerk.InvalidEvent: Problem(422, "invalid_event", "The event cannot be understood"),
    endpoints.InvalidAddress: Problem(422, "invalid_address", "Nothing is sent to this address"),
    clerk_auth.BadIdempotencyKey: Problem(422, "invalid_idempotency_key", "The Idempotency-Key is not valid"),
    analytics.InvalidRange: Problem(422, "invalid_range", "The range cannot be counted"),
    db.InvalidCursor: Problem(422, "invalid_cursor", "The cursor is not one of this list's"),
    db.KeyReused: Problem(422, "idempotency_key_reused", "The Idempotency-Key belongs to another request"),
    identity.InvalidCode: Problem(422, "invalid_code", "The code is not valid"),
    rates.RateLimited: Problem(429, "rate_limited", "Too many requests"),
    files.TooManyUploads: Problem(429, "too_many_uploads", "Let an upload end first", None, 5),
    chromium.TooManyComputers: Problem(429, "too_many_computers", "Close a computer first", None, 30),
    live.TooManyConnections: Problem(429, "too_many_connections", "Close a socket or stream first", None, 30),
    vault.Unsealable: Problem(500, "unsealable", "What is stored cannot be decrypted"),
    computers.NotReady: Problem(503, "computer_not_ready", "The computer is not open yet", None, 5),
    clerk_auth.KeysUnavailable: Problem(503, "keys_unavailable", "The sign-in's keys cannot be had"),
    identity.SignInBusy: Problem(503, "sign_in_busy", "Too many people sign in at once"),
    computers.NeedsRedis: Problem(503, "needs_redis", "The computer is in another process", None, 30),
    chromium.ChromiumMissing: Problem(503, "chromium_missing", "There is no Chromium", None, 60),
    storage.StorageUnavailable: Problem(503, "storage_unavailable", "Files cannot be kept", None, 30),
    **dict.fromkeys(
        (
            db.Unavailable,
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,
            asyncpg.InsufficientResourcesError,
            asyncpg.LockNotAvailableError,
            asyncpg.TransactionRollbackError,
            asyncpg.InterfaceError,
        ),
        Problem(503, "database_unavailable", "The database is away", "Try again in a moment.", 2),
    ),
}

app = api.create_app(PROBLEMS, **openapi.ABOUT)
openapi.publish(app, PROBLEMS)
raises = partial(openapi.raises, PROBLEMS)


def update(path: str, **options: Any) -> Callable[[api.Route], api.Route]:
    """`PATCH` of exactly the fields sent, and its twin `PUT`."""
    return api.update(app, path, **options)


# Ops ----------------------------------------------------------------------------------------------


@app.get("/", include_in_schema=False)
async def show_documentation() -> Response:
    return RedirectResponse(api.FRONT)


@app.get("/problems", include_in_schema=False)
async def show_problems() -> Response:
    """Where the `type` of each problem leads."""
    return HTMLResponse(pages.problems_html(PROBLEMS))


@app.get("/api/health", response_model=Reply[Health], summary="Say that the process runs")
async def read_health() -> Response:
    """Whether the process runs; asks nothing else."""
    return envelope(Health(version=api.VERSION))


@app.get(
    "/api/ready",
    response_model=Reply[Readiness],
    summary="Say whether the server is ready",
    responses={503: {"model": Reply[Readiness]}},
)
async def read_readiness() -> Response:
    """503 until everything this process needs answers."""
    readiness = await process.readiness()
    return envelope(readiness, status=200 if readiness.all else 503)


@app.get("/api/config", response_model=Reply[PublicConfig], summary="Read what clients must know")
async def read_config() -> Response:
    """What a web client must know before anyone has signed in."""
    return envelope(api.public_config())


@app.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(api.metrics_reader)])
async def read_metrics() -> Response:
    """Prometheus' text form, for this machine and for who sends `METRICS_TOKEN`."""
    return Response(await process.scrape(), media_type=metrics.CONTENT_TYPE_LATEST)


# Auth ---------------------------------------------------------------------------------------------

embedded = [Depends(clerk_auth.embedded_issuer)]


@app.post(
    "/api/auth/register",
    response_model=Reply[Tokens],
    status_code=201,
    dependencies=embedded,
    summary="Make an account",
    responses=raises(identity.RegistrationClosed, identity.EmailTaken, identity.SignInBusy),
)
async def register(body: Registration, device: CurrentDevice) -> Response:
    """The first account is the administrator's."""
    return envelope(await identity.register(body, **device._asdict()), status=201)


@app.post(
    "/api/auth/login",
    response_model=Reply[Tokens],
    dependencies=embedded,
    summary="Sign in",
    responses=raises(identity.WrongCredentials, identity.AccountDisabled, identity.SignInBusy),
)
async def login(body: Credentials, device: CurrentDevice) -> Response:
    """One answer for an unknown address and a wrong password."""
    return envelope(await identity.login(body, **device._asdict()))


@app.post(
    "/api/auth/refresh",
    response_model=Reply[Tokens],
    dependencies=embedded,
    summary="Renew the tokens",
    responses=raises(identity.SessionEnded, identity.AccountDisabled),
)
async def refresh(body: RefreshRequest, device: CurrentDevice) -> Response:
    """Each refresh token serves once; a stolen one ends its session."""
    return envelope(await identity.refresh(body, **device._asdict()))


@app.post("/api/auth/logout", response_model=Reply[None], dependencies=embedded, summary="Sign out")
async def logout(caller: SignedInCaller) -> Response:
    """The session's tokens and sockets end at once."""
    await identity.logout(caller.user_id, UUID(caller.session_id))
    return envelope("null")


@app.post(
    "/api/auth/password",
    response_model=Reply[None],
    dependencies=embedded,
    responses=raises(identity.WrongCredentials, identity.SignInBusy),
)
async def change_password(caller: SignedInCaller, body: PasswordChange) -> Response:
    """Ends every other session."""
    await identity.change_password(caller.user_id, UUID(caller.session_id), body.old, body.new)
    return envelope("null")


@app.post(
    "/api/auth/forgot",
    response_model=Reply[None],
    dependencies=embedded,
    summary="Mail a link that sets a new password",
    responses=raises(identity.SignInBusy),
)
async def forgot_password(body: ForgottenPassword) -> Response:
    """One answer for every address, at once; a mail follows where there is an account."""
    identity.forgot(body.email)
    return envelope("null")


@app.post(
    "/api/auth/reset",
    response_model=Reply[None],
    dependencies=embedded,
    summary="Set a forgotten password",
    responses=raises(identity.InvalidCode, identity.AccountDisabled, identity.SignInBusy),
)
async def reset_password(body: PasswordReset) -> Response:
    """Ends every session and proves the address."""
    await identity.reset(body.code, body.password)
    return envelope("null")


@app.post(
    "/api/auth/verify",
    response_model=Reply[None],
    dependencies=embedded,
    summary="Prove an email address",
    responses=raises(identity.InvalidCode),
)
async def verify_email(body: EmailProof) -> Response:
    """Whoever has the code has the address."""
    await identity.verify(body.code)
    return envelope("null")


@app.post(
    "/api/auth/verify/send",
    response_model=Reply[None],
    dependencies=embedded,
    summary="Mail the link that proves the address again",
)
async def send_verification(caller: SignedInCaller) -> Response:
    """At most five mails an hour go to one account; nothing is sent where the address is proven."""
    await identity.send_verification(caller.user_id)
    return envelope("null")


@app.get(
    "/api/auth/sessions", response_model=Page[SessionRead], dependencies=embedded, summary="List sign-ins"
)
async def list_sessions(caller: SignedInCaller, query: Annotated[PageQuery, Query()]) -> Response:
    """Where one is signed in at the embedded issuer."""
    return await db.page(caller.user_id, AuthSession, SessionRead, query)


@app.delete(
    "/api/auth/sessions/{id}", response_model=Reply[None], dependencies=embedded, summary="End a sign-in"
)
async def delete_session(
    tx: SignedInTx, session: Annotated[AuthSession, Depends(mine(AuthSession))]
) -> Response:
    """Its tokens and sockets end at once."""
    await identity.end_session(tx, session.id)
    return tx.reply("null")


@app.get(
    "/.well-known/jwks.json",
    response_model=dict[str, Any],
    dependencies=embedded,
    summary="Read the signing keys (JWKS)",
)
async def read_jwks() -> Response:
    """The embedded issuer's public keys (RFC 7517)."""
    return JSONResponse({"keys": await identity.public_keys()})


@app.get(
    "/.well-known/openid-configuration",
    response_model=dict[str, Any],
    dependencies=embedded,
    summary="Read the issuer's metadata",
)
async def read_discovery() -> Response:
    """Where the embedded issuer's keys are (OpenID Connect Discovery 1.0)."""
    return JSONResponse(identity.discovery())


# Me -----------------------------------------------------------------------------------------------


@app.get("/api/me", response_model=Reply[MeRead], summary="Read your profile")
async def read_me(caller: CurrentCaller) -> Response:
    """`role` is what this sign-in may do."""
    return envelope(await users.me(caller))


@update("/api/me", response_model=Reply[MeRead], summary="Change your profile")
async def update_me(caller: CurrentCaller, body: MeUpdate) -> Response:
    return envelope(await users.change_me(caller, body))


@app.get("/api/me/preferences", response_model=Reply[dict[str, Any]])
async def read_preferences(tx: Tx, user: CurrentUser) -> Response:
    return tx.reply(Preferences(**(await tx.one(User, id=user)).preferences))


@app.put("/api/me/preferences", response_model=Reply[dict[str, Any]])
async def replace_preferences(tx: Tx, user: CurrentUser, body: Preferences) -> Response:
    """All of them at once; what is left out is gone."""
    await tx.change(User, {"id": user}, preferences=body.model_dump())
    return tx.reply(body)


@app.get("/api/me/usage", response_model=Reply[UsageRead], summary="Read what you used")
async def read_usage(user: CurrentUser, query: Annotated[UsageQuery, Query()]) -> Response:
    """By day (UTC), with the limits that hold."""
    return envelope(await users.usage(user, query.days))


@app.get(
    "/api/me/export",
    response_class=export.Zip,
    status_code=200,
    summary="Export everything of yours",
    responses=raises(NoResultFound),
)
async def export_me(caller: CurrentCaller) -> Response:
    """Everything that is kept of its user, as a zip: JSON lines for each kind of thing, and the files."""
    return await export.download(caller)


@app.delete("/api/me", response_model=Reply[None], summary="Erase yourself")
async def erase_me(caller: SignedInCaller) -> Response:
    """Erases the user and everything of the user's for good: rows, files, sign-ins; sockets close."""
    await users.erase(caller.user_id)
    return envelope("null")


# Keys ---------------------------------------------------------------------------------------------


@app.get("/api/keys", response_model=Page[KeyRead])
async def list_keys(caller: SignedInCaller, query: Annotated[NamedQuery, Query()]) -> Response:
    """Never the keys themselves, only how they begin."""
    return await db.page(caller.user_id, ApiKey, KeyRead, query)


@app.post(
    "/api/keys", response_model=Reply[KeyCreated], status_code=201, responses=raises(api_keys.TooManyKeys)
)
async def create_key(tx: SignedInTx, body: KeyCreate) -> Response:
    """The answer is the only place where the key is ever shown."""
    return await api_keys.create(tx, body)


@app.get("/api/keys/{id}", response_model=Reply[KeyRead])
async def read_key(caller: SignedInCaller, id: UUID) -> Response:
    return await db.read(caller.user_id, ApiKey, KeyRead, id)


@update("/api/keys/{id}", response_model=Reply[KeyRead])
async def update_key(tx: SignedInTx, id: UUID, body: KeyUpdate) -> Response:
    """Takes effect within seconds everywhere."""
    return await api_keys.update(tx, id, body)


@app.delete("/api/keys/{id}", response_model=Reply[None])
async def delete_key(tx: SignedInTx, id: UUID) -> Response:
    """The key is refused from now on, and its sockets close."""
    return await api_keys.delete(tx, id)


# Secrets ------------------------------------------------------------------------------------------


@app.get("/api/secrets", response_model=Page[SecretRead])
async def list_secrets(user: CurrentUser, query: Annotated[NamedQuery, Query()]) -> Response:
    return await db.page(user, Secret, SecretRead, query)


@app.post(
    "/api/secrets",
    response_model=Reply[SecretRead],
    status_code=201,
    responses=raises(secrets.InvalidSecret, UniqueViolationError),
)
async def create_secret(tx: Tx, body: SecretCreate) -> Response:
    """Kept encrypted and pinned to its origins, never shown again; no step can have it filled in yet."""
    return await secrets.create(tx, body)


@app.get("/api/secrets/{id}", response_model=Reply[SecretRead])
async def read_secret(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Secret, SecretRead, id)


@update(
    "/api/secrets/{id}",
    response_model=Reply[SecretRead],
    responses=raises(secrets.InvalidSecret, UniqueViolationError, vault.Unsealable),
)
async def update_secret(
    tx: Tx, secret: Annotated[Secret, Depends(mine(Secret))], body: SecretUpdate
) -> Response:
    """The kind stays."""
    return await secrets.update(tx, secret, body)


@app.delete("/api/secrets/{id}", response_model=Reply[None])
async def delete_secret(tx: Tx, id: UUID) -> Response:
    """Its values are gone for good; no run depends on one yet."""
    return await tx.delete(Secret, id)


# Profiles -----------------------------------------------------------------------------------------

OF_BROWSER = (chromium.ComputerClosed, computers.NotReady, computers.NeedsRedis)  # who asks an open one
MyProfile = Annotated[Profile, Depends(mine(Profile))]


@app.get("/api/profiles", response_model=Page[ProfileRead])
async def list_profiles(user: CurrentUser, query: Annotated[NamedQuery, Query()]) -> Response:
    return await db.page(user, Profile, ProfileRead, query)


@app.post(
    "/api/profiles",
    response_model=Reply[ProfileRead],
    status_code=201,
    responses=raises(UniqueViolationError),
)
async def create_profile(tx: Tx, body: ProfileCreate) -> Response:
    """Empty at first; give it cookies and storage, or capture a computer's."""
    return await tx.create(Profile, ProfileRead, body)


@app.get("/api/profiles/{id}", response_model=Reply[ProfileRead])
async def read_profile(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Profile, ProfileRead, id)


@update("/api/profiles/{id}", response_model=Reply[ProfileRead], responses=raises(UniqueViolationError))
async def update_profile(tx: Tx, id: UUID, body: ProfileUpdate) -> Response:
    return await tx.update(Profile, ProfileRead, id, body)


@app.delete("/api/profiles/{id}", response_model=Reply[None])
async def delete_profile(tx: Tx, id: UUID) -> Response:
    """Computers and runs that use it go on with what they have."""
    return await tx.delete(Profile, id)


@app.put(
    "/api/profiles/{id}/state",
    response_model=Reply[ProfileRead],
    summary="Import cookies and storage",
    responses=raises(profiles.InvalidState),
)
async def replace_profile_state(tx: Tx, profile: MyProfile, body: ProfileState) -> Response:
    """Cookies and storage in, never out."""
    return await profiles.import_state(tx, profile, body)


@app.post(
    "/api/profiles/{id}/capture",
    response_model=Reply[ProfileRead],
    summary="Keep a computer's cookies and storage",
    responses=raises(*OF_BROWSER, actions.ActionFailed, profiles.InvalidState),
)
async def capture_profile(once: Once, id: UUID, body: ProfileCapture) -> Response:
    """Keeps the cookies and storage of an open computer, as after a sign-in by hand."""
    return await once(computers.capture_profile, body.computer_id, id, once.actor)


# Computers ----------------------------------------------------------------------------------------


@app.get("/api/computers", response_model=Page[ComputerRead])
async def list_computers(user: CurrentUser, query: Annotated[ComputerQuery, Query()]) -> Response:
    return await db.page(user, Computer, ComputerRead, query)


@app.post(
    "/api/computers",
    response_model=Reply[ComputerRead],
    status_code=201,
    summary="Open a computer",
    responses=raises(NoResultFound, chromium.TooManyComputers, workflows.InvalidParams),
)
async def create_computer(tx: Tx, body: ComputerCreate) -> Response:
    """Opens a browser in the background; the event `computer.opened` says when."""
    return await computers.create(tx, body)


@app.get("/api/computers/{id}", response_model=Reply[ComputerRead])
async def read_computer(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Computer, ComputerRead, id)


@update("/api/computers/{id}", response_model=Reply[ComputerRead])
async def update_computer(tx: Tx, id: UUID, body: ComputerUpdate) -> Response:
    """Its name; how it was opened stays."""
    return await tx.update(Computer, ComputerRead, id, body)


@app.delete(
    "/api/computers/{id}",
    response_model=Reply[None],
    summary="Close a computer",
)
async def delete_computer(caller: CurrentCaller, id: UUID) -> Response:
    """Closes its browser for good; a run on it fails."""
    await computers.close(caller.user_id, id, actor=caller.actor)
    return envelope("null")


Generation = Annotated[
    int | None,
    Query(
        ge=0,
        lt=2**63,
        description="That of your control; `stale_control` once it is not current.",
    ),
]


@app.post(
    "/api/computers/{id}/actions",
    response_model=Reply[ActionRead],
    summary="Act on a computer",
    responses=raises(*OF_BROWSER, actions.ActionFailed, computers.ComputerBusy, computers.StaleControl),
)
async def act_on_computer(
    once: Once,
    id: UUID,
    action: Annotated[Action, Body(openapi_examples=openapi.EXAMPLE_ACTIONS)],
    generation: Generation = None,
) -> Response:
    """One action of the vocabulary that people, workflows and models share; it renews control."""
    return await once(computers.act, id, action, generation)


@app.get(
    "/api/computers/{id}/screenshot",
    response_class=recording.Jpeg,
    summary="Take a screenshot",
    responses=raises(*OF_BROWSER, actions.ActionFailed),
)
async def read_screenshot(user: CurrentUser, id: UUID) -> Response:
    """The active tab as JPEG."""
    return recording.Jpeg(await computers.screenshot(user, id))


@app.get(
    "/api/computers/{id}/tabs",
    response_model=Reply[list[TabRead]],
    summary="List a computer's tabs",
    responses=raises(*OF_BROWSER),
)
async def list_tabs(user: CurrentUser, id: UUID) -> Response:
    return envelope(await computers.tabs(user, id))


@app.post("/api/computers/{id}/control", response_model=Reply[ControlRead], responses=raises(*OF_BROWSER))
async def take_control(once: Once, id: UUID) -> Response:
    """A run on it pauses; `pending` until it has come to a halt."""
    return await once(computers.take_control, id, "user", once.actor)


@app.delete(
    "/api/computers/{id}/control",
    response_model=Reply[ControlRead],
    responses=raises(*OF_BROWSER, computers.StaleControl),
)
async def release_control(caller: CurrentCaller, id: UUID, generation: Generation = None) -> Response:
    """A run that control had paused goes on."""
    return envelope(await computers.release_control(caller.user_id, id, generation, caller.actor))


# Threads ------------------------------------------------------------------------------------------

MyThread = Annotated[Thread, Depends(mine(Thread))]


@app.get("/api/threads", response_model=Page[ThreadRead])
async def list_threads(user: CurrentUser, query: Annotated[NamedQuery, Query()]) -> Response:
    return await db.page(user, Thread, ThreadRead, query)


@app.post("/api/threads", response_model=Reply[ThreadRead], status_code=201)
async def create_thread(tx: Tx, body: ThreadCreate) -> Response:
    return await tx.create(Thread, ThreadRead, body)


@app.get("/api/threads/{id}", response_model=Reply[ThreadRead])
async def read_thread(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Thread, ThreadRead, id)


@update("/api/threads/{id}", response_model=Reply[ThreadRead])
async def update_thread(tx: Tx, id: UUID, body: ThreadUpdate) -> Response:
    return await tx.update(Thread, ThreadRead, id, body)


@app.delete("/api/threads/{id}", response_model=Reply[None])
async def delete_thread(tx: Tx, thread: MyThread) -> Response:
    """Its messages go with it; its runs stay."""
    return await engine.delete_thread(tx, thread)


@app.get("/api/threads/{id}/messages", response_model=Page[MessageRead], summary="List a thread's messages")
async def list_messages(user: CurrentUser, id: UUID, query: Annotated[OldestFirstQuery, Query()]) -> Response:
    return await db.page(user, Message, MessageRead, query, within=Thread, thread_id=id)


@app.post(
    "/api/threads/{id}/messages",
    response_model=Reply[MessageRead],
    status_code=201,
    summary="Say something in a thread",
)
async def create_message(tx: Tx, thread: MyThread, body: MessageCreate) -> Response:
    """No run hears it; say it to the run itself for that."""
    return await engine.say(tx, thread, body)


# Workflows ----------------------------------------------------------------------------------------

signed_in = [Depends(clerk_auth.get_current_caller)]
MyWorkflow = Annotated[Workflow, Depends(mine(Workflow))]


@app.get("/api/workflows", response_model=Page[WorkflowRead])
async def list_workflows(user: CurrentUser, query: Annotated[NamedQuery, Query()]) -> Response:
    return await db.page(user, Workflow, WorkflowRead, query)


@app.post(
    "/api/workflows",
    response_model=Reply[WorkflowDetail],
    status_code=201,
    responses=raises(workflows.InvalidWorkflow),
)
async def create_workflow(tx: Tx, body: WorkflowCreate) -> Response:
    """A definition with problems is refused, each of them named by its JSON pointer."""
    return await workflows.create(tx, await workflows.checked(body))


@app.post("/api/workflows/validate", response_model=Reply[WorkflowVerdict], dependencies=signed_in)
async def validate_workflow(body: WorkflowCheck) -> Response:
    """Every problem with a JSON pointer; nothing is stored."""
    return envelope(await workflows.judge(body))


@app.post(
    "/api/workflows/import",
    response_model=Reply[WorkflowDetail],
    status_code=201,
    responses=raises(workflows.InvalidWorkflow),
)
async def import_workflow(tx: Tx, body: WorkflowImport) -> Response:
    """Takes what Chrome DevTools' Recorder exports."""
    return await workflows.create(tx, await workflows.from_recording(body))


@app.get("/api/workflows/{id}", response_model=Reply[WorkflowDetail])
async def read_workflow(user: CurrentUser, id: UUID) -> Response:
    """With its definition."""
    return await db.read(user, Workflow, WorkflowDetail, id)


@app.get("/api/workflows/{id}/export", response_model=dict[str, Any])
async def export_workflow(
    workflow: Annotated[Workflow, Depends(mine(Workflow, read_only=True))],
) -> Response:
    """A file for Chrome DevTools' Recorder, without the envelope."""
    return workflows.as_recording(workflow)


@update(
    "/api/workflows/{id}", response_model=Reply[WorkflowDetail], responses=raises(workflows.InvalidWorkflow)
)
async def update_workflow(tx: Tx, workflow: MyWorkflow, body: WorkflowUpdate) -> Response:
    """Another definition or other parameters are a new version; a new name is none."""
    return await workflows.update(tx, workflow, body)


@app.delete("/api/workflows/{id}", response_model=Reply[None])
async def delete_workflow(tx: Tx, workflow: MyWorkflow) -> Response:
    """Its versions and schedules go with it; its runs stay."""
    return await tx.delete(Workflow, workflow.id)


@app.get(
    "/api/workflows/{id}/versions", response_model=Page[VersionRead], summary="List a workflow's versions"
)
async def list_workflow_versions(
    user: CurrentUser, id: UUID, query: Annotated[PageQuery, Query()]
) -> Response:
    """Newest first, each with its whole definition."""
    return await db.page(user, WorkflowVersion, VersionRead, query, within=Workflow, workflow_id=id)


@app.post(
    "/api/workflows/{id}/restore",
    response_model=Reply[WorkflowDetail],
    summary="Restore a version",
    responses=raises(workflows.InvalidWorkflow),
)
async def restore_workflow(tx: Tx, workflow: MyWorkflow, body: WorkflowRestore) -> Response:
    """What it was becomes a new version; nothing in between is lost."""
    return await workflows.restore(tx, workflow, body.version)


# Runs ---------------------------------------------------------------------------------------------

MyRun = Annotated[Run, Depends(mine(Run))]
ReadOnlyRun = Annotated[Run, Depends(mine(Run, read_only=True))]
OF_NEW_RUN = (
    *(NoResultFound, workflows.InvalidWorkflow, workflows.InvalidParams),
    *(chromium.ComputerClosed, engine.WrongState, engine.InvalidModel),
)


@app.get("/api/runs", response_model=Page[RunRead])
async def list_runs(user: CurrentUser, query: Annotated[RunQuery, Query()]) -> Response:
    return await db.page(user, Run, RunRead, query)


@app.post(
    "/api/runs",
    response_model=Reply[RunRead],
    status_code=202,
    summary="Start a run",
    responses=raises(*OF_NEW_RUN, engine.ThreadBusy),
)
async def create_run(tx: Tx, body: RunCreate) -> Response:
    """Queues a run of a stored workflow, of a definition of its own, or of a task for an agent."""
    return await engine.enqueue(tx, body)


@app.get("/api/runs/{id}", response_model=Reply[RunDetail])
async def read_run(user: CurrentUser, id: UUID, query: Annotated[RunWait, Query()]) -> Response:
    """With `?wait=30` the answer comes when the run ends, or after so many seconds."""
    await engine.wait(user, id, query.wait)
    return await db.read(user, Run, RunDetail, id)


@update("/api/runs/{id}", response_model=Reply[RunRead], responses=raises(engine.WrongState))
async def update_run(tx: Tx, run: MyRun, body: RunUpdate) -> Response:
    """Changes its budget; a run that had paused for want of it goes on."""
    return await engine.change_budget(tx, run, body)


@app.delete("/api/runs/{id}", response_model=Reply[None], responses=raises(engine.WrongState))
async def delete_run(tx: Tx, run: MyRun) -> Response:
    """Its steps, files and recording go with it; one that goes on must be cancelled first."""
    return await engine.delete_run(tx, run)


@app.post("/api/runs/{id}/cancel", response_model=Reply[RunRead], responses=raises(engine.WrongState))
async def cancel_run(tx: Tx, run: MyRun) -> Response:
    """Takes effect within a second; cancelling a run that has ended is a conflict."""
    return await engine.wish(tx, run, Control.cancel)


@app.post("/api/runs/{id}/pause", response_model=Reply[RunRead], responses=raises(engine.WrongState))
async def pause_run(tx: Tx, run: MyRun) -> Response:
    """Pausing a run that has ended is a conflict, never a silence."""
    return await engine.wish(tx, run, Control.pause)


@app.post("/api/runs/{id}/resume", response_model=Reply[RunRead], responses=raises(engine.WrongState))
async def resume_run(tx: Tx, run: MyRun) -> Response:
    """Also continues a run that waits for its user."""
    return await engine.wish(tx, run, Control.run)


@app.post(
    "/api/runs/{id}/retry",
    response_model=Reply[RunRead],
    status_code=202,
    responses=raises(
        engine.WrongState, engine.NoSuchStep, chromium.ComputerClosed, workflows.InvalidWorkflow
    ),
)
async def retry_run(tx: Tx, run: MyRun, body: RunRetry | None = None) -> Response:
    """Another run of the same, from the beginning or from a step; only of one that has ended."""
    return await engine.retry(tx, run, body or RunRetry())


@app.post(
    "/api/runs/{id}/workflow",
    response_model=Reply[WorkflowDetail],
    status_code=201,
    summary="Save a run as a workflow",
    responses=raises(workflows.InvalidWorkflow),
)
async def save_run_as_workflow(tx: Tx, run: MyRun, body: RunToWorkflow | None = None) -> Response:
    """What the run did becomes a workflow that does it again."""
    return await workflows.from_run(tx, run, body or RunToWorkflow())


@app.get("/api/runs/{id}/messages", response_model=Page[MessageRead], summary="List what was said to a run")
async def list_run_messages(
    user: CurrentUser, id: UUID, query: Annotated[OldestFirstQuery, Query()]
) -> Response:
    """Oldest first; `taken_at` says when the run heard each."""
    return await db.page(user, Message, MessageRead, query, within=Run, run_id=id)


@app.post(
    "/api/runs/{id}/messages",
    response_model=Reply[MessageRead],
    status_code=201,
    summary="Say something to a run",
    responses=raises(engine.WrongState),
)
async def guide_run(tx: Tx, run: MyRun, body: MessageCreate) -> Response:
    """Guidance while it goes on; telling a run that has ended is a conflict."""
    return await engine.guide(tx, run, body)


@app.get("/api/runs/{id}/steps", response_model=Page[StepRead], summary="List a run's steps")
async def list_steps(user: CurrentUser, id: UUID, query: Annotated[OldestFirstQuery, Query()]) -> Response:
    """Oldest first."""
    return await db.page(user, Step, StepRead, query, within=Run, run_id=id)


@app.get("/api/runs/{id}/frames", response_model=Page[FrameRead], summary="List a run's frames")
async def list_frames(user: CurrentUser, id: UUID, query: Annotated[FrameQuery, Query()]) -> Response:
    """The recording's index; with `?seq=` the one frame to show for that event."""
    return await recording.list_frames(user, id, query)


@app.get(
    "/api/runs/{id}/frames/{number}",
    response_class=recording.Jpeg,
    summary="Read a frame's picture",
    responses=openapi.UNCHANGED | raises(storage.FileMissing, storage.StorageUnavailable),
)
async def read_frame(
    user: CurrentUser,
    id: UUID,
    number: Annotated[int, Path(ge=1, lt=2**31)],
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The picture as JPEG; it never changes."""
    return await recording.read_frame(user, id, number, if_none_match)


@app.get("/api/runs/{id}/recording", response_model=Reply[RecordingRead], summary="Measure a run's recording")
async def read_recording(user: CurrentUser, run: ReadOnlyRun) -> Response:
    """How much of the run is recorded so far."""
    return envelope(await recording.measure(user, run.id))


@app.get("/api/runs/{id}/events", response_model=Page[EventRead], summary="List a run's events")
async def list_run_events(
    user: CurrentUser, id: UUID, query: Annotated[OldestFirstQuery, Query()]
) -> Response:
    """Oldest first, as far back as the log goes."""
    return await db.page(user, Event, EventRead, query, within=Run, run_id=id)


@app.get(
    "/api/runs/{id}/stream",
    response_class=live.EventStream,
    status_code=200,
    summary="Follow a run's events",
    responses=raises(live.TooManyConnections),
)
async def stream_run_events(
    run: ReadOnlyRun, caller: CurrentCaller, last_event_id: clerk_auth.LastEventId = 0
) -> Response:
    """The run's events as Server-Sent Events, from `Last-Event-ID` on."""
    return await live.event_stream(caller, last_event_id, run_id=run.id)


# Approvals ----------------------------------------------------------------------------------------


@app.get("/api/approvals", response_model=Page[ApprovalRead])
async def list_approvals(user: CurrentUser, query: Annotated[ApprovalQuery, Query()]) -> Response:
    """Those that wait are `?status=pending`."""
    return await db.page(user, Approval, ApprovalRead, query)


@app.get("/api/approvals/{id}", response_model=Reply[ApprovalRead])
async def read_approval(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Approval, ApprovalRead, id)


@app.post(
    "/api/approvals/{id}/decision",
    response_model=Reply[ApprovalRead],
    responses=raises(
        approvals.AlreadyDecided, approvals.Expired, approvals.WrongDigest, approvals.NotEditable
    ),
)
async def decide_approval(tx: Tx, id: UUID, body: ApprovalDecision) -> Response:
    """Once, and only while it waits; its run goes on within a second."""
    return await approvals.decide(tx, id, body)


# Schedules ----------------------------------------------------------------------------------------

MySchedule = Annotated[Schedule, Depends(mine(Schedule))]
OF_SCHEDULED_RUN = (schedules.InvalidSchedule, workflows.InvalidWorkflow, workflows.InvalidParams)


@app.get("/api/schedules", response_model=Page[ScheduleRead])
async def list_schedules(user: CurrentUser, query: Annotated[ScheduleQuery, Query()]) -> Response:
    return await db.page(user, Schedule, ScheduleRead, query)


@app.post(
    "/api/schedules",
    response_model=Reply[ScheduleRead],
    status_code=201,
    responses=raises(NoResultFound, *OF_SCHEDULED_RUN, schedules.TooManySchedules),
)
async def create_schedule(tx: Tx, body: ScheduleCreate) -> Response:
    """Fires from now on, by the clock of its time zone."""
    return await schedules.create(tx, body)


@app.post(
    "/api/schedules/preview",
    response_model=Reply[SchedulePreview],
    dependencies=signed_in,
    summary="Explain a cron expression",
    responses=raises(schedules.InvalidSchedule),
)
async def preview_cron(body: CronPreview) -> Response:
    """What a cron expression means, in words and fires; nothing is stored."""
    return envelope(schedules.preview(body.cron, body.time_zone, body.count))


@app.get("/api/schedules/{id}", response_model=Reply[ScheduleRead])
async def read_schedule(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Schedule, ScheduleRead, id)


@update(
    "/api/schedules/{id}",
    response_model=Reply[ScheduleRead],
    responses=raises(*OF_SCHEDULED_RUN),
)
async def update_schedule(tx: Tx, schedule: MySchedule, body: ScheduleUpdate) -> Response:
    """Fires by a new clock from now on."""
    return await schedules.update(tx, schedule, body)


@app.delete("/api/schedules/{id}", response_model=Reply[None])
async def delete_schedule(tx: Tx, id: UUID) -> Response:
    """Its runs stay."""
    return await tx.delete(Schedule, id)


@app.post("/api/schedules/{id}/pause", response_model=Reply[ScheduleRead])
async def pause_schedule(tx: Tx, schedule: MySchedule) -> Response:
    """It fires no more; pausing one that is paused changes nothing."""
    return await schedules.enable(tx, schedule, on=False)


@app.post(
    "/api/schedules/{id}/resume",
    response_model=Reply[ScheduleRead],
    responses=raises(schedules.InvalidSchedule),
)
async def resume_schedule(tx: Tx, schedule: MySchedule) -> Response:
    """It fires from now on; what it would have fired meanwhile is not made up for."""
    return await schedules.enable(tx, schedule, on=True)


@app.post(
    "/api/schedules/{id}/run",
    response_model=Reply[RunRead],
    status_code=202,
    summary="Run a schedule now",
    responses=raises(*OF_NEW_RUN),
)
async def run_schedule(tx: Tx, schedule: MySchedule) -> Response:
    """One run now, beside the clock's."""
    return await schedules.run_now(tx, schedule)


@app.get(
    "/api/schedules/{id}/preview",
    response_model=Reply[SchedulePreview],
    summary="List a schedule's next fires",
    responses=raises(schedules.InvalidSchedule),
)
async def preview_schedule(
    schedule: Annotated[Schedule, Depends(mine(Schedule, read_only=True))],
    query: Annotated[PreviewQuery, Query()],
) -> Response:
    """And its cron expression in words."""
    return envelope(schedules.preview(schedule.cron, schedule.time_zone, query.count))


# Files --------------------------------------------------------------------------------------------

OF_UPLOAD = (
    *(files.UploadStalled, files.QuotaExceeded, files.TooManyUploads, storage.TooLarge),
    *(storage.StorageUnavailable, forms.NotAForm, forms.InvalidForm, ClientDisconnect),
)


@app.get("/api/files", response_model=Page[FileRead])
async def list_files(user: CurrentUser, query: Annotated[FileQuery, Query()]) -> Response:
    return await db.page(user, File, FileRead, query)


@app.post(
    "/api/files",
    response_model=Reply[FileRead],
    status_code=201,
    openapi_extra=FILE_FORM,
    summary="Upload a file",
    responses=raises(*OF_UPLOAD),
)
async def create_file(caller: CurrentCaller, key: RepeatKey, request: Request) -> Response:
    """One file of a form, stored while it arrives; its bytes say what it is."""
    return await files.upload(caller, request, key)


@app.get("/api/files/{id}", response_model=Reply[FileRead])
async def read_file(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, File, FileRead, id)


@update("/api/files/{id}", response_model=Reply[FileRead])
async def update_file(tx: Tx, id: UUID, body: FileUpdate) -> Response:
    """Its name; what it is, its bytes say."""
    return await tx.update(File, FileRead, id, body)


@app.delete("/api/files/{id}", response_model=Reply[None])
async def delete_file(tx: Tx, id: UUID) -> Response:
    """A run's steps that showed it show nothing more."""
    return await files.delete(tx, id)


@app.get(
    "/api/files/{id}/content",
    response_class=Response,
    summary="Download a file",
    responses=openapi.CONTENT
    | raises(files.LinkInvalid, files.RangeNotSatisfiable, storage.FileMissing, storage.StorageUnavailable),
)
async def read_file_content(
    reader: files.Reader, id: UUID, asked: Annotated[ContentHeaders, Header()]
) -> Response:
    """The bytes, whole or one range of them (RFC 9110); a link to them needs no sign-in."""
    return await files.content(reader, id, asked)


@app.post(
    "/api/files/{id}/link",
    response_model=Reply[FileLink],
    summary="Make a link to a file",
    responses=raises(storage.StorageUnavailable),
)
async def link_file(user: CurrentUser, id: UUID) -> Response:
    """An address of the content that needs no sign-in, for five minutes and while the file is there."""
    return envelope(await files.link(user, id))


# Webhooks -----------------------------------------------------------------------------------------

MyWebhook = Annotated[Webhook, Depends(mine(Webhook))]


@app.get("/api/webhooks", response_model=Page[WebhookRead])
async def list_webhooks(user: CurrentUser, query: Annotated[NamedQuery, Query()]) -> Response:
    return await db.page(user, Webhook, WebhookRead, query)


@app.post(
    "/api/webhooks",
    response_model=Reply[WebhookCreated],
    status_code=201,
    responses=raises(endpoints.InvalidAddress, endpoints.TooManyWebhooks),
)
async def create_webhook(tx: Tx, body: WebhookCreate) -> Response:
    """Signed as Standard Webhooks says; the answer is the only place where the secret is shown."""
    return await endpoints.create(tx, body)


@app.get("/api/webhooks/{id}", response_model=Reply[WebhookRead])
async def read_webhook(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Webhook, WebhookRead, id)


@update("/api/webhooks/{id}", response_model=Reply[WebhookRead], responses=raises(endpoints.InvalidAddress))
async def update_webhook(tx: Tx, webhook: MyWebhook, body: WebhookUpdate) -> Response:
    """Enabling one that was disabled tells it what happens from now on."""
    return await endpoints.update(tx, webhook, body)


@app.delete("/api/webhooks/{id}", response_model=Reply[None])
async def delete_webhook(tx: Tx, id: UUID) -> Response:
    """Its deliveries go with it."""
    return await tx.delete(Webhook, id)


@app.post(
    "/api/webhooks/{id}/test",
    response_model=Reply[DeliveryRead],
    status_code=202,
    responses=raises(engine.WrongState),
)
async def test_webhook(tx: Tx, webhook: MyWebhook) -> Response:
    """Sends the event `webhook.test` to this one alone."""
    return await endpoints.test(tx, webhook)


@app.post("/api/webhooks/{id}/rotate", response_model=Reply[WebhookCreated])
async def rotate_webhook_secret(tx: Tx, webhook: MyWebhook) -> Response:
    """A new secret; the one before also signs for another day."""
    return await endpoints.rotate(tx, webhook)


@app.get(
    "/api/webhooks/{id}/deliveries", response_model=Page[DeliveryRead], summary="List a webhook's deliveries"
)
async def list_deliveries(user: CurrentUser, id: UUID, query: Annotated[DeliveryQuery, Query()]) -> Response:
    return await db.page(user, Delivery, DeliveryRead, query, within=Webhook, webhook_id=id)


@app.get("/api/deliveries/{id}", response_model=Reply[DeliveryDetail])
async def read_delivery(user: CurrentUser, id: UUID) -> Response:
    """With what was sent, and the heads of the requests and replies."""
    return await db.read(user, Delivery, DeliveryDetail, id)


@app.post(
    "/api/deliveries/{id}/redeliver",
    response_model=Reply[DeliveryRead],
    status_code=202,
    summary="Deliver again",
    responses=raises(engine.WrongState),
)
async def redeliver(tx: Tx, id: UUID) -> Response:
    """Sends it again, under the same `webhook-id`; one that is on its way is a conflict."""
    return await endpoints.redeliver(tx, id)


@app.post(
    "/webhooks/clerk",
    response_model=Reply[None],
    summary="Take in an event of Clerk's",
    openapi_extra=openapi.CLERK_EVENT,
    responses=raises(clerk.InvalidSignature, clerk.ClerkEventsOff, clerk.InvalidEvent, ClientDisconnect),
)
async def receive_clerk_event(request: Request) -> Response:
    """Takes Clerk's events, signed by Svix; repeats and old news change nothing."""
    await clerk.receive(request.headers, await request.body())
    return envelope("null")


# Events -------------------------------------------------------------------------------------------


@app.get("/api/events", response_model=Page[EventRead], summary="List the log")
async def list_events(user: CurrentUser, query: Annotated[EventQuery, Query()]) -> Response:
    """Oldest first; `after` continues from a `seq`."""
    return await db.page(user, Event, EventRead, query)


@app.get(
    "/api/events/stream",
    response_class=live.EventStream,
    status_code=200,
    summary="Follow the log",
    responses=raises(live.TooManyConnections),
)
async def stream_events(caller: CurrentCaller, last_event_id: clerk_auth.LastEventId = None) -> Response:
    """The log as Server-Sent Events, from `Last-Event-ID` on; without one, what happens from now."""
    return await live.event_stream(caller, last_event_id)


@app.get("/api/activity", response_model=Page[ActivityRead], summary="List the log in words")
async def list_activity(user: CurrentUser, query: Annotated[EventQuery, Query()]) -> Response:
    """The log in words."""
    return await activity.page(user, query)


# Analytics ----------------------------------------------------------------------------------------


@app.get(
    "/api/analytics/summary",
    response_model=Reply[AnalyticsSummary],
    summary="Count runs",
    responses=raises(analytics.InvalidRange),
)
async def read_summary(user: CurrentUser, query: Annotated[AnalyticsQuery, Query()]) -> Response:
    """How runs of a time went: counts, success, durations."""
    return envelope(await analytics.summary(user, query))


@app.get(
    "/api/analytics/timeline",
    response_model=Reply[list[TimelinePoint]],
    summary="Count runs by day or week",
    responses=raises(analytics.InvalidRange),
)
async def read_timeline(user: CurrentUser, query: Annotated[TimelineQuery, Query()]) -> Response:
    """Oldest first, with the days or weeks on which nothing ran."""
    return envelope(await analytics.timeline(user, query))


@app.get(
    "/api/analytics/workflows",
    response_model=Reply[list[WorkflowCounts]],
    summary="Count runs by workflow",
    responses=raises(analytics.InvalidRange),
)
async def read_workflow_counts(user: CurrentUser, query: Annotated[AnalyticsQuery, Query()]) -> Response:
    """The most used first, at most 200."""
    return envelope(await analytics.workflows(user, query))


# Admin --------------------------------------------------------------------------------------------

admin = [Depends(clerk_auth.require_admin)]


@app.get("/api/admin/users", response_model=Page[UserRead], dependencies=admin, summary="List users")
async def list_users(query: Annotated[AdminUserQuery, Query()]) -> Response:
    """Newest first; `q` searches ids, addresses and names."""
    return await users.page(query)


@app.get("/api/admin/users/{user:path}", response_model=Reply[UserRead], dependencies=admin)
async def read_user(user: str) -> Response:
    return envelope(await users.read(user))


@update(
    "/api/admin/users/{user:path}",
    response_model=Reply[UserRead],
    dependencies=admin,
    responses=raises(users.OwnAccount, users.LastAdmin),
)
async def update_user(user: str, body: UserUpdate, caller: SignedInCaller) -> Response:
    """Nobody disables or demotes oneself."""
    return envelope(await users.change(user, body, by=caller.user_id))


@app.get(
    "/api/admin/runs", response_model=Page[AdminRunRead], dependencies=admin, summary="List everyone's runs"
)
async def list_all_runs(query: Annotated[AdminRunQuery, Query()]) -> Response:
    """Everyone's, without what they are about."""
    return await users.runs(query)


@app.post(
    "/api/admin/runs/{run}/cancel",
    response_model=Reply[AdminRunRead],
    dependencies=admin,
    summary="Cancel anyone's run",
    responses=raises(engine.WrongState),
)
async def cancel_any_run(once: Once, run: UUID) -> Response:
    """Takes effect within a second; its user's log says who asked."""
    return await once(users.cancel_run, run)


@app.get(
    "/api/admin/stats",
    response_model=Reply[StatsRead],
    dependencies=admin,
    summary="Read the server's numbers",
)
async def read_stats() -> Response:
    """Counts of all users together."""
    return envelope(await analytics.stats())


# Agent --------------------------------------------------------------------------------------------

OF_ANSWER = (approvals.AlreadyDecided, approvals.Expired, approvals.NotEditable)


@app.post(
    "/api/agent",
    response_class=live.AgentStream,
    status_code=200,
    summary="Talk to an agent over AG-UI",
    responses=raises(*OF_NEW_RUN, engine.ThreadBusy, *OF_ANSWER, live.TooManyConnections),
)
async def run_agent(caller: CurrentCaller, body: AgentInput) -> Response:
    """AG-UI 1.0 over Server-Sent Events: begins a run or goes on with one; a `runId` begins one once."""
    return await live.run_agent(caller, body)


# Sockets ------------------------------------------------------------------------------------------


@app.websocket("/ws")
async def serve_socket(socket: WebSocket) -> None:
    """Events, frames, control and input of one user, subprotocol `cua.v1`."""
    await live.serve(socket)
