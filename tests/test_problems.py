"""Each exception that a route may raise leaves as exactly the problem that is written down here."""

import asyncpg
import httpx
import pytest
from sqlalchemy.exc import NoResultFound
from starlette.requests import ClientDisconnect

import analytics
import api
import api_keys
import clerk_auth
import db
import identity
import users
from backend_websocket_server import PROBLEMS
from browser import actions, chromium
from infra import forms, rates, storage, vault
from live import hub
from runs import approvals, computers, engine, files, profiles, schedules, secrets, workflows
from runs.parameters import Problem
from tests.test_api import assert_problem
from webhooks import clerk, endpoints

WRONG = [Problem("/steps/0", "It is wrong")]

TABLE: list[tuple[Exception, int, str]] = [
    (clerk.InvalidSignature("it is wrong"), 400, "invalid_signature"),
    (ClientDisconnect(), 400, "client_disconnected"),
    (clerk_auth.NotSignedIn("for the log"), 401, "unauthorized"),
    (identity.SessionEnded(), 401, "session_ended"),
    (identity.WrongCredentials(), 401, "wrong_credentials"),
    (files.LinkInvalid(), 403, "link_invalid"),
    (identity.AccountDisabled(), 403, "account_disabled"),
    (clerk_auth.MissingScope("run"), 403, "missing_scope"),
    (clerk_auth.OnlySignedIn(), 403, "only_signed_in"),
    (clerk_auth.NotAdmin(), 403, "not_admin"),
    (identity.RegistrationClosed(), 403, "registration_closed"),
    (NoResultFound(), 404, "not_found"),
    (identity.IssuerOff(), 404, "not_found"),
    (clerk.ClerkEventsOff("it is off"), 404, "not_found"),
    (storage.FileMissing("it is gone"), 404, "file_missing"),
    (files.UploadStalled("it stood still"), 408, "upload_stalled"),
    (endpoints.TooManyWebhooks("too many"), 409, "too_many_webhooks"),
    (identity.EmailTaken(), 409, "email_taken"),
    (asyncpg.UniqueViolationError("for the log"), 409, "already_exists"),
    (asyncpg.IntegrityConstraintViolationError("for the log"), 409, "conflict"),
    (asyncpg.ForeignKeyViolationError("for the log"), 409, "conflict"),
    (api_keys.TooManyKeys("too many"), 409, "too_many_keys"),
    (users.OwnAccount(), 409, "own_account"),
    (users.LastAdmin(), 409, "last_admin"),
    (engine.WrongState("it has ended"), 409, "wrong_state"),
    (engine.ThreadBusy("another goes on"), 409, "thread_busy"),
    (approvals.AlreadyDecided("it is answered"), 409, "already_decided"),
    (approvals.Expired("it is late"), 409, "expired"),
    (approvals.WrongDigest("it is another"), 409, "wrong_digest"),
    (chromium.ComputerClosed("it is closed"), 409, "computer_closed"),
    (computers.ComputerBusy("it is in use"), 409, "computer_busy"),
    (computers.StaleControl("it is another's"), 409, "stale_control"),
    (db.KeyBusy("it goes on"), 409, "may_have_landed"),
    (schedules.TooManySchedules("too many"), 409, "too_many_schedules"),
    (db.Changed("it is another"), 412, "precondition_failed"),
    (files.QuotaExceeded("it is full"), 413, "quota_exceeded"),
    (storage.TooLarge(7), 413, "too_large"),
    (forms.NotAForm("it is none"), 415, "unsupported_media_type"),
    (files.RangeNotSatisfiable(7), 416, "range_not_satisfiable"),
    (forms.InvalidForm("it has no end"), 422, "invalid"),
    (actions.ActionFailed("timeout", "it does not answer"), 422, "action_failed"),
    (workflows.InvalidWorkflow(WRONG), 422, "invalid_workflow"),
    (schedules.InvalidSchedule(WRONG), 422, "invalid_schedule"),
    (secrets.InvalidSecret(WRONG), 422, "invalid_secret"),
    (profiles.InvalidState(WRONG), 422, "invalid_state"),
    (workflows.InvalidParams(WRONG), 422, "invalid_params"),
    (engine.InvalidModel(WRONG), 422, "invalid_model"),
    (engine.NoSuchStep(WRONG), 422, "no_such_step"),
    (approvals.NotEditable(WRONG), 422, "not_editable"),
    (clerk.InvalidEvent("it is none"), 422, "invalid_event"),
    (endpoints.InvalidAddress("it is private"), 422, "invalid_address"),
    (clerk_auth.BadIdempotencyKey("it is long"), 422, "invalid_idempotency_key"),
    (analytics.InvalidRange("it is long"), 422, "invalid_range"),
    (db.InvalidCursor("it is another's"), 422, "invalid_cursor"),
    (db.KeyReused("it is another's"), 422, "idempotency_key_reused"),
    (identity.InvalidCode(), 422, "invalid_code"),
    (rates.RateLimited(rates.Standing(5, 60, 0, 9)), 429, "rate_limited"),
    (files.TooManyUploads("too many"), 429, "too_many_uploads"),
    (chromium.TooManyComputers("too many"), 429, "too_many_computers"),
    (hub.TooManyConnections("too many"), 429, "too_many_connections"),
    (vault.Unsealable("its key is gone"), 500, "unsealable"),
    (computers.NotReady("it opens"), 503, "computer_not_ready"),
    (clerk_auth.KeysUnavailable(9), 503, "keys_unavailable"),
    (identity.SignInBusy(), 503, "sign_in_busy"),
    (computers.NeedsRedis("it is elsewhere"), 503, "needs_redis"),
    (chromium.ChromiumMissing("there is none"), 503, "chromium_missing"),
    (storage.StorageUnavailable("it is away"), 503, "storage_unavailable"),
    (storage.StorageFull("it is full"), 503, "storage_unavailable"),
    (db.Unavailable("for the log"), 503, "database_unavailable"),
    (asyncpg.PostgresConnectionError("for the log"), 503, "database_unavailable"),
    (asyncpg.OperatorInterventionError("for the log"), 503, "database_unavailable"),
    (asyncpg.InsufficientResourcesError("for the log"), 503, "database_unavailable"),
    (asyncpg.LockNotAvailableError("for the log"), 503, "database_unavailable"),
    (asyncpg.TransactionRollbackError("for the log"), 503, "database_unavailable"),
    (asyncpg.InterfaceError("for the log"), 503, "database_unavailable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "code"), TABLE, ids=[type(error).__name__ for error, *_ in TABLE]
)
async def test_an_exception_leaves_as_its_problem(error: Exception, status: int, code: str) -> None:
    app = api.create_app(PROBLEMS)

    @app.get("/raise")
    async def fail() -> None:
        raise error

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        body = assert_problem(await client.get("/raise"), status, code)
    assert body["detail"]
    assert "for the log" not in body["detail"]
    assert ("errors" in body) == bool(getattr(error, "problems", ()))


def test_every_exception_is_in_the_table() -> None:
    assert PROBLEMS.keys() <= {type(error) for error, *_ in TABLE}
