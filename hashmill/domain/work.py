"""What travels between the steps: tickets, claims, outcomes and reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, ReportKind, SizeClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Work handed to a worker: some files of one run, each with the epoch it was queued in.

    A ticket whose epochs are no longer the ledger's claims nothing, so a lost, doubled, late
    or forged one does no harm.
    """

    run_id: str
    size_class: SizeClass
    files: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file found while a run is expanded; `file_ref` is what makes it one file of the run."""

    file_ref: str
    file_id: str | None
    path: str
    size_bytes: int | None
    size_class: SizeClass
    error_class: ErrorClass | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedHash:
    """How far a large file was hashed, and of which object: what is read once is not read again after a kill.

    `state` are the running digests (`hashmill.hashing.saved`), `slices` how many slices were read until here, and
    `provider` is what its S3 server stores of it, as `hashmill.flow.stored` keeps it.
    """

    offset_bytes: int
    size_bytes: int
    etag: str
    version_id: str | None
    state: str
    slices: int
    provider: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one object was when we last read it: which version, and its digests by `StoredChecksum.name`."""

    run_id: str
    file_no: int
    finished_at_ms: int
    size_bytes: int
    etag: str | None
    version_id: str | None
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedFile:
    """A file this process may write the result of, as long as `fence` is the ledger's."""

    file_no: int
    file_id: str
    path: str
    size_bytes: int | None
    fence: int
    attempts: int
    generation: int
    lost_leases: int = 0
    saved: SavedHash | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One call owed to LABDRIVE. `body` holds plain values; the paths and names are added on the way out."""

    kind: ReportKind
    body: Mapping[str, Any]
    file_no: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """How one claim of a file ended.

    `state` is DONE, FAILED, DEAD, or READY: again after `retry_in_s`, with the attempt counted unless
    `counted` is false (a worker that was told to stop gives its files back).
    `entry` is the body of the ledger entry, `kind` its kind unless the state says it, `reports` what is owed,
    `executed` a notebook as it ran; all are written only with the result. `object_ref` is by what the result is found
    when it is to be the baseline of another check; `provider_checksums` are those that the S3 server states, beside
    ours.
    `saved` is how far a large file has come by now; it is READY for its next slice, and as it gets on, the tries and
    lost leases before are forgotten.
    """

    file_no: int
    fence: int
    state: FileState
    error_class: ErrorClass | None = None
    error_detail: str | None = None
    retry_in_s: float = 0.0
    counted: bool = True
    size_bytes: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    version_id: str | None = None
    verdict: str | None = None
    saved: SavedHash | None = None
    object_ref: str | None = None
    provider_checksums: Sequence[Mapping[str, Any]] = ()
    kind: str | None = None
    entry: Mapping[str, Any] | None = None
    executed: bytes | None = None
    reports: Sequence[Report] = ()
