"""Recordings that go before their runs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INDEX = op.f("files_user_id_id_ix")
"""Only segments are in it, so that a round finds those few that are left of old runs."""

# Segments of runs that ended before; a segment is stored at the latest a moment after its run's end.
PAST = """
  select f.id from files f join runs r on r.user_id = f.user_id and r.id = f.run_id
   where f.user_id = {owner} and f.kind = 'recording' and f.id < uuid_floor(before + interval '5 minutes')
     and r.status in ('succeeded', 'failed', 'cancelled') and r.finished_at < before
"""

USERS_RECORDED = f"""
create function users_recorded(last text, most integer, before timestamptz)
returns table (id text, past boolean) language plpgsql as $$
#variable_conflict use_column
begin
  if not pg_try_advisory_xact_lock(hashtextextended('upkeep', 0)) then
    return;
  end if;
  return query select u.id, ({PAST.format(owner="u.id")} limit 1) is not null
    from (select id from users where users.id > last order by id limit most) u order by u.id;
end $$
"""

# Null while another worker is at it; their frames go with them.
FORGET_RECORDINGS = f"""
create function forget_recordings(owner text, before timestamptz, batch integer) returns bigint language plpgsql as $$
declare
  gone bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('upkeep', 0)) then
    return null;
  end if;
  delete from files where user_id = owner and id in ({PAST.format(owner="owner")}
   order by f.id limit batch for update of f skip locked);
  get diagnostics gone = row_count;
  return gone;
end $$
"""


def upgrade() -> None:
    op.create_index(INDEX, "files", ["user_id", "id"], postgresql_where=sa.text("kind = 'recording'"))
    op.execute(USERS_RECORDED)
    op.execute(FORGET_RECORDINGS)


def downgrade() -> None:
    op.execute("drop function forget_recordings")
    op.execute("drop function users_recorded")
    op.drop_index(INDEX, table_name="files")
