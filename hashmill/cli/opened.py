"""What several commands open: the ledger, at this version's shape, and one run of it by the start of its id."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hashmill.domain.errors import ConfigFault

if TYPE_CHECKING:
    import sqlalchemy as sa

    from hashmill.ledger.engine import Ledger
    from hashmill.ledger.runs import Run
    from hashmill.settings import Settings

_PREFIX = re.compile(r"[0-9a-f-]{4,36}")


@contextmanager
def opened_ledger(settings: "Settings", *, at_head: bool = True) -> Iterator["Ledger"]:
    """Open the ledger; raise `ConfigFault` when it is not there or, unless `at_head` is false, of another shape."""
    from hashmill import assemble

    file = sqlite_file(settings)
    if file is not None and not file.exists():
        raise ConfigFault(
            f"there is no ledger at {file.absolute()}: make one with `hashmill ledger upgrade`, "
            "or say where it is in HASHMILL_LEDGER__URL"
        )
    ledger = assemble.open_ledger(settings)
    try:
        if at_head:
            assemble.require_head(ledger)
        yield ledger
    finally:
        ledger.close()


def sqlite_file(settings: "Settings") -> Path | None:
    """Return the file of an SQLite ledger, or None for any other."""
    import sqlalchemy as sa

    try:
        url = sa.make_url(settings.ledger.url.get_secret_value())
    except sa.exc.ArgumentError:
        # The text is not shown: it may hold a password.
        raise ConfigFault(
            "ledger.url is no address of a database: write postgresql+psycopg://user:password@host/name, "
            "or sqlite:///path"
        ) from None
    named = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)) if named else None


def find_run(connection: "sa.Connection", given: str) -> "Run":
    """Return the one run whose id begins with `given`; a usage error when there is none, or more than one."""
    from hashmill.ledger import runs

    prefix = given.strip().lower()
    if not _PREFIX.fullmatch(prefix):
        raise typer.BadParameter(f"{given!r} is no run id: it has four or more of 0-9 and a-f, as `runs list` shows")
    # Newest first from just before prefix + "g", a letter behind every hex digit: the matches come first.
    found = [run for run in runs.listed(connection, before=prefix + "g", limit=2) if run.run_id.startswith(prefix)]
    if not found:
        raise typer.BadParameter(f"there is no run {prefix}; `hashmill runs list` shows the newest")
    if len(found) > 1:
        raise typer.BadParameter(f"more than one run begins with {prefix}: give more of the id")
    return found[0]
