"""Codes that prove an address."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "auth_codes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("purpose in ('verify', 'reset')", name=op.f("auth_codes_purpose_check")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("auth_codes_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("auth_codes_pkey")),
    )
    op.create_index(op.f("auth_codes_account_id_ix"), "auth_codes", ["account_id"])
    system = "(select current_setting('app.system', true)) = 'on'"
    op.execute("alter table auth_codes enable row level security")
    op.execute("alter table auth_codes force row level security")
    op.execute(f"create policy owner on auth_codes using ({system}) with check ({system})")


def downgrade() -> None:
    op.drop_table("auth_codes")
    op.drop_column("accounts", "email_verified_at")
