"""The ledger's shape over time: upgrade to the newest, and ask whether it is there."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from hashmill.domain.errors import LedgerUnavailable


def alembic_config(migrations: Path, connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration for the folder `migrations`; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: sa.Engine, migrations: Path, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the ledger to `revision` in one transaction; return (revision before, revision after).

    On PostgreSQL an advisory lock lets two upgrades started together take turns; SQLite's writer lock does the same.
    """
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('hashmill ledger upgrade'))"))
            before = at(connection)
            command.upgrade(alembic_config(migrations, connection), revision)
            return before, at(connection)
    except OperationalError as error:
        raise LedgerUnavailable(f"the ledger could not be upgraded: {error.orig}") from error


def at(connection: sa.Connection) -> str | None:
    """Return the revision the ledger is at, or None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def head(migrations: Path) -> str | None:
    """Return the newest revision this installation knows."""
    return ScriptDirectory.from_config(alembic_config(migrations)).get_current_head()
