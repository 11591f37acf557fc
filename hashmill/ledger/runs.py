"""Runs: accepted once, expanded page by page, settled by the last file, ended by the last report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hashmill.domain.job import FileState, Mode, RunState
from hashmill.domain.work import Report
from hashmill.ledger import entries, outbox
from hashmill.ledger.engine import now_ms
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import files, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One accepted event as the ledger shows it, without the event itself: that may name a million files."""

    run_id: str
    tenant_id: str
    shard: int
    idempotency_key: str
    event_digest: str
    api_url: str
    user_id: str
    algorithms: tuple[str, ...]
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
    replayed_at_ms: int | None
    expanded_at_ms: int | None
    settled_at_ms: int | None
    finished_at_ms: int | None
    mode: Mode = Mode.HASH
    function_name: str | None = None
    function_sha256: str | None = None


COLUMNS = [runs.c[name] for name in Run.__slots__]


def run_of(row: Any) -> Run:
    """Return the run in a row of `COLUMNS`."""
    values = dict(row._mapping)
    values["algorithms"] = tuple(json.loads(values["algorithms"]))
    values["state"] = RunState(values["state"])
    values["mode"] = Mode(values["mode"] or Mode.HASH)
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
    function: tuple[str, str] | None = None,
) -> tuple[Run, bool]:
    """Return the run of this idempotency key and whether this call made it.

    `function` are name and SHA-256 of the researcher's function it is for. When two posts race, one makes the run and
    both get it. Comparing digests is the caller's.
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
            api_url=event["api_url"],
            user_id=event["user_id"],
            algorithms=json.dumps(event["algorithms"]),
            job_id=job_id,
            container_id=container_id,
            priority=priority,
            mode=Mode.FUNCTION if function else event.get("mode"),
            function_name=function[0] if function else None,
            function_sha256=function[1] if function else None,
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
        sa.select(*COLUMNS).where(runs.c.tenant_id == tenant_id, runs.c.idempotency_key == idempotency_key)
    ).one()
    return run_of(found), made


def get(connection: sa.Connection, run_id: str) -> Run | None:
    """Return one run, or None."""
    row = connection.execute(sa.select(*COLUMNS).where(runs.c.run_id == run_id)).one_or_none()
    return run_of(row) if row else None


def event_of(connection: sa.Connection, run_id: str) -> dict[str, Any]:
    """Return the public event of a run: what was asked, without its keys."""
    text = connection.execute(sa.select(runs.c.event).where(runs.c.run_id == run_id)).scalar_one()
    event: dict[str, Any] = json.loads(text)
    return event


def lock(connection: sa.Connection, run_id: str) -> Run | None:
    """Return one run as it is now, and let nobody else change it before this transaction ends."""
    row = connection.execute(sa.select(*COLUMNS).where(runs.c.run_id == run_id).with_for_update()).one_or_none()
    return run_of(row) if row else None


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
    rows = connection.execute(sa.select(*COLUMNS).where(runs.c.job_id == job_id).order_by(runs.c.run_id.desc()))
    return [run_of(row) for row in rows]


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
    statement = sa.select(*COLUMNS).order_by(runs.c.run_id.desc()).limit(limit)
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
    return [run_of(row) for row in connection.execute(statement)]


def count_by_state(connection: sa.Connection) -> dict[str, int]:
    """Return how many runs are in each state."""
    rows = connection.execute(sa.select(runs.c.state, sa.func.count()).group_by(runs.c.state))
    return {state: count for state, count in rows}


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
        sa.select(*COLUMNS)
        .where(runs.c.state == RunState.SETTLED, runs.c.outbox_owed == 0)
        .order_by(runs.c.run_id)
        .limit(limit)
    )
    return [run_of(row) for row in rows]


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
        sa.select(*COLUMNS)
        .where(runs.c.state == RunState.CLOSING, runs.c.outbox_owed == 0)
        .order_by(runs.c.run_id)
        .limit(limit)
    )
    return [run_of(row) for row in rows]


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
