"""Reads and writes of one user beside bare asyncpg, which has no isolation and no log."""

import tempfile
from pathlib import Path
from uuid import uuid4

import asyncpg
import uvloop

import db
from benchmarks.measure import compare, describe_machine
from infra import postgres
from models import Workflow, uuid7
from schemas import PageQuery, WorkflowCreate, WorkflowRead

USERS, ROWS = 50, 200
FLOW = {"title": "t", "steps": []}


async def main() -> None:
    """Fill a database of its own, and compare."""
    print(f"Data path: {describe_machine()}")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        server = await postgres.start(Path(directory))
        try:
            await db.migrate(server.dsn)
            await db.open_database(server.dsn, size=8)
            await _compare(server.dsn)
            await db.close_database()
        finally:
            await postgres.stop(server)


async def _compare(dsn: str) -> None:
    users = [f"user_{uuid4().hex}" for _ in range(USERS)]
    for user in users:
        await db.ensure_user(user)
        async with db.as_user(user) as tx:
            for _ in range(ROWS):
                await tx.add(Workflow, name="w", definition=FLOW)
    me, other = users[0], users[1]
    bare = await asyncpg.create_pool(dsn, min_size=8, max_size=8)
    sql = "select id, name, parameters, version, created_at, updated_at from workflows order by id desc limit 20"
    insert = "insert into workflows (user_id, id, name, definition) values ($1, $2, 'w', '{}') returning *"

    async def bare_read() -> None:
        async with bare.acquire() as connection, connection.transaction():
            await connection.execute("select set_config('app.user_id', $1, true)", me)
            await connection.fetch(sql)

    async def our_read() -> None:
        await db.page(me, Workflow, WorkflowRead, PageQuery(limit=20))

    async def bare_write() -> None:
        async with bare.acquire() as connection, connection.transaction():
            await connection.execute("select set_config('app.user_id', $1, true)", other)
            await connection.fetchrow(insert, other, uuid7())

    async def our_write() -> None:
        async with db.as_user(other, "user") as tx:
            await tx.create(Workflow, WorkflowRead, WorkflowCreate(name="w", definition=FLOW))

    reads = {
        "bare asyncpg, one user set, rows unshaped": bare_read,
        "db.page, shaped and enveloped": our_read,
    }
    writes = {"bare asyncpg, one user set, no log": bare_write, "tx.create, logged and enveloped": our_write}
    for at_once in (1, 8):
        print(f"List of 20 rows, {at_once} at once")
        await compare(reads, calls=300, at_once=at_once)
        print(f"Write of one row, {at_once} at once, same user")
        await compare(writes, calls=200, at_once=at_once)
    await bare.close()


if __name__ == "__main__":
    uvloop.run(main())
