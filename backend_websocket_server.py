"""Every HTTP route and WebSocket of CUA Backend, and nothing else.

Ops · Auth · Me · Computers · Workflows · Runs · Files · Events · Sockets
"""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import Body, Depends, Header, Query, WebSocket
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response, StreamingResponse

import api
import clerk_auth
import db
import identity
import live
import process
from api import CurrentDevice, Problem
from browser import actions, chromium
from browser.actions import Action
from clerk_auth import CurrentCaller, CurrentUser, Once, Tx, mine
from db import envelope
from infra import storage
from models import AuthSession, Computer, Control, Event, File, Run, Step, User, Workflow
from runs import computers, engine, files, workflows
from schemas import (
    ActionRead,
    ComputerCreate,
    ComputerQuery,
    ComputerRead,
    ComputerUpdate,
    ControlRead,
    Credentials,
    EmailProof,
    EventQuery,
    EventRead,
    FileQuery,
    FileRead,
    FileUpdate,
    ForgottenPassword,
    Health,
    MeRead,
    MeUpdate,
    NamedQuery,
    OldestFirstQuery,
    Page,
    PageQuery,
    PasswordChange,
    PasswordReset,
    Preferences,
    PublicConfig,
    Readiness,
    RefreshRequest,
    Registration,
    Reply,
    RunCreate,
    RunDetail,
    RunQuery,
    RunRead,
    RunWait,
    SessionRead,
    StepRead,
    TabRead,
    Tokens,
    WorkflowCheck,
    WorkflowCreate,
    WorkflowDetail,
    WorkflowImport,
    WorkflowRead,
    WorkflowUpdate,
    WorkflowVerdict,
)

PROBLEMS: dict[type[Exception], Problem] = {  # the only place where an exception becomes a status
    clerk_auth.NotSignedIn: Problem(401, "unauthorized", "Sign in again", "The credential is not valid."),
    identity.SessionEnded: Problem(401, "session_ended", "Sign in again"),
    identity.WrongCredentials: Problem(401, "wrong_credentials", "Wrong email or password"),
    identity.AccountDisabled: Problem(403, "account_disabled", "The account is disabled"),
    identity.RegistrationClosed: Problem(403, "registration_closed", "Registration is closed"),
    NoResultFound: Problem(404, "not_found", "No such thing, or not yours", "No such thing, or not yours."),
    identity.IssuerOff: Problem(404, "not_found", "People sign in elsewhere"),
    storage.FileMissing: Problem(404, "file_missing", "The file's content is gone"),
    identity.EmailTaken: Problem(409, "email_taken", "There is an account with this address"),
    asyncpg.IntegrityConstraintViolationError: Problem(
        409, "conflict", "Conflict", "It already exists, or refers to something that does not."
    ),
    engine.WrongState: Problem(409, "wrong_state", "Its state does not allow that"),
    chromium.ComputerClosed: Problem(409, "computer_closed", "The computer is closed"),
    computers.ComputerBusy: Problem(409, "computer_busy", "The computer is in use"),
    computers.NotReady: Problem(503, "computer_not_ready", "The computer is not open yet", None, 5),
    computers.StaleControl: Problem(409, "stale_control", "Somebody else has control"),
    db.KeyBusy: Problem(409, "may_have_landed", "The first request is not answered yet"),
    storage.TooLarge: Problem(413, "too_large", "The file is too large"),
    actions.ActionFailed: Problem(422, "action_failed", "The browser could not do that"),
    workflows.InvalidWorkflow: Problem(422, "invalid_workflow", "The workflow is not valid"),
    workflows.InvalidParams: Problem(422, "invalid_params", "The params do not fit the workflow"),
    clerk_auth.BadIdempotencyKey: Problem(422, "invalid_idempotency_key", "The Idempotency-Key is not valid"),
    db.InvalidCursor: Problem(422, "invalid_cursor", "The cursor is not one of this list's"),
    db.KeyReused: Problem(422, "idempotency_key_reused", "The Idempotency-Key belongs to another request"),
    identity.InvalidCode: Problem(422, "invalid_code", "The code is not valid"),
    chromium.TooManyComputers: Problem(429, "too_many_computers", "Close a computer first", None, 30),
    live.TooManyConnections: Problem(429, "too_many_connections", "Close a socket or stream first", None, 30),
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
            asyncpg.InterfaceError,
        ),
        Problem(503, "database_unavailable", "The database is away", "Try again in a moment.", 2),
    ),
}

app = api.create_app(
    PROBLEMS, title="CUA Backend", description="The self-hosted backend of a computer-use-agent product."
)


def update(path: str, **options: Any) -> Callable[[api.Route], api.Route]:
    """`PATCH` of exactly the fields sent, and its twin `PUT`."""
    return api.update(app, path, **options)


# Ops ----------------------------------------------------------------------------------------------


@app.get("/", include_in_schema=False)
async def show_documentation() -> Response:
    return RedirectResponse("/docs")


@app.get("/api/health", response_model=Reply[Health])
async def read_health() -> Response:
    """Whether the process runs; asks nothing else."""
    return envelope(Health(version=api.VERSION))


@app.get("/api/ready", response_model=Reply[Readiness])
async def read_readiness() -> Response:
    """503 until everything this process needs answers."""
    readiness = await process.readiness()
    return envelope(readiness, status=200 if readiness.all else 503)


@app.get("/api/config", response_model=Reply[PublicConfig])
async def read_config() -> Response:
    """What a web client must know before anyone has signed in."""
    return envelope(api.public_config())


# Auth ---------------------------------------------------------------------------------------------

embedded = [Depends(clerk_auth.embedded_issuer)]


@app.post("/api/auth/register", response_model=Reply[Tokens], status_code=201, dependencies=embedded)
async def register(body: Registration, device: CurrentDevice) -> Response:
    """The first account is the administrator's."""
    return envelope(await identity.register(body, **device._asdict()), status=201)


@app.post("/api/auth/login", response_model=Reply[Tokens], dependencies=embedded)
async def login(body: Credentials, device: CurrentDevice) -> Response:
    """One answer for an unknown address and a wrong password."""
    return envelope(await identity.login(body, **device._asdict()))


@app.post("/api/auth/refresh", response_model=Reply[Tokens], dependencies=embedded)
async def refresh(body: RefreshRequest, device: CurrentDevice) -> Response:
    """Each refresh token serves once; a stolen one ends its session."""
    return envelope(await identity.refresh(body, **device._asdict()))


@app.post("/api/auth/logout", response_model=Reply[None], dependencies=embedded)
async def logout(caller: CurrentCaller) -> Response:
    """The session's tokens and sockets end at once."""
    await identity.logout(caller.user_id, UUID(caller.session_id))
    return envelope("null")


@app.post("/api/auth/password", response_model=Reply[None], dependencies=embedded)
async def change_password(caller: CurrentCaller, body: PasswordChange) -> Response:
    """Ends every other session."""
    await identity.change_password(caller.user_id, UUID(caller.session_id), body.old, body.new)
    return envelope("null")


@app.post("/api/auth/forgot", response_model=Reply[None], dependencies=embedded)
async def forgot_password(body: ForgottenPassword) -> Response:
    """One answer for every address, at once; a mail follows where there is an account."""
    identity.forgot(body.email)
    return envelope("null")


@app.post("/api/auth/reset", response_model=Reply[None], dependencies=embedded)
async def reset_password(body: PasswordReset) -> Response:
    """Ends every session and proves the address."""
    await identity.reset(body.code, body.password)
    return envelope("null")


@app.post("/api/auth/verify", response_model=Reply[None], dependencies=embedded)
async def verify_email(body: EmailProof) -> Response:
    """Whoever has the code has the address."""
    await identity.verify(body.code)
    return envelope("null")


@app.get("/api/auth/sessions", response_model=Page[SessionRead], dependencies=embedded)
async def list_sessions(user: CurrentUser, query: Annotated[PageQuery, Query()]) -> Response:
    return await db.page(user, AuthSession, SessionRead, query)


@app.delete("/api/auth/sessions/{id}", response_model=Reply[None], dependencies=embedded)
async def delete_session(tx: Tx, session: Annotated[AuthSession, Depends(mine(AuthSession))]) -> Response:
    await identity.end_session(tx, session.id)
    return tx.reply("null")


@app.get("/.well-known/jwks.json", response_model=dict[str, Any], dependencies=embedded)
async def read_jwks() -> Response:
    """The embedded issuer's public keys (RFC 7517)."""
    return JSONResponse({"keys": await identity.public_keys()})


@app.get("/.well-known/openid-configuration", response_model=dict[str, Any], dependencies=embedded)
async def read_discovery() -> Response:
    """Where the embedded issuer's keys are (OpenID Connect Discovery 1.0)."""
    return JSONResponse(identity.discovery())


# Me -----------------------------------------------------------------------------------------------


@app.get("/api/me", response_model=Reply[MeRead])
async def read_me(user: CurrentUser) -> Response:
    return await db.read(user, User, MeRead, user)


@update("/api/me", response_model=Reply[MeRead])
async def update_me(tx: Tx, user: CurrentUser, body: MeUpdate) -> Response:
    return await tx.update(User, MeRead, user, body)


@app.get("/api/me/preferences", response_model=Reply[dict[str, Any]])
async def read_preferences(tx: Tx, user: CurrentUser) -> Response:
    return tx.reply(Preferences(**(await tx.one(User, id=user)).preferences))


@app.put("/api/me/preferences", response_model=Reply[dict[str, Any]])
async def replace_preferences(tx: Tx, user: CurrentUser, body: Preferences) -> Response:
    await tx.change(User, {"id": user}, preferences=body.model_dump())
    return tx.reply(body)


# Computers ----------------------------------------------------------------------------------------


@app.get("/api/computers", response_model=Page[ComputerRead])
async def list_computers(user: CurrentUser, query: Annotated[ComputerQuery, Query()]) -> Response:
    return await db.page(user, Computer, ComputerRead, query)


@app.post("/api/computers", response_model=Reply[ComputerRead], status_code=201)
async def create_computer(tx: Tx, body: ComputerCreate) -> Response:
    """Opens a browser in the background; the event `computer.opened` says when."""
    return await computers.create(tx, body)


@app.get("/api/computers/{id}", response_model=Reply[ComputerRead])
async def read_computer(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Computer, ComputerRead, id)


@update("/api/computers/{id}", response_model=Reply[ComputerRead])
async def update_computer(tx: Tx, id: UUID, body: ComputerUpdate) -> Response:
    return await tx.update(Computer, ComputerRead, id, body)


@app.delete("/api/computers/{id}", response_model=Reply[None])
async def delete_computer(user: CurrentUser, id: UUID) -> Response:
    """Closes its browser for good; a run on it fails."""
    await computers.close(user, id)
    return envelope("null")


@app.post("/api/computers/{id}/actions", response_model=Reply[ActionRead])
async def act_on_computer(once: Once, id: UUID, action: Annotated[Action, Body()]) -> Response:
    """One action of the vocabulary that people, workflows and models share."""
    return await once(computers.act, id, action)


@app.get("/api/computers/{id}/screenshot", response_class=Response)
async def read_screenshot(user: CurrentUser, id: UUID) -> Response:
    """The active tab as JPEG."""
    return Response(await computers.screenshot(user, id), media_type="image/jpeg")


@app.get("/api/computers/{id}/tabs", response_model=Reply[list[TabRead]])
async def list_tabs(user: CurrentUser, id: UUID) -> Response:
    return envelope(await computers.tabs(user, id))


@app.post("/api/computers/{id}/control", response_model=Reply[ControlRead])
async def take_control(once: Once, id: UUID) -> Response:
    """A run on it pauses; `pending` until it has come to a halt."""
    return await once(computers.take_control, id, "user")


@app.delete("/api/computers/{id}/control", response_model=Reply[ControlRead])
async def release_control(user: CurrentUser, id: UUID) -> Response:
    """A run that control had paused goes on."""
    return envelope(await computers.release_control(user, id))


# Workflows ----------------------------------------------------------------------------------------

signed_in = [Depends(clerk_auth.get_current_caller)]
MyWorkflow = Annotated[Workflow, Depends(mine(Workflow))]


@app.get("/api/workflows", response_model=Page[WorkflowRead])
async def list_workflows(user: CurrentUser, query: Annotated[NamedQuery, Query()]) -> Response:
    return await db.page(user, Workflow, WorkflowRead, query)


@app.post("/api/workflows", response_model=Reply[WorkflowDetail], status_code=201)
async def create_workflow(tx: Tx, body: WorkflowCreate) -> Response:
    return await tx.create(Workflow, WorkflowDetail, workflows.checked(body))


@app.post("/api/workflows/validate", response_model=Reply[WorkflowVerdict], dependencies=signed_in)
async def validate_workflow(body: WorkflowCheck) -> Response:
    """Every problem with a JSON pointer; nothing is stored."""
    return envelope(workflows.judge(body))


@app.post("/api/workflows/import", response_model=Reply[WorkflowDetail], status_code=201)
async def import_workflow(tx: Tx, body: WorkflowImport) -> Response:
    """Takes what Chrome DevTools' Recorder exports."""
    return await tx.create(Workflow, WorkflowDetail, workflows.from_recording(body))


@app.get("/api/workflows/{id}", response_model=Reply[WorkflowDetail])
async def read_workflow(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, Workflow, WorkflowDetail, id)


@app.get("/api/workflows/{id}/export", response_model=dict[str, Any])
async def export_workflow(workflow: MyWorkflow) -> Response:
    """A file for Chrome DevTools' Recorder, without the envelope."""
    return workflows.as_recording(workflow)


@update("/api/workflows/{id}", response_model=Reply[WorkflowDetail])
async def update_workflow(tx: Tx, workflow: MyWorkflow, body: WorkflowUpdate) -> Response:
    version = workflows.next_version(workflow, body)
    return await tx.update(Workflow, WorkflowDetail, workflow.id, body, version=version)


@app.delete("/api/workflows/{id}", response_model=Reply[None])
async def delete_workflow(tx: Tx, id: UUID) -> Response:
    """Its runs stay."""
    return await tx.delete(Workflow, id)


# Runs ---------------------------------------------------------------------------------------------

MyRun = Annotated[Run, Depends(mine(Run))]


@app.get("/api/runs", response_model=Page[RunRead])
async def list_runs(user: CurrentUser, query: Annotated[RunQuery, Query()]) -> Response:
    return await db.page(user, Run, RunRead, query)


@app.post("/api/runs", response_model=Reply[RunRead], status_code=202)
async def create_run(tx: Tx, body: RunCreate) -> Response:
    """Queues a run of a stored workflow or of a definition of its own."""
    return await engine.enqueue(tx, body)


@app.get("/api/runs/{id}", response_model=Reply[RunDetail])
async def read_run(user: CurrentUser, id: UUID, query: Annotated[RunWait, Query()]) -> Response:
    """With `?wait=30` the answer comes when the run ends, or after so many seconds."""
    await engine.wait(user, id, query.wait)
    return await db.read(user, Run, RunDetail, id)


@app.delete("/api/runs/{id}", response_model=Reply[None])
async def delete_run(tx: Tx, run: MyRun) -> Response:
    """Its steps and files go with it; one that goes on must be cancelled first."""
    return await engine.delete_run(tx, run)


@app.post("/api/runs/{id}/cancel", response_model=Reply[RunRead])
async def cancel_run(tx: Tx, run: MyRun) -> Response:
    """Takes effect within a second; cancelling a run that has ended is a conflict."""
    return await engine.wish(tx, run, Control.cancel)


@app.post("/api/runs/{id}/pause", response_model=Reply[RunRead])
async def pause_run(tx: Tx, run: MyRun) -> Response:
    """Pausing a run that has ended is a conflict, never a silence."""
    return await engine.wish(tx, run, Control.pause)


@app.post("/api/runs/{id}/resume", response_model=Reply[RunRead])
async def resume_run(tx: Tx, run: MyRun) -> Response:
    """Also continues a run that waits for its user."""
    return await engine.wish(tx, run, Control.run)


@app.get("/api/runs/{id}/steps", response_model=Page[StepRead])
async def list_steps(user: CurrentUser, id: UUID, query: Annotated[OldestFirstQuery, Query()]) -> Response:
    return await db.page(user, Step, StepRead, query, within=Run, run_id=id)


@app.get("/api/runs/{id}/events", response_model=Page[EventRead])
async def list_run_events(
    user: CurrentUser, id: UUID, query: Annotated[OldestFirstQuery, Query()]
) -> Response:
    return await db.page(user, Event, EventRead, query, within=Run, run_id=id)


@app.get("/api/runs/{id}/stream", response_class=StreamingResponse)
async def stream_run_events(
    run: MyRun, caller: CurrentCaller, last_event_id: clerk_auth.LastEventId = 0
) -> Response:
    """The run's events as Server-Sent Events, from `Last-Event-ID` on."""
    return await live.event_stream(caller, last_event_id, run_id=run.id)


# Files --------------------------------------------------------------------------------------------


@app.get("/api/files", response_model=Page[FileRead])
async def list_files(user: CurrentUser, query: Annotated[FileQuery, Query()]) -> Response:
    return await db.page(user, File, FileRead, query)


@app.get("/api/files/{id}", response_model=Reply[FileRead])
async def read_file(user: CurrentUser, id: UUID) -> Response:
    return await db.read(user, File, FileRead, id)


@app.get("/api/files/{id}/content", response_class=StreamingResponse)
async def read_file_content(
    user: CurrentUser, id: UUID, range: Annotated[str | None, Header()] = None
) -> Response:
    """The bytes; one range at a time (RFC 9110)."""
    return await files.content(user, id, range)


@update("/api/files/{id}", response_model=Reply[FileRead])
async def update_file(tx: Tx, id: UUID, body: FileUpdate) -> Response:
    return await tx.update(File, FileRead, id, body)


@app.delete("/api/files/{id}", response_model=Reply[None])
async def delete_file(tx: Tx, id: UUID) -> Response:
    return await files.delete(tx, id)


# Events -------------------------------------------------------------------------------------------


@app.get("/api/events", response_model=Page[EventRead])
async def list_events(user: CurrentUser, query: Annotated[EventQuery, Query()]) -> Response:
    return await db.page(user, Event, EventRead, query)


@app.get("/api/events/stream", response_class=StreamingResponse)
async def stream_events(caller: CurrentCaller, last_event_id: clerk_auth.LastEventId = None) -> Response:
    """The log as Server-Sent Events, from `Last-Event-ID` on; without one, what happens from now."""
    return await live.event_stream(caller, last_event_id)


# Sockets ------------------------------------------------------------------------------------------


@app.websocket("/ws")
async def serve_socket(socket: WebSocket) -> None:
    """Events, frames, control and input of one user, subprotocol `cua.v1`."""
    await live.serve(socket)
