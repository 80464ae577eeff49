"""What upkeep does in one statement each."""

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "steps": ("screenshot_id",),
    "approvals": ("step_id", "screenshot_id"),
    "files": ("computer_id",),
}
"""What a cascade looks for when it empties references."""


def upgrade() -> None:
    for table, columns in INDEXES.items():
        for column in columns:
            where = text(f"{column} is not null")
            op.create_index(
                op.f(f"{table}_user_id_{column}_ix"), table, ["user_id", column], postgresql_where=where
            )
    for made in (BEGIN_ERASING, LEASES, ERASE_SOME, FINISH_ERASING, ERASING):
        op.execute(made)
    for made in (DUE_REMOVALS, FORGET_REMOVALS, REVISIT_ERASED, USERS_AFTER, RETIRE, TIDY):
        op.execute(made)


# Erasing a user -------------------------------------------------------------------------------------

# From here on nobody signs in as this user, and nothing of the user's begins.
BEGIN_ERASING = """
create function begin_erasing(owner text) returns void language sql as $$
  insert into erased_users (id) values (encode(sha256(convert_to(owner, 'UTF8')), 'hex')) on conflict do nothing;
  update users set disabled_at = coalesce(disabled_at, clock_timestamp()), erasing = true where id = owner;
  delete from auth_sessions where user_id = owner;
  delete from api_keys where user_id = owner;
  update schedules set enabled = false where user_id = owner;
  update webhooks set enabled = false where user_id = owner;
  update runs set control = 'cancel' where user_id = owner and lease_owner is not null;
  update quotas set max_runs = 0, ready_at = null where user_id = owner
$$
"""

# What somebody's process holds; a run's own computer closes with the run.
LEASES = """
create function leases_of(owner text) returns table (id uuid, closes boolean) language sql as $$
  select r.id, false from runs r where r.user_id = owner and r.lease_expires_at > clock_timestamp()
  union all
  select c.id, not c.for_run from computers c
   where c.user_id = owner and c.lease_expires_at > clock_timestamp()
$$
"""

# The bulk, in transactions that end soon; what is left goes with the user's row.
ERASE_SOME = """
create function erase_some(owner text, batch integer) returns bigint language plpgsql as $$
declare
  total bigint := 0;
  gone bigint;
  last bigint;
begin
  select max(seq) into last from (
    select seq from events where user_id = owner order by seq limit batch * 50) oldest;
  delete from events where user_id = owner and seq <= last;
  get diagnostics gone = row_count;
  total := total + gone;
  delete from runs where user_id = owner and id in (
    select id from runs where user_id = owner order by id limit batch);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from files where user_id = owner and id in (
    select id from files where user_id = owner order by id limit batch * 10);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from messages where user_id = owner and id in (
    select id from messages where user_id = owner order by id limit batch * 10);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from deliveries where user_id = owner and id in (
    select id from deliveries where user_id = owner order by id limit batch * 10);
  get diagnostics gone = row_count;
  return total + gone;
end $$
"""

# One place stands for all of the user's bytes, also for those that were on their way.
FINISH_ERASING = """
create function finish_erasing(owner text, place text) returns void language sql as $$
  delete from users where id = owner;
  delete from removals r where starts_with(r.place, $2 || '/');
  insert into removals (place) values ($2 || '/') on conflict do nothing
$$
"""

# Also who was made by a request that looked for the tombstone a moment too early: such a row is new.
ERASING = """
create function erasing() returns table (id text) language sql as $$
  select u.id from users u where u.erasing
  union
  select u.id from users u join erased_users e on e.id = encode(sha256(convert_to(u.id, 'UTF8')), 'hex')
   where u.created_at > now() - interval '2 days'
$$
"""

# Bytes ------------------------------------------------------------------------------------------------

# Whoever takes a place has five minutes to remove its bytes before another one tries.
DUE_REMOVALS = """
create function due_removals(batch integer) returns table (place text) language sql as $$
  update removals r set not_before = clock_timestamp() + interval '5 minutes'
    from (select place from removals where not_before <= now()
           order by not_before limit batch for update skip locked) due
   where r.place = due.place
  returning r.place
$$
"""

FORGET_REMOVALS = """
create function forget_removals(places text[]) returns void language sql as $$
  delete from removals where place = any(places)
$$
"""

# An upload that was under way when its user was erased may have ended since.
REVISIT_ERASED = """
create function revisit_erased() returns void language sql as $$
  insert into removals (place) select left(id, 32) || '/' from erased_users
   where erased_at > now() - interval '2 days' on conflict do nothing
$$
"""

# Retention --------------------------------------------------------------------------------------------

# The next users, and of whom something is past its time: for most nothing is, and one look tells it of many. Each
# LIMIT has PostgreSQL look for one user's rows; an EXISTS here may read all users'.
USERS_AFTER = """
create function users_after(last text, most integer, before timestamptz)
returns table (id text, past boolean) language plpgsql as $$
#variable_conflict use_column
declare
  upto uuid := uuid_floor(before + interval '5 minutes');
begin
  if not pg_try_advisory_xact_lock(hashtextextended('upkeep', 0)) then
    return;
  end if;
  return query select u.id,
      coalesce((select e.at < before from events e where e.user_id = u.id order by e.seq limit 1), false)
      or (select true from runs r where r.user_id = u.id and r.id < upto and r.status in
         ('succeeded', 'failed', 'cancelled') and r.finished_at < before and r.thread_id is null limit 1) is not null
      or (select true from computers c where c.user_id = u.id and c.id < upto
         and c.state = 'closed' and c.updated_at < before limit 1) is not null
      or (select true from deliveries d where d.user_id = u.id and d.id < upto
         and d.status <> 'pending' and d.finished_at < before limit 1) is not null
    from (select id from users where users.id > last order by id limit most) u order by u.id;
end $$
"""

# Null while another worker is at it. Of the log only a beginning goes, so that it never has a hole.
RETIRE = """
create function retire(owner text, before timestamptz, batch integer) returns bigint language plpgsql as $$
declare
  total bigint := 0;
  gone bigint;
  last bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('upkeep', 0)) then
    return null;
  end if;
  select coalesce(min(seq) filter (where at >= before) - 1, max(seq)) into last from (
    select seq, at from events where user_id = owner order by seq limit batch * 50) oldest;
  delete from events where user_id = owner and seq <= last;
  get diagnostics gone = row_count;
  total := total + gone;
  delete from runs where user_id = owner and id in (
    select id from runs where user_id = owner and id < uuid_floor(before + interval '5 minutes')
       and status in ('succeeded', 'failed', 'cancelled') and finished_at < before and thread_id is null
     order by id limit batch for update skip locked);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from computers where user_id = owner and id in (
    select id from computers where user_id = owner and id < uuid_floor(before + interval '5 minutes')
       and state = 'closed' and updated_at < before
     order by id limit batch * 10 for update skip locked);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from deliveries where user_id = owner and id in (
    select id from deliveries where user_id = owner and id < uuid_floor(before + interval '5 minutes')
       and status <> 'pending' and finished_at < before
     order by id limit batch * 10 for update skip locked);
  get diagnostics gone = row_count;
  return total + gone;
end $$
"""

# What has a time of its own, whatever retention says.
TIDY = """
create function tidy(batch integer) returns bigint language plpgsql as $$
declare
  total bigint := 0;
  gone bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('upkeep', 0)) then
    return null;
  end if;
  delete from idempotency_keys k using (
    select user_id, key from idempotency_keys where created_at < now() - interval '24 hours'
     order by created_at limit batch for update skip locked) old
   where k.user_id = old.user_id and k.key = old.key;
  get diagnostics gone = row_count;
  total := total + gone;
  delete from inbox where id in (
    select id from inbox where received_at < now() - interval '7 days'
     order by received_at limit batch for update skip locked);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from auth_codes where id in (
    select id from auth_codes where expires_at < now() limit batch for update skip locked);
  get diagnostics gone = row_count;
  total := total + gone;
  delete from auth_sessions s using (
    select user_id, id from auth_sessions where expires_at < now() limit batch for update skip locked) old
   where s.user_id = old.user_id and s.id = old.id;
  get diagnostics gone = row_count;
  return total + gone;
end $$
"""


def downgrade() -> None:
    for function in ("tidy", "retire", "users_after", "revisit_erased", "forget_removals", "due_removals"):
        op.execute(f"drop function {function}")
    for function in ("erasing", "finish_erasing", "erase_some", "leases_of", "begin_erasing"):
        op.execute(f"drop function {function}")
    for table, columns in INDEXES.items():
        for column in columns:
            op.drop_index(op.f(f"{table}_user_id_{column}_ix"), table_name=table)
