"""
Researchers' functions, which of them a run is for, and notebooks as they ran.

Only adds. A process of 0004 does not know the runs of functions: add none before the last such process has gone.
Reversible: downgrade removes the functions and what their notebooks showed; the entries keep what they are held to.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "functions",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("added_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "sha256", name=op.f("pk_functions")),
    )
    op.create_table(
        "executed_notebooks",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("file_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_executed_notebooks_run_id")),
        sa.PrimaryKeyConstraint("run_id", "file_no", "generation", "fence", name=op.f("pk_executed_notebooks")),
    )
    op.add_column("runs", sa.Column("function_name", sa.String(length=64), nullable=True))
    op.add_column("runs", sa.Column("function_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "function_sha256")
    op.drop_column("runs", "function_name")
    op.drop_table("executed_notebooks")
    op.drop_table("functions")
