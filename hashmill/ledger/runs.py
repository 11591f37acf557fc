"""Runs: accepted once, expanded page by page, settled by the last file, ended by the last report."""

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
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import files, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One accepted event as the ledger shows it. `event` is the public event: it holds no key."""

    run_id: str
    tenant_id: str
    shard: int
    idempotency_key: str
    event_digest: str
    event: Mapping[str, Any]
    job_id: str
    container_id: str
    storage_id: str | None
    priority: int
    state: RunState
    generation: int
    files_total: int
    files_open: int
    files_failed: int
    bytes_total: int
    bytes_done: int
    outbox_owed: int
    outbox_dead: int
    error_class: str | None
    error_detail: str | None
    created_at_ms: int
    expanded_at_ms: int | None
    settled_at_ms: int | None
    finished_at_ms: int | None


_COLUMNS = [runs.c[name] for name in Run.__slots__]


def _run(row: Any) -> Run:
    values = dict(row._mapping)
    values["event"] = json.loads(values["event"])
    values["state"] = RunState(values["state"])
    return Run(**values)


def accept(
    connection: sa.Connection,
    *,
    tenant_id: str,
    idempotency_key: str,
    event_digest: str,
    event: Mapping[str, Any],
    job_id: str,
    container_id: str,
    priority: int,
    entry: Mapping[str, Any],
) -> tuple[Run, bool]:
    """Return the run of this idempotency key and whether this call made it.

    When two posts race, one makes the run and both get it. Comparing digests is the caller's.
    """
    run_id = entries.new_id()
    insert = insert_for(connection)
    statement = (
        insert(runs)
        .values(
            run_id=run_id,
            tenant_id=tenant_id,
            shard=0,
            idempotency_key=idempotency_key,
            event_digest=event_digest,
            event=json.dumps(event, ensure_ascii=False),
            job_id=job_id,
            container_id=container_id,
            priority=priority,
            state=RunState.ACCEPTED,
            generation=0,
            expand_fence=0,
            expand_after_ms=0,
            expand_attempts=0,
            files_total=0,
            files_open=0,
            files_failed=0,
            bytes_total=0,
            bytes_done=0,
            outbox_seq=0,
            outbox_owed=0,
            outbox_dead=0,
            created_at_ms=now_ms(),
        )
        .on_conflict_do_nothing(index_elements=[runs.c.tenant_id, runs.c.idempotency_key])
        .returning(runs.c.run_id)
    )
    made = connection.execute(statement).one_or_none() is not None
    if made:
        entries.append(connection, run_id, [("run_accepted", entry)], tenant_id=tenant_id, shard=0)
    found = connection.execute(
        sa.select(*_COLUMNS).where(runs.c.tenant_id == tenant_id, runs.c.idempotency_key == idempotency_key)
    ).one()
    return _run(found), made


def get(connection: sa.Connection, run_id: str) -> Run | None:
    """Return one run, or None."""
    row = connection.execute(sa.select(*_COLUMNS).where(runs.c.run_id == run_id)).one_or_none()
    return _run(row) if row else None


def lock(connection: sa.Connection, run_id: str) -> Run | None:
    """Return one run as it is now, and let nobody else change it before this transaction ends."""
    row = connection.execute(sa.select(*_COLUMNS).where(runs.c.run_id == run_id).with_for_update()).one_or_none()
    return _run(row) if row else None


def age_s(connection: sa.Connection, run_id: str) -> float:
    """Return for how long the run has been in the ledger, in seconds; since its newest replay, when there was one."""
    age_ms = connection.execute(
        sa.select(now_ms() - sa.func.coalesce(runs.c.replayed_at_ms, runs.c.created_at_ms)).where(
            runs.c.run_id == run_id
        )
    ).scalar_one()
    return float(age_ms) / 1000


def of_job(connection: sa.Connection, job_id: str) -> list[Run]:
    """Return the runs of one LABDRIVE job, newest first: a job may have been posted for more than once."""
    rows = connection.execute(sa.select(*_COLUMNS).where(runs.c.job_id == job_id).order_by(runs.c.run_id.desc()))
    return [_run(row) for row in rows]


def listed(
    connection: sa.Connection,
    *,
    states: Sequence[RunState] = (),
    tenant_id: str | None = None,
    job_id: str | None = None,
    container_id: str | None = None,
    error_class: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[Run]:
    """Return runs newest first, from just before the run `before`: the next page begins where this one ended.

    `error_class` finds runs that failed with it themselves or hold a file that did.
    """
    statement = sa.select(*_COLUMNS).order_by(runs.c.run_id.desc()).limit(limit)
    if states:
        statement = statement.where(runs.c.state.in_(states))
    for column, wanted in (
        (runs.c.tenant_id, tenant_id),
        (runs.c.job_id, job_id),
        (runs.c.container_id, container_id),
    ):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if error_class is not None:
        held = sa.exists().where(
            files.c.run_id == runs.c.run_id,
            files.c.state.in_([FileState.FAILED, FileState.DEAD]),
            files.c.error_class == error_class,
        )
        statement = statement.where(sa.or_(runs.c.error_class == error_class, held))
    if before is not None:
        statement = statement.where(runs.c.run_id < before)
    return [_run(row) for row in connection.execute(statement)]


def count_by_state(connection: sa.Connection) -> dict[str, int]:
    """Return how many runs are in each state."""
    rows = connection.execute(sa.select(runs.c.state, sa.func.count()).group_by(runs.c.state))
    return {state: count for state, count in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The right to list the files of a run, as long as `fence` is the ledger's."""

    run: Run
    fence: int
    cursor: Mapping[str, Any]
    attempts: int


def claim_expansion(
    connection: sa.Connection, run_id: str, *, lease_s: float, running: Report, entry: Mapping[str, Any]
) -> Expansion | None:
    """Take the expansion of a run; None when it is done, somebody else's, or not due yet.

    The first claim makes the run `expanding` and owes LABDRIVE the status RUNNING.
    """
    row = connection.execute(
        sa.update(runs)
        .where(
            runs.c.run_id == run_id,
            runs.c.state.in_([RunState.ACCEPTED, RunState.EXPANDING]),
            sa.or_(runs.c.expand_until_ms.is_(None), runs.c.expand_until_ms < now_ms()),
            runs.c.expand_after_ms <= now_ms(),
        )
        .values(expand_fence=runs.c.expand_fence + 1, expand_until_ms=now_ms() + int(lease_s * 1000))
        .returning(runs.c.expand_fence, runs.c.expand_cursor, runs.c.expand_attempts, *_COLUMNS)
    ).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    fence, cursor, attempts = (values.pop(name) for name in ("expand_fence", "expand_cursor", "expand_attempts"))
    if values["state"] == RunState.ACCEPTED:
        connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(state=RunState.EXPANDING))
        outbox.owe(connection, run_id, [running], shard=values["shard"])
        entries.append(
            connection, run_id, [("run_started", entry)], tenant_id=values["tenant_id"], shard=values["shard"]
        )
        values["state"] = RunState.EXPANDING
    run = Run(**{**values, "event": json.loads(values["event"]), "state": RunState(values["state"])})
    return Expansion(run=run, fence=fence, cursor=json.loads(cursor) if cursor else {}, attempts=attempts)


def renew_expansion(connection: sa.Connection, expansion: Expansion, *, lease_s: float) -> bool:
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
    connection.execute(sa.insert(files), rows)
    failed = [(file, body, reports) for file, body, reports in failures if file.file_ref in numbers]
    entries.append(
        connection,
        run_id,
        [("file_failed", {**body, "file_no": numbers[file.file_ref]}) for file, body, _ in failed],
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


def end_expansion(connection: sa.Connection, expansion: Expansion, entry: Mapping[str, Any]) -> bool:
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


def postpone_expansion(
    connection: sa.Connection, expansion: Expansion, *, after_s: float, error_class: ErrorClass, detail: str
) -> None:
    """Give the expansion back; it is due again after `after_s` seconds and counts one attempt more."""
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == expansion.run.run_id, runs.c.expand_fence == expansion.fence)
        .values(
            expand_until_ms=None,
            expand_after_ms=now_ms() + int(after_s * 1000),
            expand_attempts=runs.c.expand_attempts + 1,
            error_class=error_class,
            error_detail=detail,
        )
    )


def release_expansion(connection: sa.Connection, expansion: Expansion) -> None:
    """Give the expansion back at once, no attempt counted: this process was told to stop."""
    connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == expansion.run.run_id, runs.c.expand_fence == expansion.fence)
        .values(expand_until_ms=None)
    )


def fail_expansion(
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


def due_expansions(connection: sa.Connection, *, limit: int = 50) -> list[str]:
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


def settle_if_done(connection: sa.Connection, run_id: str) -> bool:
    """Make the run `settled` when no file of it is open; True when this call did it.

    Called in the transaction that may have closed the last file, so exactly one of them sees zero.
    """
    row = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run_id, runs.c.state == RunState.RUNNING, runs.c.files_open == 0)
        .values(state=RunState.SETTLED, settled_at_ms=now_ms())
        .returning(runs.c.tenant_id, runs.c.shard, runs.c.files_total, runs.c.files_failed)
    ).one_or_none()
    if row is None:
        return False
    body = {"files": row.files_total, "files_failed": row.files_failed}
    entries.append(connection, run_id, [("run_settled", body)], tenant_id=row.tenant_id, shard=row.shard)
    return True


def settled(connection: sa.Connection, *, limit: int = 50) -> list[Run]:
    """Return runs all of whose files and reports are through: the closing reports are theirs to owe now."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(runs.c.state == RunState.SETTLED, runs.c.outbox_owed == 0)
        .order_by(runs.c.run_id)
        .limit(limit)
    )
    return [_run(row) for row in rows]


def close(connection: sa.Connection, run: Run, reports: Sequence[Report]) -> bool:
    """Owe the closing reports of a settled run."""
    held = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run.run_id, runs.c.state == RunState.SETTLED, runs.c.outbox_owed == 0)
        .values(state=RunState.CLOSING)
    ).rowcount
    if held:
        outbox.owe(connection, run.run_id, reports, shard=run.shard)
    return bool(held)


def closed(connection: sa.Connection, *, limit: int = 50) -> list[Run]:
    """Return runs whose closing reports are through."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(runs.c.state == RunState.CLOSING, runs.c.outbox_owed == 0)
        .order_by(runs.c.run_id)
        .limit(limit)
    )
    return [_run(row) for row in rows]


def end(
    connection: sa.Connection,
    run: Run,
    *,
    state: RunState,
    error_class: str | None,
    error_detail: str | None,
    entry: Mapping[str, Any],
) -> bool:
    """End a run whose closing reports are through."""
    held = connection.execute(
        sa.update(runs)
        .where(runs.c.run_id == run.run_id, runs.c.state == RunState.CLOSING, runs.c.outbox_owed == 0)
        .values(state=state, finished_at_ms=now_ms(), error_class=error_class, error_detail=error_detail)
    ).rowcount
    if held:
        entries.append(connection, run.run_id, [("run_ended", entry)], tenant_id=run.tenant_id, shard=run.shard)
    return bool(held)
