"""
Counters of what is rare, gates that outlive a leader, reports whose answer was lost, and who may work here.

Only adds: a process of 0001 goes on beside it, before and after. The one table that exists already gets a column that
may be empty, which rewrites no row. Reversible: downgrade removes what was added.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "gates",
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gates")),
    )
    works_from = op.create_table(
        "shape",
        sa.Column("works_from", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("works_from", name=op.f("pk_shape")),
    )
    op.bulk_insert(works_from, [{"works_from": "0001"}])
    # Last, as it waits for whoever uses the table and makes those behind it wait.
    op.add_column("outbox", sa.Column("uncertain", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column("outbox", "uncertain")
    op.drop_table("shape")
    op.drop_table("gates")
    op.drop_table("counters")
