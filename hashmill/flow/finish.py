"""A run ends: when its last file is settled the closing reports are owed; when they are through it is over."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.job import JobStatus, Mode, RunState
from hashmill.flow import words
from hashmill.flow.tools import WorkTools
from hashmill.ledger import files, outbox, runs, seal, slices
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)


REST_S = 10.0
"""So long a run is left alone that could not be closed or ended: it stays as it is, and the other runs go on."""


async def finish(tools: WorkTools, resting: dict[str, float] | None = None) -> int:
    """Close and end what is ready to be; return how many runs moved.

    The transaction that settled the last file made the run `settled`: from then on the final status is owed. Its
    content is written here, when every earlier report is through: a report LABDRIVE refused makes the job FAILED.
    `resting` is kept between two rounds: until when a run is left alone that met a bug.
    """
    resting = {} if resting is None else resting
    moved = 0
    for run in await tools.ledger.read(runs.settled):
        moved += await _moved(tools, run, _close, resting)
    for run in await tools.ledger.read(runs.closed):
        moved += await _moved(tools, run, partial(_end, keep_keys_days=tools.rules.keep_keys_days), resting)
    return moved


async def _moved(
    tools: WorkTools, run: Run, step: Callable[[sa.Connection, Run], bool], resting: dict[str, float]
) -> bool:
    if resting.get(run.run_id, 0.0) > tools.clock_s():
        return False
    resting.pop(run.run_id, None)
    # Gathered, so that a bug over one run comes back as a value and stops no other run.
    [moved] = await asyncio.gather(tools.ledger.write(step, run), return_exceptions=True)
    if isinstance(moved, bool):
        return moved
    if isinstance(moved, LedgerUnavailable) or not isinstance(moved, Exception):
        raise moved
    log.error("finish_bug", extra={"run_id": run.run_id}, exc_info=moved)
    resting[run.run_id] = tools.clock_s() + REST_S
    return False


def _close(connection: sa.Connection, run: Run) -> bool:
    failed = files.failed_by_class(connection, run.run_id)
    undelivered = outbox.dead_by_class(connection, run.run_id)
    good = not (failed or undelivered or run.error_class)
    verdicts = files.count_by_verdict(connection, run.run_id) if run.mode is Mode.ATTEST else None
    last_message = words.closing(
        files=run.files_total,
        size_bytes=run.bytes_done,
        algorithms=list(run.algorithms),
        failed_by_class=failed,
        undelivered_by_class=undelivered,
        error_class=run.error_class,
        error_detail=run.error_detail,
        verdicts=verdicts,
        function=run.function_name,
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
        "mode": run.mode,
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
        slices.forget(connection, run.run_id)
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
