"""Researchers' functions: every version that was ever added, and which one is current."""

import json
from dataclasses import dataclass

import sqlalchemy as sa

from hashmill.domain.function import Function, Kind
from hashmill.ledger import entries
from hashmill.ledger.engine import now_ms
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import functions, runs

NO_RUN = "00000000-0000-0000-0000-000000000000"
"""The run of entries that belong to none."""

LATELY_RUNS = 1000
"""So many of the newest runs tell which keys are in use for hashing."""


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
    """Let no new event run the function; return whether there was one. Its versions stay, as entries name them.

    An event that names it from now on is refused: whoever asks for it does not ask for digests.
    """
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


def is_removed(connection: sa.Connection, name: str) -> bool:
    """Say whether there was a function of that name and is none any more."""
    versions = sa.select(functions.c.current).where(functions.c.name == name)
    found = connection.execute(versions).scalars().all()
    return bool(found) and not any(found)


def hashed_lately(connection: sa.Connection, name: str) -> str | None:
    """Return a run, of the newest `LATELY_RUNS`, that hashed files for an event with `name` as its key; or None."""
    newest = sa.select(runs.c.run_id).order_by(runs.c.created_at_ms.desc()).limit(LATELY_RUNS)
    key = f'"function_key": {json.dumps(name, ensure_ascii=False)}'
    found = sa.select(runs.c.run_id, runs.c.event).where(
        runs.c.run_id.in_(newest), runs.c.function_name.is_(None), runs.c.event.contains(key, autoescape=True)
    )
    # The text may stand elsewhere in an event, as in its parameters.
    rows = connection.execute(found)
    return next((row.run_id for row in rows if json.loads(row.event)["function_key"] == name), None)


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
