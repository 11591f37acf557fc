"""
${message}.

Rules: one purpose per file. Say here why it is safe while old workers run (expand first, contract a release later).
Reversible, or say why not. Import nothing from the house: the house will change, history will not.
"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
