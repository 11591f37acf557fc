"""
The ledger's shape over time: upgrade to the newest, and ask whether it is there.

Every process asks, and hardly one upgrades: Alembic, a third of a second to load, is loaded only for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hashmill.ledger.engine import translated
from hashmill.ledger.tables import shape

if TYPE_CHECKING:
    from alembic.config import Config


def alembic_config(migrations: Path, connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration for the folder `migrations`; there is no ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: sa.Engine, migrations: Path, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the ledger to `revision` in one transaction; return (revision before, revision after).

    On PostgreSQL an advisory lock lets two upgrades started together take turns; SQLite's writer lock does the same.
    A migration takes the time it takes: the knob for how long a statement may wait is not for it.
    """
    from alembic import command

    with translated(), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('hashmill ledger upgrade'))"))
            # Whoever waits for a table makes everybody behind it wait: that is given up as soon as elsewhere.
            connection.execute(sa.text("SET LOCAL lock_timeout TO DEFAULT"))
        before = at(connection)
        command.upgrade(alembic_config(migrations, connection), revision)
        return before, at(connection)


def at(connection: sa.Connection) -> str | None:
    """Return the revision the ledger is at, or None when it is empty."""
    version = sa.table("alembic_version", sa.column("version_num", sa.String))
    if not sa.inspect(connection).has_table(version.name):
        return None
    revision: str | None = connection.execute(sa.select(version.c.version_num)).scalar_one_or_none()
    return revision


def head(migrations: Path) -> str | None:
    """Return the newest revision this installation knows."""
    # A migration's file begins with its revision, and they follow each other in a line.
    return max((path.stem.partition("_")[0] for path in migrations.glob("versions/[0-9]*.py")), default=None)


def fits(connection: sa.Connection, migrations: Path) -> bool:
    """Return whether this installation may work on the ledger as it is.

    It must have everything this version knows. It may have more: a migration only adds, and says in `shape` which
    processes may go on, so that old and new ones work side by side while they are replaced.
    """
    now, known = at(connection), head(migrations)
    if now == known:
        return True
    if now is None or known is None or now < known or not sa.inspect(connection).has_table(shape.name):
        return False
    works_from = connection.execute(sa.select(shape.c.works_from)).scalar_one_or_none()
    return works_from is not None and works_from <= known
