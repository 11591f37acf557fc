"""
The outbox: what we owe LABDRIVE, written in the transaction that made it true.

Delivered at least once, in order per run. A row found `sending` after a crash was perhaps delivered, and so was one
whose answer was lost: it is counted, and stays uncertain until LABDRIVE is known to have it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from hashmill.domain.counted import Counted
from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import OutboxState, ReportKind
from hashmill.domain.work import Report
from hashmill.ledger import counters
from hashmill.ledger.engine import now_ms
from hashmill.ledger.rows import among_given, insert
from hashmill.ledger.tables import among, outbox, runs

UNDELIVERED = (OutboxState.OWED, OutboxState.SENDING)
_as_text = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedReport:
    """One row of the outbox; `age_s` is how long it has been owed."""

    run_id: str
    seq: int
    file_no: int | None
    kind: ReportKind
    body: Mapping[str, Any]
    attempts: int
    uncertain: bool
    age_s: float

    @property
    def token(self) -> str:
        """Names this report until it is sent or set aside; sent as Idempotency-Key."""
        return f"{self.run_id}:{self.seq}"


def owe(connection: sa.Connection, run_id: str, reports: Sequence[Report], *, shard: int) -> None:
    """Add `reports` behind what the run owes already."""
    if not reports:
        return
    run = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run_id)
        .values(outbox_seq=runs.c.outbox_seq + len(reports), outbox_owed=runs.c.outbox_owed + len(reports))
        .returning(runs.c.outbox_seq, now_ms().label("at_ms"))
    ).one()
    put(connection, run_id, reports, shard=shard, first_seq=run.outbox_seq - len(reports) + 1, at_ms=run.at_ms)


def put(
    connection: sa.Connection, run_id: str, reports: Sequence[Report], *, shard: int, first_seq: int, at_ms: int
) -> None:
    """Write `reports` under the numbers from `first_seq` on, which the caller has counted in the run."""
    owed = [
        {
            "run_id": run_id,
            "seq": seq,
            "shard": shard,
            "file_no": report.file_no,
            "kind": report.kind,
            "body": _as_text(report.body),
            "state": OutboxState.OWED,
            "attempts": 0,
            "next_at_ms": 0,
            "created_at_ms": at_ms,
        }
        for seq, report in enumerate(reports, first_seq)
    ]
    insert(connection, outbox, owed)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwingRun:
    """A run with undelivered reports, and the API they are owed to."""

    run_id: str
    api_url: str


def runs_that_owe(connection: sa.Connection, *, after: str = "", limit: int = 200) -> list[OwingRun]:
    """Return runs with undelivered reports, oldest first, from just behind the run `after`."""
    rows = connection.execute(
        sa.select(runs.c.run_id, runs.c.api_url)
        .where(runs.c.outbox_owed > 0, runs.c.run_id > after)
        .order_by(runs.c.run_id)
        .limit(limit)
    )
    return [OwingRun(run_id=row.run_id, api_url=row.api_url) for row in rows]


def take(connection: sa.Connection, run_id: str, *, limit: int = 256) -> list[OwedReport]:
    """Mark the next reports of a run as being sent and return them in order.

    A status is a fence: nothing behind it is taken before it is through, and it is taken alone.
    A report that is not due yet holds back only what belongs to the same file.
    """
    taken: list[sa.Row[Any]] = []
    held_back: set[int | None] = set()
    for row in _undelivered(connection, run_id, page=max(limit, 64)):
        if row.kind == ReportKind.STATUS:
            if row.due and not taken and not held_back:
                taken.append(row)
            break
        if not row.due or row.file_no in held_back:
            held_back.add(row.file_no)
            continue
        taken.append(row)
        if len(taken) == limit:
            break
    if not taken:
        return []
    # Rows were read without a lock: what somebody delivered meanwhile must not become undelivered again.
    given = {"b_run_id": run_id, "b_seqs": [row.seq for row in taken]}
    ours = set(connection.execute(_taking(connection.dialect.name), given).scalars())
    taken = [row for row in taken if row.seq in ours]
    found = sum(row.state == OutboxState.SENDING for row in taken)
    counters.add(connection, Counted.REPORTS_UNCERTAIN, found)
    return [
        OwedReport(
            run_id=run_id,
            seq=row.seq,
            file_no=row.file_no,
            kind=ReportKind(row.kind),
            body=json.loads(row.body),
            attempts=row.attempts,
            uncertain=row.state == OutboxState.SENDING or bool(row.uncertain),
            age_s=row.age_ms / 1000,
        )
        for row in taken
    ]


def _of_run(dialect: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the condition for the reports of a run whose numbers are given, as long as they are undelivered."""
    return (
        outbox.c.run_id == sa.bindparam("b_run_id"),
        among_given(outbox.c.seq, "b_seqs", dialect=dialect),
        among(outbox.c.state, *UNDELIVERED),
    )


@cache
def _taking(dialect: str) -> ReturningUpdate[tuple[int]]:
    return (
        sa.update(outbox)
        .where(*_of_run(dialect))
        .values(
            state=OutboxState.SENDING,
            uncertain=sa.case((outbox.c.state == OutboxState.SENDING, sa.true()), else_=outbox.c.uncertain),
        )
        .returning(outbox.c.seq)
    )


def _undelivered(connection: sa.Connection, run_id: str, *, page: int) -> Iterator[sa.Row[Any]]:
    """Yield what a run owes in order, a page in memory at a time, so that late reports never hide those behind them."""
    after = 0
    while True:
        given = {"b_run_id": run_id, "b_after": after, "b_page": page}
        found = connection.execute(_next_undelivered(), given).all()
        yield from found
        if len(found) < page:
            return
        after = found[-1].seq


@cache
def _next_undelivered() -> sa.Select[Any]:
    return (
        sa.select(
            *(outbox.c[name] for name in ("seq", "file_no", "kind", "body", "state", "attempts", "uncertain")),
            (now_ms() - outbox.c.created_at_ms).label("age_ms"),
            (outbox.c.next_at_ms <= now_ms()).label("due"),
        )
        .where(
            outbox.c.run_id == sa.bindparam("b_run_id"),
            outbox.c.seq > sa.bindparam("b_after"),
            among(outbox.c.state, *UNDELIVERED),
        )
        .order_by(outbox.c.seq)
        .limit(sa.bindparam("b_page", type_=sa.Integer))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """A report LABDRIVE could not take now.

    `uncertain`: it may have it all the same. `burns`: whether that counts as an attempt; not when nobody gets through.
    """

    seq: int
    after_s: float
    error_class: ErrorClass
    detail: str
    uncertain: bool = False
    burns: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A report that will never be taken."""

    seq: int
    error_class: ErrorClass
    detail: str


def mark(
    connection: sa.Connection,
    run_id: str,
    *,
    sent: Sequence[int] = (),
    postponed: Sequence[Postponed] = (),
    refused: Sequence[Refused] = (),
    untouched: Sequence[int] = (),
) -> None:
    """Write down how the reports that were taken ended, in one transaction."""
    if sent:
        done = connection.execute(_sent(connection.dialect.name), {"b_run_id": run_id, "b_seqs": list(sent)}).rowcount
        _lower(connection, run_id, owed=done)
    for row in postponed:
        connection.execute(
            sa.update(outbox)
            .where(outbox.c.run_id == run_id, outbox.c.seq == row.seq, among(outbox.c.state, *UNDELIVERED))
            .values(
                state=OutboxState.OWED,
                attempts=outbox.c.attempts + int(row.burns),
                uncertain=sa.true() if row.uncertain else outbox.c.uncertain,
                next_at_ms=now_ms() + int(row.after_s * 1000),
                error_class=row.error_class,
                error_detail=row.detail,
            )
        )
    dead = 0
    for gone in refused:
        dead += connection.execute(
            sa.update(outbox)
            .where(outbox.c.run_id == run_id, outbox.c.seq == gone.seq, among(outbox.c.state, *UNDELIVERED))
            .values(
                state=OutboxState.DEAD,
                attempts=outbox.c.attempts + 1,
                error_class=gone.error_class,
                error_detail=gone.detail,
            )
        ).rowcount
    if dead:
        _lower(connection, run_id, owed=dead, dead=dead)
    if untouched:
        connection.execute(
            sa.update(outbox)
            .where(outbox.c.run_id == run_id, outbox.c.seq.in_(untouched), outbox.c.state == OutboxState.SENDING)
            .values(state=OutboxState.OWED)
        )


@cache
def _sent(dialect: str) -> sa.Update:
    done = {"state": OutboxState.SENT, "sent_at_ms": now_ms(), "attempts": outbox.c.attempts + 1, "error_class": None}
    return sa.update(outbox).where(*_of_run(dialect)).values(done)


def refuse_all(connection: sa.Connection, run_id: str, *, error_class: ErrorClass, detail: str) -> int:
    """Set aside everything the run owes, when LABDRIVE will take none of it; return how many rows that were."""
    dead = connection.execute(
        sa.update(outbox)
        .where(outbox.c.run_id == run_id, among(outbox.c.state, *UNDELIVERED))
        .values(state=OutboxState.DEAD, error_class=error_class, error_detail=detail)
    ).rowcount
    _lower(connection, run_id, owed=dead, dead=dead)
    return dead


def give_up(connection: sa.Connection, run_id: str, *, older_s: float, error_class: ErrorClass, detail: str) -> int:
    """Set aside what the run has owed for longer than `older_s`, tried or not; return how many rows that were."""
    dead = connection.execute(
        sa.update(outbox)
        .where(
            outbox.c.run_id == run_id,
            among(outbox.c.state, OutboxState.OWED),
            outbox.c.created_at_ms < now_ms() - int(older_s * 1000),
        )
        .values(state=OutboxState.DEAD, error_class=error_class, error_detail=detail)
    ).rowcount
    if dead:
        _lower(connection, run_id, owed=dead, dead=dead)
    return dead


def sent_alike(connection: sa.Connection, run_id: str, body: Mapping[str, Any]) -> int:
    """Return how many reports of the run with this very body LABDRIVE has taken."""
    text = _as_text(body)
    return connection.execute(
        sa.select(sa.func.count()).where(
            outbox.c.run_id == run_id, outbox.c.state == OutboxState.SENT, outbox.c.body == text
        )
    ).scalar_one()


def revive(connection: sa.Connection, run_id: str) -> int:
    """Owe again what was set aside, behind all the run owes already and in its order; return how many rows.

    Each gets a new number, and with it a new token. A status or a closing message is dropped instead: they tell of an
    end that is none any more, and a replay owes fresh ones.
    """
    # The run is locked before anything is counted, as its numbers are given out from here.
    last = connection.execute(
        sa.select(runs.c.outbox_seq).where(runs.c.run_id == run_id).with_for_update()
    ).scalar_one()
    dead = (outbox.c.run_id == run_id, outbox.c.state == OutboxState.DEAD)
    # In stored JSON only a key has these quotes: those within a text are escaped.
    closing = sa.and_(outbox.c.kind == ReportKind.MESSAGE, outbox.c.body.contains('"closing": true'))
    connection.execute(sa.delete(outbox).where(*dead, sa.or_(outbox.c.kind == ReportKind.STATUS, closing)))
    ranked = (
        sa.select(outbox.c.seq.label("old_seq"), sa.func.row_number().over(order_by=outbox.c.seq).label("place"))
        .where(*dead)
        .subquery()
    )
    count = connection.execute(
        sa.update(outbox)
        .where(*dead, outbox.c.seq == ranked.c.old_seq)
        .values(seq=last + ranked.c.place, state=OutboxState.OWED, next_at_ms=0, created_at_ms=now_ms())
    ).rowcount
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run_id)
        .values(outbox_seq=last + count, outbox_owed=runs.c.outbox_owed + count, outbox_dead=0)
    )
    return count


def _lower(connection: sa.Connection, run_id: str, *, owed: int, dead: int = 0) -> None:
    connection.execute(_lowering(), {"b_run_id": run_id, "b_owed": owed, "b_dead": dead})


@cache
def _lowering() -> sa.Update:
    return (
        sa.update(runs)
        .where(runs.c.run_id == sa.bindparam("b_run_id"))
        .values(
            outbox_owed=runs.c.outbox_owed - sa.bindparam("b_owed", type_=sa.Integer),
            outbox_dead=runs.c.outbox_dead + sa.bindparam("b_dead", type_=sa.Integer),
        )
    )


def dead_by_class(connection: sa.Connection, run_id: str) -> dict[str, int]:
    """Return how many reports of a run were set aside, by error class."""
    rows = connection.execute(
        sa.select(outbox.c.error_class, sa.func.count())
        .where(outbox.c.run_id == run_id, outbox.c.state == OutboxState.DEAD)
        .group_by(outbox.c.error_class)
    )
    return {error_class or "internal": count for error_class, count in rows}


def owed_by_api(connection: sa.Connection) -> dict[str, int]:
    """Return how many reports each `api_url` is owed, by the counters of the runs that owe: a short index."""
    rows = connection.execute(
        sa.select(runs.c.api_url, sa.func.sum(runs.c.outbox_owed))
        .where(runs.c.outbox_owed > 0)
        .group_by(runs.c.api_url)
    )
    return {api_url: int(owed) for api_url, owed in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalStatus:
    """The newest status of a run that was owed, and whether LABDRIVE took it."""

    status: str
    delivered: bool


def final_status(connection: sa.Connection, run_id: str) -> FinalStatus | None:
    """Return the last status report of a run."""
    row = connection.execute(
        sa.select(outbox.c.body, outbox.c.state)
        .where(outbox.c.run_id == run_id, outbox.c.kind == ReportKind.STATUS)
        .order_by(outbox.c.seq.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return FinalStatus(status=json.loads(row.body)["status"], delivered=row.state == OutboxState.SENT)
