"""
Alembic's environment.

`hashmill ledger upgrade` brings its own connection. Run by hand (`alembic revision`), the address comes from the
settings, as everywhere.
"""

from alembic import context

from hashmill.ledger.engine import open_engine
from hashmill.ledger.tables import metadata
from hashmill.settings import read_settings

connection = context.config.attributes.get("connection")

if connection is not None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()
else:
    with open_engine(read_settings().ledger.url.get_secret_value()).begin() as own:
        context.configure(connection=own, target_metadata=metadata, render_as_batch=True)
        context.run_migrations()
