"""The first tables, their row-level security, and the functions of the run engine."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("signing_keys_pkey")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("image_url", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), server_default="user", nullable=False),
        sa.Column("preferences", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role in ('user', 'admin')", name=op.f("users_role_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("accounts_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("accounts_pkey")),
        sa.UniqueConstraint("email", name=op.f("accounts_email_key")),
        sa.UniqueConstraint("user_id", name=op.f("accounts_user_id_key")),
    )
    op.create_table(
        "auth_sessions",
        sa.Column("family_hash", sa.LargeBinary(), nullable=False),
        sa.Column("refresh_hash", sa.LargeBinary(), nullable=False),
        sa.Column("rotated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("auth_sessions_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("auth_sessions_pkey")),
    )
    op.create_table(
        "computers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="opening", nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("closed_reason", sa.Text(), nullable=True),
        sa.Column("for_run", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("control_state", sa.Text(), server_default="released", nullable=False),
        sa.Column("control_holder", sa.Text(), nullable=True),
        sa.Column("control_generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("control_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.Uuid(), nullable=True),
        sa.Column("lease_epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "control_state in ('released', 'pending', 'granted')", name=op.f("computers_control_state_check")
        ),
        sa.CheckConstraint("state in ('opening', 'open', 'closed')", name=op.f("computers_state_check")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("computers_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("computers_pkey")),
    )
    op.create_index(
        "computers_lease_ix",
        "computers",
        ["lease_owner"],
        unique=False,
        postgresql_where=sa.text("lease_owner is not null"),
    )
    op.create_index(
        "computers_waiting_ix",
        "computers",
        ["user_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'opening'"),
    )
    op.create_table(
        "events",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("events_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "seq", name=op.f("events_pkey")),
    )
    op.create_index(
        op.f("events_user_id_run_id_seq_ix"),
        "events",
        ["user_id", "run_id", "seq"],
        unique=False,
        postgresql_where=sa.text("run_id is not null"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("idempotency_keys_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("idempotency_keys_pkey")),
    )
    op.create_table(
        "quotas",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("max_runs", sa.Integer(), nullable=True),
        sa.Column("turn", sa.DateTime(timezone=True), server_default=sa.text("'-infinity'"), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("quotas_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("quotas_pkey")),
    )
    op.create_index(
        op.f("quotas_turn_ix"),
        "quotas",
        ["turn"],
        unique=False,
        postgresql_where=sa.text("ready_at is not null"),
    )
    op.create_table(
        "streams",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("streams_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("streams_pkey")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "workflows",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("workflows_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("workflows_pkey")),
    )
    op.create_table(
        "runs",
        sa.Column("workflow_id", sa.Uuid(), nullable=True),
        sa.Column("computer_id", sa.Uuid(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("definition", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("allowed_domains", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("control", sa.Text(), server_default="run", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("run_after", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("active_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("step_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outputs", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("checkpoint", sa.LargeBinary(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.Uuid(), nullable=True),
        sa.Column("lease_epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("control in ('run', 'pause', 'cancel')", name=op.f("runs_control_check")),
        sa.CheckConstraint(
            "status in ('queued', 'running', 'paused', 'waiting_approval', 'waiting_user', 'succeeded', 'failed', 'cancelled')",
            name=op.f("runs_status_check"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "computer_id"],
            ["computers.user_id", "computers.id"],
            name=op.f("runs_user_id_computer_id_fkey"),
            ondelete="SET NULL (computer_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "workflow_id"],
            ["workflows.user_id", "workflows.id"],
            name=op.f("runs_user_id_workflow_id_fkey"),
            ondelete="SET NULL (workflow_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("runs_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("runs_pkey")),
    )
    op.create_index(
        "runs_computer_ix",
        "runs",
        ["user_id", "computer_id"],
        unique=False,
        postgresql_where=sa.text("computer_id is not null"),
    )
    op.create_index(
        "runs_lease_ix",
        "runs",
        ["lease_owner"],
        unique=False,
        postgresql_where=sa.text("lease_owner is not null"),
    )
    op.create_index(
        "runs_live_ix", "runs", ["user_id"], unique=False, postgresql_where=sa.text("lease_owner is not null")
    )
    op.create_index(
        "runs_queued_ix",
        "runs",
        ["user_id", sa.literal_column("priority desc"), "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        op.f("runs_user_id_workflow_id_id_ix"), "runs", ["user_id", "workflow_id", "id"], unique=False
    )
    op.create_table(
        "files",
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("computer_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind in ('screenshot', 'download', 'upload')", name=op.f("files_kind_check")),
        sa.ForeignKeyConstraint(
            ["user_id", "computer_id"],
            ["computers.user_id", "computers.id"],
            name=op.f("files_user_id_computer_id_fkey"),
            ondelete="SET NULL (computer_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "run_id"],
            ["runs.user_id", "runs.id"],
            name=op.f("files_user_id_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("files_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("files_pkey")),
    )
    op.create_index(
        op.f("files_user_id_run_id_id_ix"),
        "files",
        ["user_id", "run_id", "id"],
        unique=False,
        postgresql_where=sa.text("run_id is not null"),
    )
    op.create_table(
        "steps",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("pointer", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="started", nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("safe", sa.Boolean(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("screenshot_id", sa.Uuid(), nullable=True),
        sa.Column("output", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("acted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status in ('started', 'succeeded', 'failed', 'interrupted', 'may_have_landed')",
            name=op.f("steps_status_check"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "run_id"],
            ["runs.user_id", "runs.id"],
            name=op.f("steps_user_id_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "screenshot_id"],
            ["files.user_id", "files.id"],
            name=op.f("steps_user_id_screenshot_id_fkey"),
            ondelete="SET NULL (screenshot_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("steps_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("steps_pkey")),
        sa.UniqueConstraint("user_id", "run_id", "number", name=op.f("steps_user_id_run_id_number_key")),
    )

    _protect()
    _create_functions()
    _restrict_powerful_logins()


OWNED = (
    "auth_sessions",
    "streams",
    "events",
    "idempotency_keys",
    "quotas",
    "computers",
    "workflows",
    "runs",
    "steps",
    "files",
)
SYSTEM = ("accounts", "signing_keys")


def _protect() -> None:
    """A row is visible to its owner and to the system; the system's own tables to the system only."""
    system = "(select current_setting('app.system', true)) = 'on'"
    caller = "(select nullif(current_setting('app.user_id', true), ''))"
    owners = {"users": f"id = {caller} or {system}"}
    owners |= dict.fromkeys(OWNED, f"user_id = {caller} or {system}")
    owners |= dict.fromkeys(SYSTEM, system)
    for table, visible in owners.items():
        op.execute(f"alter table {table} enable row level security")
        op.execute(f"alter table {table} force row level security")
        op.execute(f"create policy owner on {table} using ({visible}) with check ({visible})")


def _create_functions() -> None:
    op.execute(CLAIM_RUN)
    op.execute(CLAIM_COMPUTER)
    op.execute(BEAT)
    op.execute(IS_FIRST_ACCOUNT)


# The count comes in a statement after the lock: a new snapshot, which sees the peers that held it before.
CLAIM_RUN = """
create function claim_run(worker uuid, lease interval, per_user integer, room boolean)
returns table (user_id text, id uuid, event text) language plpgsql as $$
#variable_conflict use_column
declare
  candidate quotas;
  chosen runs;
begin
  if room then
    select r.* into chosen from runs r
     where r.lease_owner is not null and r.lease_expires_at < clock_timestamp()
     order by r.lease_expires_at limit 1 for update skip locked;
  end if;
  if chosen.id is null then
    for tries in 1..4 loop
      select q.* into candidate from quotas q where q.ready_at <= clock_timestamp()
       order by q.turn limit 1 for update skip locked;
      if not found then
        return;
      end if;
      if (select count(*) from runs r where r.user_id = candidate.user_id and r.lease_owner is not null)
         >= coalesce(candidate.max_runs, per_user) then
        update quotas q set ready_at = null where q.user_id = candidate.user_id;
        continue;
      end if;
      select r.* into chosen from runs r left join computers c on c.user_id = r.user_id and c.id = r.computer_id
       where r.user_id = candidate.user_id and r.status = 'queued' and r.run_after <= clock_timestamp()
         and case when coalesce(c.state, 'closed') = 'closed' then room
             else c.lease_owner = worker and not exists (
               select from runs other where other.user_id = r.user_id
                  and other.computer_id = r.computer_id and other.lease_owner is not null) end
       order by r.priority desc, r.id limit 1 for update of r skip locked;
      exit when found;
      update quotas q set turn = clock_timestamp(), ready_at = (
        select greatest(min(r.run_after), case when bool_or(r.run_after <= clock_timestamp()) then q.ready_at end)
          from runs r where r.user_id = q.user_id and r.status = 'queued')
       where q.user_id = candidate.user_id;
    end loop;
    if chosen.id is null then
      return;
    end if;
    update quotas q set turn = clock_timestamp() where q.user_id = chosen.user_id;
  end if;
  return query update runs r set
      lease_owner = worker, lease_epoch = r.lease_epoch + 1, lease_expires_at = clock_timestamp() + lease,
      attempt = r.attempt + 1, started_at = coalesce(r.started_at, clock_timestamp()),
      status = case r.status when 'queued' then 'running' else r.status end, updated_at = clock_timestamp()
    where r.user_id = chosen.user_id and r.id = chosen.id
    returning r.user_id, r.id, case when chosen.started_at is null then 'run.started'
                                    when chosen.status = 'queued' then 'run.resumed' end;
end $$
"""

# Takes a computer that waits to be opened, or one whose owner went silent (still `open`, to be closed).
CLAIM_COMPUTER = """
create function claim_computer(worker uuid, lease interval, room boolean)
returns table (user_id text, id uuid) language sql as $$
  update computers c set
      lease_owner = worker, lease_epoch = c.lease_epoch + 1, lease_expires_at = clock_timestamp() + lease
    from (select user_id, id from computers
           where (room and state = 'opening' and lease_owner is null)
              or (lease_owner is not null and lease_expires_at < clock_timestamp())
           order by id limit 1 for update skip locked) free
   where c.user_id = free.user_id and c.id = free.id
  returning c.user_id, c.id
$$
"""

# One statement keeps all of a worker's leases and brings back what its users wish. A run that was handed over
# has a lease that ended at -infinity; a beat that comes late must not renew it. A row that a hanging transaction
# holds is renewed later, as nobody else can claim it meanwhile, and no other run waits for it.
BEAT = """
create function beat(worker uuid, run_ids uuid[], computer_ids uuid[], lease interval)
returns table (kind text, user_id text, id uuid, epoch bigint, control text) language sql as $$
  with renewed_runs as (
    update runs r set lease_expires_at = clock_timestamp() + lease
      from (select user_id, id from runs
             where lease_owner = worker and id = any(run_ids) and isfinite(lease_expires_at)
               for update skip locked) free
     where r.user_id = free.user_id and r.id = free.id),
  renewed_computers as (
    update computers c set lease_expires_at = clock_timestamp() + lease
      from (select user_id, id from computers
             where lease_owner = worker and id = any(computer_ids) for update skip locked) free
     where c.user_id = free.user_id and c.id = free.id)
  select 'run', r.user_id, r.id, r.lease_epoch, r.control from runs r
   where r.lease_owner = worker and r.id = any(run_ids) and isfinite(r.lease_expires_at)
  union all
  select 'computer', c.user_id, c.id, c.lease_epoch, c.control_state from computers c
   where c.lease_owner = worker and c.id = any(computer_ids)
$$
"""

# The lock lasts until the first account is committed, and the look after it is a new snapshot.
IS_FIRST_ACCOUNT = """
create function is_first_account() returns boolean language plpgsql as $$
begin
  if exists (select from accounts) then
    return false;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('first account', 0));
  return not exists (select from accounts);
end $$
"""


def _restrict_powerful_logins() -> None:
    """A login that bypasses row-level security works as this role; where roles cannot be made, none is needed."""
    op.execute("""
    do $$ begin
      if (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) then
        if not exists (select from pg_roles where rolname = 'cua_app') then
          create role cua_app nologin nosuperuser nobypassrls;
        end if;
        execute format('grant cua_app to %I', current_user);
        execute format('grant usage on schema %I to cua_app', current_schema());
        execute format('grant select, insert, update, delete on all tables in schema %I to cua_app', current_schema());
        execute format('alter default privileges in schema %I grant select, insert, update, delete on tables to cua_app',
                       current_schema());
      end if;
    end $$
    """)


def downgrade() -> None:
    for function in ("is_first_account", "beat", "claim_computer", "claim_run"):
        op.execute(f"drop function {function}")
    for table in ("steps", "files", "runs", *reversed(OWNED[:-3]), *SYSTEM, "users"):
        op.drop_table(table)
