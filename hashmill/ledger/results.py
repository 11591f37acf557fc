"""What a settled file leaves behind, in one transaction: its row, its entry, its reports, the counters of its run."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from hashmill.domain.job import FileState
from hashmill.domain.work import FileOutcome
from hashmill.ledger import entries, outbox, rows
from hashmill.ledger.engine import now_ms
from hashmill.ledger.runs import settle_if_done
from hashmill.ledger.tables import Ms, executed_notebooks, files, runs

ENDED = (FileState.DONE, FileState.FAILED, FileState.DEAD, FileState.CANCELLED)
_KINDS = {FileState.DONE: "file_hashed"}


def write(connection: sa.Connection, run_id: str, outcomes: Sequence[FileOutcome], sizes: Mapping[int, int]) -> None:
    """Write outcomes whose files are locked and whose fences are the ledger's.

    `sizes` are the bytes that were counted when the files were listed, by number.
    """
    rows.execute(connection, _writing(connection.dialect.name), [_bound(one) for one in outcomes], b_run_id=run_id)
    ended = [outcome for outcome in outcomes if outcome.state in ENDED]
    if ended:
        _close(connection, run_id, ended, sizes)


@cache
def _writing(dialect: str) -> sa.Update:
    given = rows.Given(
        dialect,
        b_no=sa.Integer,
        b_state=sa.String,
        b_counted=sa.Integer,
        b_retry_in_ms=Ms,
        b_ended=sa.Boolean,
        b_error_class=sa.String,
        b_error_detail=sa.String,
        b_verdict=sa.String,
        b_digests=sa.String,
        b_etag=sa.String,
        b_version_id=sa.String,
        b_size_bytes=sa.BigInteger,
        b_object_ref=sa.String,
        b_provider_checksums=sa.String,
    )
    return (
        sa.update(files)
        .where(files.c.run_id == sa.bindparam("b_run_id"), files.c.file_no == given["b_no"])
        .values(
            state=given["b_state"],
            attempts=files.c.attempts + given["b_counted"],
            not_before_ms=now_ms() + given["b_retry_in_ms"],
            finished_at_ms=sa.case((given["b_ended"], now_ms()), else_=None),
            lease_owner=None,
            lease_until_ms=None,
            error_class=given["b_error_class"],
            error_detail=given["b_error_detail"],
            verdict=given["b_verdict"],
            digests=given["b_digests"],
            etag=given["b_etag"],
            version_id=given["b_version_id"],
            object_ref=given["b_object_ref"],
            provider_checksums=given["b_provider_checksums"],
            size_bytes=sa.func.coalesce(given["b_size_bytes"], files.c.size_bytes),
        )
    )


def _bound(outcome: FileOutcome) -> dict[str, object]:
    return {
        "b_no": outcome.file_no,
        "b_state": outcome.state,
        "b_counted": int(outcome.counted),
        "b_retry_in_ms": int(outcome.retry_in_s * 1000),
        "b_ended": outcome.state in ENDED,
        "b_error_class": outcome.error_class,
        "b_error_detail": outcome.error_detail,
        "b_verdict": outcome.verdict,
        "b_digests": json.dumps(outcome.digests) if outcome.digests else None,
        "b_etag": outcome.etag,
        "b_version_id": outcome.version_id,
        "b_size_bytes": outcome.size_bytes,
        "b_object_ref": outcome.object_ref,
        "b_provider_checksums": json.dumps(outcome.provider_checksums) if outcome.provider_checksums else None,
    }


def _close(connection: sa.Connection, run_id: str, ended: Sequence[FileOutcome], sizes: Mapping[int, int]) -> None:
    read = [outcome for outcome in ended if outcome.size_bytes is not None]
    read_bytes = sum(outcome.size_bytes or 0 for outcome in read)
    reports = [report for outcome in ended for report in outcome.reports]
    counted = {
        "b_run_id": run_id,
        "b_ended": len(ended),
        "b_failed": sum(outcome.state != FileState.DONE for outcome in ended),
        "b_read": read_bytes,
        # What LABDRIVE said of a size may be old, or nothing.
        "b_more": read_bytes - sum(sizes[outcome.file_no] for outcome in read),
        "b_owed": len(reports),
    }
    run: Any = connection.execute(_counting(), counted).one()
    told = [(one.kind or _KINDS.get(one.state, "file_failed"), one.entry) for one in ended if one.entry is not None]
    entries.append(connection, run_id, told, tenant_id=run.tenant_id, shard=run.shard, at_ms=run.at_ms)
    notebooks = [
        {
            "run_id": run_id,
            "file_no": one.file_no,
            "generation": one.entry["generation"],
            "fence": one.fence,
            "body": one.executed,
        }
        for one in ended
        if one.executed is not None and one.entry is not None
    ]
    if notebooks:
        connection.execute(sa.insert(executed_notebooks), notebooks)
    first = run.outbox_seq - len(reports) + 1
    outbox.put(connection, run_id, reports, shard=run.shard, first_seq=first, at_ms=run.at_ms)
    if run.files_open == 0:
        settle_if_done(connection, run_id)


@cache
def _counting() -> ReturningUpdate[Any]:
    """Return the one statement that counts what ended and what is owed for it: the run's row is wide, and locked."""
    owed = sa.bindparam("b_owed", type_=sa.Integer)
    return (
        sa.update(runs)
        .where(runs.c.run_id == sa.bindparam("b_run_id"))
        .values(
            files_open=runs.c.files_open - sa.bindparam("b_ended", type_=sa.Integer),
            files_failed=runs.c.files_failed + sa.bindparam("b_failed", type_=sa.Integer),
            bytes_done=runs.c.bytes_done + sa.bindparam("b_read", type_=sa.BigInteger),
            bytes_total=runs.c.bytes_total + sa.bindparam("b_more", type_=sa.BigInteger),
            outbox_seq=runs.c.outbox_seq + owed,
            outbox_owed=runs.c.outbox_owed + owed,
        )
        .returning(runs.c.tenant_id, runs.c.shard, runs.c.outbox_seq, runs.c.files_open, now_ms().label("at_ms"))
    )
