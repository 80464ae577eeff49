"""Recordings of runs: frames, and the segment files that hold them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "frames",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "file_id"],
            ["files.user_id", "files.id"],
            name=op.f("frames_user_id_file_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "run_id"],
            ["runs.user_id", "runs.id"],
            name=op.f("frames_user_id_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("frames_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("frames_pkey")),
        sa.UniqueConstraint("user_id", "run_id", "number", name=op.f("frames_user_id_run_id_number_key")),
    )
    op.create_index(op.f("frames_user_id_file_id_ix"), "frames", ["user_id", "file_id"])
    _allow_kinds("'screenshot', 'download', 'upload', 'recording'")
    caller = "(select nullif(current_setting('app.user_id', true), ''))"
    visible = f"user_id = {caller} or (select current_setting('app.system', true)) = 'on'"
    op.execute("alter table frames enable row level security")
    op.execute("alter table frames force row level security")
    op.execute(f"create policy owner on frames using ({visible}) with check ({visible})")


def _allow_kinds(kinds: str) -> None:
    op.drop_constraint(op.f("files_kind_check"), "files", type_="check")
    op.create_check_constraint(op.f("files_kind_check"), "files", f"kind in ({kinds})")


def downgrade() -> None:
    op.drop_table("frames")
    op.execute("delete from files where kind = 'recording'")
    _allow_kinds("'screenshot', 'download', 'upload'")
