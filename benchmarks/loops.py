"""What workers ask again and again, beside many users of whom nothing is due: time, and rows read."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import uvloop

import db
from benchmarks.measure import describe_machine
from infra import postgres

WORKER = UUID(int=1)
ROUNDS = 15

# Of each user of these many: what is for later, and one of what has been.
FILL = """
insert into users (id, created_at)
  select 'user_' || n, now() - interval '1 year' from generate_series(1, {users}) n;
insert into quotas (user_id, turn, ready_at)
  select id, now() + interval '1 day', now() + interval '1 day' from users;
insert into streams (user_id, last_seq)
  select id, 1 from users;
insert into workflows (user_id, id, name, definition)
  select id, uuid_floor(now() - number * interval '1 s'), 'w', '{{}}' from users;
insert into schedules (user_id, id, workflow_id, name, cron, time_zone, missed, overlap, next_at)
  select user_id, id, id, 's', '0 0 * * *', 'UTC', 'skip', 'skip', now() + interval '1 day' from workflows;
insert into runs (user_id, id, workflow_id, title, definition, timeout_seconds, status, finished_at)
  select user_id, id, id, 'r', '{{}}', 60, 'succeeded', now() from workflows;
insert into files (user_id, id, run_id, kind, name, content_type, size, sha256, storage_key)
  select user_id, id, id, 'recording', 'r', 'video/x-motion-jpeg', 1, '', id::text from runs;
insert into computers (user_id, id, name, state, for_run)
  select user_id, id, 'c', 'closed', true from runs;
insert into approvals (user_id, id, run_id, title, action, digest, expires_at)
  select user_id, id, id, 'a', '{{}}', 'd', now() + interval '1 day' from runs;
insert into webhooks (user_id, id, name, url, events, secret, cursor, due_at)
  select user_id, id, 'h', 'https://example.com', '{{*}}', '', 1, now() + interval '1 day' from workflows;
insert into deliveries (user_id, id, webhook_id, event_id, kind, payload, next_at)
  select user_id, id, id, id, 'k', '{{}}', now() + interval '1 day' from webhooks;
insert into events (user_id, seq, id, kind, resource_type, resource_id, actor, data)
  select user_id, 1, id, 'workflow.created', 'workflow', id::text, 'user', '{{}}' from workflows;
insert into auth_sessions (user_id, id, family_hash, refresh_hash, expires_at)
  select user_id, id, '', '', now() + interval '1 day' from workflows;
insert into removals (place, not_before)
  select id, now() + interval '1 day' from users
"""
LOOPS = {
    "claim_run": "claim_run($1, '15 s', 2, true)",
    "claim_computer": "claim_computer($1, '15 s', true)",
    "beat": "beat($1::uuid, array[$1::uuid], array[$1::uuid], '15 s')",
    "due_approvals": "due_approvals(100)",
    "claim_schedule": "claim_schedule()",
    "fan_out": "fan_out(500)",
    "claim_deliveries": "claim_deliveries('{}', '{}', 4, 16, 16, '45 s')",
    "due_removals": "due_removals(32)",
    "erasing, once an hour": "erasing()",
    "tidy, once an hour": "tidy(1000)",
    "users_after, 500 users once an hour": "users_after('user_5', 500, now() - interval '30 days')",
    "users_recorded, likewise": "users_recorded('user_5', 500, now() - interval '7 days')",
    "system_stats, for administrators": "system_stats()",
}
READ = """
select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int from pg_stat_xact_user_tables
"""


async def main() -> None:
    """Fill a database of its own, and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    users = parser.parse_args().users
    print(f"Loops, {users} users: {describe_machine()}")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        server = await postgres.start(Path(directory))
        try:
            await db.migrate(server.dsn)
            connection = await asyncpg.connect(server.dsn)
            await connection.execute("set app.system = 'on'; set synchronous_commit = off")
            await connection.execute(FILL.format(users=users))
            await connection.execute("vacuum analyze")
            for name, call in LOOPS.items():
                await _measure(connection, name, call)
            await connection.close()
        finally:
            await postgres.stop(server)


async def _measure(connection: "asyncpg.Connection[asyncpg.Record]", name: str, call: str) -> None:
    """Each call in a transaction that is undone; the rows read are those of one call."""
    arguments = [WORKER] if "$1" in call else []
    taken: list[float] = []
    for _ in range(ROUNDS):
        transaction = connection.transaction()
        await transaction.start()
        before = await connection.fetchval(READ)
        began = time.perf_counter()
        await connection.fetch(f"select * from {call}", *arguments)
        taken.append((time.perf_counter() - began) * 1e3)
        read = await connection.fetchval(READ) - before
        await transaction.rollback()
    print(
        f"  {name:<38}{min(taken):7.2f} / {statistics.median(taken):7.2f} / {max(taken):7.2f} ms  {read:>7} rows"
    )


if __name__ == "__main__":
    uvloop.run(main())
