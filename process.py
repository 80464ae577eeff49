"""Starts and stops what every process of the system stands on, in order."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

import clerk_auth
import db
import identity
from infra import mail, postgres, storage, vault
from infra.bus import Bus, make_bus
from models import uuid7
from runs import computers, engine
from schemas import Readiness
from settings import settings


class CannotStart(Exception):
    """A setting that this process needs is missing or wrong; the sentence says which."""


START_FAILURES = (
    CannotStart,
    clerk_auth.Misconfigured,
    db.OutOfDate,
    db.Unavailable,
    db.Unsafe,
    identity.IdentityConflict,
    mail.BadMailSettings,
    postgres.PostgresUnavailable,
    storage.StorageUnavailable,
    vault.BadKeys,
    vault.Unsealable,
)
"""What stops a start with a sentence for the operator."""

_works = False


@asynccontextmanager
async def running(*, worker: bool) -> AsyncIterator[Bus]:
    """The database, the bus, keys, files, sign-in and, for a `worker`, browsers and runs.

    Raises one of START_FAILURES.
    """
    global _works  # noqa: PLW0603 - one assembly a process
    _configure_logs()
    _require_production_settings()
    async with AsyncExitStack() as stack:
        dsn = await _database(stack)
        bus = make_bus(dsn, settings.redis_url)
        await bus.start()
        stack.push_async_callback(bus.close)
        await db.open_database(
            dsn, size=settings.database_pool, wait=settings.database_wait_seconds, publish=bus.publish
        )
        stack.push_async_callback(db.close_database)
        keys = vault.load_vault(settings.data_dir, settings.secret_keys)
        store = await storage.open_directory(settings.data_dir / "files")
        post = mail.open_mail(settings.smtp_url, settings.mail_from, settings.data_dir / "outbox")
        stack.push_async_callback(post.close)
        if clerk_auth.modes(settings) == ["embedded"]:
            await identity.start(keys, post)
            stack.push_async_callback(identity.stop)
        clerk_auth.configure(settings)
        await clerk_auth.open()
        stack.push_async_callback(clerk_auth.close)
        stack.callback(bus.subscribe("revoked", clerk_auth.on_revoked))
        worker_id = uuid7()
        await computers.start(worker_id, bus, store, opens=worker)
        stack.push_async_callback(computers.stop)
        if worker:
            await engine.start(worker_id, bus, keys)
            stack.push_async_callback(engine.stop)
        _works = worker
        gc.freeze()
        yield bus


async def readiness() -> Readiness:
    """What of this process answers; without a worker it needs no browser, and both are true."""
    return Readiness(
        database=await db.ping(),
        browser=computers.browser_found() or not _works,
        worker=engine.alive() or not _works,
    )


def _require_production_settings() -> None:
    """A laptop's conveniences would lose data or let anybody in where others depend on the server."""
    needed = {
        "DATABASE_URL": settings.database_url,
        "SECRET_KEYS": settings.secret_keys,
        "CLERK_PUBLISHABLE_KEY (or SUPABASE_URL, or OIDC_ISSUERS)": clerk_auth.modes(settings)
        != ["embedded"],
    }
    missing = [name for name, value in needed.items() if not value]
    if settings.environment == "production" and missing:
        raise CannotStart(f"In production set {', '.join(missing)}.")


async def _database(stack: AsyncExitStack) -> str:
    if settings.database_url:
        if not settings.secret_keys:
            raise CannotStart("Set SECRET_KEYS: 32 random bytes in base64, the same for every process.")
        await db.require_latest(settings.database_url)
        return settings.database_url
    server = await postgres.start(settings.data_dir)
    stack.push_async_callback(postgres.stop, server)
    stack.callback(asyncio.create_task(postgres.keep(server)).cancel)
    await db.migrate(server.dsn)
    return server.dsn


def _configure_logs() -> None:
    level = logging.getLevelName(settings.log_level.upper())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.environment == "production"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info
            if settings.environment == "production"
            else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
