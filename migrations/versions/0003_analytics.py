"""Aggregates: what analytics, usage and the administrator are told."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for made in (UUID_FLOOR, RUNS_BETWEEN, RUN_SUMMARY, RUN_TIMELINE, WORKFLOW_COUNTS, USAGE_SINCE, STATS):
        op.execute(made)


# The least UUIDv7 of an instant (RFC 9562, section 5.7).
UUID_FLOOR = """
create function uuid_floor(instant timestamptz) returns uuid language sql immutable as $$
  select rpad(lpad(to_hex(floor(extract(epoch from instant) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$
"""

# The key is ordered by time, so a range of it is all that is read. Keys and rows are timed by two clocks.
RUNS_BETWEEN = """
create function runs_between(owner text, since timestamptz, until timestamptz, workflow uuid)
returns setof runs language sql stable as $$
  select * from runs r
   where r.user_id = owner
     and r.id >= uuid_floor(since - interval '5 minutes') and r.id < uuid_floor(until + interval '5 minutes')
     and r.created_at >= since and r.created_at < until
     and (workflow is null or r.workflow_id = workflow)
$$
"""

COUNTED = """
  count(*), count(*) filter (where r.status = 'succeeded'), count(*) filter (where r.status = 'failed'),
  count(*) filter (where r.status = 'cancelled'),
  percentile_cont(0.5) within group (order by r.active_ms) filter (where r.status in ('succeeded', 'failed')),
  percentile_cont(0.95) within group (order by r.active_ms) filter (where r.status in ('succeeded', 'failed'))
"""
COUNTS = """
  runs bigint, succeeded bigint, failed bigint, cancelled bigint, p50_ms double precision, p95_ms double precision
"""

RUN_SUMMARY = f"""
create function run_summary(owner text, since timestamptz, until timestamptz, workflow uuid)
returns table ({COUNTS}, live bigint) language sql stable as $$
  select {COUNTED}, count(*) filter (where r.status not in ('succeeded', 'failed', 'cancelled'))
    from runs_between(owner, since, until, workflow) r
$$
"""

# `edges` are the instants at which the days or weeks begin; the first is place 1.
RUN_TIMELINE = f"""
create function run_timeline(owner text, since timestamptz, until timestamptz, workflow uuid, edges timestamptz[])
returns table (place integer, {COUNTS}) language sql stable as $$
  select width_bucket(r.created_at, edges), {COUNTED}
    from runs_between(owner, since, until, workflow) r group by 1
$$
"""

WORKFLOW_COUNTS = f"""
create function workflow_counts(owner text, since timestamptz, until timestamptz, workflow uuid, most integer)
returns table (workflow_id uuid, name text, {COUNTS}, failing_step integer, failing_step_title text)
language sql stable as $$
  with counted (workflow_id, runs, succeeded, failed, cancelled, p50, p95) as materialized (
    select r.workflow_id, {COUNTED} from runs_between(owner, since, until, workflow) r group by r.workflow_id
     order by count(*) desc, r.workflow_id nulls last limit most),
  failures as (
    select r.workflow_id, s.number, count(*) as times, (array_agg(s.title order by r.id desc))[1] as title
      from runs_between(owner, since, until, workflow) r
      join steps s on s.user_id = r.user_id and s.run_id = r.id and s.status = 'failed'
     where r.status = 'failed' group by r.workflow_id, s.number),
  worst as (
    select distinct on (f.workflow_id) f.* from failures f order by f.workflow_id, f.times desc, f.number)
  select c.workflow_id, w.name, c.runs, c.succeeded, c.failed, c.cancelled, c.p50, c.p95, f.number, f.title
    from counted c
    left join workflows w on w.user_id = owner and w.id = c.workflow_id
    left join worst f on f.workflow_id is not distinct from c.workflow_id
   order by c.runs desc, c.workflow_id nulls last
$$
"""

USAGE_SINCE = """
create function usage_since(owner text, first date) returns setof usage language sql stable as $$
  select * from usage u where u.user_id = owner and u.day >= first order by u.day desc
$$
"""

STATS = """
create function system_stats()
returns table (users bigint, disabled_users bigint, runs json, oldest_queued_seconds double precision,
               computers bigint, stored_bytes bigint, pending_deliveries bigint)
language sql stable as $$
  select (select count(*) from users),
         (select count(*) from users where disabled_at is not null),
         (select coalesce(json_object_agg(status, times), '{}')
            from (select status, count(*) as times from runs group by status) r),
         (select extract(epoch from now() - min(greatest(r.run_after, r.created_at)))::double precision
            from runs r where r.status = 'queued' and r.run_after <= now()),
         (select count(*) from computers where state = 'open'),
         (select coalesce(sum(stored_bytes), 0)::bigint from quotas),
         (select count(*) from deliveries where status = 'pending')
$$
"""


def downgrade() -> None:
    for function in (
        "system_stats",
        "usage_since",
        "workflow_counts",
        "run_timeline",
        "run_summary",
        "runs_between",
        "uuid_floor",
    ):
        op.execute(f"drop function {function}")
