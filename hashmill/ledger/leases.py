"""Leases by name: the leader's duties, and the presence of each process. The clock is the database's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from hashmill.ledger.engine import now_ms
from hashmill.ledger.tables import leases

PROCESS = "process:"
"""Prefix of the leases that say a process is alive; the rest names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as the ledger shows it; `remaining_s` is negative when it has run out."""

    name: str
    holder: str
    fence: int
    remaining_s: float
    detail: Mapping[str, Any]


def insert_for(connection: sa.Connection) -> Any:
    """Return the dialect's `insert`, which knows ON CONFLICT."""
    return pg_insert if connection.dialect.name == "postgresql" else sqlite_insert


def take(
    connection: sa.Connection, name: str, holder: str, *, lease_s: float, detail: Mapping[str, Any] | None = None
) -> int | None:
    """Take or renew `name` and return its fence, or None when somebody else holds it.

    The fence rises each time the lease changes hands.
    """
    values = {
        "name": name,
        "holder": holder,
        "lease_ms": int(lease_s * 1000),
        "detail": json.dumps(detail or {}),
    }
    fence: int | None = connection.execute(_taking(connection.dialect.name), values).scalar_one_or_none()
    return fence


@cache
def _taking(dialect: str) -> Any:
    """Return the statement that takes a lease, built once: every process says it every second."""
    holder: sa.BindParameter[str] = sa.bindparam("holder")
    until = now_ms() + sa.bindparam("lease_ms", type_=sa.BigInteger)
    insert = pg_insert if dialect == "postgresql" else sqlite_insert
    statement = insert(leases).values(
        name=sa.bindparam("name"), holder=holder, fence=1, until_ms=until, detail=sa.bindparam("detail")
    )
    return statement.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={
            "holder": holder,
            "until_ms": until,
            "detail": statement.excluded.detail,
            "fence": sa.case((leases.c.holder == holder, leases.c.fence), else_=leases.c.fence + 1),
        },
        where=sa.or_(leases.c.holder == holder, leases.c.until_ms < now_ms()),
    ).returning(leases.c.fence)


def steady_s(connection: sa.Connection, name: str, holder: str, *, gap_s: float) -> float:
    """Say that a duty goes on and return for how many seconds it has, without a gap of `gap_s`, whoever had it.

    A duty that goes on shows that the ledger could be reached, also to who has just taken it over.
    """
    now = connection.execute(sa.select(now_ms())).scalar_one()
    row = connection.execute(sa.select(leases).where(leases.c.name == name)).one_or_none()
    since_ms = now if row is None or row.until_ms < now else json.loads(row.detail)["since_ms"]
    values = {"holder": holder, "until_ms": now + int(gap_s * 1000), "detail": json.dumps({"since_ms": since_ms})}
    statement = insert_for(connection)(leases).values(name=name, fence=1, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[leases.c.name], set_=values))
    return (now - int(since_ms)) / 1000


def release(connection: sa.Connection, name: str, holder: str) -> None:
    """Let `name` go at once, if `holder` has it."""
    connection.execute(sa.update(leases).where(leases.c.name == name, leases.c.holder == holder).values(until_ms=0))


def forget(connection: sa.Connection, name: str, holder: str) -> None:
    """Remove the row of `name`, if `holder` has it: a process that ended in order leaves no trace."""
    connection.execute(sa.delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def listed(connection: sa.Connection, prefix: str = "") -> list[Lease]:
    """Return the leases whose name begins with `prefix`, living and lapsed."""
    rows = connection.execute(
        sa.select(leases, (leases.c.until_ms - now_ms()).label("remaining_ms"))
        .where(leases.c.name.startswith(prefix, autoescape=True))
        .order_by(leases.c.name)
    )
    return [
        Lease(
            name=row.name,
            holder=row.holder,
            fence=row.fence,
            remaining_s=row.remaining_ms / 1000,
            detail=json.loads(row.detail),
        )
        for row in rows
    ]


def purge(connection: sa.Connection, *, older_than_s: float) -> None:
    """Remove processes that have not been seen for `older_than_s`."""
    connection.execute(
        sa.delete(leases).where(
            leases.c.name.startswith(PROCESS, autoescape=True),
            leases.c.until_ms < now_ms() - int(older_than_s * 1000),
        )
    )
