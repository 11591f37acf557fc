"""
The ledger from its first day: runs, files, outbox, entries and their order, leases, sealed keys.

Nothing was there before, so nothing can be in the way. Reversible: downgrade removes everything.
Entries and their positions are insert-only in both databases, by trigger.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSERT_ONLY = ("entries", "positions")


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("entry_id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("recorded_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_entries")),
    )
    op.create_index("ix_entries_run_id", "entries", ["run_id", "entry_id"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column("event_digest", sa.String(length=64), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("api_url", sa.Text(), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("algorithms", sa.Text(), nullable=False),
        sa.Column("job_id", sa.String(length=255), nullable=False),
        sa.Column("container_id", sa.String(length=255), nullable=False),
        sa.Column("storage_id", sa.String(length=255), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("expand_cursor", sa.Text(), nullable=True),
        sa.Column("expand_fence", sa.Integer(), nullable=False),
        sa.Column("expand_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("expand_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("expand_attempts", sa.Integer(), nullable=False),
        sa.Column("files_total", sa.Integer(), nullable=False),
        sa.Column("files_open", sa.Integer(), nullable=False),
        sa.Column("files_failed", sa.Integer(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("outbox_seq", sa.Integer(), nullable=False),
        sa.Column("outbox_owed", sa.Integer(), nullable=False),
        sa.Column("outbox_dead", sa.Integer(), nullable=False),
        sa.Column("error_class", sa.String(length=32), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("replayed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expanded_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("settled_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name=op.f("uq_runs_tenant_id_idempotency_key")),
    )
    op.create_index("ix_runs_job_id", "runs", ["job_id"], unique=False)
    op.create_index(
        "ix_runs_outbox_owed",
        "runs",
        ["run_id"],
        unique=False,
        sqlite_where=sa.text("outbox_owed > 0"),
        postgresql_where=sa.text("outbox_owed > 0"),
    )
    op.create_index("ix_runs_state", "runs", ["state", "run_id"], unique=False)
    op.create_table(
        "files",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("file_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("file_ref", sa.String(length=300), nullable=False),
        sa.Column("file_id", sa.String(length=255), nullable=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("size_class", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lost_leases", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("queued_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("error_class", sa.String(length=32), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("digests", sa.Text(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_files_run_id")),
        sa.PrimaryKeyConstraint("run_id", "file_no", name=op.f("pk_files")),
        sa.UniqueConstraint("run_id", "file_ref", name=op.f("uq_files_run_id_file_ref")),
    )
    op.create_index(
        "ix_files_lease_owner",
        "files",
        ["lease_owner"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_files_outstanding",
        "files",
        ["state", "size_class", "queued_at_ms"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_files_ready",
        "files",
        ["run_id", "size_class", "file_no"],
        unique=False,
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index("ix_files_run_id_state", "files", ["run_id", "state", "file_no"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("file_no", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("error_class", sa.String(length=32), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_outbox_run_id")),
        sa.PrimaryKeyConstraint("run_id", "seq", name=op.f("pk_outbox")),
    )
    op.create_index(
        "ix_outbox_owed",
        "outbox",
        ["run_id", "seq"],
        unique=False,
        sqlite_where=sa.text("state IN ('owed', 'sending')"),
        postgresql_where=sa.text("state IN ('owed', 'sending')"),
    )
    op.create_table(
        "positions",
        sa.Column("leaf_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entry_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["entry_id"], ["entries.entry_id"], name=op.f("fk_positions_entry_id")),
        sa.PrimaryKeyConstraint("leaf_index", name=op.f("pk_positions")),
        sa.UniqueConstraint("entry_id", name=op.f("uq_positions_entry_id")),
    )
    op.create_table(
        "secrets",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.LargeBinary(length=12), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("wipe_after_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_secrets_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_secrets")),
    )
    op.create_table(
        "unnumbered",
        sa.Column("entry_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["entry_id"], ["entries.entry_id"], name=op.f("fk_unnumbered_entry_id")),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_unnumbered")),
    )
    _forbid_changes()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in INSERT_ONLY:
            op.execute(f"DROP TRIGGER {table}_insert_only ON {table}")
            op.execute(f"DROP TRIGGER {table}_no_truncate ON {table}")
        op.execute("DROP FUNCTION hashmill_insert_only()")
    op.drop_table("unnumbered")
    op.drop_table("secrets")
    op.drop_table("positions")
    op.drop_index(
        "ix_outbox_owed",
        table_name="outbox",
        sqlite_where=sa.text("state IN ('owed', 'sending')"),
        postgresql_where=sa.text("state IN ('owed', 'sending')"),
    )
    op.drop_table("outbox")
    op.drop_index("ix_files_run_id_state", table_name="files")
    op.drop_index(
        "ix_files_ready",
        table_name="files",
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.drop_index(
        "ix_files_outstanding",
        table_name="files",
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.drop_index(
        "ix_files_lease_owner",
        table_name="files",
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.drop_table("files")
    op.drop_index("ix_runs_state", table_name="runs")
    op.drop_index(
        "ix_runs_outbox_owed",
        table_name="runs",
        sqlite_where=sa.text("outbox_owed > 0"),
        postgresql_where=sa.text("outbox_owed > 0"),
    )
    op.drop_index("ix_runs_job_id", table_name="runs")
    op.drop_table("runs")
    op.drop_table("leases")
    op.drop_index("ix_entries_run_id", table_name="entries")
    op.drop_table("entries")


def _forbid_changes() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION hashmill_insert_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "BEGIN RAISE EXCEPTION '% is insert-only', TG_TABLE_NAME; END $$"
        )
        for table in INSERT_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_insert_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION hashmill_insert_only()"
            )
            op.execute(
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION hashmill_insert_only()"
            )
        return
    for table, key in zip(INSERT_ONLY, ("entry_id", "leaf_index"), strict=True):
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is insert-only'); END"
        for change in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} {refuse}")
        # INSERT OR REPLACE deletes without asking the DELETE trigger (SQLite, recursive_triggers off).
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) {refuse}"
        )
