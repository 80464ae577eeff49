"""The data path: isolation, the event log, and replies that are the truth."""

import asyncio
import base64
import os
import random
import signal
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
import orjson
import pytest
from sqlalchemy.exc import NoResultFound

import db
from infra import postgres
from infra.bus import LocalBus
from models import OWNED_TABLES, SYSTEM_TABLES, Base, Event, Run, Step, Stream, User, Workflow, uuid7
from schemas import (
    EventQuery,
    EventRead,
    NamedQuery,
    OldestFirstQuery,
    PageQuery,
    RunQuery,
    RunRead,
    StepRead,
    WorkflowCreate,
    WorkflowDetail,
    WorkflowRead,
    WorkflowUpdate,
)

FLOW = {"title": "t", "steps": []}


def workflow(name: str = "w") -> WorkflowCreate:
    return WorkflowCreate(name=name, definition=FLOW)


async def make(user: str, name: str = "w") -> Workflow:
    async with db.as_user(user) as tx:
        return await tx.add(Workflow, name=name, definition=FLOW)


async def seqs(user: str) -> list[int]:
    found, after = [], 0
    while batch := await db.events(user, after):
        found += [event.seq for event in batch]
        after = found[-1]
    return found


def test_ids_increase_and_carry_their_version() -> None:
    ids = [uuid7() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}


# Isolation


async def test_every_table_but_the_systems_forces_row_security_and_keys_by_owner(database: str) -> None:
    async with db.as_system() as tx:
        tables = await tx.connection.fetch(
            "select relname, relrowsecurity and relforcerowsecurity as forced from pg_class "
            "where relkind = 'r' and relnamespace = 'public'::regnamespace and relname <> 'alembic_version'"
        )
    assert {row["relname"] for row in tables} == set(Base.metadata.tables)
    assert all(row["forced"] for row in tables)
    for model in OWNED_TABLES:
        table = model.__table__
        assert next(iter(table.primary_key.columns)).name == "user_id", table.name
        for constraint in table.constraints:
            columns = [column.name for column in getattr(constraint, "columns", [])]
            if type(constraint).__name__ == "UniqueConstraint":
                assert columns[0] == "user_id", (table.name, columns)
            if type(constraint).__name__ == "ForeignKeyConstraint":
                assert columns[0] == "user_id", (table.name, columns)
                assert not constraint.deferrable


async def test_without_a_caller_nothing_is_seen_and_nothing_is_written(user: str, dsn: str) -> None:
    await make(user)
    connection = await asyncpg.connect(dsn)
    try:
        for table in Base.metadata.tables:
            assert await connection.fetchval(f"select count(*) from {table}") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into users (id) values ('x')")
    finally:
        await connection.close()


async def test_a_transaction_sees_and_writes_its_users_rows_only(user: str, other_user: str) -> None:
    mine, theirs = await make(user), await make(other_user)
    async with db.as_user(user) as tx:
        assert [row.id for row in await tx.find(Workflow)] == [mine.id]
        assert [row.id for row in await tx.find(User)] == [user]
        assert await tx.change(Workflow, {"id": theirs.id}, name="x") == []
        assert await tx.remove(Workflow, id=theirs.id) == []
        # the net below: even a statement that forgot its owner
        assert await tx.connection.fetchval("select count(*) from workflows") == 1
        assert await tx.connection.execute("update workflows set name = 'y'") == "UPDATE 1"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.as_user(user) as tx:
            await tx.add(Workflow, user_id=other_user, name="x", definition=FLOW)
    with pytest.raises(NoResultFound):
        await db.read(user, Workflow, WorkflowRead, theirs.id)


async def test_a_row_cannot_point_at_another_users_row(user: str, other_user: str) -> None:
    theirs = await make(other_user)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with db.as_user(user) as tx:
            await tx.add(Run, workflow_id=theirs.id, title="x", definition=FLOW, timeout_seconds=1)


async def test_a_login_that_bypasses_row_security_is_restricted_or_refused(
    postgres_server: postgres.Server, user: str, other_user: str
) -> None:
    mine = await make(user)
    dsn = postgres._dsn(postgres_server.home, "postgres", "cua")
    kept = db._open
    try:
        with pytest.raises(db.Unsafe):
            await db.open_database(dsn)
        connection = await asyncpg.connect(dsn)
        await connection.execute("create role cua_app nologin")
        await connection.execute(
            "grant select, insert, update, delete on all tables in schema public to cua_app"
        )
        await connection.close()
        await db.open_database(dsn)
        async with db.as_user(other_user) as tx:
            assert await tx.connection.fetchval("select count(*) from workflows") == 0
        with pytest.raises(NoResultFound):
            await db.read(other_user, Workflow, WorkflowRead, mine.id)
        assert (await db.read(user, Workflow, WorkflowRead, mine.id)).status_code == 200
        await db.close_database()
    finally:
        db._open = kept


# Replies


@pytest.mark.parametrize("count", [0, 1, 7])
async def test_pages_walk_the_whole_list_once(user: str, count: int) -> None:
    made = [await make(user, f"w{n}") for n in range(count)]
    for order, expected in (("desc", made[::-1]), ("asc", made)):
        seen: list[str] = []
        query = NamedQuery(limit=3, order=order)
        while True:
            reply = await db.page(user, Workflow, WorkflowRead, query)
            body = orjson.loads(reply.body)
            seen += [row["id"] for row in body["data"]]
            if body["next_cursor"] is None:
                assert "link" not in reply.headers
                break
            assert f"cursor={body['next_cursor']}" in reply.headers["link"]
            query = NamedQuery(limit=3, order=order, cursor=body["next_cursor"])
        assert seen == [str(row.id) for row in expected]


def test_entity_tags_are_found_in_linear_time() -> None:
    """Another regular expression than a linear one would be at it for hours."""
    gap = " " * 500_000
    for hostile in (f"x{gap}x", f'"a"{gap}x', f"*{gap}*", '"' * 500_001, '"a" ' * 100_000, f"{gap},{gap}"):
        assert db.tags([hostile]) <= {"*", '""', '"a"'}
    assert db.tags([' W/"a" ,\t"b"', "*", 'x "c d"']) == {'W/"a"', '"b"', "*"}


async def test_the_data_of_an_event_is_bounded_in_bytes(user: str) -> None:
    fits = "字" * (db.DATA_BYTES // 3 - 10)
    async with db.as_user(user) as tx:
        tx.emit("thread.created", ("thread", uuid7()), {"title": fits})
        tx.emit("thread.created", ("thread", uuid7()), {"title": fits + "字" * 10})
    first, second = [orjson.loads(event.text)["data"] for event in await db.events(user, 0)]
    assert (first, second) == ({"title": fits}, {"truncated": True})


async def test_a_strange_cursor_is_refused(user: str) -> None:
    for cursor in ("x", "!!!!", "AAAA", "é"):
        with pytest.raises(db.InvalidCursor):
            await db.page(user, Workflow, WorkflowRead, PageQuery(cursor=cursor))
    for position in ("-1", "1_0", " 1", str(2**63), "9" * 100):
        cursor = base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")
        with pytest.raises(db.InvalidCursor):
            await db.page(user, Event, EventRead, PageQuery(cursor=cursor))
    beyond = base64.urlsafe_b64encode(str(2**31).encode()).decode().rstrip("=")
    with pytest.raises(db.InvalidCursor):
        await db.page(user, Step, StepRead, OldestFirstQuery(cursor=beyond))


async def test_search_takes_wildcards_literally(user: str) -> None:
    for name in ("100% Done", "100 x Done", "a_b", "aXb", "back\\slash"):
        await make(user, name)

    async def names(q: str) -> list[str]:
        body = orjson.loads((await db.page(user, Workflow, WorkflowRead, NamedQuery(q=q, order="asc"))).body)
        return [row["name"] for row in body["data"]]

    assert await names("100%") == ["100% Done"]
    assert await names("A_B") == ["a_b"]
    assert await names("k\\s") == ["back\\slash"]
    assert await names("done") == ["100% Done", "100 x Done"]


async def test_each_queued_run_of_a_list_knows_its_place(user: str) -> None:
    async with db.as_user(user) as tx:
        values = {"title": "t", "definition": {}, "timeout_seconds": 60}
        made = [(await tx.add(Run, priority=priority, **values)).id for priority in (0, 0, 5)]
        await tx.add(Run, status="running", priority=9, **values)
    rows = orjson.loads((await db.page(user, Run, RunRead, RunQuery())).body)["data"]
    places = {row["id"]: row["position"] for row in rows if row["status"] == "queued"}
    assert places == {str(run): place for run, place in zip(made, (2, 3, 1), strict=True)}
    assert [row["position"] for row in rows if row["status"] == "running"] == [None]


async def test_json_of_a_row_is_its_schemas_json_by_value(user: str) -> None:
    async with db.as_user(user) as tx:
        reply = await tx.create(Workflow, WorkflowDetail, workflow('it\'s \\ "quoted" \u2028 \U0001f600'))
    data = orjson.loads(reply.body)["data"]
    assert orjson.loads(WorkflowDetail.model_validate(data).model_dump_json()) == data
    assert data["definition"] == FLOW
    assert len(data["created_at"]) == len("2026-01-01T00:00:00.000000Z")


async def test_an_update_that_sends_nothing_changes_nothing_and_tells_nobody(user: str) -> None:
    row = await make(user, "before")
    shown = bytes((await db.read(user, Workflow, WorkflowDetail, row.id)).body)
    told = await db.log_bounds(user)
    async with db.as_user(user) as tx:
        reply = await tx.update(Workflow, WorkflowDetail, row.id, WorkflowUpdate())
        assert (bytes(reply.body), reply.headers["etag"]) == (shown, db.tag(row.updated_at))
        with pytest.raises(NoResultFound):
            await tx.update(Workflow, WorkflowDetail, uuid7(), WorkflowUpdate())
    assert await db.log_bounds(user) == told


async def test_update_sets_exactly_the_fields_sent(user: str) -> None:
    row = await make(user, "before")
    before = orjson.loads((await db.read(user, Workflow, WorkflowDetail, row.id)).body)["data"]
    async with db.as_user(user) as tx:
        reply = await tx.update(Workflow, WorkflowDetail, row.id, WorkflowUpdate(name="after"))
    after = orjson.loads(reply.body)["data"]
    assert after == before | {"name": "after", "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert orjson.loads((await db.read(user, Workflow, WorkflowDetail, row.id)).body)["data"] == after


async def test_a_failed_commit_is_never_an_answer(user: str) -> None:
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        async with db.as_user(user) as tx:
            await tx.create(Workflow, WorkflowDetail, workflow())
            with pytest.raises(asyncpg.UndefinedTableError):
                await tx.connection.execute("select * from nothing")
    with pytest.raises(RuntimeError, match="rolled back"):
        async with db.as_user(user) as tx:
            await tx.add(Workflow, name="w", definition=FLOW)
            with pytest.raises(asyncpg.UndefinedTableError):
                await tx.connection.execute("select * from nothing")
    assert await seqs(user) == []
    async with db.as_user(user) as tx:
        assert await tx.find(Workflow) == []


async def test_text_stays_text_where_a_server_takes_backslashes_for_escapes(user: str, database: str) -> None:
    kept = db._open
    hostile = "\\'; rollback; select ('"
    try:
        await db.open_database(f"{database}{'&' if '?' in database else '?'}standard_conforming_strings=off")
        async with db.as_user(user) as tx:
            tx.emit("run.log", ("run", uuid4()), {"text": hostile})
        assert orjson.loads((await db.events(user, 0))[0].text)["data"] == {"text": hostile}
        await db.close_database()
    finally:
        db._open = kept


async def test_a_busy_pool_says_so(user: str, database: str) -> None:
    kept = db._open
    try:
        await db.open_database(database, size=1, wait=0.2)
        async with db.as_user(user):
            with pytest.raises(db.Unavailable):
                await db.read(user, Workflow, WorkflowRead, uuid4())
        await db.close_database()
    finally:
        db._open = kept


# Idempotency keys


async def create_once(user: str, key: str, name: str, fingerprint: str = "f") -> tuple[int, bytes]:
    try:
        async with db.as_user(user, "user", db.Idempotency(key, fingerprint)) as tx:
            await asyncio.sleep(random.random() * 0.02)
            reply = await tx.create(Workflow, WorkflowDetail, workflow(name))
    except db.Repeat as repeat:
        assert repeat.reply.headers["location"].startswith("/api/workflows/")
        return repeat.reply.status_code, bytes(repeat.reply.body)
    return reply.status_code, bytes(reply.body)


async def test_eight_twins_make_one_thing_and_get_one_answer(user: str) -> None:
    answers = await asyncio.gather(*(create_once(user, "k", "w") for _ in range(8)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 201
    async with db.as_user(user) as tx:
        assert len(await tx.find(Workflow)) == 1
    assert await seqs(user) == [1]


async def test_a_key_belongs_to_one_request_and_one_user(user: str, other_user: str) -> None:
    await create_once(user, "k", "w")
    with pytest.raises(db.KeyReused):
        await create_once(user, "k", "other", fingerprint="g")
    assert (await create_once(other_user, "k", "w"))[0] == 201


async def test_a_failed_request_frees_its_key_and_a_running_one_keeps_it(user: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.as_user(user, "user", db.Idempotency("k", "f")):
            raise ZeroDivisionError
    async with db.as_user(user, "user", db.Idempotency("k", "f")) as tx:
        with pytest.raises(db.KeyBusy):
            await create_once(user, "k", "w")
        tx.reply("null")


# The log


async def test_events_come_with_their_change_and_a_hint_after_it(user: str, bus: LocalBus) -> None:
    hints: list[bytes] = []
    stop = bus.subscribe(f"user:{user}", hints.append)
    async with db.as_user(user, "key:7") as tx:
        reply = await tx.create(Workflow, WorkflowDetail, workflow("it's"))
        tx.emit("run.log", ("run", uuid4()), {"text": "x" * 40_000})
        await asyncio.sleep(0)
        assert (hints, await seqs(user)) == ([], [])
    await asyncio.sleep(0.01)
    stop()
    assert len(hints) == 1
    first, second = [orjson.loads(event.text) for event in await db.events(user, 0)]
    data = orjson.loads(reply.body)["data"]
    assert first == {
        "seq": 1,
        "id": first["id"],
        "kind": "workflow.created",
        "run_id": None,
        "resource": {"type": "workflow", "id": data["id"]},
        "at": first["at"],
        "actor": "key:7",
        "data": {name: data[name] for name in WorkflowRead.model_fields},
    }
    assert second["data"] == {"truncated": True}
    assert second["run_id"] == second["resource"]["id"]
    page = orjson.loads((await db.page(user, Event, EventRead, EventQuery(after=1))).body)
    assert page["data"] == [second]


async def test_what_a_savepoint_undoes_is_not_logged(user: str) -> None:
    async with db.as_user(user) as tx:
        await tx.create(Workflow, WorkflowRead, workflow("kept"))
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                await tx.create(Workflow, WorkflowRead, workflow("undone"))
                raise ZeroDivisionError
        async with tx.savepoint():
            await tx.create(Workflow, WorkflowRead, workflow("also kept"))
    async with db.as_user(user) as tx:
        assert [row.name for row in await tx.find(Workflow)] == ["kept", "also kept"]
    assert await seqs(user) == [1, 2]


async def test_a_system_transaction_logs_for_one_user(user: str, other_user: str) -> None:
    async with db.as_system() as tx:
        tx.act_for(user)
        tx.emit("run.log", ("run", uuid4()))
        with pytest.raises(RuntimeError, match="one user"):
            tx.act_for(other_user)
    assert await seqs(user) == [1]
    assert await db.heads([user, other_user]) == {user: 1, other_user: 0}


WRITER = """
import asyncio, random, sys
import db
from models import Workflow
from schemas import WorkflowRead, WorkflowCreate
async def write(user, seed, until):
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        try:
            async with db.as_user(user) as tx:
                rows = sorted(await tx.find(Workflow), key=lambda row: row.id)[:3]
                for row in rows[: dice.randrange(3)]:
                    await tx.update(Workflow, WorkflowRead, row.id, None, name=str(dice.random()))
                for _ in range(dice.randrange(1, 4)):
                    body = WorkflowCreate(name="w", definition={})
                    try:
                        async with tx.savepoint():
                            await tx.create(Workflow, WorkflowRead, body)
                            if dice.random() < 0.3:
                                raise LookupError
                    except LookupError:
                        pass
                if dice.random() < 0.15:
                    raise LookupError
        except LookupError:
            pass
async def main(dsn, user, seed, seconds):
    await db.open_database(dsn, size=4)
    until = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(*(write(user, seed * 10 + n, until) for n in range(4)))
    await db.close_database()
asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
"""


async def _writer(dsn: str, user: str, seed: int, seconds: float) -> asyncio.subprocess.Process:
    root = Path(__file__).parent.parent
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, dsn, user, str(seed), str(seconds)),
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_log_stays_whole_under_many_writers_rollbacks_and_kills(user: str, database: str) -> None:
    """Gap-free, in commit order, without deadlock: every snapshot shows 1..head and nothing else."""
    dice = random.Random(7)
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    async with db.as_user(user) as tx:
        before = await tx.connection.fetchval(deadlocks)
    survivors = [await _writer(database, user, seed, 8) for seed in range(2)]
    victims = [await _writer(database, user, seed, 60) for seed in range(10, 12)]
    loop = asyncio.get_running_loop()
    until, head, killed, last = loop.time() + 8, 0, 0, 0
    while loop.time() < until:
        async with db.as_user(user) as tx:
            row = await tx.connection.fetchrow(
                "select count(*), coalesce(max(seq), 0), (select last_seq from streams where user_id = $1) "
                "from events where user_id = $1",
                user,
            )
        assert row is not None
        count, top, stream = row
        assert count == top == stream
        assert top >= head
        head = top
        if loop.time() > until - 6 and killed < 6 and head > last:
            victim = victims.pop(dice.randrange(len(victims)))
            victim.send_signal(signal.SIGKILL)
            await victim.communicate()
            victims.append(await _writer(database, user, 100 + killed, 60))
            killed, last = killed + 1, head
        await asyncio.sleep(0.02)
    for process in victims:
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    for process in survivors:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    assert killed >= 3
    assert head > 50
    async with db.as_user(user) as tx:
        rows = await tx.connection.fetch("select seq, at from events where user_id = $1 order by seq", user)
        created = await tx.connection.fetchval(
            "select count(*) from events where user_id = $1 and kind = 'workflow.created'", user
        )
        kept = await tx.connection.fetchval("select count(*) from workflows")
        after = await tx.connection.fetchval(deadlocks)
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert created == kept
    assert after == before


async def test_a_writer_frozen_before_its_commit_blocks_nobody(user: str) -> None:
    async with db.as_user(user) as frozen:
        await frozen.create(Workflow, WorkflowRead, workflow("late"))
        async with asyncio.timeout(2), db.as_user(user) as tx:
            await tx.create(Workflow, WorkflowRead, workflow("early"))
    names = [orjson.loads(event.text)["data"]["name"] for event in await db.events(user, 0)]
    assert names == ["early", "late"]


async def test_migrations_make_what_the_models_declare(database: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "check"),
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "DATABASE_URL": database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_every_model_is_owned_or_the_systems(database: str) -> None:
    models = {mapper.class_ for mapper in Base.registry.mappers}
    assert models == {User, *OWNED_TABLES, *SYSTEM_TABLES}


async def test_connections_that_are_lost_are_told_as_a_database_that_is_away(
    user: str, database: str
) -> None:
    """Between two statements and in the middle of one."""
    told = 0
    over = asyncio.Event()

    async def use() -> None:
        nonlocal told
        while not over.is_set():
            try:
                async with db.as_user(user) as tx:
                    await tx.find(User)
            except db.AWAY:
                told += 1

    users = [asyncio.create_task(use()) for _ in range(6)]
    admin = await asyncpg.connect(database)
    for _ in range(40):
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'cua' and datname = current_database()"
        )
        await asyncio.sleep(0.03)
    await admin.close()
    over.set()
    await asyncio.gather(*users)
    assert told
    async with db.as_user(user) as tx:
        assert await tx.one(User)


async def test_only_who_has_had_a_webhook_is_looked_up_at_a_commit(user: str) -> None:
    async def hooked() -> bool:
        async with db.as_user(user) as tx:
            return (await tx.one(Stream)).hooked

    async with db.as_user(user) as tx:
        tx.emit("thread.created", ("thread", uuid4()))
    assert not await hooked()
    async with db.as_user(user) as tx:
        tx.emit("webhook.created", ("webhook", uuid4()))
    assert await hooked()
    async with db.as_user(user) as tx:
        tx.emit("thread.created", ("thread", uuid4()))
    assert await hooked()


async def test_policies_do_not_hide_from_the_planner_how_many_rows_a_user_has(database: str) -> None:
    connection = await asyncpg.connect(database)
    quals = await connection.fetch("select qual from pg_policies where schemaname = current_schema()")
    await connection.close()
    assert quals
    assert not [qual for (qual,) in quals if "current_setting) = 'on'" in qual]


LATER = """
insert into workflows (user_id, id, name, definition) values ($1, $2, 'w', '{}');
insert into runs (user_id, id, title, definition, timeout_seconds, status) values ($1, $2, 'r', '{}', 1, 'failed');
insert into schedules (user_id, id, workflow_id, name, cron, time_zone, missed, overlap, next_at)
  select $1, gen_random_uuid(), $2, 's', '@daily', 'UTC', 'skip', 'skip', now() + interval '1 day'
    from generate_series(1, 300);
insert into approvals (user_id, id, run_id, title, action, digest, expires_at)
  select $1, gen_random_uuid(), $2, 'a', '{}', 'd', now() + interval '1 day' from generate_series(1, 300);
insert into removals (place, not_before)
  select gen_random_uuid(), now() + interval '1 day' from generate_series(1, 300)
"""
READ = "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_user_tables"


@pytest.mark.parametrize("look", ["claim_schedule()", "due_approvals(100)", "due_removals(32)"])
async def test_who_looks_for_what_is_due_reads_nothing_that_is_for_later(
    database: str, user: str, look: str
) -> None:
    connection = await asyncpg.connect(database)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("set local app.system = 'on'; set local enable_seqscan = off")
    made = LATER.replace("$1", f"'{user}'").replace("$2", f"'{uuid7()}'::uuid")
    await connection.execute(made)
    await connection.execute("analyze schedules, approvals, removals")
    before = await connection.fetchval(READ)
    await connection.fetch(f"select * from {look}")
    read = await connection.fetchval(READ) - before
    await transaction.rollback()
    await connection.close()
    assert read < 200
