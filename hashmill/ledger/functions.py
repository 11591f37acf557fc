"""Researchers' functions: every version that was ever added, and which one is current."""

from dataclasses import dataclass

import sqlalchemy as sa

from hashmill.domain.function import Function, Kind
from hashmill.ledger import entries
from hashmill.ledger.engine import now_ms
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import functions

NO_RUN = "00000000-0000-0000-0000-000000000000"
"""The run of entries that belong to none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFunction:
    """One version of a function, without its source. `current` is the one that new events run."""

    name: str
    sha256: str
    kind: Kind
    size_bytes: int
    current: bool
    added_at_ms: int
    added_by: str


def add(connection: sa.Connection, function: Function, *, by: str) -> None:
    """Make `function` the current version of its name; runs that were accepted before keep theirs."""
    _retire(connection, function.name)
    connection.execute(
        insert_for(connection)(functions)
        .values(
            name=function.name,
            sha256=function.sha256,
            kind=function.kind,
            source=function.source,
            current=True,
            added_at_ms=now_ms(),
            added_by=by,
        )
        .on_conflict_do_update(
            index_elements=[functions.c.name, functions.c.sha256],
            set_={"current": True, "added_at_ms": now_ms(), "added_by": by},
        )
    )
    told = {"name": function.name, "sha256": function.sha256, "function_kind": function.kind, "by": by}
    entries.append(connection, NO_RUN, [("function_added", told)], tenant_id="default", shard=0)


def remove(connection: sa.Connection, name: str, *, by: str) -> bool:
    """Let no new event run the function; return whether there was one. Its versions stay, as entries name them."""
    if not _retire(connection, name):
        return False
    entries.append(connection, NO_RUN, [("function_removed", {"name": name, "by": by})], tenant_id="default", shard=0)
    return True


def _retire(connection: sa.Connection, name: str) -> bool:
    found = sa.update(functions).where(functions.c.name == name, functions.c.current).values(current=False)
    return connection.execute(found).rowcount > 0


def current(connection: sa.Connection, name: str) -> str | None:
    """Return the SHA-256 of the function's current version, or None when there is none of that name."""
    found: str | None = connection.execute(
        sa.select(functions.c.sha256).where(functions.c.name == name, functions.c.current)
    ).scalar_one_or_none()
    return found


def get(connection: sa.Connection, name: str, sha256: str) -> Function | None:
    """Return one version with its source."""
    row = connection.execute(
        sa.select(functions).where(functions.c.name == name, functions.c.sha256 == sha256)
    ).one_or_none()
    return Function(name=row.name, kind=Kind(row.kind), source=bytes(row.source)) if row else None


def listed(connection: sa.Connection) -> list[StoredFunction]:
    """Return every version, by name, the newest first."""
    size = sa.func.length(functions.c.source).label("size_bytes")
    told = [functions.c[name] for name in ("name", "sha256", "kind", "current", "added_at_ms", "added_by")]
    rows = connection.execute(sa.select(*told, size).order_by(functions.c.name, functions.c.added_at_ms.desc()))
    return [StoredFunction(**{**row._mapping, "kind": Kind(row.kind)}) for row in rows]
