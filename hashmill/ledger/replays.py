"""Replay in the ledger: which files it would take, and opening them and their run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hashmill.domain.job import FileState, Mode, RunState
from hashmill.domain.work import Report
from hashmill.ledger import entries, outbox, seal
from hashmill.ledger.engine import now_ms
from hashmill.ledger.runs import Run, lock, settle_if_done
from hashmill.ledger.tables import files, runs

FAILED = (FileState.FAILED, FileState.DEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What would be read again in one run. `size_bytes` counts what is known; sizes that are not count as 0."""

    run_id: str
    mode: Mode
    files: int
    size_bytes: int
    by_class: Mapping[str, int]
    reports_dead: int


def select(
    connection: sa.Connection,
    run_id: str,
    *,
    everything: bool,
    error_class: str | None = None,
    file_ids: Sequence[str] = (),
) -> Selection:
    """Return what a replay of this run would take: its failed files, or all, narrowed by class and ids."""
    rows = connection.execute(
        sa.select(
            sa.func.coalesce(files.c.error_class, "").label("error_class"),
            sa.func.count().label("files"),
            sa.func.coalesce(sa.func.sum(files.c.size_bytes), 0).label("size_bytes"),
        )
        .where(*_taken(run_id, everything=everything, error_class=error_class, file_ids=file_ids))
        .group_by(files.c.error_class)
    ).all()
    run = connection.execute(sa.select(runs.c.outbox_dead, runs.c.mode).where(runs.c.run_id == run_id)).one_or_none()
    return Selection(
        run_id=run_id,
        mode=Mode(run.mode or Mode.HASH) if run else Mode.HASH,
        files=sum(row.files for row in rows),
        size_bytes=int(sum(row.size_bytes for row in rows)),
        by_class={row.error_class or "none": row.files for row in rows},
        reports_dead=run.outbox_dead if run else 0,
    )


def _taken(run_id: str, *, everything: bool, error_class: str | None, file_ids: Sequence[str]) -> list[Any]:
    conditions: list[Any] = [
        files.c.run_id == run_id,
        files.c.state.in_(_states(everything=everything)),
    ]
    if error_class is not None:
        conditions.append(files.c.error_class == error_class)
    if file_ids:
        conditions.append(files.c.file_id.in_(file_ids))
    return conditions


def reopen(
    connection: sa.Connection,
    run: Run,
    *,
    everything: bool,
    error_class: str | None,
    file_ids: Sequence[str],
    reports: Sequence[Report],
    entry: Mapping[str, Any],
) -> int:
    """Open the chosen files of `run` as new attempts of a new generation, and the run with them; return how many.

    Entries are never touched, so what the earlier attempts found stays readable. What was owed and set aside is owed
    again. A file LABDRIVE did not know is forgotten and looked up anew; a listing that failed goes on where it stopped.
    """
    # Locked before anything is counted: of two replays at once, the second counts what the first has left.
    run = lock(connection, run.run_id) or run
    conditions = _taken(run.run_id, everything=everything, error_class=error_class, file_ids=file_ids)
    unresolved = sa.or_(files.c.path == "", files.c.file_id.is_(None))
    size_bytes = sa.func.coalesce(files.c.size_bytes, 0)
    read = (files.c.state == FileState.DONE, files.c.digests.is_not(None))  # bytes of others were not counted
    before = connection.execute(
        sa.select(
            sa.func.count().filter(files.c.state.in_(FAILED)).label("failed"),
            sa.func.coalesce(sa.func.sum(size_bytes).filter(*read), 0).label("done"),
            sa.func.coalesce(sa.func.sum(size_bytes).filter(unresolved), 0).label("unresolved"),
        ).where(*conditions)
    ).one()
    forgotten = connection.execute(sa.delete(files).where(*conditions, unresolved)).rowcount
    opened = connection.execute(
        sa.update(files)
        .where(*conditions)
        .values(
            state=FileState.READY,
            generation=run.generation + 1,
            attempts=0,
            lost_leases=0,
            not_before_ms=0,
            fence=files.c.fence + 1,
            finished_at_ms=None,
            error_class=None,
            error_detail=None,
            verdict=None,
            digests=None,
            object_ref=None,
            provider_checksums=None,
        )
    ).rowcount
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run.run_id)
        .values(
            generation=run.generation + 1,
            files_total=runs.c.files_total - forgotten,
            files_open=runs.c.files_open + opened,
            files_failed=runs.c.files_failed - before.failed,
            bytes_total=runs.c.bytes_total - before.unresolved,
            bytes_done=runs.c.bytes_done - before.done,
            error_class=None,
            error_detail=None,
            replayed_at_ms=now_ms(),
            settled_at_ms=None,
            finished_at_ms=None,
            **_where_it_goes_on(run, forgotten=forgotten),
        )
    )
    seal.keep(connection, run.run_id)
    outbox.owe(connection, run.run_id, reports, shard=run.shard)
    outbox.revive(connection, run.run_id)
    entries.append(
        connection,
        run.run_id,
        [("run_replayed", {**entry, "files": opened + forgotten, "generation": run.generation + 1})],
        tenant_id=run.tenant_id,
        shard=run.shard,
    )
    settle_if_done(connection, run.run_id)
    return opened + forgotten


def _where_it_goes_on(run: Run, *, forgotten: int) -> dict[str, Any]:
    """Return the state a reopened run is in, and what its listing must know."""
    if run.state is RunState.ACCEPTED or (run.state is RunState.EXPANDING and not forgotten):
        return {}
    if run.expanded_at_ms is not None and not forgotten:
        return {"state": RunState.RUNNING}
    return {
        "state": RunState.EXPANDING,
        # Until the new listing is through, the run is not listed: should it fail, the next replay tries it again.
        "expanded_at_ms": None,
        "expand_fence": runs.c.expand_fence + 1,
        "expand_until_ms": None,
        "expand_after_ms": 0,
        "expand_attempts": 0,
        "expand_cursor": None if forgotten else runs.c.expand_cursor,
    }


def runs_with(connection: sa.Connection, file_ids: Sequence[str], *, everything: bool) -> list[str]:
    """Return the ids of runs, newest first, that hold a failed file, or any that ended, with one of these ids."""
    return list(
        connection.execute(
            sa.select(files.c.run_id)
            .where(files.c.file_id.in_(file_ids), files.c.state.in_(_states(everything=everything)))
            .distinct()
            .order_by(files.c.run_id.desc())
        ).scalars()
    )


def _states(*, everything: bool) -> list[FileState]:
    return [FileState.DONE, *FAILED] if everything else [*FAILED]
