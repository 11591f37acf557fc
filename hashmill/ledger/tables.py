"""
The ledger's shape. `migrations/` builds it; a test holds the two equal.

Times are milliseconds since 1970 by the database's clock. Ids are UUIDv7 in text.
"""

import sqlalchemy as sa

from hashmill.domain.job import FileState, OutboxState

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.String(36)
Ms = sa.BigInteger


def among(column: sa.Column[str], *states: str) -> sa.ColumnElement[bool]:
    """Return `column IN (states)` with the states as literals: a partial index serves only a condition it can read."""
    literals = [sa.literal_column(f"'{state}'", sa.String) for state in states]
    return column.in_(literals) if len(literals) > 1 else column == literals[0]


runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", Id, primary_key=True),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("idempotency_key", sa.String(255), nullable=False),
    sa.Column("event_digest", sa.String(64), nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("api_url", sa.Text, nullable=False),
    sa.Column("user_id", sa.String(255), nullable=False),
    sa.Column("algorithms", sa.Text, nullable=False),
    sa.Column("job_id", sa.String(255), nullable=False),
    sa.Column("container_id", sa.String(255), nullable=False),
    sa.Column("storage_id", sa.String(255)),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("expand_cursor", sa.Text),
    sa.Column("expand_fence", sa.Integer, nullable=False),
    sa.Column("expand_until_ms", Ms),
    sa.Column("expand_after_ms", Ms, nullable=False),
    sa.Column("expand_attempts", sa.Integer, nullable=False),
    sa.Column("files_total", sa.Integer, nullable=False),
    sa.Column("files_open", sa.Integer, nullable=False),
    sa.Column("files_failed", sa.Integer, nullable=False),
    sa.Column("bytes_total", sa.BigInteger, nullable=False),
    sa.Column("bytes_done", sa.BigInteger, nullable=False),
    sa.Column("outbox_seq", sa.Integer, nullable=False),
    sa.Column("outbox_owed", sa.Integer, nullable=False),
    sa.Column("outbox_dead", sa.Integer, nullable=False),
    sa.Column("error_class", sa.String(32)),
    sa.Column("error_detail", sa.Text),
    sa.Column("created_at_ms", Ms, nullable=False),
    sa.Column("replayed_at_ms", Ms),
    sa.Column("expanded_at_ms", Ms),
    sa.Column("settled_at_ms", Ms),
    sa.Column("finished_at_ms", Ms),
    sa.Column("mode", sa.String(16)),
    sa.Column("function_name", sa.String(64)),
    sa.Column("function_sha256", sa.String(64)),
    sa.UniqueConstraint("tenant_id", "idempotency_key"),
    sa.Index("ix_runs_state", "state", "run_id"),
    sa.Index("ix_runs_job_id", "job_id"),
    sa.Index(
        "ix_runs_outbox_owed",
        "run_id",
        sqlite_where=sa.text("outbox_owed > 0"),
        postgresql_where=sa.text("outbox_owed > 0"),
    ),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("run_id", Id, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("file_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("file_ref", sa.String(300), nullable=False),
    sa.Column("file_id", sa.String(255)),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("size_class", sa.String(8), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("lease_owner", sa.String(64)),
    sa.Column("lease_until_ms", Ms),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lost_leases", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("not_before_ms", Ms, nullable=False),
    sa.Column("queued_at_ms", Ms),
    sa.Column("finished_at_ms", Ms),
    sa.Column("error_class", sa.String(32)),
    sa.Column("error_detail", sa.Text),
    sa.Column("verdict", sa.String(16)),
    sa.Column("digests", sa.Text),
    sa.Column("etag", sa.Text),
    sa.Column("version_id", sa.Text),
    sa.Column("object_ref", sa.String(32)),
    sa.Column("provider_checksums", sa.Text),
    sa.UniqueConstraint("run_id", "file_ref"),
    # Three small indexes over what moves, and but one over what rests: by it an earlier digest is found.
    sa.Index(
        "ix_files_ready",
        "run_id",
        "size_class",
        "file_no",
        sqlite_where=sa.text(f"state = '{FileState.READY}'"),
        postgresql_where=sa.text(f"state = '{FileState.READY}'"),
    ),
    sa.Index(
        "ix_files_outstanding",
        "state",
        "size_class",
        "queued_at_ms",
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    ),
    sa.Index(
        "ix_files_lease_owner",
        "lease_owner",
        sqlite_where=sa.text(f"state = '{FileState.RUNNING}'"),
        postgresql_where=sa.text(f"state = '{FileState.RUNNING}'"),
    ),
    sa.Index("ix_files_run_id_state", "run_id", "state", "file_no"),
    sa.Index(
        "ix_files_object_ref",
        "object_ref",
        "finished_at_ms",
        sqlite_where=sa.text("object_ref IS NOT NULL"),
        postgresql_where=sa.text("object_ref IS NOT NULL"),
    ),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("run_id", Id, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("file_no", sa.Integer),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at_ms", Ms, nullable=False),
    sa.Column("error_class", sa.String(32)),
    sa.Column("error_detail", sa.Text),
    sa.Column("created_at_ms", Ms, nullable=False),
    sa.Column("sent_at_ms", Ms),
    sa.Column("uncertain", sa.Boolean),
    sa.Index(
        "ix_outbox_owed",
        "run_id",
        "seq",
        sqlite_where=sa.text(f"state IN ('{OutboxState.OWED}', '{OutboxState.SENDING}')"),
        postgresql_where=sa.text(f"state IN ('{OutboxState.OWED}', '{OutboxState.SENDING}')"),
    ),
)

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("entry_id", Id, primary_key=True),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("run_id", Id, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("leaf_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("recorded_at_ms", Ms, nullable=False),
    sa.Index("ix_entries_run_id", "run_id", "entry_id"),
)
"""What happened, as the exact bytes that were hashed. Rows are inserted, never changed or deleted: triggers hold it."""

positions = sa.Table(
    "positions",
    metadata,
    sa.Column("leaf_index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("entry_id", Id, sa.ForeignKey("entries.entry_id"), nullable=False, unique=True),
)
"""The order of the entries, without gaps, given by one sequencer. Insert-only as well."""

unnumbered = sa.Table(
    "unnumbered", metadata, sa.Column("entry_id", Id, sa.ForeignKey("entries.entry_id"), primary_key=True)
)
"""Entries that wait for their number; written with the entry, removed with the position."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("until_ms", Ms, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("run_id", Id, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("nonce", sa.LargeBinary(12), nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("wipe_after_ms", Ms),
)

saved_hashes = sa.Table(
    "saved_hashes",
    metadata,
    sa.Column("run_id", Id, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("file_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("version_id", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("slices", sa.Integer, nullable=False),
    sa.Column("saved_at_ms", Ms, nullable=False),
    sa.Column("provider", sa.Text),
)
"""How far a large file was hashed: written under its fence with each slice, gone with the end of its run."""

functions = sa.Table(
    "functions",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("source", sa.LargeBinary, nullable=False),
    sa.Column("current", sa.Boolean, nullable=False),
    sa.Column("added_at_ms", Ms, nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
)
"""Every version of a researcher's function. None is ever deleted: runs and entries name them."""

executed_notebooks = sa.Table(
    "executed_notebooks",
    metadata,
    sa.Column("run_id", Id, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("file_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("fence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
"""Notebooks with their outputs, as they ran for one file; the entry holds their SHA-256."""

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)

gates = sa.Table(
    "gates",
    metadata,
    sa.Column("name", sa.String(300), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("since_ms", Ms, nullable=False),
    sa.Column("until_ms", Ms, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
"""What is held back, and until when: calls of an API, calls with one key, an API's new tickets. No row: nothing is."""

shape = sa.Table("shape", metadata, sa.Column("works_from", sa.String(32), primary_key=True))
"""One row: the oldest revision whose processes may still work on this ledger."""
