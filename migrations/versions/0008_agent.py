"""What models were told, replied and cost, and what their runs may use."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# What a run's user has said that its model has not heard.
UNHEARD = """
create function unheard_messages(owner text, run uuid) returns setof messages language sql stable as $$
  select * from messages m
   where m.user_id = owner and m.run_id = run and m.role = 'user' and m.taken_at is null order by m.id
$$
"""
# The newest of what was said in a thread before a run, and not to it.
SAID_BEFORE = """
create function said_before(owner text, thread uuid, run uuid, most integer)
returns setof messages language sql stable as $$
  select * from (
    select * from messages m
     where m.user_id = owner and m.thread_id = thread and m.run_id is distinct from run and m.id < run
       and m.role <> 'system'
     order by m.id desc limit most) newest
   order by newest.id
$$
"""
INDEX = op.f("messages_user_id_run_id_unheard_ix")
LIMITS: dict[str, sa.BigInteger | sa.Float[float]] = {
    "max_month_steps": sa.BigInteger(),
    "max_month_tokens": sa.BigInteger(),
    "max_month_cost_usd": sa.Float(),
    "max_month_seconds": sa.BigInteger(),
}
COUNTS = ("input_tokens", "output_tokens", "cost_micros")

# A thread of an AG-UI client, by the name that the client has for it.
LABELLED_THREADS = """
create function labelled_threads(owner text, label text) returns table (id uuid) language sql stable as $$
  select t.id from threads t where t.user_id = owner and t.labels ->> 'agui' = label
$$
"""


def upgrade() -> None:
    for name, kind in LIMITS.items():
        op.add_column("quotas", sa.Column(name, kind, nullable=True))
    op.add_column("runs", _json("agent"))
    op.add_column("runs", _json("budget"))
    for name in COUNTS:
        op.add_column("runs", _count(name))
    op.add_column("steps", sa.Column("call", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("steps", sa.Column("recorded", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "turns",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("told", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("response", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("results", sa.JSON(none_as_null=True), server_default="[]", nullable=False),
        *(_count(name) for name in COUNTS),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("turns_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "run_id"],
            ["runs.user_id", "runs.id"],
            name=op.f("turns_user_id_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("turns_pkey")),
        sa.UniqueConstraint(
            "user_id", "run_id", "step", "number", name=op.f("turns_user_id_run_id_step_number_key")
        ),
    )
    op.create_index(
        INDEX,
        "messages",
        ["user_id", "run_id"],
        postgresql_where=sa.text("role = 'user' and taken_at is null"),
    )
    op.execute(UNHEARD)
    op.execute(SAID_BEFORE)
    caller = "(select nullif(current_setting('app.user_id', true), ''))"
    visible = f"user_id = {caller} or (select current_setting('app.system', true) = 'on')"
    op.execute("alter table turns enable row level security")
    op.execute("alter table turns force row level security")
    op.execute(f"create policy owner on turns using ({visible}) with check ({visible})")
    op.create_index(
        "threads_agui_ix",
        "threads",
        ["user_id", sa.text("(labels ->> 'agui')")],
        unique=True,
        postgresql_where=sa.text("labels ->> 'agui' is not null"),
    )
    op.execute(LABELLED_THREADS)


def downgrade() -> None:
    op.execute("drop function said_before")
    op.execute("drop function unheard_messages")
    op.drop_index(INDEX, table_name="messages")
    op.execute("drop function labelled_threads(text, text)")
    op.drop_index("threads_agui_ix", table_name="threads")
    op.drop_table("turns")
    op.drop_column("steps", "recorded")
    op.drop_column("steps", "call")
    for name in reversed(COUNTS):
        op.drop_column("runs", name)
    op.drop_column("runs", "budget")
    op.drop_column("runs", "agent")
    for name in reversed(LIMITS):
        op.drop_column("quotas", name)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(none_as_null=True), server_default="{}", nullable=False)


def _count(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
