"""
What an S3 server stores beside the bytes, and by what an earlier digest of the same object is found.

Only adds columns that may be empty, which rewrites no row, and an index over rows that have one of them: none yet. A
process of 0003 goes on beside it. It knows no mode but `hash`: post no event with another one before the last such
process has gone. Reversible: downgrade removes what was added; nothing is known then of earlier digests.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("mode", sa.String(length=16), nullable=True))
    op.add_column("saved_hashes", sa.Column("provider", sa.Text(), nullable=True))
    op.add_column("files", sa.Column("object_ref", sa.String(length=32), nullable=True))
    op.add_column("files", sa.Column("provider_checksums", sa.Text(), nullable=True))
    op.create_index(
        "ix_files_object_ref",
        "files",
        ["object_ref", "finished_at_ms"],
        sqlite_where=sa.text("object_ref IS NOT NULL"),
        postgresql_where=sa.text("object_ref IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_files_object_ref", table_name="files")
    op.drop_column("files", "provider_checksums")
    op.drop_column("files", "object_ref")
    op.drop_column("saved_hashes", "provider")
    op.drop_column("runs", "mode")
