"""The tables of the whole API, their row-level security, and what follows files and usage."""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erased_users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("erased_users_pkey")),
    )
    op.create_table(
        "inbox",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("inbox_pkey")),
    )
    op.create_index(op.f("inbox_received_at_ix"), "inbox", ["received_at"], unique=False)
    op.create_table(
        "removals",
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("removals_pkey")),
    )
    op.create_index(op.f("removals_not_before_ix"), "removals", ["not_before"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("api_keys_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("api_keys_pkey")),
    )
    op.create_index(op.f("api_keys_key_hash_ix"), "api_keys", ["key_hash"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("outbox_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "seq", name=op.f("outbox_pkey")),
    )
    op.create_index(op.f("outbox_due_at_ix"), "outbox", ["due_at"], unique=False)
    op.create_table(
        "profiles",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.Column("domains", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("cookie_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("origin_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("profiles_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("profiles_pkey")),
        sa.UniqueConstraint("user_id", "name", name=op.f("profiles_user_id_name_key")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("origins", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind in ('password', 'totp', 'text')", name=op.f("secrets_kind_check")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("secrets_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("secrets_pkey")),
        sa.UniqueConstraint("user_id", "name", name=op.f("secrets_user_id_name_key")),
    )
    op.create_table(
        "threads",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("threads_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("threads_pkey")),
    )
    op.create_table(
        "usage",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("runs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("active_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("steps", sa.Integer(), server_default="0", nullable=False),
        sa.Column("frames", sa.Integer(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("usage_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "day", name=op.f("usage_pkey")),
    )
    op.create_table(
        "webhooks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("webhooks_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("webhooks_pkey")),
    )
    op.create_index(
        "webhooks_due_ix",
        "webhooks",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at is not null"),
    )
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
    op.create_index(op.f("auth_codes_account_id_ix"), "auth_codes", ["account_id"], unique=False)
    op.create_index(op.f("auth_codes_expires_at_ix"), "auth_codes", ["expires_at"], unique=False)
    op.create_index(op.f("auth_sessions_expires_at_ix"), "auth_sessions", ["expires_at"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tried_before", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tried_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.JSON(none_as_null=True), server_default="[]", nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status in ('pending', 'succeeded', 'failed')", name=op.f("deliveries_status_check")
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "webhook_id"],
            ["webhooks.user_id", "webhooks.id"],
            name=op.f("deliveries_user_id_webhook_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("deliveries_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("deliveries_pkey")),
    )
    op.create_index(
        "deliveries_due_ix",
        "deliveries",
        ["user_id", "webhook_id", "next_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        op.f("deliveries_user_id_webhook_id_id_ix"),
        "deliveries",
        ["user_id", "webhook_id", "id"],
        unique=False,
    )
    op.create_table(
        "schedules",
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("run", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("missed in ('skip', 'once', 'all')", name=op.f("schedules_missed_check")),
        sa.CheckConstraint("overlap in ('skip', 'queue')", name=op.f("schedules_overlap_check")),
        sa.ForeignKeyConstraint(
            ["user_id", "workflow_id"],
            ["workflows.user_id", "workflows.id"],
            name=op.f("schedules_user_id_workflow_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("schedules_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("schedules_pkey")),
    )
    op.create_index(
        "schedules_due_ix",
        "schedules",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("enabled and next_at is not null"),
    )
    op.create_index(
        op.f("schedules_user_id_workflow_id_ix"), "schedules", ["user_id", "workflow_id"], unique=False
    )
    op.create_table(
        "workflow_versions",
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "workflow_id"],
            ["workflows.user_id", "workflows.id"],
            name=op.f("workflow_versions_user_id_workflow_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("workflow_versions_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("workflow_versions_pkey")),
        sa.UniqueConstraint(
            "user_id",
            "workflow_id",
            "version",
            name=op.f("workflow_versions_user_id_workflow_id_version_key"),
        ),
    )
    op.create_table(
        "messages",
        sa.Column("thread_id", sa.Uuid(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role in ('user', 'assistant', 'system')", name=op.f("messages_role_check")),
        sa.CheckConstraint("thread_id is not null or run_id is not null", name=op.f("messages_place_check")),
        sa.ForeignKeyConstraint(
            ["user_id", "run_id"],
            ["runs.user_id", "runs.id"],
            name=op.f("messages_user_id_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "thread_id"],
            ["threads.user_id", "threads.id"],
            name=op.f("messages_user_id_thread_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("messages_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("messages_pkey")),
    )
    op.create_index(
        op.f("messages_user_id_run_id_id_ix"),
        "messages",
        ["user_id", "run_id", "id"],
        unique=False,
        postgresql_where=sa.text("run_id is not null"),
    )
    op.create_index(
        op.f("messages_user_id_thread_id_id_ix"),
        "messages",
        ["user_id", "thread_id", "id"],
        unique=False,
        postgresql_where=sa.text("thread_id is not null"),
    )
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
    op.create_index(op.f("frames_user_id_file_id_ix"), "frames", ["user_id", "file_id"], unique=False)
    op.create_table(
        "approvals",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("step_id", sa.Uuid(), nullable=True),
        sa.Column("screenshot_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("action", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("arguments", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status in ('pending', 'approved', 'denied', 'expired', 'cancelled')",
            name=op.f("approvals_status_check"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "run_id"],
            ["runs.user_id", "runs.id"],
            name=op.f("approvals_user_id_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "screenshot_id"],
            ["files.user_id", "files.id"],
            name=op.f("approvals_user_id_screenshot_id_fkey"),
            ondelete="SET NULL (screenshot_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "step_id"],
            ["steps.user_id", "steps.id"],
            name=op.f("approvals_user_id_step_id_fkey"),
            ondelete="SET NULL (step_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("approvals_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("approvals_pkey")),
    )
    op.create_index(
        "approvals_pending_ix",
        "approvals",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        op.f("approvals_user_id_run_id_id_ix"), "approvals", ["user_id", "run_id", "id"], unique=False
    )
    op.add_column("accounts", sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("computers", sa.Column("profile_id", sa.Uuid(), nullable=True))
    op.create_index(
        op.f("computers_user_id_profile_id_ix"),
        "computers",
        ["user_id", "profile_id"],
        unique=False,
        postgresql_where=sa.text("profile_id is not null"),
    )
    op.create_foreign_key(
        op.f("computers_user_id_profile_id_fkey"),
        "computers",
        "profiles",
        ["user_id", "profile_id"],
        ["user_id", "id"],
        ondelete="SET NULL (profile_id)",
    )
    op.create_index(
        op.f("events_user_id_resource_id_seq_ix"), "events", ["user_id", "resource_id", "seq"], unique=False
    )
    op.add_column("idempotency_keys", sa.Column("etag", sa.Text(), nullable=True))
    op.add_column("idempotency_keys", sa.Column("sealed_reply", sa.LargeBinary(), nullable=True))
    op.create_index(op.f("idempotency_keys_created_at_ix"), "idempotency_keys", ["created_at"], unique=False)
    op.add_column("quotas", sa.Column("max_computers", sa.Integer(), nullable=True))
    op.add_column("quotas", sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True))
    op.add_column("quotas", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.add_column("quotas", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("profile_id", sa.Uuid(), nullable=True))
    op.add_column("runs", sa.Column("thread_id", sa.Uuid(), nullable=True))
    op.add_column("runs", sa.Column("schedule_id", sa.Uuid(), nullable=True))
    op.add_column("runs", sa.Column("scheduled_for", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("retry_of", sa.Uuid(), nullable=True))
    op.add_column("runs", sa.Column("first_step", sa.Integer(), server_default="1", nullable=False))
    op.add_column(
        "runs", sa.Column("save_profile", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(op.f("runs_id_ix"), "runs", ["id"], unique=False)
    op.create_index(op.f("runs_user_id_status_id_ix"), "runs", ["user_id", "status", "id"], unique=False)
    op.create_index(
        op.f("runs_user_id_schedule_id_id_ix"),
        "runs",
        ["user_id", "schedule_id", "id"],
        unique=False,
        postgresql_where=sa.text("schedule_id is not null"),
    )
    op.create_index(
        "runs_begun_ix",
        "runs",
        ["user_id", "thread_id", "started_at"],
        unique=False,
        postgresql_where=sa.text(
            "thread_id is not null and status not in ('succeeded', 'failed', 'cancelled')"
        ),
    )
    op.create_index(
        op.f("runs_user_id_profile_id_ix"),
        "runs",
        ["user_id", "profile_id"],
        unique=False,
        postgresql_where=sa.text("profile_id is not null"),
    )
    op.create_index(
        op.f("runs_user_id_retry_of_ix"),
        "runs",
        ["user_id", "retry_of"],
        unique=False,
        postgresql_where=sa.text("retry_of is not null"),
    )
    op.create_unique_constraint(
        op.f("runs_user_id_schedule_id_scheduled_for_key"),
        "runs",
        ["user_id", "schedule_id", "scheduled_for"],
    )
    op.create_index(
        op.f("runs_user_id_thread_id_id_ix"),
        "runs",
        ["user_id", "thread_id", "id"],
        unique=False,
        postgresql_where=sa.text("thread_id is not null"),
    )
    op.create_foreign_key(
        op.f("runs_user_id_profile_id_fkey"),
        "runs",
        "profiles",
        ["user_id", "profile_id"],
        ["user_id", "id"],
        ondelete="SET NULL (profile_id)",
    )
    op.create_foreign_key(
        op.f("runs_user_id_retry_of_fkey"),
        "runs",
        "runs",
        ["user_id", "retry_of"],
        ["user_id", "id"],
        ondelete="SET NULL (retry_of)",
    )
    op.create_foreign_key(
        op.f("runs_user_id_thread_id_fkey"),
        "runs",
        "threads",
        ["user_id", "thread_id"],
        ["user_id", "id"],
        ondelete="SET NULL (thread_id)",
    )
    op.create_foreign_key(
        op.f("runs_user_id_schedule_id_fkey"),
        "runs",
        "schedules",
        ["user_id", "schedule_id"],
        ["user_id", "id"],
        ondelete="SET NULL (schedule_id)",
    )
    op.add_column(
        "streams", sa.Column("hooked", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("users", sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False))
    op.add_column("users", sa.Column("banned", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("users", sa.Column("mirrored_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "users", sa.Column("erasing", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(op.f("users_number_ix"), "users", ["number"], unique=False)
    op.create_index(op.f("users_created_at_ix"), "users", ["created_at"], unique=False)
    op.create_index("users_erasing_ix", "users", ["id"], unique=False, postgresql_where=sa.text("erasing"))
    op.drop_constraint("files_kind_check", "files")
    op.create_check_constraint(
        op.f("files_kind_check"), "files", "kind in ('screenshot', 'download', 'upload', 'recording')"
    )

    _protect()
    functions = (
        INTEND_FILE,
        FILES_STORED,
        FILES_GONE,
        ADD_USAGE,
        CLAIM_RUN,
        LOOK_AT_QUEUE,
        THREAD_RUNS,
        DUE_APPROVALS,
        ENSURE_USER,
        BURY,
        FIND_KEY,
        CANCEL_RUNS,
    )
    for made in (*functions, *FILE_TRIGGERS, BURY_TRIGGER):
        op.execute(made)
    _take_over()


OWNED = (
    "api_keys",
    "approvals",
    "deliveries",
    "frames",
    "messages",
    "outbox",
    "profiles",
    "schedules",
    "secrets",
    "threads",
    "usage",
    "webhooks",
    "workflow_versions",
)
SYSTEM = ("auth_codes", "erased_users", "inbox", "removals")


def _protect() -> None:
    """A row is visible to its owner and to the system; the system's own tables to the system only."""
    for table, visible in _policies(OWNED, SYSTEM, "= 'on')").items():
        op.execute(f"alter table {table} enable row level security")
        op.execute(f"alter table {table} force row level security")
        op.execute(f"create policy owner on {table} using ({visible}) with check ({visible})")
    _alter_policies("= 'on')")


def _alter_policies(ends: str) -> None:
    """Those of the foundation, with the comparison within the sub-select or after it.

    PostgreSQL takes one within for true of half the rows, one after for true of one in two hundred, and would
    then rather sort all rows of a user than read the first ones in order.
    """
    foundation = context.script.get_revision("0001").module
    policies = _policies(foundation.OWNED, foundation.SYSTEM, ends)
    policies["users"] = policies["events"].replace("user_id =", "id =")
    for table, visible in policies.items():
        op.execute(f"alter policy owner on {table} using ({visible}) with check ({visible})")


def _policies(owned: tuple[str, ...], system: tuple[str, ...], ends: str) -> dict[str, str]:
    is_system = f"(select current_setting('app.system', true) {ends}"
    owner = f"user_id = (select nullif(current_setting('app.user_id', true), '')) or {is_system}"
    return dict.fromkeys(owned, owner) | dict.fromkeys(system, is_system)


def _take_over() -> None:
    """Give what is there already its place in the new tables."""
    op.execute("select set_config('app.system', 'on', true)")
    op.execute(
        "insert into workflow_versions (user_id, id, workflow_id, version, definition, parameters, actor) "
        "select user_id, id, id, version, definition, parameters, 'user' from workflows"
    )
    op.execute(
        "update quotas q set stored_bytes = (select coalesce(sum(size), 0) from files f where f.user_id = q.user_id)"
    )
    op.execute("select set_config('app.system', '', true)")


# Said before bytes are stored: if no row speaks of them by tomorrow, they are removed.
INTEND_FILE = """
create function intend_file(key text) returns void language plpgsql as $$
declare before text := coalesce(current_setting('app.system', true), '');
begin
  perform set_config('app.system', 'on', true);
  insert into removals (place, not_before) values (key, now() + interval '1 day')
    on conflict (place) do update set not_before = excluded.not_before;
  perform set_config('app.system', before, true);
end $$
"""

FILES_STORED = """
create function files_stored() returns trigger language plpgsql as $$
declare before text := coalesce(current_setting('app.system', true), '');
begin
  perform set_config('app.system', 'on', true);
  delete from removals r using stored s where r.place = s.storage_key;
  update quotas q set stored_bytes = q.stored_bytes + s.bytes
    from (select user_id, sum(size) as bytes from stored group by user_id) s where q.user_id = s.user_id;
  perform set_config('app.system', before, true);
  return null;
end $$
"""

FILES_GONE = """
create function files_gone() returns trigger language plpgsql as $$
declare before text := coalesce(current_setting('app.system', true), '');
begin
  perform set_config('app.system', 'on', true);
  insert into removals (place) select storage_key from gone on conflict (place) do nothing;
  update quotas q set stored_bytes = q.stored_bytes - g.bytes
    from (select user_id, sum(size) as bytes from gone group by user_id) g where q.user_id = g.user_id;
  perform set_config('app.system', before, true);
  return null;
end $$
"""

FILE_TRIGGERS = (
    """
create trigger files_stored after insert on files referencing new table as stored
  for each statement execute function files_stored()
""",
    """
create trigger files_gone after delete on files referencing old table as gone
  for each statement execute function files_gone()
""",
)

ADD_USAGE = """
create function add_usage(owner text, on_day date, runs integer, active_ms bigint, steps integer, frames integer,
                          input_tokens bigint, output_tokens bigint, cost_micros bigint)
returns void language sql as $$
  insert into usage as u (user_id, day, runs, active_ms, steps, frames, input_tokens, output_tokens, cost_micros)
  values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
  on conflict (user_id, day) do update set
    runs = u.runs + excluded.runs, active_ms = u.active_ms + excluded.active_ms,
    steps = u.steps + excluded.steps, frames = u.frames + excluded.frames,
    input_tokens = u.input_tokens + excluded.input_tokens,
    output_tokens = u.output_tokens + excluded.output_tokens, cost_micros = u.cost_micros + excluded.cost_micros
$$
"""

# How a user stands, made on first sight; an erasure at the same moment waits, and one before is never undone.
ENSURE_USER = """
create function ensure_user(who text, its_session uuid, its_email text, its_name text, its_image_url text)
returns table (erased boolean, disabled boolean, signed_in boolean, role text, verified_email text,
               requests_per_minute integer) language plpgsql as $$
#variable_conflict use_column
declare
  before text := coalesce(current_setting('app.system', true), '');
  tombstone text := encode(sha256(convert_to(who, 'UTF8')), 'hex');
begin
  perform set_config('app.system', 'on', true);
  if not exists (select from users u join quotas q on q.user_id = u.id where u.id = who) then
    perform pg_advisory_xact_lock(hashtextextended(tombstone, 0));
    if not exists (select from erased_users e where e.id = tombstone) then
      insert into users (id, email, name, image_url) values (who, its_email, its_name, its_image_url)
        on conflict (id) do nothing;
      insert into quotas (user_id) values (who) on conflict (user_id) do nothing;
      insert into streams (user_id) values (who) on conflict (user_id) do nothing;
    end if;
  end if;
  return query select
      u.id is null or exists (select from erased_users e where e.id = tombstone),
      u.disabled_at is not null,
      its_session is null or exists (select from auth_sessions s where s.user_id = who and s.id = its_session),
      u.role,
      case when a.email_verified_at is not null then a.email when u.mirrored_at is not null then u.email end,
      q.requests_per_minute
    from (values (who)) w(id) left join users u on u.id = w.id
      left join quotas q on q.user_id = w.id left join accounts a on a.user_id = w.id;
  perform set_config('app.system', before, true);
end $$
"""

BURY = """
create function bury() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended(new.id, 0));
  return new;
end $$
"""

BURY_TRIGGER = "create trigger bury before insert on erased_users for each row execute function bury()"

# A key and how its user stands. Its last use is exact to a minute: it is looked up every half a minute.
FIND_KEY = """
create function find_key(hash bytea)
returns table (user_id text, id uuid, key_hash bytea, scopes text[], expires_at timestamptz, erased boolean,
               disabled boolean, requests_per_minute integer) language plpgsql as $$
#variable_conflict use_column
declare
  before text := coalesce(current_setting('app.system', true), '');
begin
  perform set_config('app.system', 'on', true);
  update api_keys k set last_used_at = clock_timestamp()
    from (select user_id, id from api_keys
           where key_hash = hash and coalesce(expires_at > clock_timestamp(), true)
             and coalesce(last_used_at < clock_timestamp() - interval '30 seconds', true)
             for no key update skip locked) used
   where k.user_id = used.user_id and k.id = used.id;
  return query select k.user_id, k.id, k.key_hash, k.scopes, k.expires_at, u.erased, u.disabled, u.requests_per_minute
    from api_keys k cross join lateral ensure_user(k.user_id, null, null, null, null) u where k.key_hash = hash;
  perform set_config('app.system', before, true);
end $$
"""

# Some of a user's runs that go on: those that nobody drives end at once, the others are asked to.
CANCEL_RUNS = """
create function cancel_runs(owner text, most integer) returns setof runs language sql as $$
  update runs r set control = 'cancel', updated_at = clock_timestamp(),
      status = case when r.lease_owner is null then 'cancelled' else r.status end,
      reason = case when r.lease_owner is null then null else r.reason end,
      checkpoint = case when r.lease_owner is null then null else r.checkpoint end,
      finished_at = case when r.lease_owner is null then clock_timestamp() end
    from (select user_id, id from runs
           where user_id = owner and status not in ('succeeded', 'failed', 'cancelled')
             and (lease_owner is null or control <> 'cancel')
           order by id limit most for update) found
   where r.user_id = found.user_id and r.id = found.id
  returning r.*
$$
"""

# As before; one run of a thread at a time, the one that has begun first, and none of a disabled user. A user whose
# runs are for later has no turn before: those of whom nothing is due are not looked at.
CLAIM_RUN = """
create or replace function claim_run(worker uuid, lease interval, per_user integer, room boolean)
returns table (user_id text, id uuid, event text) language plpgsql as $$
#variable_conflict use_column
declare
  candidate quotas;
  chosen runs;
  started timestamptz := clock_timestamp();
  later timestamptz;
begin
  if room then
    select r.* into chosen from runs r
     where r.lease_owner is not null and r.lease_expires_at < started
     order by r.lease_expires_at limit 1 for update skip locked;
  end if;
  if chosen.id is null then
    for tries in 1..4 loop
      select q.* into candidate from quotas q where q.turn <= started and q.ready_at <= started
       order by q.turn limit 1 for update skip locked;
      if not found then
        return;
      end if;
      if (select count(*) from runs r where r.user_id = candidate.user_id and r.lease_owner is not null)
         >= coalesce(candidate.max_runs, per_user)
         or exists (select from users u where u.id = candidate.user_id and u.disabled_at is not null) then
        update quotas q set ready_at = null where q.user_id = candidate.user_id;
        continue;
      end if;
      select r.* into chosen from runs r left join computers c on c.user_id = r.user_id and c.id = r.computer_id
       where r.user_id = candidate.user_id and r.status = 'queued' and r.run_after <= started
         and case when coalesce(c.state, 'closed') = 'closed' then room
             else c.lease_owner = worker and not exists (
               select from runs other where other.user_id = r.user_id
                  and other.computer_id = r.computer_id and other.lease_owner is not null) end
         and (r.thread_id is null or not exists (
           select from runs other where other.user_id = r.user_id and other.thread_id = r.thread_id
              and other.started_at is not null and other.status not in ('succeeded', 'failed', 'cancelled')
              and (other.lease_owner is not null or r.started_at is null)))
       order by r.priority desc, r.id limit 1 for update of r skip locked;
      exit when found;
      select greatest(min(r.run_after), case when bool_or(r.run_after <= started) then candidate.ready_at end)
        into later from runs r where r.user_id = candidate.user_id and r.status = 'queued';
      update quotas q set turn = greatest(clock_timestamp(), later), ready_at = later
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

# Said whenever a user's queue may hold something new; claiming sets the true time when nothing is due.
LOOK_AT_QUEUE = """
create function look_at_queue(owner text) returns void language sql as $$
  update quotas set ready_at = '-infinity', turn = least(turn, clock_timestamp()) where user_id = owner
$$
"""

THREAD_RUNS = """
create function thread_runs(owner text, thread uuid) returns table (id uuid, begun boolean) language sql stable as $$
  select r.id, r.started_at is not null from runs r
   where r.user_id = owner and r.thread_id = thread and r.status not in ('succeeded', 'failed', 'cancelled')
   order by r.id
$$
"""

# An index is not asked for what lies before `clock_timestamp()`, which may change from row to row.
DUE_APPROVALS = """
create function due_approvals(most integer) returns table (user_id text, id uuid) language sql stable as $$
  select a.user_id, a.id from approvals a where a.status = 'pending' and a.expires_at <= now()
   order by a.expires_at limit most
$$
"""


def downgrade() -> None:
    foundation = context.script.get_revision("0001").module
    _alter_policies(") = 'on'")
    op.execute(foundation.CLAIM_RUN.replace("create function", "create or replace function"))
    op.execute("drop trigger files_stored on files")
    op.execute("drop trigger files_gone on files")
    op.execute("drop trigger bury on erased_users")
    functions = (
        "due_approvals",
        "thread_runs",
        "look_at_queue",
        "cancel_runs",
        "find_key",
        "bury",
        "ensure_user",
        "add_usage",
        "files_gone",
        "files_stored",
        "intend_file",
    )
    for function in functions:
        op.execute(f"drop function {function}")
    op.drop_constraint("files_kind_check", "files")
    op.create_check_constraint(
        op.f("files_kind_check"), "files", "kind in ('screenshot', 'download', 'upload')"
    )
    op.drop_index("users_erasing_ix", table_name="users")
    op.drop_index(op.f("users_created_at_ix"), table_name="users")
    op.drop_index(op.f("users_number_ix"), table_name="users")
    op.drop_column("users", "erasing")
    op.drop_column("users", "mirrored_at")
    op.drop_column("users", "banned")
    op.drop_column("users", "number")
    op.drop_column("streams", "hooked")
    op.drop_constraint(op.f("runs_user_id_schedule_id_fkey"), "runs", type_="foreignkey")
    op.drop_constraint(op.f("runs_user_id_thread_id_fkey"), "runs", type_="foreignkey")
    op.drop_constraint(op.f("runs_user_id_retry_of_fkey"), "runs", type_="foreignkey")
    op.drop_constraint(op.f("runs_user_id_profile_id_fkey"), "runs", type_="foreignkey")
    op.drop_index(
        op.f("runs_user_id_thread_id_id_ix"),
        table_name="runs",
        postgresql_where=sa.text("thread_id is not null"),
    )
    op.drop_constraint(op.f("runs_user_id_schedule_id_scheduled_for_key"), "runs", type_="unique")
    op.drop_index(
        op.f("runs_user_id_retry_of_ix"), table_name="runs", postgresql_where=sa.text("retry_of is not null")
    )
    op.drop_index(
        op.f("runs_user_id_profile_id_ix"),
        table_name="runs",
        postgresql_where=sa.text("profile_id is not null"),
    )
    op.drop_index("runs_begun_ix", table_name="runs")
    op.drop_index(op.f("runs_user_id_schedule_id_id_ix"), table_name="runs")
    op.drop_index(op.f("runs_user_id_status_id_ix"), table_name="runs")
    op.drop_index(op.f("runs_id_ix"), table_name="runs")
    op.drop_column("runs", "save_profile")
    op.drop_column("runs", "first_step")
    op.drop_column("runs", "retry_of")
    op.drop_column("runs", "scheduled_for")
    op.drop_column("runs", "schedule_id")
    op.drop_column("runs", "thread_id")
    op.drop_column("runs", "profile_id")
    op.drop_column("quotas", "stored_bytes")
    op.drop_column("quotas", "requests_per_minute")
    op.drop_column("quotas", "max_storage_bytes")
    op.drop_column("quotas", "max_computers")
    op.drop_index(op.f("idempotency_keys_created_at_ix"), table_name="idempotency_keys")
    op.drop_column("idempotency_keys", "sealed_reply")
    op.drop_column("idempotency_keys", "etag")
    op.drop_index(op.f("events_user_id_resource_id_seq_ix"), table_name="events")
    op.drop_constraint(op.f("computers_user_id_profile_id_fkey"), "computers", type_="foreignkey")
    op.drop_index(
        op.f("computers_user_id_profile_id_ix"),
        table_name="computers",
        postgresql_where=sa.text("profile_id is not null"),
    )
    op.drop_column("computers", "profile_id")
    op.drop_column("accounts", "email_verified_at")
    op.drop_index(op.f("approvals_user_id_run_id_id_ix"), table_name="approvals")
    op.drop_index(
        "approvals_pending_ix", table_name="approvals", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_table("approvals")
    op.drop_index(op.f("frames_user_id_file_id_ix"), table_name="frames")
    op.drop_table("frames")
    op.drop_index(
        op.f("messages_user_id_thread_id_id_ix"),
        table_name="messages",
        postgresql_where=sa.text("thread_id is not null"),
    )
    op.drop_index(
        op.f("messages_user_id_run_id_id_ix"),
        table_name="messages",
        postgresql_where=sa.text("run_id is not null"),
    )
    op.drop_table("messages")
    op.drop_table("workflow_versions")
    op.drop_index(op.f("schedules_user_id_workflow_id_ix"), table_name="schedules")
    op.drop_index(
        "schedules_due_ix",
        table_name="schedules",
        postgresql_where=sa.text("enabled and next_at is not null"),
    )
    op.drop_table("schedules")
    op.drop_index(op.f("deliveries_user_id_webhook_id_id_ix"), table_name="deliveries")
    op.drop_index(
        "deliveries_due_ix", table_name="deliveries", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_table("deliveries")
    op.drop_index(op.f("auth_sessions_expires_at_ix"), table_name="auth_sessions")
    op.drop_index(op.f("auth_codes_expires_at_ix"), table_name="auth_codes")
    op.drop_index(op.f("auth_codes_account_id_ix"), table_name="auth_codes")
    op.drop_table("auth_codes")
    op.drop_index("webhooks_due_ix", table_name="webhooks", postgresql_where=sa.text("due_at is not null"))
    op.drop_table("webhooks")
    op.drop_table("usage")
    op.drop_table("threads")
    op.drop_table("secrets")
    op.drop_table("profiles")
    op.drop_index(op.f("outbox_due_at_ix"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_index(op.f("api_keys_key_hash_ix"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_index(op.f("removals_not_before_ix"), table_name="removals")
    op.drop_table("removals")
    op.drop_index(op.f("inbox_received_at_ix"), table_name="inbox")
    op.drop_table("inbox")
    op.drop_table("erased_users")
