"""A run's files become rows: by id, by path, or the whole container, a page and its cursor in one transaction."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from hashmill.domain.errors import (
    ApiAuth,
    ApiRejected,
    HashmillError,
    LeaseLost,
    LedgerUnavailable,
    RunFault,
    Transient,
)
from hashmill.domain.job import JobStatus, Mode
from hashmill.domain.pause import jittered
from hashmill.domain.remote import RemoteFile, RemoteKind
from hashmill.domain.work import NewFile, Report
from hashmill.flow import words
from hashmill.flow.access import access_of
from hashmill.flow.tools import WorkTools
from hashmill.ledger import expansions, runs
from hashmill.ledger.expansions import Expansion

log = logging.getLogger(__name__)

T = TypeVar("T")
Failure = tuple[NewFile, Mapping[str, Any], Sequence[Report]]


async def expand(tools: WorkTools, run_id: str) -> None:
    """Write the files of a run that waits for it, from where the last attempt stopped.

    Does nothing when the run is not waiting or somebody else is at it. A transient trouble postpones the rest;
    a trouble that will stay fails the run, and what was written by then is still worked.
    """
    if tools.draining.is_set():
        return
    expansion = await tools.ledger.write(
        expansions.claim,
        run_id,
        lease_s=tools.rules.file_lease_s,
        running=words.status(JobStatus.RUNNING),
        entry={},
    )
    if expansion is None:
        return
    log.info("run_expanding", extra={"run_id": run_id, "cursor": dict(expansion.cursor)})
    if expansion.lapsed and await _waits_too_long(tools, expansion):
        await _fail(tools, expansion, LeaseLost("the listing takes its process down again and again"))
        return
    listing = asyncio.create_task(_pages(tools, expansion))
    keeping = asyncio.create_task(_keep(tools, expansion))
    try:
        await asyncio.wait([listing, keeping], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _stopped(listing, keeping)
        await tools.ledger.write(expansions.release, expansion)
        raise
    lost = not listing.done()
    await _stopped(listing, keeping)
    if lost:
        log.warning("expansion_lost", extra={"run_id": run_id})
        return
    match listing.exception():
        case None:
            return
        case RunFault() | ApiRejected() as fault:
            await _fail(tools, expansion, fault)
        case HashmillError() as trouble:
            await _postpone(tools, expansion, trouble)
        case bug:
            log.error("expand_bug", extra={"run_id": run_id}, exc_info=bug)
            await _postpone(tools, expansion, HashmillError(f"{type(bug).__name__}: {bug}"))


async def _keep(tools: WorkTools, expansion: Expansion) -> None:
    """Renew the lease while a page is being looked up, however long the API takes; return when it is lost."""
    lease_s = tools.rules.file_lease_s
    while True:
        await asyncio.sleep(lease_s / 3)
        with suppress(LedgerUnavailable):
            if not await tools.ledger.write(expansions.renew, expansion, lease_s=lease_s):
                return


async def _stopped(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pages(tools: WorkTools, expansion: Expansion) -> None:
    """Walk the cursor: first the ids, then the paths, then the container or the folders that were named."""
    run = expansion.run
    access = await access_of(tools, run)
    if tools.rules.wants_storage and run.storage_id is None:
        container = await tools.labdrive.get_container(access, run.container_id)
        if container.storage_id is not None:
            await tools.ledger.write(expansions.know_storage, expansion, container.storage_id)
    cursor: dict[str, Any] = {"phase": "ids", "at": 0, "folders": [], **expansion.cursor}
    ids, paths = list(expansion.event["file_ids"]), list(expansion.event["file_paths"])

    async def by_id(file_id: str) -> RemoteFile:
        file = await tools.labdrive.get_file(access, file_id)
        if file.container_id != run.container_id:
            # Its path may be another file's here, and that file's digests would be stored as its own.
            raise ApiRejected(f"it is in container {file.container_id}, and the job is about {run.container_id}")
        return file

    async def by_path(path: str) -> RemoteFile:
        return await tools.labdrive.get_file_by_path(access, run.container_id, path)

    for phase, following, wanted, look_up in (("ids", "paths", ids, by_id), ("paths", "list", paths, by_path)):
        while cursor["phase"] == phase:
            page = wanted[cursor["at"] : cursor["at"] + tools.rules.page_files]
            found, failures, folders = await _look_up(tools, page, look_up, by_path=phase == "paths", mode=run.mode)
            cursor = {**cursor, "at": cursor["at"] + len(page), "folders": [*cursor["folders"], *folders]}
            if cursor["at"] >= len(wanted):
                cursor = {**cursor, "phase": following, "at": 0}
            if not await _write(tools, expansion, found, failures, cursor):
                return
    while cursor["phase"] == "list" and (cursor["folders"] or not (ids or paths)):
        listing = await tools.labdrive.list_files(
            access, run.container_id, cursor.get("next"), limit=tools.rules.list_page
        )
        found = [
            _new(tools, file, run.mode)
            for file in listing.files
            if _wanted(file, cursor["folders"], whole=not (ids or paths))
        ]
        cursor = {**cursor, "next": listing.next_cursor}
        if not await _write(tools, expansion, found, [], cursor):
            return
        if listing.next_cursor is None:
            break
    await tools.ledger.write(expansions.end, expansion, {})
    log.info("run_expanded", extra={"run_id": run.run_id})


def _wanted(file: RemoteFile, folders: Sequence[str], *, whole: bool) -> bool:
    if file.kind is not RemoteKind.FILE or file.deleted:
        return False
    return whole or any(not folder or file.path.startswith(f"{folder}/") for folder in folders)


async def _look_up(
    tools: WorkTools,
    wanted: Sequence[str],
    look_up: Callable[[str], Awaitable[RemoteFile]],
    *,
    by_path: bool,
    mode: Mode,
) -> tuple[list[NewFile], list[Failure], list[str]]:
    """Return the files, what is none, and the folders among `wanted`; a trouble that is not one file's is raised."""
    places = asyncio.Semaphore(tools.rules.lookups)

    async def one(name: str) -> RemoteFile | ApiRejected | ApiAuth:
        async with places:
            try:
                return await look_up(name)
            except ApiRejected as refusal:
                return refusal
            except ApiAuth as refusal:
                if refusal.status != 403:
                    raise
                return refusal

    answers = await _together([one(name) for name in wanted])
    found: list[NewFile] = []
    failures: list[Failure] = []
    folders: list[str] = []
    for name, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, ApiRejected | ApiAuth):
            failures.append(_failure(tools, name, answer, by_path=by_path))
        elif answer.kind is RemoteKind.FOLDER:
            folders.append(answer.path.rstrip("/"))
        else:
            found.append(_new(tools, answer, mode))
    return found, failures, folders


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """`gather` that leaves nothing running behind the first error."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _new(tools: WorkTools, file: RemoteFile, mode: Mode) -> NewFile:
    # Where nothing is read, a large file is no more work than an empty one.
    size_bytes = 0 if mode is Mode.ATTEST else file.size_bytes
    return NewFile(
        file_ref=file.file_id,
        file_id=file.file_id,
        path=file.path,
        size_bytes=file.size_bytes,
        size_class=tools.rules.size_class(size_bytes),
    )


def _failure(tools: WorkTools, name: str, refusal: ApiRejected | ApiAuth, *, by_path: bool) -> Failure:
    # A path has no id to be known by; its digest keeps the key short whatever its length.
    ref = f"path:{hashlib.sha256(name.encode()).hexdigest()}" if by_path else name
    path = name if by_path else ""
    file_id = None if by_path else name
    detail = str(refusal)
    file = NewFile(
        file_ref=ref,
        file_id=file_id,
        path=path,
        size_bytes=None,
        size_class=tools.rules.size_class(None),
        error_class=refusal.error_class,
        error_detail=detail,
    )
    entry = {"file_id": file_id, "path": path, "error_class": refusal.error_class, "error_detail": detail}
    # The message is bound to no file: LABDRIVE has just said that it shows none of that name.
    reports = words.failed(None, None, path or name, refusal.error_class, detail, messages=tools.rules.messages)
    return file, entry, reports


async def _write(
    tools: WorkTools,
    expansion: Expansion,
    found: Sequence[NewFile],
    failures: Sequence[Failure],
    cursor: Mapping[str, Any],
) -> bool:
    """Write a page in steps of at most `page_files`; False when the expansion is somebody else's now."""
    step = tools.rules.page_files
    for start in range(0, max(len(found), 1), step):
        last = start + step >= len(found)
        held = await tools.ledger.write(
            expansions.add_files,
            expansion,
            found[start : start + step],
            # The cursor moves only with the last part, so that a page cut by a crash is written again as a whole.
            cursor=cursor if last else expansion.cursor,
            lease_s=tools.rules.file_lease_s,
            failures=failures if last else (),
        )
        if not held:
            return False
    return True


async def _postpone(tools: WorkTools, expansion: Expansion, trouble: HashmillError) -> None:
    run = expansion.run
    if await _waits_too_long(tools, expansion):
        await _fail(tools, expansion, trouble)
        return
    asked_s = trouble.retry_after_s if isinstance(trouble, Transient) else None
    after_s = max(
        jittered(expansion.attempts, base_s=tools.rules.retry_base_s, cap_s=tools.rules.retry_cap_s), asked_s or 0.0
    )
    log.warning(
        "run_postponed",
        extra={"run_id": run.run_id, "error_class": trouble.error_class, "after_s": after_s, "reason": str(trouble)},
    )
    await tools.ledger.write(
        expansions.postpone, expansion, after_s=after_s, error_class=trouble.error_class, detail=str(trouble)
    )


async def _waits_too_long(tools: WorkTools, expansion: Expansion) -> bool:
    waited_s = await tools.ledger.read(runs.age_s, expansion.run.run_id)
    return waited_s > tools.rules.expand_give_up_after_s


async def _fail(tools: WorkTools, expansion: Expansion, fault: HashmillError) -> None:
    log.error(
        "run_not_expanded",
        extra={"run_id": expansion.run.run_id, "error_class": fault.error_class, "reason": str(fault)},
    )
    await tools.ledger.write(
        expansions.fail,
        expansion,
        error_class=fault.error_class,
        detail=str(fault),
        entry={"error_class": fault.error_class, "error_detail": str(fault)},
    )
