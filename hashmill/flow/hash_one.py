"""One claimed file: found, read once, hashed, judged."""

import logging

from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import (
    ErrorClass,
    FileFault,
    HashmillError,
    ObjectChanged,
    ObjectTruncated,
    RunFault,
    Transient,
)
from hashmill.domain.job import FileState
from hashmill.domain.pause import jittered
from hashmill.domain.text import one_line
from hashmill.domain.verdict import Verdict
from hashmill.domain.work import ClaimedFile, FileOutcome
from hashmill.flow import words
from hashmill.flow.tools import ObjectPlace, WorkTools
from hashmill.ledger.runs import Run
from hashmill.storage.config import ObjectHead

log = logging.getLogger(__name__)

DETAIL_MAX_CHARS = 1000


async def hash_one(tools: WorkTools, run: Run, file: ClaimedFile) -> FileOutcome:
    """Return how the work on one file ended; raises what is no trouble of this file (a bug, a cancellation)."""
    try:
        place = tools.place_of(run.tenant_id, run.container_id, run.storage_id, file.file_id, file.path)
        head = await tools.storage.head(place.config, place.bucket, place.key)
        async with tools.storage.read(place.config, place.bucket, place.key, head) as blocks:
            hashed = await tools.engine.digest(blocks, run.algorithms)
        if hashed.size_bytes != head.size_bytes:
            raise ObjectTruncated(place.key, expected_bytes=head.size_bytes, received_bytes=hashed.size_bytes)
    except HashmillError as error:
        return after_error(tools, run, file, error)
    return _done(tools, run, file, place, head, hashed)


def _done(
    tools: WorkTools, run: Run, file: ClaimedFile, place: ObjectPlace, head: ObjectHead, hashed: HashedObject
) -> FileOutcome:
    verdict = Verdict.NO_BASELINE
    entry = {
        "job_id": run.job_id,
        "container_id": run.container_id,
        "file_no": file.file_no,
        "file_id": file.file_id,
        "path": file.path,
        "bucket": place.bucket,
        "key": place.key,
        "version_id": head.version_id,
        "etag": head.etag,
        "size_bytes": hashed.size_bytes,
        "digests": dict(hashed.digests),
        "backends": dict(hashed.backends),
        "verdict": verdict,
        "generation": file.generation,
        "attempt": file.attempts + 1,
        "fence": file.fence,
        "process": tools.process,
    }
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.DONE,
        size_bytes=hashed.size_bytes,
        digests=hashed.digests,
        etag=head.etag,
        version_id=head.version_id,
        verdict=verdict,
        entry=entry,
        reports=words.hashed(file.file_no, file.file_id, hashed.digests, messages=tools.rules.messages),
    )


def after_error(tools: WorkTools, run: Run, file: ClaimedFile, error: BaseException) -> FileOutcome:
    """Return the consequence of `error` for this file: again later, or failed for good.

    Transient errors and bugs are tried again until the attempts are used up; what cannot succeed fails at once.
    """
    error_class = error.error_class if isinstance(error, HashmillError) else ErrorClass.INTERNAL
    said = str(error) if isinstance(error, HashmillError) else f"{type(error).__name__}: {error}"
    # What a server or a library says may hold what no database takes; a complaint must never cost the result.
    detail = one_line(said, max_chars=DETAIL_MAX_CHARS)
    attempt = file.attempts + 1
    hopeless = isinstance(error, FileFault | RunFault)
    if not hopeless and attempt < tools.rules.attempts_max:
        pause_s = jittered(file.attempts, base_s=tools.rules.retry_base_s, cap_s=tools.rules.retry_cap_s)
        asked_s = error.retry_after_s if isinstance(error, Transient) else None
        log.warning(
            "file_postponed",
            extra={
                "run_id": run.run_id,
                "file_no": file.file_no,
                "error_class": error_class,
                "attempt": attempt,
                "reason": detail,
            },
        )
        return FileOutcome(
            file_no=file.file_no,
            fence=file.fence,
            state=FileState.READY,
            error_class=error_class,
            error_detail=detail,
            retry_in_s=max(pause_s, asked_s or 0.0),
        )
    return failed_for_good(
        tools,
        run,
        file,
        state=FileState.FAILED,
        error_class=error_class,
        detail=detail,
        verdict=Verdict.CHANGED if isinstance(error, ObjectChanged) else Verdict.UNREADABLE,
    )


def failed_for_good(
    tools: WorkTools,
    run: Run,
    file: ClaimedFile,
    *,
    state: FileState,
    error_class: ErrorClass,
    detail: str,
    verdict: Verdict = Verdict.UNREADABLE,
) -> FileOutcome:
    """Return the outcome that closes a file without a digest, with its entry and its message."""
    log.warning(
        "file_failed",
        extra={"run_id": run.run_id, "file_no": file.file_no, "error_class": error_class, "reason": detail},
    )
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=state,
        error_class=error_class,
        error_detail=detail,
        verdict=verdict,
        entry={
            "job_id": run.job_id,
            "container_id": run.container_id,
            "file_no": file.file_no,
            "file_id": file.file_id,
            "path": file.path,
            "error_class": error_class,
            "error_detail": detail,
            "verdict": verdict,
            "generation": file.generation,
            "attempt": file.attempts + 1,
            "fence": file.fence,
            "process": tools.process,
        },
        reports=words.failed(file.file_no, file.file_id, file.path, error_class, detail, messages=tools.rules.messages),
    )
