"""Starts and stops what every process of the system stands on, in order."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import structlog

import clerk_auth
import db
import identity
import logs
import metrics
import upkeep
from infra import mail, postgres, rates, storage, vault
from infra.bus import Bus, make_bus
from models import RunStatus, uuid7
from runs import computers, engine, files, schedules
from schemas import Readiness
from settings import settings
from webhooks import clerk, deliveries

log = structlog.get_logger()

READY_SECONDS = 1.0  # how long an answer of `readiness` is good for
COUNT_SECONDS = 5.0  # between counts of runs, and twenty times as long as one takes


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
_bus: Bus | None = None
_store: storage.Storage | None = None


@asynccontextmanager
async def running(*, worker: bool) -> AsyncIterator[Bus]:
    """The database, the bus, keys, files, sign-in and, for a `worker`, browsers, runs and webhooks.

    Raises one of START_FAILURES.
    """
    global _works, _bus, _store
    logs.configure()
    _require_production_settings()
    async with AsyncExitStack() as stack:
        dsn = await _database(stack)
        bus = make_bus(dsn, settings.redis_url)
        await bus.start()
        stack.push_async_callback(bus.close)
        keys = vault.load_vault(settings.data_dir, settings.secret_keys)
        metrics.BUS.labels(bus.kind).set(1)
        if settings.redis_url:
            await rates.open_shared(settings.redis_url)
            stack.push_async_callback(rates.close_shared)
        await db.open_database(
            dsn,
            size=settings.database_pool,
            wait=settings.database_wait_seconds,
            publish=bus.publish,
            vault=keys,
        )
        stack.push_async_callback(db.close_database)
        store = await _open_store()
        post = mail.open_mail(settings.smtp_url, settings.mail_from, settings.data_dir / "outbox")
        stack.push_async_callback(post.close)
        if clerk_auth.modes(settings) == ["embedded"]:
            await identity.start(keys, post)
            stack.push_async_callback(identity.stop)
        clerk_auth.configure(settings)
        clerk.check_settings(settings)
        await clerk_auth.open()
        stack.push_async_callback(clerk_auth.close)
        stack.callback(bus.subscribe("revoked", clerk_auth.on_revoked))
        worker_id = uuid7()
        files.seal_links(keys)
        await computers.start(worker_id, bus, store, opens=worker)
        stack.push_async_callback(computers.stop)
        if worker:
            await engine.start(worker_id, bus, keys)
            stack.push_async_callback(engine.stop)
            await schedules.start()
            stack.push_async_callback(schedules.stop)
            await deliveries.start(bus)
            stack.push_async_callback(deliveries.stop)
            await upkeep.start(bus)
            stack.push_async_callback(upkeep.stop)
        _works, _bus, _store = worker, bus, store
        gc.freeze()
        yield bus


@asynccontextmanager
async def stores(*, migrated: bool) -> AsyncIterator[tuple[str, storage.Storage]]:
    """The database's address and the file store alone, for a command beside or without a server.

    A database that is `migrated` has the tables that this version knows, and no other. Raises one of
    START_FAILURES.
    """
    logs.configure()
    async with AsyncExitStack() as stack:
        dsn = await _database(stack, migrated=migrated)
        if migrated:
            await db.require_latest(dsn, exactly=True)
        yield dsn, await _open_store()


# What it says of itself ---------------------------------------------------------------------------

_looking = asyncio.Lock()
_looked: tuple[float, Readiness] | None = None
_counting = asyncio.Lock()
_count_at = 0.0


async def readiness() -> Readiness:
    """What of this process answers; without a worker it needs no browser, and both are true.

    However many ask, it looks once a second.
    """
    global _looked  # noqa: PLW0603 - one process, one answer
    async with _looking:
        if _looked is None or time.monotonic() - _looked[0] >= READY_SECONDS:
            found = await _look()
            _looked = time.monotonic(), found
        return _looked[1]


async def _look() -> Readiness:
    (database, migrations), stored = await asyncio.gather(
        db.state(), _store.ping() if _store else asyncio.sleep(0, False)
    )
    return Readiness(
        database=database,
        migrations=migrations,
        bus=_bus is not None and _bus.connected,
        storage=stored,
        browser=computers.browser_found() or not _works,
        worker=engine.alive() or not _works,
    )


async def scrape() -> bytes:
    """What Prometheus reads; runs are counted seldom enough to take a twentieth of one connection's time."""
    global _count_at  # noqa: PLW0603
    async with _counting:
        began = time.monotonic()
        if began >= _count_at:
            await _count_runs()
            now = time.monotonic()
            _count_at = now + max(COUNT_SECONDS, 20 * (now - began))
    return metrics.render()


async def _count_runs() -> None:
    """While the database is away there are no numbers, rather than old ones."""
    metrics.RUNS.clear()
    try:
        counts, age = await db.run_counts()
    except (*db.AWAY, asyncpg.PostgresError) as error:
        log.warning("runs_not_counted", error=repr(error))
        metrics.QUEUE_AGE.set(float("nan"))
        return
    for status in RunStatus:
        metrics.RUNS.labels(status.value).set(counts.get(status, 0))
    metrics.QUEUE_AGE.set(age)


# How it starts ------------------------------------------------------------------------------------


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


async def _database(stack: AsyncExitStack, *, migrated: bool = True) -> str:
    if settings.database_url:
        if not settings.secret_keys:
            raise CannotStart("Set SECRET_KEYS: 32 random bytes in base64, the same for every process.")
        if migrated:
            await db.require_latest(settings.database_url)
        return settings.database_url
    server = await postgres.start(settings.data_dir)
    stack.push_async_callback(postgres.stop, server)
    stack.callback(asyncio.create_task(postgres.keep(server)).cancel)
    if migrated:
        await db.migrate(server.dsn)
    return server.dsn


async def _open_store() -> storage.Storage:
    access = storage.S3Access(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        key_id=settings.aws_access_key_id,
        secret=settings.aws_secret_access_key,
    )
    return await storage.open_store(settings.files_url, settings.data_dir / "files", access)
