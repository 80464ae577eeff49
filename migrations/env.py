"""Runs migrations on the database of the settings, one process at a time."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

import db
from models import Base
from settings import settings

MIGRATION_LOCK = 0x637561


def _upgrade(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        connection.execute(text(f"select pg_advisory_xact_lock({MIGRATION_LOCK})"))
        context.run_migrations()


async def _run(dsn: str) -> None:
    engine = create_async_engine(db.sqlalchemy_url(dsn), poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()
    await engine.dispose()


asyncio.run(_run(context.config.attributes.get("dsn") or settings.database_url))
