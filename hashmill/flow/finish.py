"""A run ends: when its last file is settled the closing reports are owed; when they are through it is over."""

import logging
from typing import Any

import sqlalchemy as sa

from hashmill.domain.job import JobStatus, RunState
from hashmill.flow import words
from hashmill.flow.tools import WorkTools
from hashmill.ledger import files, outbox, runs, seal
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)


async def finish(tools: WorkTools) -> int:
    """Close and end what is ready to be; return how many runs moved.

    The transaction that settled the last file made the run `settled`: from then on the final status is owed. Its
    content is written here, when every earlier report is through: a report LABDRIVE refused makes the job FAILED.
    """
    moved = 0
    for run in await tools.ledger.read(runs.settled):
        moved += await tools.ledger.write(_close, run)
    for run in await tools.ledger.read(runs.closed):
        moved += await tools.ledger.write(_end, run, keep_keys_days=tools.rules.keep_keys_days)
    return moved


def _close(connection: sa.Connection, run: Run) -> bool:
    failed = files.failed_by_class(connection, run.run_id)
    undelivered = outbox.dead_by_class(connection, run.run_id)
    good = not (failed or undelivered or run.error_class)
    last_message = words.closing(
        files=run.files_total,
        size_bytes=run.bytes_done,
        algorithms=list(run.algorithms),
        failed_by_class=failed,
        undelivered_by_class=undelivered,
        error_class=run.error_class,
        error_detail=run.error_detail,
    )
    return runs.close(connection, run, [last_message, words.status(JobStatus.COMPLETED if good else JobStatus.FAILED)])


def _end(connection: sa.Connection, run: Run, *, keep_keys_days: int) -> bool:
    told = outbox.final_status(connection, run.run_id)
    delivered = told is not None and told.delivered
    completed = told is not None and told.delivered and told.status == JobStatus.COMPLETED
    failed = files.failed_by_class(connection, run.run_id)
    undelivered = outbox.dead_by_class(connection, run.run_id)
    error_class, error_detail = run.error_class, run.error_detail
    if not completed and error_class is None:
        error_class, error_detail = _main_reason(failed, undelivered)
    body: dict[str, Any] = {
        "job_id": run.job_id,
        "status": told.status if told else None,
        "status_delivered": delivered,
        "generation": run.generation,
        "files": run.files_total,
        "files_failed": run.files_failed,
        "failed_by_class": failed,
        "undelivered_by_class": undelivered,
        "size_bytes": run.bytes_done,
        "error_class": error_class,
        "error_detail": error_detail,
    }
    state = RunState.COMPLETED if completed else RunState.FAILED
    ended = runs.end(connection, run, state=state, error_class=error_class, error_detail=error_detail, entry=body)
    if ended:
        if completed:
            seal.wipe(connection, run.run_id)
        else:
            seal.keep_for(connection, run.run_id, days=keep_keys_days)
        log.info("run_ended", extra={"run_id": run.run_id, "state": state, "files": run.files_total})
    return ended


def _main_reason(failed: dict[str, int], undelivered: dict[str, int]) -> tuple[str, str]:
    """Return the commonest error class, and the counts of all as text."""
    counts = {**undelivered, **failed} if failed else undelivered
    main = max(counts, key=lambda name: counts[name], default="internal")
    told = [f"{count} files {name}" for name, count in sorted(failed.items())]
    told += [f"{count} reports {name}" for name, count in sorted(undelivered.items())]
    return main, ", ".join(told) or "the final status was not accepted"
