"""
`mode = "attest"`: what the S3 server states of an object now, beside what we computed when we last read it.

One HEAD, and nothing is read: so it is no fixity check, and no hash is reported. It finds objects that were replaced,
and servers whose books do not agree with ours; it does not find bytes that rotted under a checksum that stayed.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hashmill.domain.checksums import Compared, Comparison, differing
from hashmill.domain.errors import ConfigFault, ErrorClass
from hashmill.domain.job import FileState
from hashmill.domain.text import one_line
from hashmill.domain.verdict import Verdict
from hashmill.domain.work import Baseline, ClaimedFile, FileOutcome
from hashmill.flow import words
from hashmill.flow.stored import told
from hashmill.flow.tools import Mill, ObjectPlace, WorkTools
from hashmill.ledger import baselines
from hashmill.ledger.entries import moment
from hashmill.ledger.runs import Run
from hashmill.storage.config import ObjectHead

log = logging.getLogger(__name__)

KIND = "file_attested"


async def with_baselines(tools: WorkTools, run: Run, claimed: Sequence[ClaimedFile]) -> list[ClaimedFile]:
    """Return the files, each with what it was when we last read it, if we ever did."""
    refs = {file.file_no: baselines.object_ref(run.api_url, run.container_id, file.file_id) for file in claimed}
    found = await tools.ledger.read(baselines.newest, list(refs.values()))
    return [replace(file, baseline=found.get(refs[file.file_no])) for file in claimed]


async def attest(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace) -> FileOutcome:
    """Return the outcome of a file whose server was asked; raises what prevented that."""
    if not place.config.provider_checksums:
        raise ConfigFault('mode "attest" asks for the checksums that S3 stores, and s3.provider_checksums is false')
    head = await mill.storage.head(place.config, place.bucket, place.key, even_offline=True)
    compared = [_beside(one, file.baseline) for one in (Compared(stored=stored) for stored in head.checksums)]
    verdict = judge(head, file.baseline, compared)
    disputed = verdict is Verdict.DISPUTED
    detail = one_line(_difference(compared), max_chars=1000) if disputed else None
    if disputed:
        log.warning("file_disputed", extra={"run_id": run.run_id, "file_no": file.file_no, "reason": detail})
    documents = [one.document(ours="baseline") for one in compared]
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.FAILED if disputed else FileState.DONE,
        error_class=ErrorClass.S3_CHECKSUM_DIFFERS if disputed else None,
        error_detail=detail,
        etag=head.etag,
        version_id=head.version_id,
        verdict=verdict,
        provider_checksums=documents,
        kind=KIND,
        entry=_entry(mill, run, file, place, head, verdict, documents)
        | ({"error_class": ErrorClass.S3_CHECKSUM_DIFFERS, "error_detail": detail} if disputed else {}),
        reports=words.attested(
            file.file_no, file.file_id, file.path, verdict, _said(verdict, compared, file, detail), mill.rules.messages
        ),
    )


def judge(head: ObjectHead, baseline: Baseline | None, compared: Sequence[Compared]) -> Verdict:
    """Return what the server's statement is worth beside our baseline.

    Another checksum of another version says that the object was replaced; only one of the same version is a dispute.
    """
    if baseline is None:
        return Verdict.NO_BASELINE
    same = same_version(head, baseline)
    if all(one.stored.fault for one in compared):
        return Verdict.UNATTESTED if same else Verdict.CHANGED
    if all(one.comparison is Comparison.NOT_COMPARABLE for one in compared):
        return Verdict.NO_BASELINE
    if not differing(compared) and (same or head.size_bytes == baseline.size_bytes):
        return Verdict.ATTESTED
    return Verdict.DISPUTED if same and differing(compared) else Verdict.CHANGED


def same_version(head: ObjectHead, baseline: Baseline) -> bool:
    """Return whether the object is the very version that we read; a weak ETag alone does not say so."""
    versions = {head.version_id, baseline.version_id}
    if head.etag.startswith("W/") and (None in versions or len(versions) > 1):
        return False
    return (head.etag, head.size_bytes) == (baseline.etag, baseline.size_bytes) and (
        None in versions or len(versions) == 1
    )


def _beside(one: Compared, baseline: Baseline | None) -> Compared:
    if one.stored.fault:
        return replace(one, reason=one.stored.fault)
    known = baseline.digests.get(one.stored.name) if baseline else None
    return replace(one, computed=known, reason="" if known else f"our ledger has no {one.stored.name} of this object")


def _entry(
    mill: Mill,
    run: Run,
    file: ClaimedFile,
    place: ObjectPlace,
    head: ObjectHead,
    verdict: Verdict,
    documents: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    baseline = file.baseline
    return {
        "job_id": run.job_id,
        "container_id": run.container_id,
        "file_no": file.file_no,
        "file_id": file.file_id,
        "path": file.path,
        "bucket": place.bucket,
        "key": place.key,
        "version_id": head.version_id,
        "etag": head.etag,
        "stated_bytes": head.size_bytes,
        "provider": told(place.config, documents),
        "baseline": {
            "run_id": baseline.run_id,
            "file_no": baseline.file_no,
            "finished_at": moment(baseline.finished_at_ms),
            "size_bytes": baseline.size_bytes,
            "etag": baseline.etag,
            "version_id": baseline.version_id,
            "same_version": same_version(head, baseline),
        }
        if baseline
        else None,
        "verdict": verdict,
        "generation": file.generation,
        "attempt": file.attempts + 1,
        "fence": file.fence,
        "process": mill.process,
    }


def _difference(compared: Sequence[Compared]) -> str:
    return "; ".join(
        f"{one.stored.name}: the S3 server states {one.stored.digest}, and of this version we computed {one.computed}"
        for one in differing(compared)
    )


def _said(verdict: Verdict, compared: Sequence[Compared], file: ClaimedFile, detail: str | None) -> str:
    """Return the words of the verdict for people."""
    equal = ", ".join(
        f"{one.stored.name} {one.stored.digest}" for one in compared if one.comparison is Comparison.EQUAL
    )
    at = f" on {moment(file.baseline.finished_at_ms)[:10]}" if file.baseline else ""
    match verdict:
        case Verdict.ATTESTED:
            return f"the storage states what was computed when it was read{at}: {equal}"
        case Verdict.DISPUTED:
            return f"{detail}{at}; read it with mode hash"
        case Verdict.CHANGED:
            return f"it was replaced since it was read{at}; read it with mode hash"
        case Verdict.UNATTESTED:
            return "the storage states no checksum for it that can be read"
        case _:
            return "no earlier digest of it can be compared with what the storage states; read it with mode hash"
