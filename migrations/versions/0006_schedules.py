"""How workers take schedules that are due, and one run of a schedule at a time."""

import re

from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ENDED = "('succeeded', 'failed', 'cancelled')"

# An index is not asked for what lies before `clock_timestamp()`, which may change from row to row.
CLAIM_SCHEDULE = """
create function claim_schedule() returns table (user_id text, id uuid) language sql as $$
  select s.user_id, s.id from schedules s where s.enabled and s.next_at <= now()
   order by s.next_at limit 1 for update skip locked
$$
"""

SCHEDULE_RUNS = f"""
create function schedule_runs(owner text, schedule uuid, most int) returns int language sql stable as $$
  select count(*)::int from (select from runs r
   where r.user_id = owner and r.schedule_id = schedule and r.status not in {ENDED} limit most) going_on
$$
"""

# A run of a schedule waits until those before it have ended.
IN_TURN = f"""
         and (r.schedule_id is null or not exists (
           select from runs earlier where earlier.user_id = r.user_id and earlier.schedule_id = r.schedule_id
              and earlier.id < r.id and earlier.status not in {ENDED}))
"""


def upgrade() -> None:
    op.execute(
        "create index runs_scheduled_ix on runs (user_id, schedule_id, id) "
        f"where schedule_id is not null and status not in {ENDED}"
    )
    op.execute(CLAIM_SCHEDULE)
    op.execute(SCHEDULE_RUNS)
    claim = context.script.get_revision("0002").module.CLAIM_RUN
    op.execute(re.sub(r"(?=\n +order by r\.priority desc)", IN_TURN.rstrip("\n"), claim))


def downgrade() -> None:
    op.execute(context.script.get_revision("0002").module.CLAIM_RUN)
    op.execute("drop function schedule_runs")
    op.execute("drop function claim_schedule")
    op.execute("drop index runs_scheduled_ix")
