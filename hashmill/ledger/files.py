"""Files: queued by the dispatcher, claimed under a lease, settled under a fence, taken back by the sweep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from hashmill.domain.counted import Counted
from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, RunState, SizeClass
from hashmill.domain.work import ClaimedFile, FileOutcome, Ticket
from hashmill.ledger import counters, results, slices
from hashmill.ledger.engine import now_ms
from hashmill.ledger.rows import among_given
from hashmill.ledger.tables import among, files, runs

OUTSTANDING = (FileState.QUEUED, FileState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that may have files to hand out; `priority` 0 is the most urgent, 9 the least."""

    run_id: str
    tenant_id: str
    api_url: str
    priority: int


RUNS_MAX = 1000
"""Most runs of one tenant and API that are looked at together: the most urgent ones, the oldest of them first."""


def open_runs(connection: sa.Connection, size_class: SizeClass) -> list[OpenRun]:
    """Return the runs that have files of this class to hand out now, oldest first, at most `RUNS_MAX` of an API."""
    rows = connection.execute(_opened(size_class))
    return [OpenRun(**row._mapping) for row in rows]


@cache
def _opened(size_class: SizeClass) -> sa.Select[tuple[str, str, str, int]]:
    ready = sa.exists().where(
        files.c.run_id == runs.c.run_id,
        files.c.size_class == size_class,
        files.c.state == FileState.READY,
        files.c.not_before_ms <= now_ms(),
    )
    of_one = (runs.c.tenant_id, runs.c.api_url)
    place = sa.func.row_number().over(partition_by=of_one, order_by=(runs.c.priority, runs.c.run_id))
    found = (
        sa.select(runs.c.run_id, *of_one, runs.c.priority, place.label("place"))
        .where(runs.c.state.in_([RunState.EXPANDING, RunState.RUNNING]), runs.c.files_open > 0, ready)
        .subquery()
    )
    return (
        sa.select(found.c.run_id, found.c.tenant_id, found.c.api_url, found.c.priority)
        .where(found.c.place <= RUNS_MAX)
        .order_by(found.c.run_id)
    )


def outstanding(connection: sa.Connection) -> dict[SizeClass, int]:
    """Return how many files are queued or running, by size class."""
    rows = connection.execute(
        sa.select(files.c.size_class, sa.func.count())
        .where(among(files.c.state, *OUTSTANDING))
        .group_by(files.c.size_class)
    )
    return {SizeClass(size_class): count for size_class, count in rows}


def queue(
    connection: sa.Connection, run_id: str, size_class: SizeClass, *, after_no: int, limit: int
) -> tuple[tuple[int, int], ...]:
    """Queue the next ready files of a run behind `after_no` and return their (file_no, epoch).

    The caller walks each run with a cursor: taking from the head of the table again and again would walk
    over the dead index entries of everything taken before.
    """
    dialect = connection.dialect.name
    given = {"b_run_id": run_id, "b_class": size_class, "b_after": after_no, "b_limit": limit}
    numbers = connection.execute(_next_ready(), given).scalars().all()
    if not numbers:
        return ()
    rows = connection.execute(_queueing(dialect), {"b_run_id": run_id, "b_numbers": numbers})
    return tuple(sorted((row.file_no, row.epoch) for row in rows))


@cache
def _next_ready() -> sa.Select[tuple[int]]:
    return (
        sa.select(files.c.file_no)
        .where(
            files.c.run_id == sa.bindparam("b_run_id"),
            files.c.size_class == sa.bindparam("b_class"),
            among(files.c.state, FileState.READY),
            files.c.file_no > sa.bindparam("b_after"),
            files.c.not_before_ms <= now_ms(),
        )
        .order_by(files.c.file_no)
        .limit(sa.bindparam("b_limit", type_=sa.Integer))
    )


@cache
def _queueing(dialect: str) -> ReturningUpdate[tuple[int, int]]:
    return (
        sa.update(files)
        .where(
            files.c.run_id == sa.bindparam("b_run_id"),
            among_given(files.c.file_no, "b_numbers", dialect=dialect),
            files.c.state == FileState.READY,
        )
        .values(state=FileState.QUEUED, epoch=files.c.epoch + 1, queued_at_ms=now_ms())
        .returning(files.c.file_no, files.c.epoch)
    )


def unqueue(connection: sa.Connection, ticket: Ticket) -> None:
    """Take back a ticket that could not be published: its files are ready again."""
    numbers = _lock_queued(connection, ticket)
    connection.execute(_unqueueing(connection.dialect.name), {"b_run_id": ticket.run_id, "b_numbers": numbers})


@cache
def _unqueueing(dialect: str) -> sa.Update:
    mine = (files.c.run_id == sa.bindparam("b_run_id"), among_given(files.c.file_no, "b_numbers", dialect=dialect))
    return sa.update(files).where(*mine).values(state=FileState.READY)


def _lock_queued(connection: sa.Connection, ticket: Ticket) -> list[int]:
    """Lock the files of a ticket that are still queued in its epoch, and return their numbers.

    A row somebody else has locked is on its way to another state: it is passed over, so that nobody waits here.
    """
    epochs = dict(ticket.files)
    given = {"b_run_id": ticket.run_id, "b_numbers": list(epochs)}
    rows = connection.execute(_locking_queued(connection.dialect.name), given)
    return [row.file_no for row in rows if row.epoch == epochs[row.file_no]]


@cache
def _locking_queued(dialect: str) -> sa.Select[tuple[int, int]]:
    return (
        sa.select(files.c.file_no, files.c.epoch)
        .where(
            files.c.run_id == sa.bindparam("b_run_id"),
            among_given(files.c.file_no, "b_numbers", dialect=dialect),
            files.c.state == FileState.QUEUED,
        )
        .with_for_update(skip_locked=True)
    )


def unclaimed(connection: sa.Connection, *, older_than_s: float) -> bool:
    """Return whether there is a file that has been queued for so long and that nobody claimed."""
    late = sa.exists().where(
        among(files.c.state, *OUTSTANDING),
        among(files.c.state, FileState.QUEUED),
        files.c.queued_at_ms < now_ms() - int(older_than_s * 1000),
    )
    return bool(connection.execute(sa.select(late)).scalar_one())


def reissue(connection: sa.Connection, *, older_than_s: float, limit: int = 5000) -> int:
    """Make files ready again whose ticket nobody claimed for so long; return how many.

    The next ticket carries a new epoch, so the old one, should it still turn up, claims nothing.
    """
    late = (
        sa.select(files.c.run_id, files.c.file_no)
        .where(
            among(files.c.state, *OUTSTANDING),
            among(files.c.state, FileState.QUEUED),
            files.c.queued_at_ms < now_ms() - int(older_than_s * 1000),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    count = connection.execute(
        sa.update(files)
        .where(sa.tuple_(files.c.run_id, files.c.file_no).in_(late), files.c.state == FileState.QUEUED)
        .values(state=FileState.READY)
    ).rowcount
    counters.add(connection, Counted.TICKETS_REISSUED, count)
    return count


def claim(connection: sa.Connection, ticket: Ticket, *, owner: str, lease_s: float) -> list[ClaimedFile]:
    """Claim the files of a ticket that are still queued in the ticket's epoch; each gets a new fence.

    `owner` names this very claim, so that its leases end with it even when its process lives on.
    """
    numbers = _lock_queued(connection, ticket)
    if not numbers:
        return []
    given = {"b_run_id": ticket.run_id, "b_numbers": numbers, "b_owner": owner, "b_lease_ms": int(lease_s * 1000)}
    rows = connection.execute(_claiming(connection.dialect.name), given)
    claimed = sorted((ClaimedFile(**row._mapping) for row in rows), key=lambda file: file.file_no)
    return slices.with_saved(connection, ticket.run_id, claimed) if ticket.size_class is SizeClass.BIG else claimed


@cache
def _claiming(dialect: str) -> ReturningUpdate[Any]:
    return (
        sa.update(files)
        .where(files.c.run_id == sa.bindparam("b_run_id"), among_given(files.c.file_no, "b_numbers", dialect=dialect))
        .values(
            state=FileState.RUNNING,
            fence=files.c.fence + 1,
            lease_owner=sa.bindparam("b_owner"),
            lease_until_ms=now_ms() + sa.bindparam("b_lease_ms", type_=sa.BigInteger),
        )
        .returning(*(files.c[name] for name in ClaimedFile.__slots__ if name in files.c))
    )


def renew(connection: sa.Connection, *, owners: Sequence[str], lease_s: float) -> int:
    """Renew every lease that one of `owners` holds, in one statement; return how many.

    A lease that has run out, but that nobody took back, lives again: the fence is still its owner's, and a ledger that
    was away for a while is no reason to read a large object twice. A file whose result is just being written is passed
    over: waiting for it could be waiting for each other.
    """
    held = (
        sa.select(files.c.run_id, files.c.file_no)
        .where(
            files.c.lease_owner.in_(owners),
            among(files.c.state, FileState.RUNNING),
        )
        .with_for_update(skip_locked=True)
    )
    return connection.execute(
        sa.update(files)
        .where(sa.tuple_(files.c.run_id, files.c.file_no).in_(held))
        .values(lease_until_ms=now_ms() + int(lease_s * 1000))
    ).rowcount


def release(connection: sa.Connection, *, owner: str) -> None:
    """Give back what `owner` has claimed and not settled, no attempt counted."""
    held = (files.c.lease_owner == owner, among(files.c.state, FileState.RUNNING))
    # Locked in the order in which `settle` locks: a result of these may be on its way.
    connection.execute(sa.select(files.c.file_no).where(*held).order_by(files.c.file_no).with_for_update())
    free = {"state": FileState.READY, "lease_owner": None, "lease_until_ms": None}
    connection.execute(sa.update(files).where(*held).values(free))


def settle(connection: sa.Connection, run_id: str, outcomes: Sequence[FileOutcome]) -> int:
    """Write results, ledger entries, reports and the run's counters in this one transaction.

    Only outcomes whose fence is still the ledger's are written; returns how many were refused.
    """
    if not outcomes:
        return 0
    ours = _write_ours(connection, run_id, outcomes)
    refused = len(outcomes) - len(ours)
    counters.add(connection, Counted.RESULTS_REFUSED, refused)
    counters.add(connection, Counted.FILES_POISONED, sum(one.error_class is ErrorClass.POISON for one in ours))
    return refused


def _write_ours(connection: sa.Connection, run_id: str, outcomes: Sequence[FileOutcome]) -> list[FileOutcome]:
    """Write the outcomes whose fence is still the ledger's and return them."""
    numbers = [outcome.file_no for outcome in outcomes]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"two outcomes for one file of run {run_id}")
    found = connection.execute(_locking_running(connection.dialect.name), {"b_run_id": run_id, "b_numbers": numbers})
    running = {row.file_no: row for row in found}
    ours = [
        outcome
        for outcome in outcomes
        if outcome.file_no in running and running[outcome.file_no].fence == outcome.fence
    ]
    if ours:
        slices.keep(connection, run_id, ours)
        results.write(connection, run_id, ours, {file_no: row.size_bytes or 0 for file_no, row in running.items()})
    return ours


@cache
def _locking_running(dialect: str) -> sa.Select[tuple[int, int, int]]:
    return (
        sa.select(files.c.file_no, files.c.fence, files.c.size_bytes)
        .where(
            files.c.run_id == sa.bindparam("b_run_id"),
            among_given(files.c.file_no, "b_numbers", dialect=dialect),
            files.c.state == FileState.RUNNING,
        )
        .order_by(files.c.file_no)
        .with_for_update()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LapsedFile:
    """A running file whose lease ran out; `lost_leases` counts the losses before this one."""

    run_id: str
    file_no: int
    file_id: str
    path: str
    size_bytes: int | None
    fence: int
    attempts: int
    generation: int
    lost_leases: int
    lease_owner: str | None


def lapsed(connection: sa.Connection, *, limit: int = 500) -> list[LapsedFile]:
    """Return running files whose lease ran out, and lock their rows. `lost_leases` is what they had lost before."""
    rows = connection.execute(
        sa.select(*(files.c[name] for name in LapsedFile.__slots__))
        .where(
            among(files.c.state, *OUTSTANDING),
            among(files.c.state, FileState.RUNNING),
            files.c.lease_until_ms < now_ms(),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    # Ordered here: asked for an order, SQLite walks the whole table for the sake of it.
    return sorted((LapsedFile(**row._mapping) for row in rows), key=lambda file: (file.run_id, file.file_no))


def take_back(connection: sa.Connection, found: Sequence[LapsedFile]) -> None:
    """Make lapsed files ready again, `lost_leases` as given; the fence rises, so the late owner writes nothing."""
    for file in found:
        connection.execute(
            sa.update(files)
            .where(files.c.run_id == file.run_id, files.c.file_no == file.file_no, files.c.fence == file.fence)
            .values(
                state=FileState.READY,
                fence=files.c.fence + 1,
                lost_leases=file.lost_leases,
                lease_owner=None,
                lease_until_ms=None,
                error_class=ErrorClass.LEASE_LOST,
                error_detail=f"the lease of {file.lease_owner} ran out",
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One file of a run as the ledger shows it."""

    file_no: int
    file_id: str | None
    path: str
    size_bytes: int | None
    state: FileState
    attempts: int
    generation: int
    error_class: str | None
    error_detail: str | None
    verdict: str | None
    digests: Mapping[str, str]
    provider_checksums: Sequence[Mapping[str, Any]]
    etag: str | None
    version_id: str | None
    finished_at_ms: int | None


def of_run(
    connection: sa.Connection,
    run_id: str,
    *,
    states: Sequence[FileState] = (),
    error_class: str | None = None,
    after_no: int = 0,
    limit: int = 100,
) -> list[FileRow]:
    """Return the files of a run by number, from just behind `after_no`."""
    columns = [files.c[name] for name in FileRow.__slots__]
    statement = (
        sa.select(*columns)
        .where(files.c.run_id == run_id, files.c.file_no > after_no)
        .order_by(files.c.file_no)
        .limit(limit)
    )
    if states:
        statement = statement.where(files.c.state.in_(states))
    if error_class is not None:
        statement = statement.where(files.c.error_class == error_class)
    found = []
    for row in connection.execute(statement):
        values = dict(row._mapping)
        values["state"] = FileState(values["state"])
        values["digests"] = json.loads(values["digests"]) if values["digests"] else {}
        values["provider_checksums"] = json.loads(values["provider_checksums"] or "[]")
        found.append(FileRow(**values))
    return found


def count_by_state(connection: sa.Connection, run_id: str | None = None) -> dict[str, int]:
    """Return how many files are in each state, in one run or in all."""
    statement = sa.select(files.c.state, sa.func.count()).group_by(files.c.state)
    if run_id is not None:
        statement = statement.where(files.c.run_id == run_id)
    return {state: count for state, count in connection.execute(statement)}


def count_by_verdict(connection: sa.Connection, run_id: str) -> dict[str, int]:
    """Return how many files of a run got each verdict. It looks at every file of the run."""
    rows = connection.execute(
        sa.select(files.c.verdict, sa.func.count())
        .where(files.c.run_id == run_id, files.c.verdict.is_not(None))
        .group_by(files.c.verdict)
        .order_by(files.c.verdict)
    )
    return {verdict: count for verdict, count in rows if verdict is not None}


def failed_by_class(connection: sa.Connection, run_id: str) -> dict[str, int]:
    """Return how many files of a run failed, by error class."""
    rows = connection.execute(
        sa.select(files.c.error_class, sa.func.count())
        .where(files.c.run_id == run_id, files.c.state.in_([FileState.FAILED, FileState.DEAD]))
        .group_by(files.c.error_class)
        .order_by(files.c.error_class)
    )
    return {error_class or "internal": count for error_class, count in rows}
