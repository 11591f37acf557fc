"""
How far a large file was hashed.

Only adds: a process of 0002 goes on beside it; it hashes a large file from zero, and leaves what is saved alone.
Reversible: downgrade removes the table, and large files begin anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "saved_hashes",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("file_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.Column("saved_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_saved_hashes_run_id")),
        sa.PrimaryKeyConstraint("run_id", "file_no", name=op.f("pk_saved_hashes")),
    )


def downgrade() -> None:
    op.drop_table("saved_hashes")
