"""Expansion: the files of a run become rows, page by page, by one lister at a time, under a fence."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, RunState
from hashmill.domain.work import NewFile, Report
from hashmill.ledger import entries, outbox
from hashmill.ledger.engine import now_ms
from hashmill.ledger.rows import insert
from hashmill.ledger.runs import Run, get, settle_if_done
from hashmill.ledger.tables import files, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The right to list the files of a run, as long as `fence` is the ledger's. `event` says which files.

    `lapsed` says that the lister before did not give it back: its process died, or lost the ledger.
    """

    run: Run
    event: Mapping[str, Any]
    fence: int
    cursor: Mapping[str, Any]
    attempts: int
    lapsed: bool


def claim(
    connection: sa.Connection, run_id: str, *, lease_s: float, running: Report, entry: Mapping[str, Any]
) -> Expansion | None:
    """Take the expansion of a run; None when it is done, somebody else's, or not due yet.

    The first claim makes the run `expanding` and owes LABDRIVE the status RUNNING.
    """
    until_ms = connection.execute(sa.select(runs.c.expand_until_ms).where(runs.c.run_id == run_id)).scalar_one_or_none()
    row = connection.execute(
        sa.update(runs)
        .where(
            runs.c.run_id == run_id,
            runs.c.state.in_([RunState.ACCEPTED, RunState.EXPANDING]),
            sa.or_(runs.c.expand_until_ms.is_(None), runs.c.expand_until_ms < now_ms()),
            runs.c.expand_after_ms <= now_ms(),
        )
        .values(expand_fence=runs.c.expand_fence + 1, expand_until_ms=now_ms() + int(lease_s * 1000))
        .returning(runs.c.expand_fence, runs.c.expand_cursor, runs.c.expand_attempts, runs.c.event)
    ).one_or_none()
    if row is None:
        return None
    begun = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run_id, runs.c.state == RunState.ACCEPTED)
        .values(state=RunState.EXPANDING)
        .returning(runs.c.tenant_id, runs.c.shard)
    ).one_or_none()
    if begun is not None:
        outbox.owe(connection, run_id, [running], shard=begun.shard)
        entries.append(connection, run_id, [("run_started", entry)], tenant_id=begun.tenant_id, shard=begun.shard)
    run = get(connection, run_id)
    assert run is not None  # noqa: S101 - its row has just been written
    cursor = json.loads(row.expand_cursor) if row.expand_cursor else {}
    return Expansion(
        run=run,
        event=json.loads(row.event),
        fence=row.expand_fence,
        cursor=cursor,
        attempts=row.expand_attempts,
        lapsed=until_ms is not None,
    )


def renew(connection: sa.Connection, expansion: Expansion, *, lease_s: float) -> bool:
    """Keep the expansion for `lease_s` more; False when it is not ours any more."""
    held = connection.execute(
        sa.update(runs)
        .where(
            runs.c.run_id == expansion.run.run_id,
            runs.c.expand_fence == expansion.fence,
            runs.c.state == RunState.EXPANDING,
        )
        .values(expand_until_ms=now_ms() + int(lease_s * 1000))
    ).rowcount
    return bool(held)


def know_storage(connection: sa.Connection, expansion: Expansion, storage_id: str) -> None:
    """Write down in which LABDRIVE storage the run's container lives: it decides where its objects are read."""
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == expansion.run.run_id, runs.c.expand_fence == expansion.fence)
        .values(storage_id=storage_id)
    )


def add_files(
    connection: sa.Connection,
    expansion: Expansion,
    found: Sequence[NewFile],
    *,
    cursor: Mapping[str, Any],
    lease_s: float,
    failures: Sequence[tuple[NewFile, Mapping[str, Any], Sequence[Report]]] = (),
) -> bool:
    """Write a page of files and the cursor behind it in one transaction; False when the expansion is not ours any more.

    A file that is there already stays as it is. `failures` are files that cannot be worked, with the entry and the
    reports of each: they are written as failed.
    """
    run_id = expansion.run.run_id
    held = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run_id, runs.c.expand_fence == expansion.fence, runs.c.state == RunState.EXPANDING)
        .values(
            expand_cursor=json.dumps(cursor),
            expand_until_ms=now_ms() + int(lease_s * 1000),
            expand_attempts=0,
        )
    ).rowcount
    if not held:
        return False
    everything = [*found, *(file for file, _, _ in failures)]
    if not everything:
        return True
    refs = {file.file_ref for file in everything}
    there = _known_refs(connection, run_id, refs)
    fresh = {file.file_ref: file for file in everything if file.file_ref not in there}
    if not fresh:
        return True
    highest = connection.execute(sa.select(sa.func.max(files.c.file_no)).where(files.c.run_id == run_id)).scalar_one()
    first = 1 if highest is None else highest + 1
    numbers = {ref: first + offset for offset, ref in enumerate(fresh)}
    at_ms = entries.clock_ms(connection)
    rows = [
        {
            "run_id": run_id,
            "file_no": numbers[ref],
            "tenant_id": expansion.run.tenant_id,
            "shard": expansion.run.shard,
            "file_ref": ref,
            "file_id": file.file_id,
            "path": file.path,
            "size_bytes": file.size_bytes,
            "size_class": file.size_class,
            "state": FileState.FAILED if file.error_class else FileState.READY,
            "epoch": 0,
            "fence": 0,
            "attempts": 0,
            "lost_leases": 0,
            "generation": expansion.run.generation,
            "not_before_ms": 0,
            "error_class": file.error_class,
            "error_detail": file.error_detail,
            "finished_at_ms": at_ms if file.error_class else None,
        }
        for ref, file in fresh.items()
    ]
    insert(connection, files, rows)
    failed = [(file, body, reports) for file, body, reports in failures if file.file_ref in numbers]
    entries.append(
        connection,
        run_id,
        [
            ("file_failed", {**body, "file_no": numbers[file.file_ref], "generation": expansion.run.generation})
            for file, body, _ in failed
        ],
        tenant_id=expansion.run.tenant_id,
        shard=expansion.run.shard,
    )
    outbox.owe(
        connection, run_id, [report for _, _, reports in failed for report in reports], shard=expansion.run.shard
    )
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run_id)
        .values(
            files_total=runs.c.files_total + len(rows),
            files_open=runs.c.files_open + sum(row["state"] == FileState.READY for row in rows),
            files_failed=runs.c.files_failed + len(failed),
            bytes_total=runs.c.bytes_total + sum(file.size_bytes or 0 for file in fresh.values()),
        )
    )
    return True


def _known_refs(connection: sa.Connection, run_id: str, refs: set[str]) -> set[str]:
    known: set[str] = set()
    wanted = list(refs)
    for start in range(0, len(wanted), 500):
        known.update(
            connection.execute(
                sa.select(files.c.file_ref).where(
                    files.c.run_id == run_id, files.c.file_ref.in_(wanted[start : start + 500])
                )
            ).scalars()
        )
    return known


def end(connection: sa.Connection, expansion: Expansion, entry: Mapping[str, Any]) -> bool:
    """All files are written: the run is `running`, or `settled` at once when none is open."""
    run = expansion.run
    held = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run.run_id, runs.c.expand_fence == expansion.fence, runs.c.state == RunState.EXPANDING)
        .values(
            state=RunState.RUNNING, expanded_at_ms=now_ms(), expand_until_ms=None, error_class=None, error_detail=None
        )
        .returning(runs.c.files_total, runs.c.bytes_total)
    ).one_or_none()
    if held is None:
        return False
    body = {**entry, "files": held.files_total, "size_bytes": held.bytes_total}
    entries.append(connection, run.run_id, [("run_expanded", body)], tenant_id=run.tenant_id, shard=run.shard)
    settle_if_done(connection, run.run_id)
    return True


def postpone(
    connection: sa.Connection, expansion: Expansion, *, after_s: float, error_class: ErrorClass, detail: str
) -> None:
    """Give the expansion back; it is due again after `after_s` seconds and counts one attempt more.

    The fence rises with it, so that a renewal still under way does not take it again. A listing that is through stays
    through: the answer that said so may have been the trouble.
    """
    connection.execute(
        sa.update(runs)
        .where(
            runs.c.run_id == expansion.run.run_id,
            runs.c.expand_fence == expansion.fence,
            runs.c.state == RunState.EXPANDING,
        )
        .values(
            expand_fence=runs.c.expand_fence + 1,
            expand_until_ms=None,
            expand_after_ms=now_ms() + int(after_s * 1000),
            expand_attempts=runs.c.expand_attempts + 1,
            error_class=error_class,
            error_detail=detail,
        )
    )


def release(connection: sa.Connection, expansion: Expansion) -> None:
    """Give the expansion back at once, no attempt counted: this process was told to stop."""
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == expansion.run.run_id, runs.c.expand_fence == expansion.fence)
        .values(expand_fence=runs.c.expand_fence + 1, expand_until_ms=None)
    )


def fail(
    connection: sa.Connection, expansion: Expansion, *, error_class: ErrorClass, detail: str, entry: Mapping[str, Any]
) -> bool:
    """No further file of this run can be listed: what is written is worked to its end, then the run fails.

    `expanded_at_ms` stays empty: that is how a replay knows that the listing is to be tried again.
    """
    run = expansion.run
    held = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run.run_id, runs.c.expand_fence == expansion.fence, runs.c.state == RunState.EXPANDING)
        .values(
            state=RunState.RUNNING,
            expand_until_ms=None,
            error_class=error_class,
            error_detail=detail,
        )
    ).rowcount
    if not held:
        return False
    entries.append(connection, run.run_id, [("run_not_expanded", entry)], tenant_id=run.tenant_id, shard=run.shard)
    settle_if_done(connection, run.run_id)
    return True


def due(connection: sa.Connection, *, limit: int = 50) -> list[str]:
    """Return runs whose files wait to be listed by somebody, oldest first."""
    return list(
        connection.execute(
            sa.select(runs.c.run_id)
            .where(
                runs.c.state.in_([RunState.ACCEPTED, RunState.EXPANDING]),
                sa.or_(runs.c.expand_until_ms.is_(None), runs.c.expand_until_ms < now_ms()),
                runs.c.expand_after_ms <= now_ms(),
            )
            .order_by(runs.c.run_id)
            .limit(limit)
        ).scalars()
    )
