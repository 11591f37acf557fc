"""Counters that outlive every process. A row changes on rare events only, so that nobody waits for it."""

import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import counters


def add(connection: sa.Connection, name: Counted, by: int = 1) -> None:
    """Count `by` more of `name`, in the caller's transaction; nothing is written for 0.

    The row is locked until the commit: call it last, and never once per file or report that goes well.
    """
    if by <= 0:
        return
    statement = insert_for(connection)(counters).values(name=name, count=by)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[counters.c.name], set_={"count": counters.c["count"] + statement.excluded["count"]}
        )
    )


def all(connection: sa.Connection) -> dict[Counted, int]:
    """Return every counter of the closed list; what never happened is 0."""
    known = {
        row.name: row.total
        for row in connection.execute(sa.select(counters.c.name, counters.c["count"].label("total")))
    }
    return {name: known.get(name, 0) for name in Counted}
