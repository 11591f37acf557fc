"""
What is held back, and until when, so that a leader that dies or changes finds it.

A row is a gate that is shut. While `until_ms` lies ahead nothing passes (open, as a breaker calls it); once it has
passed one call may try (half-open); when that succeeds the row goes (closed).
"""

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from hashmill.ledger.engine import now_ms
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import gates


class GateKind(StrEnum):
    """What a gate holds back: every call of an API, calls with one key, new tickets for an API's runs."""

    API = "api"
    KEY = "key"
    DISPATCH = "dispatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutGate:
    """A gate that is shut: for `shut_s` now, after `failures` tries; the next one in `remaining_s` (negative: due)."""

    name: str
    kind: GateKind
    failures: int
    shut_s: float
    remaining_s: float
    reason: str


def shut(connection: sa.Connection, name: str, *, kind: GateKind, failures: int, for_s: float, reason: str) -> None:
    """Shut the gate, or keep it shut, for `for_s` from now. Since when it is shut is kept."""
    until = now_ms() + int(for_s * 1000)
    statement = insert_for(connection)(gates).values(
        name=name, kind=kind, failures=failures, since_ms=now_ms(), until_ms=until, reason=reason
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[gates.c.name], set_={"failures": failures, "until_ms": until, "reason": reason}
        )
    )


def open_(connection: sa.Connection, name: str) -> None:
    """Let everything through again."""
    connection.execute(sa.delete(gates).where(gates.c.name == name))


def forget(connection: sa.Connection, *, kind: GateKind, older_s: float) -> None:
    """Remove the gates of a kind that nothing has wanted to pass for `older_s` although it might have."""
    connection.execute(sa.delete(gates).where(gates.c.kind == kind, gates.c.until_ms < now_ms() - int(older_s * 1000)))


def listed(connection: sa.Connection) -> list[ShutGate]:
    """Return every gate that is shut, of the kinds this version knows: a newer one may have left others."""
    rows = connection.execute(
        sa.select(
            gates,
            (now_ms() - gates.c.since_ms).label("shut_ms"),
            (gates.c.until_ms - now_ms()).label("remaining_ms"),
        )
        .where(gates.c.kind.in_(list(GateKind)))
        .order_by(gates.c.name)
    )
    return [
        ShutGate(
            name=row.name,
            kind=GateKind(row.kind),
            failures=row.failures,
            shut_s=row.shut_ms / 1000,
            remaining_s=row.remaining_ms / 1000,
            reason=row.reason,
        )
        for row in rows
    ]
