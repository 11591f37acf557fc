"""
The whole at one glance: what moves, what waits and for how long, and who is there.

Asked for every second or two by pages and scrapers, so nothing here walks over files that rest: totals are the runs'
own counters, and what moves is found through the indexes over what moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.domain.job import FileState, RunState
from hashmill.ledger import counters, gates
from hashmill.ledger.engine import now_ms
from hashmill.ledger.gates import ShutGate
from hashmill.ledger.leases import Lease
from hashmill.ledger.outbox import UNDELIVERED
from hashmill.ledger.presence import presence
from hashmill.ledger.tables import files, outbox, runs

LOOKED_AT_MAX = 200
"""How many of the runs that owe, oldest first, are asked for their oldest report."""
FAILURES_MAX = 10_000
"""How many failed files of one run are counted by class; a run that has more shows the classes of these."""

# Literals, not parameters: a partial index is used only where its condition is visible in the statement.
_READY = sa.literal_column(f"'{FileState.READY}'", sa.String)
_QUEUED = sa.literal_column(f"'{FileState.QUEUED}'", sa.String)
_RUNNING = sa.literal_column(f"'{FileState.RUNNING}'", sa.String)
# SQLite does not see that = follows from IN, so a part of what moves is asked for with both.
_OUTSTANDING = files.c.state.in_([_QUEUED, _RUNNING])
_UNDELIVERED = outbox.c.state.in_([sa.literal_column(f"'{state}'", sa.String) for state in UNDELIVERED])


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """Files handed out: in a ticket nobody has claimed yet, and being read."""

    queued: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The runs' own counters, added up. `files_open` are all files that have not ended."""

    runs: Mapping[RunState, int]
    files_total: int
    files_open: int
    files_failed: int
    bytes_total: int
    bytes_done: int
    reports_owed: int
    reports_dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One look at the ledger. Ages are in seconds, None when there is nothing of the kind.

    `oldest_ready_s` is at most how long the oldest file that may be worked now has waited; `oldest_queued_s` how long
    the oldest ticket has waited to be claimed; `oldest_owed_s` how long the oldest report has been owed;
    `oldest_unlisted_s` how long ago the oldest run was accepted whose files are not listed.
    """

    totals: Totals
    moving: Moving
    oldest_ready_s: float | None
    oldest_queued_s: float | None
    oldest_owed_s: float | None
    oldest_unlisted_s: float | None
    leader: Lease | None
    processes: Sequence[Lease]
    gates: Sequence[ShutGate] = ()
    counted: Mapping[Counted, int] = field(default_factory=dict)


def overview(connection: sa.Connection, *, leader: str) -> Overview:
    """Return how things stand; `leader` is the name of the leader's lease. Lapsed leases are included."""
    there = presence(connection, leader=leader)
    return Overview(
        totals=totals(connection),
        moving=moving(connection),
        oldest_ready_s=_oldest_ready_s(connection),
        oldest_queued_s=_oldest_queued_s(connection),
        oldest_owed_s=_oldest_owed_s(connection),
        oldest_unlisted_s=_oldest_unlisted_s(connection),
        leader=there.leader,
        processes=there.processes,
        gates=gates.listed(connection),
        counted=counters.all(connection),
    )


def totals(connection: sa.Connection) -> Totals:
    """Return the sums of the runs' counters, in one pass over the runs."""
    names = ("files_total", "files_open", "files_failed", "bytes_total", "bytes_done", "outbox_owed", "outbox_dead")
    rows = connection.execute(
        sa.select(runs.c.state, sa.func.count().label("runs"), *(sa.func.sum(runs.c[name]) for name in names)).group_by(
            runs.c.state
        )
    ).all()
    # PostgreSQL adds up BIGINT as NUMERIC.
    sums = [sum(int(row[2 + column]) for row in rows) for column in range(len(names))]
    return Totals(
        runs={RunState(row.state): row.runs for row in rows},
        files_total=sums[0],
        files_open=sums[1],
        files_failed=sums[2],
        bytes_total=sums[3],
        bytes_done=sums[4],
        reports_owed=sums[5],
        reports_dead=sums[6],
    )


def run_exists(connection: sa.Connection, run_id: str) -> bool:
    """Return whether there is such a run, without reading its event, which may be large."""
    return connection.execute(sa.select(runs.c.run_id).where(runs.c.run_id == run_id)).one_or_none() is not None


def moving(connection: sa.Connection, run_id: str | None = None) -> Moving:
    """Return how many files are handed out, of one run or of all; the dispatcher's window bounds both."""
    statement = sa.select(files.c.state, sa.func.count()).where(_OUTSTANDING)
    if run_id is not None:
        statement = statement.where(files.c.run_id == run_id)
    counts = {state: count for state, count in connection.execute(statement.group_by(files.c.state))}
    return Moving(queued=counts.get(FileState.QUEUED, 0), running=counts.get(FileState.RUNNING, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Files of one run that failed alike, and the first of them as a sample."""

    error_class: str
    files: int
    file_no: int
    file_id: str | None
    path: str
    error_detail: str | None


def failures(connection: sa.Connection, run_id: str, *, limit: int = FAILURES_MAX) -> list[FailureGroup]:
    """Return the failed files of a run by error class, largest group first, counting at most `limit` of each state."""
    found: dict[str, tuple[int, int]] = {}
    for state in (FileState.FAILED, FileState.DEAD):
        some = (
            sa.select(files.c.error_class, files.c.file_no)
            .where(files.c.run_id == run_id, files.c.state == state)
            .order_by(files.c.file_no)
            .limit(limit)
            .subquery()
        )
        for error_class, count, first_no in connection.execute(
            sa.select(some.c.error_class, sa.func.count(), sa.func.min(some.c.file_no)).group_by(some.c.error_class)
        ):
            known, known_no = found.get(error_class or "internal", (0, first_no))
            found[error_class or "internal"] = (known + count, min(known_no, first_no))
    samples = {
        row.file_no: row
        for row in connection.execute(
            sa.select(files.c.file_no, files.c.file_id, files.c.path, files.c.error_detail).where(
                files.c.run_id == run_id, files.c.file_no.in_([file_no for _, file_no in found.values()])
            )
        )
    }
    groups = [
        FailureGroup(error_class=error_class, files=count, **samples[file_no]._mapping)
        for error_class, (count, file_no) in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.files, group.error_class))


def _oldest_ready_s(connection: sa.Connection) -> float | None:
    """Look at the first file that is due in the oldest run that has one: since it was accepted, replayed or due."""
    due = (
        sa.select(files.c.not_before_ms)
        .where(files.c.run_id == runs.c.run_id, files.c.state == _READY, files.c.not_before_ms <= now_ms())
        .limit(1)
    )
    row = connection.execute(
        sa.select(
            (now_ms() - sa.func.coalesce(runs.c.replayed_at_ms, runs.c.created_at_ms)).label("run_ms"),
            (now_ms() - due.scalar_subquery()).label("due_ms"),
        )
        .where(runs.c.state.in_([RunState.EXPANDING, RunState.RUNNING]), runs.c.files_open > 0, due.exists())
        .order_by(runs.c.run_id)
        .limit(1)
    ).one_or_none()
    return None if row is None else max(0, min(row.run_ms, row.due_ms)) / 1000


def _oldest_queued_s(connection: sa.Connection) -> float | None:
    oldest = sa.select(sa.func.min(files.c.queued_at_ms)).where(_OUTSTANDING, files.c.state == _QUEUED)
    return _age_s(connection, oldest.scalar_subquery())


def _oldest_owed_s(connection: sa.Connection) -> float | None:
    owing = (
        sa.select(runs.c.run_id).where(runs.c.outbox_owed > 0).order_by(runs.c.run_id).limit(LOOKED_AT_MAX).subquery()
    )
    first = (
        sa.select(outbox.c.created_at_ms)
        .where(outbox.c.run_id == owing.c.run_id, _UNDELIVERED)
        .order_by(outbox.c.seq)
        .limit(1)
        .scalar_subquery()
    )
    since = sa.select(first.label("since_ms")).select_from(owing).subquery()
    return _age_s(connection, sa.select(sa.func.min(since.c.since_ms)).scalar_subquery())


def _oldest_unlisted_s(connection: sa.Connection) -> float | None:
    oldest = (
        sa.select(sa.func.coalesce(runs.c.replayed_at_ms, runs.c.created_at_ms))
        .where(runs.c.state.in_([RunState.ACCEPTED, RunState.EXPANDING]))
        .order_by(runs.c.run_id)
        .limit(1)
        .scalar_subquery()
    )
    return _age_s(connection, oldest)


def _age_s(connection: sa.Connection, since_ms: sa.ScalarSelect[int]) -> float | None:
    age_ms = connection.execute(sa.select(now_ms() - since_ms)).scalar_one()
    return None if age_ms is None else max(0, age_ms) / 1000
