"""`GET /v1/runs` and what lies under it: runs, their files, their ledger entries."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar

import sqlalchemy as sa
from aiohttp import web

from hashmill.domain.job import FileState
from hashmill.domain.verdict import Verdict
from hashmill.flow.held import Hold, held_back
from hashmill.intake.answers import (
    EntryAnswer,
    EntryPage,
    Failure,
    FileAnswer,
    FilePage,
    FunctionAnswer,
    HoldAnswer,
    LargeFileAnswer,
    OutboxAnswer,
    Progress,
    RunAnswer,
    RunDetailAnswer,
    RunPage,
    answer,
    page,
)
from hashmill.intake.door import DOOR
from hashmill.intake.eta import eta_s
from hashmill.intake.links import next_url, run_url
from hashmill.intake.problem import Problem
from hashmill.intake.query import ID_PATTERN, EntriesQuery, FilesQuery, RunsQuery, read_query
from hashmill.ledger import entries, files, overview, runs, slices
from hashmill.ledger.entries import StoredEntry, moment
from hashmill.ledger.files import FileRow
from hashmill.ledger.overview import FailureGroup, Moving
from hashmill.ledger.runs import Run
from hashmill.ledger.slices import LargeFile

T = TypeVar("T")


async def list_runs(request: web.Request) -> web.Response:
    query = read_query(request, RunsQuery)

    def found(connection: sa.Connection) -> tuple[list[Run], int]:
        return (
            runs.listed(
                connection,
                states=query.state,
                tenant_id=query.tenant_id,
                job_id=query.job_id,
                container_id=query.container_id,
                error_class=query.error_class,
                before=query.before,
                limit=query.limit + 1,
            ),
            entries.clock_ms(connection),
        )

    rows, now_ms = await request.app[DOOR].tools.ledger.read(found)
    shown, more = _cut(rows, query.limit)
    return page(
        RunPage(
            items=[_run(run, now_ms) for run in shown],
            next=next_url(request, {"before": shown[-1].run_id}) if more else None,
        )
    )


async def show_run(request: web.Request) -> web.Response:
    run_id = _run_id(request)

    tools = request.app[DOOR].tools

    def found(connection: sa.Connection) -> RunDetailAnswer | None:
        run = runs.get(connection, run_id)
        if run is None:
            return None
        groups = overview.failures(connection, run_id) if run.files_failed else []
        holds = held_back(connection, run, sealer=tools.sealer)
        large = slices.under_way(connection, run_id) if run.files_open else []
        now_ms, moving = entries.clock_ms(connection), overview.moving(connection, run_id)
        return _detail(run, now_ms, moving, groups, holds, large)

    seen = await tools.ledger.read(found)
    if seen is None:
        raise _no_run(run_id)
    return answer(seen)


async def list_files(request: web.Request) -> web.Response:
    query = read_query(request, FilesQuery)
    run_id = _run_id(request)
    states = query.state
    if query.error_class is not None and not states:
        # Failed files are found through an index; one class among a million files that went well is not.
        states = [FileState.FAILED, FileState.DEAD]

    def found(connection: sa.Connection) -> list[FileRow] | None:
        if not overview.run_exists(connection, run_id):
            return None
        return files.of_run(
            connection,
            run_id,
            states=states,
            error_class=query.error_class,
            after_no=query.after,
            limit=query.limit + 1,
        )

    rows = await request.app[DOOR].tools.ledger.read(found)
    if rows is None:
        raise _no_run(run_id)
    shown, more = _cut(rows, query.limit)
    return page(
        FilePage(
            items=[_file(row) for row in shown],
            next=next_url(request, {"after": str(shown[-1].file_no)}) if more else None,
        )
    )


async def list_entries(request: web.Request) -> web.Response:
    query = read_query(request, EntriesQuery)
    run_id = _run_id(request)

    def found(connection: sa.Connection) -> list[StoredEntry] | None:
        if not overview.run_exists(connection, run_id):
            return None
        return entries.of_run(connection, run_id, after=query.after or "", limit=query.limit + 1)

    rows = await request.app[DOOR].tools.ledger.read(found)
    if rows is None:
        raise _no_run(run_id)
    shown, more = _cut(rows, query.limit)
    return page(
        EntryPage(
            items=[_entry(row) for row in shown],
            next=next_url(request, {"after": shown[-1].entry_id}) if more else None,
        )
    )


def _cut(rows: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Return the rows of this page and whether another follows: one row more than the page was asked for."""
    return rows[:limit], len(rows) > limit


def _run_id(request: web.Request) -> str:
    run_id = request.match_info["run_id"]
    if not re.fullmatch(ID_PATTERN, run_id):
        raise _no_run(ascii(run_id[:64]))
    return run_id


def _no_run(run_id: str) -> Problem:
    return Problem(404, "not-found", f"there is no run {run_id}")


def _run(run: Run, now_ms: int) -> RunAnswer:
    return RunAnswer(
        run_id=run.run_id,
        state=run.state,
        tenant_id=run.tenant_id,
        job_id=run.job_id,
        container_id=run.container_id,
        mode=run.mode,
        function=FunctionAnswer(name=run.function_name, sha256=run.function_sha256 or "")
        if run.function_name
        else None,
        priority=run.priority,
        generation=run.generation,
        progress=Progress(
            files_total=run.files_total,
            files_open=run.files_open,
            files_done=run.files_total - run.files_open - run.files_failed,
            files_failed=run.files_failed,
            bytes_total=run.bytes_total,
            bytes_done=run.bytes_done,
        ),
        outbox=OutboxAnswer(owed=run.outbox_owed, dead=run.outbox_dead),
        error_class=run.error_class,
        error_detail=run.error_detail,
        created_at=moment(run.created_at_ms),
        expanded_at=_moment(run.expanded_at_ms),
        settled_at=_moment(run.settled_at_ms),
        finished_at=_moment(run.finished_at_ms),
        eta_s=eta_s(run, now_ms),
        status_url=run_url(run.run_id),
    )


def _detail(
    run: Run,
    now_ms: int,
    moving: Moving,
    groups: Sequence[FailureGroup],
    holds: Sequence[Hold],
    large: Sequence[LargeFile],
) -> RunDetailAnswer:
    shown = _run(run, now_ms)
    url = run_url(run.run_id)
    return RunDetailAnswer(
        **dict(shown),
        storage_id=run.storage_id,
        api_url=run.api_url,
        user_id=run.user_id,
        algorithms=list(run.algorithms),
        files={
            "ready": max(0, run.files_open - moving.queued - moving.running),
            "queued": moving.queued,
            "running": moving.running,
            "done": shown.progress.files_done,
            "failed": run.files_failed,
        },
        held_back=[HoldAnswer(**asdict(hold), to_do=hold.to_do) for hold in holds],
        large_files=[
            LargeFileAnswer(
                file_no=file.file_no,
                path=file.path,
                state=file.state,
                offset_bytes=file.offset_bytes,
                size_bytes=file.size_bytes,
                slices=file.slices,
                saved_at=moment(file.saved_at_ms),
            )
            for file in large
        ],
        failures=[
            Failure(
                error_class=group.error_class,
                files=group.files,
                sample_file_no=group.file_no,
                sample_file_id=group.file_id,
                sample_path=group.path,
                sample_error_detail=group.error_detail,
            )
            for group in groups
        ],
        failures_complete=sum(group.files for group in groups) >= run.files_failed,
        files_url=f"{url}/files",
        entries_url=f"{url}/entries",
    )


def _file(row: FileRow) -> FileAnswer:
    return FileAnswer(
        file_no=row.file_no,
        file_id=row.file_id,
        path=row.path,
        size_bytes=row.size_bytes,
        state=row.state,
        attempts=row.attempts,
        generation=row.generation,
        verdict=Verdict(row.verdict) if row.verdict else None,
        digests=row.digests,
        provider_checksums=[dict(one) for one in row.provider_checksums],
        etag=row.etag,
        version_id=row.version_id,
        error_class=row.error_class,
        error_detail=row.error_detail,
        finished_at=_moment(row.finished_at_ms),
    )


def _entry(row: StoredEntry) -> EntryAnswer:
    return EntryAnswer(
        entry_id=row.entry_id,
        kind=row.kind,
        leaf_index=row.leaf_index,
        leaf_hash=row.leaf_hash.hex(),
        recorded_at=moment(row.recorded_at_ms),
        body=json.loads(row.body),
    )


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else moment(at_ms)
