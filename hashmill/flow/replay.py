"""Replay: failed files again, as new attempts, through the same dispatch; ledgered with who and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from hashmill.domain.errors import ReplayRefused
from hashmill.domain.job import JobStatus
from hashmill.flow import words
from hashmill.flow.tools import DoorTools
from hashmill.ledger import replays, runs, seal
from hashmill.ledger.replays import Selection
from hashmill.ledger.runs import Run

RUNS_MAX = 1000
"""Most runs one replay may touch; a larger one is asked for in parts."""
FILE_IDS_MAX = 10_000
"""Most file ids one replay may name: a database takes no statement with any number of values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What is to be replayed. At least one of the first four says where to look; together they narrow.

    `mode` "failed" takes failed files only, "all" takes the hashed ones as well. `who` and `reason` are ledgered.
    """

    run_id: str | None = None
    job_id: str | None = None
    error_class: str | None = None
    file_ids: tuple[str, ...] = ()
    mode: Literal["failed", "all"] = "failed"
    reason: str
    who: str
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay did, or would do when `dry_run`."""

    dry_run: bool
    runs: tuple[Selection, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    """Runs that fit but cannot be replayed now, each with the reason. A dry run counts them all the same; a replay that
    named a run or a job is refused instead."""

    @property
    def files(self) -> int:
        return sum(selection.files for selection in self.runs)

    @property
    def size_bytes(self) -> int:
        return sum(selection.size_bytes for selection in self.runs)


async def replay(tools: DoorTools, request: ReplayRequest) -> ReplayReport:
    """Return what was, or would be, opened again; raises `ReplayRefused` and then changes nothing at all.

    The LABDRIVE job goes back to RUNNING, with a message that says it was replayed, and ends again.
    """
    if not request.reason.strip():
        raise ReplayRefused("a replay needs a reason: it is written into the ledger")
    if not (request.run_id or request.job_id or request.error_class or request.file_ids):
        raise ReplayRefused("say what to replay: a run, a LABDRIVE job, an error class or file ids")
    if len(request.file_ids) > FILE_IDS_MAX:
        raise ReplayRefused(f"at most {FILE_IDS_MAX} file ids in one replay: ask for it in parts, or by run or job")
    if request.dry_run:
        return await tools.ledger.read(_replay, request, tools.sealer.key_id)
    return await tools.ledger.write(_replay, request, tools.sealer.key_id)


def _replay(connection: sa.Connection, request: ReplayRequest, key_id: str) -> ReplayReport:
    selections, skipped = [], []
    # Oldest first, as the sweep takes them: who locks several runs does so in one order, else two wait for each other.
    for found in sorted(_runs(connection, request), key=lambda run: run.run_id):
        # Looked at again under its lock: of two replays at once, the second sees what the first has done.
        run = found if request.dry_run else runs.lock(connection, found.run_id) or found
        selection = replays.select(
            connection,
            run.run_id,
            everything=request.mode == "all",
            error_class=request.error_class,
            file_ids=request.file_ids,
        )
        listing_failed = run.state.ended and run.expanded_at_ms is None
        if not (selection.files or selection.reports_dead or listing_failed):
            continue
        if refusal := _refusal(connection, run, request, key_id):
            if (request.run_id or request.job_id) and not request.dry_run:
                raise ReplayRefused(refusal)
            skipped.append((run.run_id, refusal))
            if not request.dry_run:
                continue
        selections.append(selection)
        if not request.dry_run:
            _reopen(connection, run, request)
    if not selections:
        reasons = "; ".join(reason for _, reason in skipped[:3])
        raise ReplayRefused(reasons or "nothing to replay: no failed file, set-aside report or failed listing fits")
    return ReplayReport(dry_run=request.dry_run, runs=tuple(reversed(selections)), skipped=tuple(skipped))


def _runs(connection: sa.Connection, request: ReplayRequest) -> Sequence[Run]:
    if request.run_id is not None:
        run = runs.get(connection, request.run_id)
        if run is None:
            raise ReplayRefused(f"there is no run {request.run_id}")
        if request.job_id not in (None, run.job_id):
            raise ReplayRefused(f"run {run.run_id} belongs to LABDRIVE job {run.job_id}, not to {request.job_id}")
        return [run]
    if request.job_id is not None:
        found = runs.of_job(connection, request.job_id)
        if not found:
            raise ReplayRefused(f"no run belongs to LABDRIVE job {request.job_id}")
    elif request.file_ids:
        ids = replays.runs_with(connection, request.file_ids, everything=request.mode == "all")
        found = [run for run in (runs.get(connection, run_id) for run_id in ids) if run is not None]
    else:
        found = runs.listed(connection, error_class=request.error_class, limit=RUNS_MAX + 1)
    if len(found) > RUNS_MAX:
        raise ReplayRefused(f"more than {RUNS_MAX} runs fit: narrow it with a run or a job")
    return found


def _refusal(connection: sa.Connection, run: Run, request: ReplayRequest, key_id: str) -> str | None:
    """Return why this run cannot be replayed now, or None."""
    if not (run.state.ended or request.force):
        return f"run {run.run_id} is {run.state}: wait until it has ended, or use force"
    if not seal.kept(connection, run.run_id):
        return (
            f"run {run.run_id}: its keys were wiped (at once after COMPLETED, after secrets.keep_days otherwise): "
            "post the event again with an Idempotency-Key of its own"
        )
    if not seal.kept(connection, run.run_id, key_id=key_id):
        return (
            f"run {run.run_id}: its keys were sealed with another sealing key: post the same event again, then replay"
        )
    return None


def _reopen(connection: sa.Connection, run: Run, request: ReplayRequest) -> None:
    told = words.message(f"Replayed by {request.who}: {request.reason}")
    replays.reopen(
        connection,
        run,
        everything=request.mode == "all",
        error_class=request.error_class,
        file_ids=request.file_ids,
        reports=[words.status(JobStatus.RUNNING), told],
        entry={
            "who": request.who,
            "reason": request.reason,
            "mode": request.mode,
            "error_class": request.error_class,
            "file_ids": list(request.file_ids),
            "force": request.force,
            "was": run.state,
        },
    )
