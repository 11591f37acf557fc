"""One claimed file: found, read once, hashed, judged."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hashmill.domain.checksums import Compared, differing
from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import (
    AlgorithmFailed,
    ErrorClass,
    FileFault,
    HashmillError,
    ObjectChanged,
    ObjectTruncated,
    RunFault,
    SigningRefused,
    StorageThrottled,
    StorageTimeout,
    Transient,
)
from hashmill.domain.job import FileState, Mode
from hashmill.domain.pause import jittered
from hashmill.domain.text import one_line
from hashmill.domain.verdict import Verdict
from hashmill.domain.work import ClaimedFile, FileOutcome
from hashmill.flow import words
from hashmill.flow.attest import attest
from hashmill.flow.endpoints import Endpoint, endpoint_of, passage, pause_s, rest_s
from hashmill.flow.slices import Slice, is_sliced, read_slice, why_in_one_go
from hashmill.flow.stored import beside, confirmed, difference, told
from hashmill.flow.tools import Mill, ObjectPlace, WorkTools
from hashmill.flow.trial import REST_S, Question, Trial, TrialEnded, TrialGone
from hashmill.flow.work import work
from hashmill.hashing.engine import hashed
from hashmill.ledger.baselines import object_ref
from hashmill.ledger.runs import Run
from hashmill.storage.config import ObjectHead

log = logging.getLogger(__name__)

DETAIL_MAX_CHARS = 1000
AGAIN_S = (1.0, 4.0)
"""So long between two trials of one file: memory that a neighbour took for a moment is given back by then."""


async def hash_one(tools: WorkTools, run: Run, file: ClaimedFile) -> FileOutcome:
    """Return how the work on one file ended; raises what is no trouble of this file (a bug, a cancellation).

    An outage of the S3 server is no trouble of this file: it comes back, and no attempt is counted.
    """
    try:
        place = place_of(tools, run, file)
    except HashmillError as error:
        return after_error(tools, run, file, error)
    if run.mode is Mode.FUNCTION:
        return await _worked(tools, run, file, place)
    endpoint = endpoint_of(tools, place)
    with passage(tools, endpoint) as free:
        return await _judged(tools, run, file, place) if free else held_back(endpoint, file)


async def _worked(tools: WorkTools, run: Run, file: ClaimedFile, place: ObjectPlace) -> FileOutcome:
    """Return the outcome of a function. It says nothing of the S3 server: whether it reads there is its own affair."""
    try:
        return await work(tools, run, file, place)
    except HashmillError as error:
        return after_error(tools, run, file, error)


async def _judged(tools: WorkTools, run: Run, file: ClaimedFile, place: ObjectPlace) -> FileOutcome:
    began_s = tools.clock_s()
    try:
        if file.lost_leases and tools.trial is not None:
            outcome = await _tried(tools, tools.trial, run, file)
        else:
            outcome = await read_one(tools, run, file, place)
    except (StorageThrottled, StorageTimeout, SigningRefused) as error:
        pause = await rest_s(tools, place, error, began_s=began_s)
        if pause is not None:
            return not_now(tools, run, file, error, retry_in_s=pause)
        return after_error(tools, run, file, error)
    except HashmillError as error:
        return after_error(tools, run, file, error)
    if outcome.state is FileState.DONE or outcome.saved is not None:
        endpoint_of(tools, place).was_served(tools.clock_s())
    return outcome


async def read_one(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace | None = None) -> FileOutcome:
    """Return the outcome of a file that was found, and read and hashed if that is asked; raises what prevented it."""
    place = place or place_of(mill, run, file)
    if run.mode is Mode.ATTEST:
        return await attest(mill, run, file, place)
    if is_sliced(mill, run, file):
        return _sliced(mill, run, file, place, await read_slice(mill, run, file, place))
    how = why_in_one_go(mill, run, file)
    # Two witnesses of the length: the answer itself, and LABDRIVE or HEAD. One alone would take a cut object for whole.
    known = file.size_bytes is not None
    pin = None if known else await mill.storage.head(place.config, place.bucket, place.key)
    read = await _read(mill, run, file, place, pin)
    if not differing(read.compared):
        return _done(mill, run, file, place, read, **how)
    log.warning("read_again", extra={"run_id": run.run_id, "file_no": file.file_no, "why": difference(read.compared)})
    again = await _read(mill, run, file, place, read.head)
    return _judged_twice(mill, run, file, place, read.hashed.digests, again, **how)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """An object that was read to its end. `hashed` holds what was asked for and what the server stores as well."""

    head: ObjectHead
    hashed: HashedObject
    compared: Sequence[Compared]

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [one.document() for one in self.compared]


async def _read(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace, pin: ObjectHead | None) -> _Read:
    opening = mill.storage.open(place.config, place.bucket, place.key, expected_bytes=file.size_bytes, pin=pin)
    async with opening as opened:
        extra = await beside(mill, place, opened.head, run.algorithms)
        hashers = extra.hashers(run.algorithms)
        size_bytes = await mill.engine.feed(hashers, opened.blocks())
    if size_bytes != opened.head.size_bytes:
        raise ObjectTruncated(place.key, expected_bytes=opened.head.size_bytes, received_bytes=size_bytes)
    found = hashed(hashers, [*run.algorithms, *extra.names], size_bytes=size_bytes)
    return _Read(head=opened.head, hashed=found, compared=extra.compared(found))


def _judged_twice(
    mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace, first: Mapping[str, str], again: _Read, **how: Any
) -> FileOutcome:
    """Return the outcome of an object whose first read gave `first`, and not what its server stores."""
    if not confirmed(place, first, again.hashed, again.compared):
        return _done(mill, run, file, place, again, reads=2, **how)
    detail = one_line(difference(again.compared), max_chars=DETAIL_MAX_CHARS)
    failed = failed_for_good(
        mill,
        run,
        file,
        state=FileState.FAILED,
        error_class=ErrorClass.S3_CHECKSUM_DIFFERS,
        detail=detail,
        verdict=Verdict.MISMATCH,
        found=_found(run, place, again) | {"reads": 2, **how},
    )
    return replace(failed, etag=again.head.etag, version_id=again.head.version_id, provider_checksums=again.documents)


def place_of(mill: Mill, run: Run, file: ClaimedFile) -> ObjectPlace:
    """Return where the file's bytes are; raises `ConfigFault`."""
    return mill.place_of(run.tenant_id, run.container_id, run.storage_id, file.file_id, file.path)


async def _tried(tools: WorkTools, trial: Trial, run: Run, file: ClaimedFile) -> FileOutcome:
    """Read a suspect apart; when that ends a process again and again, the file is set aside."""
    ended = 0
    while True:
        if (starting := trial.warm_up()) is not None:
            await asyncio.shield(starting)
        if not trial.ready:
            return later(file, retry_in_s=jittered(1, base_s=REST_S, cap_s=REST_S))
        try:
            return await trial.read(Question(process=tools.process, run=run, file=file))
        except TrialGone as news:  # it had no file in its hands
            log.warning("trial_gone", extra={"run_id": run.run_id, "file_no": file.file_no, "how": str(news)})
            return later(file, retry_in_s=random.uniform(*AGAIN_S))  # noqa: S311 - spreads load, keeps no secret
        except TrialEnded as news:
            ended += 1
            log.error(
                "trial_ended", extra={"run_id": run.run_id, "file_no": file.file_no, "how": str(news), "time": ended}
            )
            if file.lost_leases + ended >= tools.rules.lost_leases_max:
                detail = (
                    f"lost its lease {file.lost_leases} times, and ended the process it was tried in {ended} times, "
                    f"the last one by {news}"
                )
                return failed_for_good(
                    tools, run, file, state=FileState.DEAD, error_class=ErrorClass.POISON, detail=detail
                )
            await asyncio.sleep(random.uniform(*AGAIN_S))  # noqa: S311 - spreads load, keeps no secret


def _sliced(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace, part: Slice) -> FileOutcome:
    if part.hashed is None:
        return replace(later(file, retry_in_s=0.0), saved=part.save)
    if part.hashed.size_bytes != part.head.size_bytes:
        raise ObjectTruncated(place.key, expected_bytes=part.head.size_bytes, received_bytes=part.hashed.size_bytes)
    how = {"slices": part.slices, "resumed_from": part.resumed_from_bytes}
    read = _Read(head=part.head, hashed=part.hashed, compared=part.compared)
    if part.first is None:
        return _done(mill, run, file, place, read, **how)
    try:
        return _judged_twice(mill, run, file, place, part.first, read, **how)
    except ObjectChanged as fault:
        # Two whole reads of a large file are spent, and what was saved is of a damaged one: no third by itself.
        detail = one_line(str(fault), max_chars=DETAIL_MAX_CHARS)
        return failed_for_good(
            mill,
            run,
            file,
            state=FileState.FAILED,
            error_class=fault.error_class,
            detail=detail,
            verdict=Verdict.CHANGED,
        )


def _found(run: Run, place: ObjectPlace, read: _Read) -> dict[str, Any]:
    """Return what an entry says of a read: which object, and what was computed of it."""
    found = {
        "bucket": place.bucket,
        "key": place.key,
        "version_id": read.head.version_id,
        "etag": read.head.etag,
        "size_bytes": read.hashed.size_bytes,
        "digests": {name: read.hashed.digests[name] for name in run.algorithms if name in read.hashed.digests},
        "backends": {name: read.hashed.backends[name] for name in run.algorithms if name in read.hashed.backends},
    }
    if read.compared:
        found["provider"] = told(place.config, read.documents)
    return found


def _done(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace, read: _Read, **how: Any) -> FileOutcome:
    verdict = Verdict.NO_BASELINE
    found = _found(run, place, read)
    if read.hashed.failures:
        return _in_part(mill, run, file, read, found | how)
    entry = {
        "job_id": run.job_id,
        "container_id": run.container_id,
        "file_no": file.file_no,
        "file_id": file.file_id,
        "path": file.path,
        **found,
        "verdict": verdict,
        "generation": file.generation,
        "attempt": file.attempts + 1,
        "fence": file.fence,
        "process": mill.process,
        **how,
    }
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.DONE,
        size_bytes=read.hashed.size_bytes,
        digests=found["digests"],
        etag=read.head.etag,
        version_id=read.head.version_id,
        verdict=verdict,
        object_ref=object_ref(run.api_url, run.container_id, file.file_id),
        provider_checksums=read.documents,
        entry=entry,
        reports=words.hashed(file.file_no, file.file_id, found["digests"], messages=mill.rules.messages),
    )


def _in_part(mill: Mill, run: Run, file: ClaimedFile, read: _Read, found: Mapping[str, Any]) -> FileOutcome:
    """Return the outcome of a file of which some digests could not be computed: failed, with those that could."""
    failed = failed_for_good(
        mill,
        run,
        file,
        state=FileState.FAILED,
        error_class=AlgorithmFailed.error_class,
        detail=one_line("; ".join(read.hashed.failures.values()), max_chars=DETAIL_MAX_CHARS),
        verdict=Verdict.NO_BASELINE,
        found={**found, "failed": dict(read.hashed.failures)},
    )
    digests = found["digests"]
    return replace(
        failed,
        size_bytes=read.hashed.size_bytes,
        digests=digests,
        etag=read.head.etag,
        version_id=read.head.version_id,
        reports=[*words.hashed(file.file_no, file.file_id, digests, messages=mill.rules.messages), *failed.reports],
    )


def later(file: ClaimedFile, *, retry_in_s: float) -> FileOutcome:
    """Return the outcome of a file that nothing was tried with: again after so long, no attempt counted."""
    return FileOutcome(
        file_no=file.file_no, fence=file.fence, state=FileState.READY, counted=False, retry_in_s=retry_in_s
    )


def held_back(endpoint: Endpoint, file: ClaimedFile) -> FileOutcome:
    """Return the same for a file whose server is known to be away."""
    return replace(
        later(file, retry_in_s=pause_s(endpoint)),
        error_class=endpoint.error_class,
        error_detail=one_line(endpoint.said, max_chars=DETAIL_MAX_CHARS),
    )


def not_now(tools: WorkTools, run: Run, file: ClaimedFile, error: HashmillError, *, retry_in_s: float) -> FileOutcome:
    """Return the same with the trouble that is in the way, and is not the file's."""
    detail = one_line(str(error), max_chars=DETAIL_MAX_CHARS)
    log.warning(
        "file_waits",
        extra={"run_id": run.run_id, "file_no": file.file_no, "error_class": error.error_class, "reason": detail},
    )
    return replace(later(file, retry_in_s=retry_in_s), error_class=error.error_class, error_detail=detail)


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
        after_s = jittered(file.attempts, base_s=tools.rules.retry_base_s, cap_s=tools.rules.retry_cap_s)
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
            retry_in_s=max(after_s, asked_s or 0.0),
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
    tools: Mill,
    run: Run,
    file: ClaimedFile,
    *,
    state: FileState,
    error_class: ErrorClass,
    detail: str,
    verdict: Verdict = Verdict.UNREADABLE,
    found: Mapping[str, Any] | None = None,
) -> FileOutcome:
    """Return the outcome that closes a file without a digest, with its entry and its message.

    `found` is what the entry says besides.
    """
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
            **(found or {}),
        },
        reports=words.failed(file.file_no, file.file_id, file.path, error_class, detail, messages=tools.rules.messages),
    )
